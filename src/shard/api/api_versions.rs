//! ApiVersions (key 18), versions 0 to 4: what [`super::HANDLERS`] serves, and the cluster's
//! features.
//!
//! - A version that is not known is answered in version 0 with UNSUPPORTED_VERSION and this API's
//!   own range (KIP-511).
//! - v3: flexible (the response header never is), client name and version: checked, kept for logs.
//! - v3: supported and finalized features (KIP-584). v4: also those that may be at level 0
//!   (KAFKA-17011).
//!
//! Only features whose protection is built are named.

use super::{HANDLERS, decode};
use crate::request::{Reply, ReplyTo, Request};
use crate::{Shard, Turn};
use flumen_base::ErrorCode;
use flumen_quorum::controller::{BUILT_FEATURES, METADATA_VERSION_FEATURE, metadata_versions};
use flumen_wire::ApiKey;
use flumen_wire::messages::api_versions_response as wire;
use flumen_wire::messages::{ApiVersionsRequest, ApiVersionsResponse};
use std::borrow::Cow;

/// Older clients can't read a feature that may be at level 0.
const LEVEL_ZERO_FROM: i16 = 4;

pub(crate) fn run(shard: &mut Shard, turn: &mut Turn<'_>, request: Request) {
    let message = decode!(shard, turn, request, ApiVersionsRequest<'_>);
    if request.reply.version >= 3 {
        let (name, version) = (
            &message.client_software_name,
            &message.client_software_version,
        );
        if !is_software_word(name) || !is_software_word(version) {
            let response = ApiVersionsResponse {
                error_code: ErrorCode::InvalidRequest.code(),
                ..Default::default()
            };
            shard.reply(turn, request.reply, &response);
            return;
        }
        if let ReplyTo::Conn(id, _) = request.reply.to
            && let Some(conn) = shard.conns.get_mut(&id)
        {
            conn.software = Some((name.to_string(), version.to_string()));
        }
    }
    let image = shard.image.clone();
    let finalized = image
        .features()
        .iter()
        .map(|(name, level)| wire::FinalizedFeatureKey {
            name: Cow::Borrowed(name),
            max_version_level: *level,
            min_version_level: *level,
        });
    let levels = metadata_versions(&shard.broker);
    let mut supported_features = vec![wire::SupportedFeatureKey {
        name: Cow::Borrowed(METADATA_VERSION_FEATURE),
        min_version: *levels.start(),
        max_version: *levels.end(),
    }];
    if request.reply.version >= LEVEL_ZERO_FROM {
        supported_features.extend(BUILT_FEATURES.iter().map(|f| wire::SupportedFeatureKey {
            name: Cow::Borrowed(f.name),
            min_version: 0,
            max_version: f.max,
        }));
    }
    let here = shard.is_controller_listener(request.listener);
    let served = HANDLERS.iter().filter(|h| h.is_on(here));
    let unstable = shard.broker.quorum.unstable_api_versions;
    let response = ApiVersionsResponse {
        api_keys: served.map(|h| line(h, unstable)).collect(),
        supported_features,
        finalized_features_epoch: i64::try_from(image.features_index()).unwrap_or(-1),
        finalized_features: finalized.collect(),
        ..Default::default()
    };
    shard.reply(turn, request.reply, &response);
}

/// Answers a version that is not known; `reply` has version 0.
pub(crate) fn refuse_version(shard: &mut Shard, turn: &mut Turn<'_>, reply: Reply) {
    let own = HANDLERS.iter().filter(|h| h.key == ApiKey::ApiVersions);
    let response = ApiVersionsResponse {
        error_code: ErrorCode::UnsupportedVersion.code(),
        api_keys: own.map(|h| line(h, false)).collect(),
        ..Default::default()
    };
    shard.reply(turn, reply, &response);
}

fn line(handler: &super::Handler, unstable: bool) -> wire::ApiVersion {
    let min = handler.key.info().advertised_min();
    wire::ApiVersion {
        api_key: handler.key.code(),
        min_version: min.min(handler.min),
        max_version: handler.newest(unstable),
    }
}

/// Letters and digits, with '-' and '.' between them (KIP-511).
fn is_software_word(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric();
    let bytes = text.as_bytes();
    bytes.iter().all(|b| word(*b) || matches!(b, b'-' | b'.'))
        && bytes.first().is_some_and(|b| word(*b))
        && bytes.last().is_some_and(|b| word(*b))
}
