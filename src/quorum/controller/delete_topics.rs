//! DeleteTopics (20), versions 1 to 6: by name, from version 6 on by name or id.

use super::{ApiError, Context, Decision, owned, wire_error};
use crate::record::MetadataRecord;
use flumen_base::{ErrorCode, TopicId, Uuid};
use flumen_wire::messages::delete_topics_response::DeletableTopicResult;
use flumen_wire::messages::{DeleteTopicsRequest, DeleteTopicsResponse};
use std::collections::{BTreeMap, BTreeSet};

/// Deletes topics; `version` is the request's.
pub fn delete_topics(
    ctx: &Context<'_>,
    request: &DeleteTopicsRequest<'_>,
    version: i16,
) -> Decision<DeleteTopicsResponse<'static>> {
    if !ctx.broker.topics.delete_topic_enable {
        return Decision::answer(refuse_all(request, version));
    }
    let mut named = Named::default();
    named.collect(request);
    let mut doomed: BTreeMap<TopicId, String> = BTreeMap::new();
    for id in &named.ids {
        match ctx.image.topic_by_id(id) {
            Some(topic) => {
                doomed.insert(*id, topic.name.to_string());
            }
            None => named.results.push(result(
                None,
                *id,
                Err(ApiError::new(
                    ErrorCode::UnknownTopicId,
                    "This server does not host this topic ID.",
                )),
            )),
        }
    }
    for name in &named.names {
        let Some(topic) = ctx.image.topic(name) else {
            let e = ApiError::new(
                ErrorCode::UnknownTopicOrPartition,
                "This server does not host this topic-partition.",
            );
            named.results.push(result(Some(name), Uuid::ZERO, Err(e)));
            continue;
        };
        let by_id_too = named.duplicate_ids.contains(&topic.id);
        if by_id_too || doomed.insert(topic.id, name.to_string()).is_some() {
            doomed.remove(&topic.id);
            let e = ApiError::new(
                ErrorCode::InvalidRequest,
                "The provided topic name maps to an ID that was already supplied.",
            );
            named.results.push(result(Some(name), topic.id, Err(e)));
        }
    }
    let mut results = named.results;
    let mut records = Vec::with_capacity(doomed.len());
    for (id, name) in doomed {
        records.push(MetadataRecord::RemoveTopic { id });
        results.push(result(Some(&name), id, Ok(())));
    }
    let response = DeleteTopicsResponse {
        throttle_time_ms: 0,
        responses: results,
    };
    Decision::new(records, false, response)
}

/// With `delete.topic.enable=false`: Kafka answers each topic with the code alone.
fn refuse_all(request: &DeleteTopicsRequest<'_>, version: i16) -> DeleteTopicsResponse<'static> {
    let code = if version < 3 {
        ErrorCode::InvalidRequest
    } else {
        ErrorCode::TopicDeletionDisabled
    };
    let refused = |name: Option<&str>, id| result(name, id, Err(ApiError::bare(code)));
    let names = request.topic_names.iter();
    let topics = request.topics.iter();
    DeleteTopicsResponse {
        throttle_time_ms: 0,
        responses: names
            .map(|name| refused(Some(name), Uuid::ZERO))
            .chain(topics.map(|t| refused(t.name.as_deref(), t.topic_id)))
            .collect(),
    }
}

fn result(
    name: Option<&str>,
    topic_id: TopicId,
    outcome: Result<(), ApiError>,
) -> DeletableTopicResult<'static> {
    let (error_code, error_message) = wire_error(&outcome);
    DeletableTopicResult {
        name: name.map(owned),
        topic_id,
        error_code,
        error_message,
    }
}

/// What a request names, each topic once.
#[derive(Default)]
struct Named<'a> {
    names: BTreeSet<&'a str>,
    duplicate_names: BTreeSet<&'a str>,
    ids: BTreeSet<TopicId>,
    duplicate_ids: BTreeSet<TopicId>,
    results: Vec<DeletableTopicResult<'static>>,
}

impl<'a> Named<'a> {
    fn collect(&mut self, request: &'a DeleteTopicsRequest<'_>) {
        for name in &request.topic_names {
            self.add_name(name);
        }
        for topic in &request.topics {
            match (&topic.name, topic.topic_id) {
                (None, Uuid::ZERO) => {
                    self.refuse(
                        None,
                        Uuid::ZERO,
                        "Neither topic name nor id were specified.",
                    );
                }
                (None, id) => {
                    if self.duplicate_ids.contains(&id) || !self.ids.insert(id) {
                        self.duplicate_ids.insert(id);
                        self.ids.remove(&id);
                    }
                }
                (Some(name), Uuid::ZERO) => self.add_name(name),
                (Some(name), id) => self.refuse(
                    Some(name),
                    id,
                    "You may not specify both topic name and topic id.",
                ),
            }
        }
        for name in std::mem::take(&mut self.duplicate_names) {
            self.refuse(Some(name), Uuid::ZERO, "Duplicate topic name.");
        }
        for id in self.duplicate_ids.clone() {
            self.refuse(None, id, "Duplicate topic id.");
        }
    }

    fn add_name(&mut self, name: &'a str) {
        if self.duplicate_names.contains(name) || !self.names.insert(name) {
            self.duplicate_names.insert(name);
            self.names.remove(name);
        }
    }

    fn refuse(&mut self, name: Option<&str>, id: TopicId, message: &str) {
        let e = ApiError::new(ErrorCode::InvalidRequest, message);
        self.results.push(result(name, id, Err(e)));
    }
}
