//! `flumen groups`.

use super::{Cluster, output, time};
use anyhow::{Context, ensure};
use clap::{Args, Subcommand};
use flumen_client::{Client, EARLIEST, GroupDescription, GroupMember, GroupOffsets, LATEST};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Subcommand)]
pub(crate) enum GroupsCommand {
    /// List the groups of the cluster.
    List(ListArgs),
    /// Show committed offsets, lag and members.
    Describe(DescribeArgs),
    /// Move the committed offsets of a group without members. Without --execute it only shows what
    /// would change.
    ResetOffsets(ResetArgs),
    /// Delete groups without members.
    Delete(DeleteArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cluster: Cluster,
}

#[derive(Debug, Args)]
pub(crate) struct DescribeArgs {
    /// The group.
    group: String,
    /// Show the members instead of the offsets.
    #[arg(long)]
    members: bool,
    /// Print JSON (offsets and members).
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cluster: Cluster,
}

#[derive(Debug, Args)]
pub(crate) struct ResetArgs {
    /// The group.
    group: String,
    /// A topic, or some of its partitions as topic:0,1; may be repeated.
    #[arg(
        long,
        value_name = "TOPIC[:P,..]",
        required_unless_present = "all_topics"
    )]
    topic: Vec<String>,
    /// Every topic that the group has offsets of.
    #[arg(long, conflicts_with = "topic")]
    all_topics: bool,
    #[command(flatten)]
    target: Target,
    /// Commit the new offsets.
    #[arg(long)]
    execute: bool,
    /// Only show them (the default).
    #[arg(long, conflicts_with = "execute")]
    dry_run: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cluster: Cluster,
}

/// Where to.
#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Target {
    /// To the oldest record.
    #[arg(long)]
    to_earliest: bool,
    /// To the end.
    #[arg(long)]
    to_latest: bool,
    /// To this offset (or the nearest that exists).
    #[arg(long, value_name = "OFFSET")]
    to_offset: Option<i64>,
    /// To the first record of this time or later: YYYY-MM-DDThh:mm:ss[.sss][Z|+hh:mm] (UTC if not
    /// said) or milliseconds since the epoch.
    #[arg(long, value_name = "TIME", value_parser = time::parse_millis)]
    to_datetime: Option<i64>,
    /// By so many records from where the group is; negative is back.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    shift_by: Option<i64>,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// The groups.
    #[arg(required = true, value_name = "GROUP")]
    groups: Vec<String>,
    #[command(flatten)]
    cluster: Cluster,
}

/// Runs one of the commands.
pub(crate) fn run(command: &GroupsCommand) -> anyhow::Result<()> {
    match command {
        GroupsCommand::List(args) => list(args),
        GroupsCommand::Describe(args) => describe(args),
        GroupsCommand::ResetOffsets(args) => reset(args),
        GroupsCommand::Delete(args) => delete(args),
    }
}

fn list(args: &ListArgs) -> anyhow::Result<()> {
    let groups = args.cluster.connect()?.groups()?;
    if args.json {
        let view = |g: &flumen_client::GroupSummary| {
            serde_json::json!({
                "group": g.group, "protocol_type": g.protocol_type, "state": g.state,
            })
        };
        return output::json(&groups.iter().map(view).collect::<Vec<_>>());
    }
    groups.iter().try_for_each(|g| output::line(&g.group))
}

/// One committed offset beside the partition's end and owner.
#[derive(Serialize)]
struct OffsetView {
    topic: String,
    partition: i32,
    current_offset: Option<i64>,
    log_end_offset: i64,
    lag: Option<i64>,
    member: Option<String>,
    client_id: Option<String>,
    host: Option<String>,
}

fn describe(args: &DescribeArgs) -> anyhow::Result<()> {
    let mut client = args.cluster.connect()?;
    let group = client.describe_group(&args.group)?;
    let committed = client.committed(&args.group)?;
    ensure!(
        group.state != "Dead" || !committed.is_empty(),
        "group '{}' does not exist",
        args.group
    );
    let offsets = offset_views(&mut client, &group, &committed)?;
    if args.json {
        return output::json(&serde_json::json!({
            "group": group.group,
            "state": group.state,
            "protocol_type": group.protocol_type,
            "assignor": group.protocol,
            "coordinator": group.coordinator,
            "offsets": offsets,
            "members": group.members.iter().map(member_json).collect::<Vec<_>>(),
        }));
    }
    if args.members {
        return print_members(&group);
    }
    if group.members.is_empty() {
        let state = &group.state;
        tracing::warn!(%state, "the group has no members");
    }
    print_offsets(&args.group, &offsets)
}

fn member_json(member: &GroupMember) -> serde_json::Value {
    let topics = member.assignment.iter();
    let assignment: BTreeMap<_, _> = topics
        .map(|(topic, p)| (topic.clone(), p.clone()))
        .collect();
    serde_json::json!({
        "member": member.member_id,
        "instance": member.instance_id,
        "client_id": member.client_id,
        "host": member.host,
        "assignment": assignment,
    })
}

fn print_members(group: &GroupDescription) -> anyhow::Result<()> {
    let row = |m: &GroupMember| {
        let partitions = |(topic, p): &(String, Vec<i32>)| {
            let list: Vec<String> = p.iter().map(i32::to_string).collect();
            format!("{topic}({})", list.join(","))
        };
        let assignment: Vec<String> = m.assignment.iter().map(partitions).collect();
        vec![
            m.member_id.clone(),
            m.instance_id.clone().unwrap_or_else(|| "-".to_owned()),
            m.host.clone(),
            m.client_id.clone(),
            assignment.join(" "),
        ]
    };
    let header = ["CONSUMER-ID", "INSTANCE", "HOST", "CLIENT-ID", "ASSIGNMENT"];
    output::table(&header, &group.members.iter().map(row).collect::<Vec<_>>())
}

fn print_offsets(group: &str, offsets: &[OffsetView]) -> anyhow::Result<()> {
    let number = |n: Option<i64>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
    let text = |s: &Option<String>| s.clone().unwrap_or_else(|| "-".to_owned());
    let row = |o: &OffsetView| {
        vec![
            group.to_owned(),
            o.topic.clone(),
            o.partition.to_string(),
            number(o.current_offset),
            o.log_end_offset.to_string(),
            number(o.lag),
            text(&o.member),
            text(&o.host),
            text(&o.client_id),
        ]
    };
    let header = [
        "GROUP",
        "TOPIC",
        "PARTITION",
        "CURRENT-OFFSET",
        "LOG-END-OFFSET",
        "LAG",
        "CONSUMER-ID",
        "HOST",
        "CLIENT-ID",
    ];
    output::table(&header, &offsets.iter().map(row).collect::<Vec<_>>())
}

/// Every partition that is committed or assigned.
fn offset_views(
    client: &mut Client,
    group: &GroupDescription,
    committed: &GroupOffsets,
) -> anyhow::Result<Vec<OffsetView>> {
    let mut owners: BTreeMap<(String, i32), &GroupMember> = BTreeMap::new();
    for member in &group.members {
        for (topic, partitions) in &member.assignment {
            for partition in partitions {
                owners.insert((topic.clone(), *partition), member);
            }
        }
    }
    let places: BTreeSet<&(String, i32)> = committed.keys().chain(owners.keys()).collect();
    let ends = log_ends(client, places.iter().copied(), LATEST)?;
    let view = |place: &&(String, i32)| {
        let owner = owners.get(*place);
        let current = committed.get(*place).copied();
        let end = ends.get(*place).copied().unwrap_or(-1);
        OffsetView {
            topic: place.0.clone(),
            partition: place.1,
            current_offset: current,
            log_end_offset: end,
            lag: current.filter(|_| end >= 0).map(|c| (end - c).max(0)),
            member: owner.map(|m| m.member_id.clone()),
            client_id: owner.map(|m| m.client_id.clone()),
            host: owner.map(|m| m.host.clone()),
        }
    };
    Ok(places.iter().map(view).collect())
}

/// Offsets of partitions at a timestamp. Partitions of topics that are gone are left out.
fn log_ends<'a>(
    client: &mut Client,
    places: impl Iterator<Item = &'a (String, i32)>,
    timestamp: i64,
) -> anyhow::Result<GroupOffsets> {
    let mut by_topic: BTreeMap<&str, Vec<(i32, i64)>> = BTreeMap::new();
    for (topic, partition) in places {
        by_topic
            .entry(topic)
            .or_default()
            .push((*partition, timestamp));
    }
    let mut ends = GroupOffsets::new();
    for (topic, wanted) in by_topic {
        match client.retrying(|client| client.list_offsets(topic, &wanted)) {
            Ok(listed) => {
                let found = listed
                    .into_iter()
                    .map(|(p, l)| ((topic.to_owned(), p), l.offset));
                ends.extend(found);
            }
            Err(flumen_client::ClientError::NotFound(_)) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(ends)
}

fn reset(args: &ResetArgs) -> anyhow::Result<()> {
    let mut client = args.cluster.connect()?;
    let group = client.describe_group(&args.group);
    if let Ok(group) = &group {
        ensure!(
            group.members.is_empty(),
            "group '{}' has {} members: stop them first",
            args.group,
            group.members.len()
        );
    }
    let committed = client.committed(&args.group)?;
    let places = places(&mut client, args, &committed)?;
    ensure!(!places.is_empty(), "there is nothing to reset");
    let new = targets(&mut client, args, &committed, &places)?;
    if args.execute {
        client
            .set_committed(&args.group, &new)
            .context("the offsets were not changed")?;
    }
    print_reset(args, &committed, &new)
}

/// The partitions that the arguments name.
fn places(
    client: &mut Client,
    args: &ResetArgs,
    committed: &GroupOffsets,
) -> anyhow::Result<Vec<(String, i32)>> {
    if args.all_topics {
        return Ok(committed.keys().cloned().collect());
    }
    let mut places = Vec::new();
    for wanted in &args.topic {
        let (topic, partitions) = wanted.split_once(':').unwrap_or((wanted, ""));
        let info = client.topic(topic, false)?;
        let all = info.partitions.iter().map(|p| p.index);
        if partitions.is_empty() {
            places.extend(all.map(|p| (topic.to_owned(), p)));
            continue;
        }
        let all: Vec<i32> = all.collect();
        for partition in partitions.split(',') {
            let partition: i32 = partition.trim().parse().with_context(|| wanted.clone())?;
            ensure!(
                all.contains(&partition),
                "{topic} has no partition {partition}"
            );
            places.push((topic.to_owned(), partition));
        }
    }
    Ok(places)
}

/// The new offset of every partition, within what the partition holds.
fn targets(
    client: &mut Client,
    args: &ResetArgs,
    committed: &GroupOffsets,
    places: &[(String, i32)],
) -> anyhow::Result<GroupOffsets> {
    let starts = log_ends(client, places.iter(), EARLIEST)?;
    let ends = log_ends(client, places.iter(), LATEST)?;
    let by_time = match args.target.to_datetime {
        Some(millis) => log_ends(client, places.iter(), millis)?,
        None => GroupOffsets::new(),
    };
    let mut new = GroupOffsets::new();
    for place in places {
        let (Some(&start), Some(&end)) = (starts.get(place), ends.get(place)) else {
            continue;
        };
        let target = &args.target;
        let offset = if target.to_earliest {
            start
        } else if target.to_latest {
            end
        } else if let Some(offset) = target.to_offset {
            offset
        } else if let Some(by) = target.shift_by {
            let Some(current) = committed.get(place) else {
                continue;
            };
            current.saturating_add(by)
        } else {
            // No record is that late: the end.
            by_time
                .get(place)
                .copied()
                .filter(|o| *o >= 0)
                .unwrap_or(end)
        };
        new.insert(place.clone(), offset.clamp(start, end));
    }
    Ok(new)
}

fn print_reset(
    args: &ResetArgs,
    committed: &GroupOffsets,
    new: &GroupOffsets,
) -> anyhow::Result<()> {
    if args.json {
        let view = |((topic, partition), offset): (&(String, i32), &i64)| {
            let old = committed.get(&(topic.clone(), *partition));
            serde_json::json!({
                "topic": topic, "partition": partition, "old_offset": old, "new_offset": offset,
            })
        };
        let offsets: Vec<_> = new.iter().map(view).collect();
        return output::json(&serde_json::json!({
            "group": args.group, "executed": args.execute, "offsets": offsets,
        }));
    }
    let row = |((topic, partition), offset): (&(String, i32), &i64)| {
        let old = committed.get(&(topic.clone(), *partition));
        vec![
            args.group.clone(),
            topic.clone(),
            partition.to_string(),
            old.map_or_else(|| "-".to_owned(), i64::to_string),
            offset.to_string(),
        ]
    };
    let header = ["GROUP", "TOPIC", "PARTITION", "OLD-OFFSET", "NEW-OFFSET"];
    output::table(&header, &new.iter().map(row).collect::<Vec<_>>())?;
    if !args.execute {
        output::line("Nothing was changed: add --execute to commit these offsets.")?;
    }
    Ok(())
}

fn delete(args: &DeleteArgs) -> anyhow::Result<()> {
    let mut client = args.cluster.connect()?;
    for group in &args.groups {
        client.delete_group(group)?;
        output::line(format!("Deleted group {group}."))?;
    }
    Ok(())
}
