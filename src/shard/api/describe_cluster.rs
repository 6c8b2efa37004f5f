//! DescribeCluster (key 60), versions 0 to 2 (KIP-700): cluster id, controller, brokers. v1:
//! endpoint type (KIP-919). v2: fenced brokers (KIP-1073). On a controller listener the endpoints
//! are those of controllers.

use super::{authorized, decode};
use crate::request::Request;
use crate::{Shard, Turn};
use flumen_base::ErrorCode;
use flumen_quorum::Broker;
use flumen_wire::messages::describe_cluster_response as wire;
use flumen_wire::messages::{DescribeClusterRequest, DescribeClusterResponse};
use std::borrow::Cow;

const BROKERS: i8 = 1;
const CONTROLLERS: i8 = 2;

pub(crate) fn run(shard: &mut Shard, turn: &mut Turn<'_>, request: Request) {
    let message = decode!(shard, turn, request, DescribeClusterRequest);
    let listener = shard.config.broker.listeners.get(request.listener);
    let here = match listener {
        Some(l) if l.controller => CONTROLLERS,
        _ => BROKERS,
    };
    let asked = message.endpoint_type;
    let error = match asked {
        t if t == here => ErrorCode::None,
        BROKERS | CONTROLLERS => ErrorCode::MismatchedEndpointType,
        _ => ErrorCode::UnsupportedEndpointType,
    };
    let mut response = DescribeClusterResponse {
        endpoint_type: if request.reply.version >= 1 {
            here
        } else {
            BROKERS
        },
        cluster_id: Cow::Owned(shard.config.cluster_id.clone()),
        controller_id: shard.image.controller_id(),
        cluster_authorized_operations: authorized::if_asked(
            message.include_cluster_authorized_operations,
            authorized::CLUSTER,
        ),
        ..Default::default()
    };
    if !error.is_none() {
        response.error_code = error.code();
        response.controller_id = -1;
        response.cluster_id = Cow::Borrowed("");
        response.error_message = Some(Cow::Owned(match asked {
            BROKERS | CONTROLLERS => format!(
                "The request was sent to an endpoint of type {}, \
                 but we wanted an endpoint of type {}",
                type_name(here),
                type_name(asked)
            ),
            other => format!("Unsupported endpoint type {other}"),
        }));
        shard.reply(turn, request.reply, &response);
        return;
    }
    for broker in shard.image.brokers().values() {
        if broker.fenced && !message.include_fenced_brokers {
            continue;
        }
        let Some((host, port)) = shard.endpoint(broker, request.listener) else {
            continue;
        };
        response.brokers.push(wire::DescribeClusterBroker {
            broker_id: broker.id,
            host: Cow::Owned(host),
            port,
            rack: broker.rack.clone().map(Cow::Owned),
            is_fenced: broker.fenced && request.reply.version >= 2,
        });
    }
    shard.reply(turn, request.reply, &response);
}

fn type_name(endpoint_type: i8) -> &'static str {
    match endpoint_type {
        BROKERS => "BROKER",
        _ => "CONTROLLER",
    }
}

impl Shard {
    /// Host and port under which a broker is reached through the listener of this index (the same
    /// name on other brokers).
    pub(crate) fn endpoint(&self, broker: &Broker, listener: usize) -> Option<(String, i32)> {
        let own = self.config.broker.advertised_listeners.get(listener)?;
        if broker.id == self.broker.node_id {
            return Some((own.host.clone(), own.port.into()));
        }
        let there = broker.endpoints.iter().find(|e| e.listener == own.name)?;
        Some((there.host.clone(), there.port.into()))
    }
}
