//! ListConfigResources (key 74), versions 0 to 1: names of what has settings. v0: client-metrics
//! subscriptions only (KIP-714). v1: any types, none means all (KIP-1142).

use super::decode;
use crate::request::Request;
use crate::{Shard, Turn};
use flumen_base::ErrorCode;
use flumen_quorum::ResourceType;
use flumen_wire::messages::list_config_resources_response::ConfigResource;
use flumen_wire::messages::{ListConfigResourcesRequest, ListConfigResourcesResponse};
use std::borrow::Cow;

const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const BROKER_LOGGER: i8 = 8;
const CLIENT_METRICS: i8 = 16;
const GROUP: i8 = 32;

pub(crate) fn run(shard: &mut Shard, turn: &mut Turn<'_>, request: Request) {
    let message = decode!(shard, turn, request, ListConfigResourcesRequest);
    let all = [TOPIC, BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP];
    let types = match &message.resource_types[..] {
        _ if request.reply.version == 0 => &[CLIENT_METRICS][..],
        [] => &all,
        some => some,
    };
    let mut response = ListConfigResourcesResponse::default();
    if types.iter().any(|t| !all.contains(t)) {
        response.error_code = ErrorCode::UnsupportedVersion.code();
    } else {
        for kind in types {
            for name in shard.names_of(*kind) {
                response.config_resources.push(ConfigResource {
                    resource_name: Cow::Owned(name),
                    resource_type: *kind,
                });
            }
        }
    }
    shard.reply(turn, request.reply, &response);
}

impl Shard {
    fn names_of(&self, kind: i8) -> Vec<String> {
        let image = &self.image;
        let set = |kind| {
            image
                .configs(kind)
                .map(|(name, _)| name.to_owned())
                .collect()
        };
        match kind {
            TOPIC => image.topics().keys().map(ToString::to_string).collect(),
            BROKER | BROKER_LOGGER => image.brokers().keys().map(ToString::to_string).collect(),
            CLIENT_METRICS => set(ResourceType::ClientMetrics),
            _ => set(ResourceType::Group),
        }
    }
}
