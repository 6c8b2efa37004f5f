//! UpdateFeatures (57), versions 0 to 2.
//!
//! Only `metadata.version` at the level of Kafka 4.3 is built, so that every other feature and
//! level is refused with the reason. A feature appears here when all that it promises works.

use super::{ApiError, Context, Decision, owned};
use crate::record::MetadataRecord;
use flumen_base::ErrorCode;
use flumen_wire::messages::update_features_request::FeatureUpdateKey;
use flumen_wire::messages::update_features_response::UpdatableFeatureResult;
use flumen_wire::messages::{UpdateFeaturesRequest, UpdateFeaturesResponse};

/// The feature that numbers the metadata's format.
pub const METADATA_VERSION_FEATURE: &str = "metadata.version";
/// The level of 4.3-IV0.
pub const METADATA_VERSION: i16 = 30;

/// `FeatureUpdate.UpgradeType`: 1 upgrade, 2 safe downgrade, 3 unsafe downgrade.
const UPGRADE: i8 = 1;

/// Changes finalized features: all of the request or none; `version` is the request's.
pub fn update_features(
    ctx: &Context<'_>,
    request: &UpdateFeaturesRequest<'_>,
    version: i16,
) -> Decision<UpdateFeaturesResponse<'static>> {
    let mut records = Vec::new();
    for update in &request.feature_updates {
        if let Err(reason) = check(ctx, update) {
            let level = update.max_version_level;
            let e = ApiError::new(
                ErrorCode::InvalidUpdateVersion,
                format!(
                    "The update failed for all features since the following feature had an error: \
                     Invalid update version {level} for feature {}. {reason}",
                    update.feature
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
    if !(1..=3).contains(&update.upgrade_type) {
        return Err("The controller does not support the given upgrade type.".to_owned());
    }
    if level < 0 {
        return Err("A feature version cannot be less than 0.".to_owned());
    }
    let node = ctx.broker.node_id;
    if update.feature == METADATA_VERSION_FEATURE {
        if level != METADATA_VERSION {
            return Err(format!(
                "Local controller {node} only supports versions {METADATA_VERSION}"
            ));
        }
    } else if level != 0 {
        return Err(format!(
            "Local controller {node} does not support this feature."
        ));
    }
    if level > current && update.upgrade_type != UPGRADE {
        return Err("Can't downgrade to a newer version.".to_owned());
    }
    Ok(())
}
