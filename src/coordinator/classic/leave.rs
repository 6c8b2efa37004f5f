//! LeaveGroup (13), versions 0-5. Until 2: one member, its error on top. 3: several members, by id
//! or by `group.instance.id` (an administrator's removal). 5: a reason (of no effect).

use super::State;
use crate::group::{Env, Group};
use crate::out::Reply;
use flumen_base::ErrorCode;
use flumen_wire::messages::leave_group_response::MemberResponse;
use flumen_wire::messages::{LeaveGroupRequest, LeaveGroupResponse};

/// Versions from here on name their members in a list.
const BATCHED_FROM: i16 = 3;

/// A member that shall leave, as the request names it.
pub(crate) struct Leaving<'r> {
    pub(crate) member_id: &'r str,
    pub(crate) instance: Option<&'r str>,
}

/// Everyone whom a request names.
pub(crate) fn leaving<'r>(
    request: &'r LeaveGroupRequest<'_>,
    api_version: i16,
) -> Vec<Leaving<'r>> {
    if api_version < BATCHED_FROM {
        return vec![Leaving {
            member_id: &request.member_id,
            instance: None,
        }];
    }
    let members = request.members.iter();
    members
        .map(|m| Leaving {
            member_id: &m.member_id,
            instance: m.group_instance_id.as_deref(),
        })
        .collect()
}

/// The answer in the form of its version.
pub(crate) fn leave_reply(results: Vec<MemberResponse<'static>>, api_version: i16) -> Reply {
    let mut response = LeaveGroupResponse::default();
    if api_version < BATCHED_FROM {
        response.error_code = results.first().map_or(0, |r| r.error_code);
    } else {
        response.members = results;
    }
    Reply::LeaveGroup(response)
}

/// An answer that concerns the request as a whole.
pub(crate) fn leave_error(error: ErrorCode) -> Reply {
    Reply::LeaveGroup(LeaveGroupResponse {
        error_code: error.code(),
        ..Default::default()
    })
}

/// The group does not exist: nobody in it is known.
pub(crate) fn leave_unknown(request: &LeaveGroupRequest<'_>, api_version: i16) -> Reply {
    let members = leaving(request, api_version).into_iter();
    let results = members.map(|m| left(&m, ErrorCode::UnknownMemberId));
    leave_reply(results.collect(), api_version)
}

/// What is answered of one member.
pub(crate) fn left(leaving: &Leaving<'_>, error: ErrorCode) -> MemberResponse<'static> {
    MemberResponse {
        member_id: leaving.member_id.to_owned().into(),
        group_instance_id: leaving.instance.map(|i| i.to_owned().into()),
        error_code: error.code(),
    }
}

impl Group {
    /// LeaveGroup, when the group was found. The answer waits for the record if the group became
    /// empty by it.
    pub(crate) fn leave(
        &mut self,
        env: &mut Env<'_>,
        request: &LeaveGroupRequest<'_>,
        api_version: i16,
    ) -> Reply {
        if self.classic.state == State::Dead {
            return leave_error(ErrorCode::CoordinatorNotAvailable);
        }
        let mut results = Vec::new();
        for member in leaving(request, api_version) {
            let error = match self.leave_one(env, &member) {
                Ok(()) => ErrorCode::None,
                Err(error) => error,
            };
            results.push(left(&member, error));
        }
        if results.iter().any(|r| r.error_code == 0) {
            match self.classic.state {
                State::Stable | State::CompletingRebalance => self.rebalance_or_complete_join(env),
                State::PreparingRebalance => self.maybe_complete_join(env),
                State::Empty | State::Dead => {}
            }
        }
        leave_reply(results, api_version)
    }

    fn leave_one(&mut self, env: &mut Env<'_>, leaving: &Leaving<'_>) -> Result<(), ErrorCode> {
        let classic = &mut self.classic;
        let serial = if leaving.member_id.is_empty() {
            let found = leaving.instance.and_then(|i| classic.find_static(i));
            found.ok_or(ErrorCode::UnknownMemberId)?
        } else if let Some(pending) = classic.find_pending(leaving.member_id) {
            pending
        } else {
            classic.validate_member(leaving.member_id, leaving.instance)?
        };
        self.drop_member(env, serial);
        Ok(())
    }
}
