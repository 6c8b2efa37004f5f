//! Heartbeat (12), versions 0-4. 3: `group.instance.id`.

use super::{ClassicGroup, State};
use crate::group::{Env, Group};
use crate::timers::MemberSerial;
use flumen_base::ErrorCode;
use flumen_wire::messages::HeartbeatRequest;

impl ClassicGroup {
    /// The member that a request speaks for. A static member whose id was given to a newer instance
    /// is fenced.
    pub(crate) fn validate_member(
        &self,
        id: &str,
        instance: Option<&str>,
    ) -> Result<MemberSerial, ErrorCode> {
        let serial = self.find(id);
        if let Some(instance) = instance {
            let owner = self
                .find_static(instance)
                .ok_or(ErrorCode::UnknownMemberId)?;
            if serial != Some(owner) {
                return Err(ErrorCode::FencedInstanceId);
            }
        }
        serial.ok_or(ErrorCode::UnknownMemberId)
    }
}

impl Group {
    /// Heartbeat, when the group was found.
    pub(crate) fn heartbeat(
        &mut self,
        env: &mut Env<'_>,
        request: &HeartbeatRequest<'_>,
    ) -> Result<(), ErrorCode> {
        if self.classic.state == State::Dead {
            return Err(ErrorCode::CoordinatorNotAvailable);
        }
        let instance = request.group_instance_id.as_deref();
        let serial = self.classic.validate_member(&request.member_id, instance)?;
        if request.generation_id != self.classic.generation {
            return Err(ErrorCode::IllegalGeneration);
        }
        self.touch(env, serial);
        match self.classic.state {
            State::PreparingRebalance => Err(ErrorCode::RebalanceInProgress),
            _ => Ok(()),
        }
    }
}
