//! What groups of the new protocols (consumer, share and streams groups) are asked alike.

use anyhow::Result;
use serde_json::{Value, json};

use super::pair::Pair;

/// One of the new protocols.
#[derive(Debug, Clone, Copy)]
pub(super) struct Protocol {
    /// What the cases' names begin with.
    pub(super) name: &'static str,
    /// The heartbeat and its version.
    pub(super) beat: (&'static str, i16),
    /// The API that describes its groups.
    pub(super) describe: &'static str,
}

/// Waits for both sides' coordinators of all groups.
pub(super) fn coordinators(pair: &mut Pair, case: &str, groups: &[&str]) -> Result<()> {
    pair.case(case);
    let ready = |v: &Value| v["Coordinators"][0]["ErrorCode"] == 0;
    let keys = json!({"CoordinatorKeys": ["g"]});
    pair.until("FindCoordinator", 4, &keys, ready)?;
    let loaded = |v: &Value| v["Groups"][0]["ErrorCode"] != 14 && v["Groups"][0]["ErrorCode"] != 16;
    for group in groups {
        pair.until("DescribeGroups", 4, &json!({"Groups": [group]}), loaded)?;
    }
    Ok(())
}

/// The request with another value in one field.
pub(super) fn with(mut request: Value, key: &str, value: Value) -> Value {
    request[key] = value;
    request
}

impl Protocol {
    /// Names what follows, after the protocol.
    pub(super) fn case(&self, pair: &mut Pair, name: &str) {
        pair.case(&format!("{}: {name}", self.name));
    }

    /// A heartbeat.
    pub(super) fn ask(&self, pair: &mut Pair, heartbeat: &Value) -> Result<()> {
        pair.ask(self.beat.0, self.beat.1, heartbeat)
    }

    /// The group as its own API and as that of the classic groups describe it.
    pub(super) fn describe(&self, pair: &mut Pair, group: &str) -> Result<()> {
        let request = json!({"GroupIds": [group], "IncludeAuthorizedOperations": true});
        pair.all(self.describe, &request)?;
        pair.top("DescribeGroups", &json!({"Groups": [group]}))
    }

    /// Heartbeats, each a case of its own.
    pub(super) fn beats<'a>(
        &self,
        pair: &mut Pair,
        beats: impl IntoIterator<Item = (&'a str, Value)>,
    ) -> Result<()> {
        for (name, request) in beats {
            self.case(pair, name);
            self.ask(pair, &request)?;
        }
        Ok(())
    }

    /// Groups that are not there, without a name, and of the classic protocol.
    pub(super) fn describe_what_is_not(&self, pair: &mut Pair, group: &str) -> Result<()> {
        self.case(pair, "describe what is not");
        pair.all(self.describe, &json!({"GroupIds": [group, "", "groups"]}))
    }
}

/// A protocol whose coordinator assigns the four partitions (or tasks) of one topic and keeps
/// offsets, and how its members speak.
#[derive(Debug, Clone, Copy)]
pub(super) struct Assigned {
    /// The protocol.
    pub(super) protocol: Protocol,
    /// The topic that members join for.
    pub(super) topic: &'static str,
    /// A heartbeat of a group's member in an epoch that tells nothing new.
    pub(super) beat: fn(&str, &str, i32) -> Value,
    /// One that joins.
    pub(super) join: fn(&str, &str) -> Value,
    /// One that tells what the member has.
    pub(super) owning: fn(&str, &str, i32, &[i32]) -> Value,
}

impl Assigned {
    /// `b` joins the group that `a` has alone, in epoch 2 with all four partitions; `a` gives two
    /// up, then says what is wrong or late: in which epoch it has what.
    pub(super) fn second_member(
        &self,
        pair: &mut Pair,
        group: &str,
        wrong: &[(i32, &[i32])],
    ) -> Result<()> {
        let p = &self.protocol;
        let has =
            |pair: &mut Pair, epoch, owned| p.ask(pair, &(self.owning)(group, "a", epoch, owned));
        p.case(pair, "a second");
        p.ask(pair, &(self.join)(group, "b"))?;
        p.describe(pair, group)?;
        p.case(pair, "the first gives up");
        p.ask(pair, &(self.beat)(group, "a", 2))?;
        has(pair, 2, &[0, 1, 2, 3])?;
        p.describe(pair, group)?;
        p.ask(pair, &(self.beat)(group, "b", 3))?;
        has(pair, 2, &[0, 1])?;
        p.ask(pair, &(self.beat)(group, "b", 3))?;
        p.describe(pair, group)?;
        p.case(pair, "epochs");
        for (epoch, owned) in wrong {
            has(pair, *epoch, owned)?;
        }
        p.ask(pair, &(self.beat)(group, "nobody", 3))
    }

    /// `a` leaves, then `b`, which is in this epoch; the group is deleted.
    pub(super) fn both_leave(&self, pair: &mut Pair, group: &str, epoch: i32) -> Result<()> {
        let p = &self.protocol;
        let delete = json!({"GroupsNames": [group]});
        p.case(pair, "leave");
        p.ask(pair, &(self.beat)(group, "a", -1))?;
        p.ask(pair, &(self.beat)(group, "a", -1))?;
        p.ask(pair, &(self.beat)(group, "b", epoch))?;
        p.describe(pair, group)?;
        p.case(pair, "delete while one is there");
        pair.top("DeleteGroups", &delete)?;
        p.ask(pair, &(self.beat)(group, "b", -1))?;
        p.describe(pair, group)?;
        p.case(pair, "delete");
        pair.top("DeleteGroups", &delete)?;
        p.describe(pair, group)
    }

    fn commit(&self, group: &str, epoch: i32, member: &str, index: i32) -> Value {
        let part = json!({"PartitionIndex": index, "CommittedOffset": 5,
            "CommittedLeaderEpoch": 0, "CommittedMetadata": "m"});
        let id = format!("${}", self.topic);
        json!({"GroupId": group, "GenerationIdOrMemberEpoch": epoch, "MemberId": member,
            "Topics": [{"Name": self.topic, "TopicId": id, "Partitions": [part]}]})
    }

    /// Offsets of a group that nobody has used: committed, fetched and deleted by a member and by
    /// others, and when the member has left.
    pub(super) fn offsets(&self, pair: &mut Pair, group: &str) -> Result<()> {
        let p = &self.protocol;
        p.case(pair, "offsets: join");
        p.ask(pair, &(self.join)(group, "a"))?;
        for (name, version, epoch, member, index) in [
            ("as a member", 9, 2, "a", 0),
            ("as a member, by id", 10, 2, "a", 1),
            ("in an old version", 8, 2, "a", 0),
            ("in an old epoch", 9, 1, "a", 0),
            ("in a later epoch", 9, 3, "a", 0),
            ("as nobody", 9, 2, "nobody", 0),
            ("from outside", 9, -1, "", 0),
        ] {
            p.case(pair, &format!("commit {name}"));
            let request = self.commit(group, epoch, member, index);
            pair.ask("OffsetCommit", version, &request)?;
        }
        self.fetch_offsets(pair, group)?;
        p.case(pair, "delete offsets");
        let parts = json!([{"PartitionIndex": 0}]);
        let request = json!({"GroupId": group, "Topics": [{"Name": self.topic,
            "Partitions": parts}]});
        pair.top("OffsetDelete", &request)?;
        p.ask(pair, &(self.beat)(group, "a", -1))?;
        pair.top("OffsetDelete", &request)?;
        p.case(pair, "commit to an empty group");
        pair.ask("OffsetCommit", 9, &self.commit(group, -1, "", 0))?;
        pair.ask("OffsetCommit", 9, &self.commit(group, 2, "a", 0))
    }

    fn fetch_offsets(&self, pair: &mut Pair, group: &str) -> Result<()> {
        for (member, epoch) in [
            (json!(null), -1),
            (json!("a"), 2),
            (json!("a"), 1),
            (json!("b"), 2),
        ] {
            let name = format!("fetch as {member} in {epoch}");
            self.protocol.case(pair, &name);
            let id = format!("${}", self.topic);
            let topics = json!([{"Name": self.topic, "TopicId": id,
                "PartitionIndexes": [0, 1, 2]}]);
            let asked = json!({"GroupId": group, "MemberId": member, "MemberEpoch": epoch,
                "Topics": topics});
            for stable in [false, true] {
                let request = json!({"Groups": [asked], "RequireStable": stable});
                pair.ask("OffsetFetch", 9, &request)?;
                pair.ask("OffsetFetch", 10, &request)?;
            }
        }
        Ok(())
    }
}
