//! UpdateFeatures (57), versions 0 to 2.
//!
//! Beside `metadata.version` only the features of [`BUILT_FEATURES`] are built, so that every other
//! one is refused with the reason. A feature appears there when all that it promises works.

use super::metadata_version::{METADATA_VERSION_FEATURE, metadata_changed, metadata_versions};
use super::{ApiError, Context, Decision, owned};
use crate::record::MetadataRecord;
use flumen_base::ErrorCode;
use flumen_wire::messages::update_features_request::FeatureUpdateKey;
use flumen_wire::messages::update_features_response::UpdatableFeatureResult;
use flumen_wire::messages::{UpdateFeaturesRequest, UpdateFeaturesResponse};
use std::collections::BTreeMap;

/// A feature beside `metadata.version`, with levels from 0 (off) upwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BuiltFeature {
    /// Its name.
    pub name: &'static str,
    /// Its highest level: what new clusters begin with.
    pub max: i16,
    /// The lowest level of `metadata.version` whose new clusters begin with it.
    first_metadata_version: i16,
}

/// Consumer groups of KIP-848.
pub const GROUP_VERSION_FEATURE: &str = "group.version";

/// Share groups (KIP-932).
pub const SHARE_VERSION_FEATURE: &str = "share.version";

/// Streams groups of KIP-1071.
pub const STREAMS_VERSION_FEATURE: &str = "streams.version";

/// How transactions are made (KIP-890).
pub const TRANSACTION_VERSION_FEATURE: &str = "transaction.version";

/// The features that are built, by name.
pub const BUILT_FEATURES: &[BuiltFeature] = &[
    BuiltFeature {
        name: GROUP_VERSION_FEATURE,
        max: 1,
        first_metadata_version: 22, // 4.0-IV0
    },
    BuiltFeature {
        name: SHARE_VERSION_FEATURE,
        max: 1,
        first_metadata_version: 28, // 4.2-IV0
    },
    BuiltFeature {
        name: STREAMS_VERSION_FEATURE,
        max: 1,
        first_metadata_version: 29, // 4.2-IV1
    },
    BuiltFeature {
        name: TRANSACTION_VERSION_FEATURE,
        max: 2,
        first_metadata_version: 24, // 4.0-IV2
    },
];

/// The built feature of this name.
pub fn built_feature(name: &str) -> Option<&'static BuiltFeature> {
    BUILT_FEATURES.iter().find(|f| f.name == name)
}

/// The levels that a new cluster begins with: `chosen` ones, else those that go with its
/// `metadata.version`.
pub fn first_features(
    metadata_version: i16,
    chosen: &BTreeMap<String, i16>,
) -> BTreeMap<String, i16> {
    let mut levels = BTreeMap::from([(METADATA_VERSION_FEATURE.to_owned(), metadata_version)]);
    for feature in BUILT_FEATURES {
        let level = match metadata_version >= feature.first_metadata_version {
            true => feature.max,
            false => 0,
        };
        levels.insert(feature.name.to_owned(), level);
    }
    let chosen = chosen
        .iter()
        .filter(|(name, _)| built_feature(name).is_some());
    levels.extend(chosen.map(|(name, level)| (name.clone(), *level)));
    levels
}

/// `FeatureUpdate.UpgradeType`: 1 upgrade, 2 safe downgrade, 3 unsafe downgrade.
const UPGRADE: i8 = 1;
const UNSAFE_DOWNGRADE: i8 = 3;

/// Changes finalized features: all of the request or none; `version` is the request's.
pub fn update_features(
    ctx: &Context<'_>,
    request: &UpdateFeaturesRequest<'_>,
    version: i16,
) -> Decision<UpdateFeaturesResponse<'static>> {
    let mut records = Vec::new();
    for update in &request.feature_updates {
        if let Err(reason) = check(ctx, update) {
            let e = ApiError::new(
                ErrorCode::InvalidUpdateVersion,
                format!(
                    "The update failed for all features since the following feature had an error: \
                     {reason}"
                ),
            );
            return Decision::answer(UpdateFeaturesResponse {
                error_code: e.code.code(),
                error_message: e.message.map(Into::into),
                ..UpdateFeaturesResponse::default()
            });
        }
        records.push(MetadataRecord::Feature {
            name: update.feature.to_string(),
            level: update.max_version_level,
        });
    }
    // From version 2 on the answer for all is the answer for each.
    let listed = request.feature_updates.iter().filter(|_| version <= 1);
    let response = UpdateFeaturesResponse {
        error_message: None,
        results: listed
            .map(|update| UpdatableFeatureResult {
                feature: owned(&update.feature),
                error_code: 0,
                error_message: Some(owned("NONE")),
            })
            .collect(),
        ..UpdateFeaturesResponse::default()
    };
    Decision::new(records, request.validate_only, response)
}

fn check(ctx: &Context<'_>, update: &FeatureUpdateKey<'_>) -> Result<(), String> {
    let level = update.max_version_level;
    let current = ctx.image.feature(&update.feature);
    let invalid = |reason: &str| {
        let feature = &update.feature;
        Err(format!(
            "Invalid update version {level} for feature {feature}. {reason}"
        ))
    };
    if !(1..=3).contains(&update.upgrade_type) {
        return invalid("The controller does not support the given upgrade type.");
    }
    if level < 0 {
        return invalid("A feature version cannot be less than 0.");
    }
    let node = ctx.broker.node_id;
    if update.feature == METADATA_VERSION_FEATURE {
        let range = metadata_versions(ctx.broker);
        if !range.contains(&level) {
            let (min, max) = range.into_inner();
            return invalid(&format!(
                "Local controller {node} only supports versions {min}-{max}"
            ));
        }
    } else if let Some(feature) = built_feature(&update.feature) {
        if level > feature.max {
            let max = feature.max;
            return invalid(&format!(
                "Local controller {node} only supports versions 0-{max}"
            ));
        }
    } else if level != 0 {
        return invalid(&format!(
            "Local controller {node} does not support this feature."
        ));
    }
    if level > current && update.upgrade_type != UPGRADE {
        return invalid("Can't downgrade to a newer version.");
    }
    if level < current && update.upgrade_type == UPGRADE {
        return invalid(
            "Can't downgrade the version of this feature without setting the upgrade type to \
             either safe or unsafe downgrade.",
        );
    }
    let metadata = update.feature == METADATA_VERSION_FEATURE;
    if metadata && level < current && metadata_changed(level, current) {
        let reason = if update.upgrade_type == UNSAFE_DOWNGRADE {
            "Unsafe metadata downgrade is not supported in this version."
        } else {
            "Refusing to perform the requested downgrade because it might delete metadata \
             information."
        };
        return Err(format!(
            "Unsupported metadata.version downgrade from {current} to {level}. {reason}"
        ));
    }
    Ok(())
}
