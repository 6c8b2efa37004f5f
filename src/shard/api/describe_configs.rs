//! DescribeConfigs (key 32), versions 1 to 4: settings of topics, brokers (the empty name is the
//! cluster-wide default), groups (KIP-848) and client-metrics subscriptions (KIP-714), with sources
//! and synonyms. v3: documentation and types (KIP-569). v4: flexible. Errors stand with each
//! resource.
//!
//! Gaps: broker loggers have no levels here, their list is empty.

use super::decode;
use super::find_coordinator::MALFORMED;
use crate::request::Request;
use crate::{Shard, Turn};
use flumen_base::ErrorCode;
use flumen_quorum::controller::validate_topic_name;
use flumen_quorum::{ConfigMap, ResourceType};
use flumen_settings::{
    ConfigEntry, ConfigResource, describe_broker, describe_client_metrics, describe_group,
    describe_topic,
};
use flumen_wire::messages::describe_configs_request::DescribeConfigsResource;
use flumen_wire::messages::describe_configs_response as wire;
use flumen_wire::messages::{DescribeConfigsRequest, DescribeConfigsResponse};
use std::borrow::Cow;

pub(crate) fn run(shard: &mut Shard, turn: &mut Turn<'_>, request: Request) {
    let message = decode!(shard, turn, request, DescribeConfigsRequest<'_>);
    let results = message.resources.iter().map(|resource| {
        let described = shard.describe_resource(resource);
        let (error, text, entries) = match described {
            // Kafka's answers have an empty text on success.
            Ok(entries) => (ErrorCode::None, String::new(), entries),
            Err((error, text)) => (error, text, Vec::new()),
        };
        // No keys means all keys, as null does.
        let wanted = |e: &ConfigEntry| match &resource.configuration_keys {
            Some(keys) if !keys.is_empty() => keys.iter().any(|k| *k == e.name),
            _ => true,
        };
        let entries = entries.into_iter().filter(wanted);
        wire::DescribeConfigsResult {
            error_code: error.code(),
            error_message: Some(Cow::Owned(text)),
            resource_type: resource.resource_type,
            resource_name: Cow::Owned(resource.resource_name.to_string()),
            configs: entries
                .map(|e| line(e, message.include_synonyms, message.include_documentation))
                .collect(),
        }
    });
    let response = DescribeConfigsResponse {
        results: results.collect(),
        ..Default::default()
    };
    shard.reply(turn, request.reply, &response);
}

impl Shard {
    fn describe_resource(
        &self,
        resource: &DescribeConfigsResource<'_>,
    ) -> Result<Vec<ConfigEntry>, (ErrorCode, String)> {
        let name = &*resource.resource_name;
        let base = &self.config.broker;
        let own = base.node_id.to_string();
        let none = ConfigMap::new();
        let get = |kind, name: &str| match self.image.config(kind, name) {
            Some(map) => ConfigMap::clone(map),
            None => none.clone(),
        };
        let cluster = get(ResourceType::Broker, "");
        let dynamic = get(ResourceType::Broker, &own);
        match ConfigResource::from_i8(resource.resource_type) {
            Some(ConfigResource::Topic) => {
                validate_topic_name(name)
                    .map_err(|text| (ErrorCode::InvalidTopicException, text))?;
                if self.image.topic(name).is_none() {
                    return Err((ErrorCode::UnknownTopicOrPartition, String::new()));
                }
                let overrides = get(ResourceType::Topic, name);
                Ok(describe_topic(base, &cluster, &dynamic, &overrides))
            }
            Some(ConfigResource::Broker) if name.is_empty() || name == own => {
                Ok(describe_broker(base, &cluster, &dynamic, name.is_empty()))
            }
            Some(ConfigResource::Broker | ConfigResource::BrokerLogger)
                if name != own && name.parse::<i32>().is_err() =>
            {
                let text = if name.is_empty() {
                    "Broker id must not be empty".to_owned()
                } else {
                    format!("Broker id must be an integer, but it is: {name}")
                };
                Err((ErrorCode::InvalidRequest, text))
            }
            Some(ConfigResource::Broker) => {
                let text = format!(
                    "Unexpected broker id, expected {own} or empty string, but received {name}"
                );
                Err((ErrorCode::InvalidRequest, text))
            }
            Some(ConfigResource::BrokerLogger) if name == own => Ok(Vec::new()),
            Some(ConfigResource::BrokerLogger) => {
                let text = format!("Unexpected broker id, expected {own} but received {name}");
                Err((ErrorCode::InvalidRequest, text))
            }
            Some(ConfigResource::ClientMetrics) if name.is_empty() => {
                let text = "Client metrics subscription name must not be empty";
                Err((ErrorCode::InvalidRequest, text.to_owned()))
            }
            Some(ConfigResource::ClientMetrics) => Ok(describe_client_metrics(&get(
                ResourceType::ClientMetrics,
                name,
            ))),
            Some(ConfigResource::Group) if name.is_empty() => {
                let text = "Group name must not be empty";
                Err((ErrorCode::InvalidRequest, text.to_owned()))
            }
            Some(ConfigResource::Group) => {
                let overrides = get(ResourceType::Group, name);
                Ok(describe_group(base, &cluster, &dynamic, &overrides))
            }
            None => Err((ErrorCode::InvalidRequest, MALFORMED.to_owned())),
        }
    }
}

fn line(
    e: ConfigEntry,
    synonyms: bool,
    documentation: bool,
) -> wire::DescribeConfigsResourceResult<'static> {
    let all = if synonyms { e.synonyms } else { Vec::new() };
    wire::DescribeConfigsResourceResult {
        name: Cow::Owned(e.name),
        value: e.value.map(Cow::Owned),
        read_only: e.read_only,
        config_source: e.source as i8,
        is_sensitive: e.sensitive,
        synonyms: all
            .into_iter()
            .map(|s| wire::DescribeConfigsSynonym {
                name: Cow::Owned(s.name),
                value: s.value.map(Cow::Owned),
                source: s.source as i8,
            })
            .collect(),
        config_type: e.value_type as i8,
        documentation: documentation.then_some(Cow::Borrowed(e.doc)),
    }
}
