//! A gather for requests that ask several partitions or groups: the answer stands ready, and each
//! result is put into its place.

use crate::ops::{Gathering, GroupOp, Op, OpResult, PartitionOp};
use crate::request::Reply;
use crate::{Shard, Turn};
use flumen_base::{ErrorCode, ShardId, TopicPartition};
use flumen_wire::Message;

/// A place in an answer: index of the topic, index of the partition in it. Groups have their index,
/// and 0.
pub(crate) type Place = (usize, usize);

/// The answer, the place of each operation's result, and how to put it there.
struct Fill<R, P> {
    response: R,
    places: Vec<Place>,
    put: P,
}

impl<R, P> Gathering for Fill<R, P>
where
    R: Message<'static> + Send,
    P: Fn(&mut R, Place, OpResult) + Send,
{
    fn take(&mut self, index: u32, result: OpResult) {
        if let Some(place) = self.places.get(index as usize) {
            (self.put)(&mut self.response, *place, result);
        }
    }

    fn finish(self: Box<Self>, shard: &mut Shard, turn: &mut Turn<'_>, reply: Reply) {
        shard.reply(turn, reply, &self.response);
    }
}

/// The operations of a request for several partitions, gathered while its answer is laid out.
#[derive(Debug, Default)]
pub(crate) struct Scatter {
    pub(crate) ops: Vec<(ShardId, Op)>,
    pub(crate) places: Vec<Place>,
}

impl Scatter {
    /// Adds an operation whose result belongs at `place`.
    pub(crate) fn add(&mut self, shard: &Shard, tp: TopicPartition, place: Place, op: PartitionOp) {
        self.ops.push((shard.owner(tp), Op::Partition(tp, op)));
        self.places.push(place);
    }

    /// Adds an operation on the `n`th group asked for.
    pub(crate) fn add_group(&mut self, owner: ShardId, n: usize, op: GroupOp) {
        self.ops.push((owner, Op::Group(op)));
        self.places.push((n, 0));
    }

    /// Sends the operations; `response` is the answer when `put` has put each result in its place.
    pub(crate) fn fill<R: Message<'static> + Send + 'static>(
        self,
        shard: &mut Shard,
        turn: &mut Turn<'_>,
        reply: Reply,
        response: R,
        put: impl Fn(&mut R, Place, OpResult) + Send + 'static,
    ) {
        let fill = Fill {
            response,
            places: self.places,
            put,
        };
        shard.gather(turn, reply, Box::new(fill), self.ops);
    }
}

impl Shard {
    /// The partition that a client names, or UNKNOWN_TOPIC_OR_PARTITION.
    pub(crate) fn known_partition(
        &self,
        topic: &str,
        index: i32,
    ) -> Result<TopicPartition, ErrorCode> {
        self.partition_id(topic, index)
            .ok_or(ErrorCode::UnknownTopicOrPartition)
    }
}
