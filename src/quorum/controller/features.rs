//! UpdateFeatures (57), versions 0 to 2.
//!
//! Only `metadata.version` is built, so that every other feature is refused with the reason. A
//! feature appears here when all that it promises works.

use super::metadata_version::{METADATA_VERSION_FEATURE, metadata_changed, metadata_versions};
use super::{ApiError, Context, Decision, owned};
use crate::record::MetadataRecord;
use flumen_base::ErrorCode;
use flumen_wire::messages::update_features_request::FeatureUpdateKey;
use flumen_wire::messages::update_features_response::UpdatableFeatureResult;
use flumen_wire::messages::{UpdateFeaturesRequest, UpdateFeaturesResponse};

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
    if level < current && metadata_changed(level, current) {
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
