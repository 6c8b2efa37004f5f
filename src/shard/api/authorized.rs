//! Authorized operations (KIP-430): bit fields of the operations that a client may carry out on a
//! resource, by the numbers of `AclOperation`. Without an authorizer everything that a resource
//! supports is allowed, as in Kafka.

/// Not asked for: the schemas' default.
pub(crate) const NOT_ASKED: i32 = i32::MIN;

const READ: i32 = 1 << 3;
const WRITE: i32 = 1 << 4;
const CREATE: i32 = 1 << 5;
const DELETE: i32 = 1 << 6;
const ALTER: i32 = 1 << 7;
const DESCRIBE: i32 = 1 << 8;
const CLUSTER_ACTION: i32 = 1 << 9;
const DESCRIBE_CONFIGS: i32 = 1 << 10;
const ALTER_CONFIGS: i32 = 1 << 11;
const IDEMPOTENT_WRITE: i32 = 1 << 12;

const CONFIGS: i32 = DESCRIBE_CONFIGS | ALTER_CONFIGS;

/// Of a topic.
pub(crate) const TOPIC: i32 = READ | WRITE | CREATE | DELETE | ALTER | DESCRIBE | CONFIGS;
/// Of a group.
pub(crate) const GROUP: i32 = READ | DELETE | DESCRIBE | CONFIGS;
/// Of the cluster.
pub(crate) const CLUSTER: i32 =
    CREATE | ALTER | DESCRIBE | CLUSTER_ACTION | CONFIGS | IDEMPOTENT_WRITE;

/// `operations` where the request asks for them.
pub(crate) fn if_asked(asked: bool, operations: i32) -> i32 {
    if asked { operations } else { NOT_ASKED }
}
