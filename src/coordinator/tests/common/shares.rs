//! Requests of the share group protocol.

use super::*;
use flumen_coordinator::{ShareCalled, ShareDeed};
use flumen_wire::messages::share_group_describe_response::DescribedGroup;
use flumen_wire::messages::{
    AlterShareGroupOffsetsRequest, AlterShareGroupOffsetsResponse, DeleteShareGroupOffsetsResponse,
    ShareGroupHeartbeatRequest, ShareGroupHeartbeatResponse,
};

/// A heartbeat; topics where the member (re)states them.
pub fn share_request<'a>(
    group: &'a str,
    member: &'a str,
    epoch: i32,
    topics: Option<&[&'a str]>,
) -> ShareGroupHeartbeatRequest<'a> {
    ShareGroupHeartbeatRequest {
        group_id: group.into(),
        member_id: member.into(),
        member_epoch: epoch,
        subscribed_topic_names: topics.map(|t| t.iter().map(|t| (*t).into()).collect()),
        ..Default::default()
    }
}

impl World {
    pub fn share_send(&mut self, request: &ShareGroupHeartbeatRequest<'_>) -> ReplyToken {
        let token = self.token();
        let mut out = Out::default();
        self.coordinator
            .share_group_heartbeat(self.now, ctx(1), token, request, &mut out);
        self.drain(out);
        token
    }

    pub fn share_answer(&mut self, token: ReplyToken) -> ShareGroupHeartbeatResponse<'static> {
        match self.replies.remove(&token) {
            Some(Reply::ShareGroupHeartbeat(response)) => response,
            other => panic!("no answer to ShareGroupHeartbeat: {other:?}"),
        }
    }

    /// A heartbeat and its answer; appends are committed at once.
    pub fn share_beat(
        &mut self,
        group: &str,
        member: &str,
        epoch: i32,
        topics: Option<&[&str]>,
    ) -> ShareGroupHeartbeatResponse<'static> {
        let token = self.share_send(&share_request(group, member, epoch, topics));
        self.share_answer(token)
    }

    /// Answers the oldest call with one error for all of its partitions.
    pub fn answer_call(&mut self, error: ErrorCode) -> ShareCall {
        let (number, call) = self.share_calls.pop_front().unwrap();
        let called: Vec<ShareCalled> = match &call.what {
            ShareDeed::Initialize { partitions, .. } => {
                partitions.iter().map(|(t, p, _)| (*t, *p, error)).collect()
            }
            ShareDeed::Delete { partitions } => {
                partitions.iter().map(|(t, p)| (*t, *p, error)).collect()
            }
        };
        let mut out = Out::default();
        self.coordinator
            .share_called(self.now, number, &called, &mut out);
        self.drain(out);
        call
    }

    pub fn describe_share(&self, group: &str) -> DescribedGroup<'static> {
        self.coordinator.describe_share_group(group)
    }

    pub fn alter_share_offsets(
        &mut self,
        request: &AlterShareGroupOffsetsRequest<'_>,
    ) -> ReplyToken {
        let token = self.token();
        let mut out = Out::default();
        self.coordinator
            .alter_share_group_offsets(self.now, token, request, &mut out);
        self.drain(out);
        token
    }

    pub fn altered(&mut self, token: ReplyToken) -> AlterShareGroupOffsetsResponse<'static> {
        match self.replies.remove(&token) {
            Some(Reply::AlterShareGroupOffsets(response)) => response,
            other => panic!("no answer to AlterShareGroupOffsets: {other:?}"),
        }
    }

    pub fn delete_share_offsets(&mut self, group: &str, topics: &[&str]) -> ReplyToken {
        use flumen_wire::messages::DeleteShareGroupOffsetsRequest;
        use flumen_wire::messages::delete_share_group_offsets_request::*;
        let topics = topics
            .iter()
            .map(|name| DeleteShareGroupOffsetsRequestTopic {
                topic_name: (*name).into(),
            });
        let request = DeleteShareGroupOffsetsRequest {
            group_id: group.into(),
            topics: topics.collect(),
        };
        let token = self.token();
        let mut out = Out::default();
        self.coordinator
            .delete_share_group_offsets(self.now, token, &request, &mut out);
        self.drain(out);
        token
    }

    pub fn share_offsets_deleted(
        &mut self,
        token: ReplyToken,
    ) -> DeleteShareGroupOffsetsResponse<'static> {
        match self.replies.remove(&token) {
            Some(Reply::DeleteShareGroupOffsets(response)) => response,
            other => panic!("no answer to DeleteShareGroupOffsets: {other:?}"),
        }
    }
}
