//! `flumen topics`.

use super::{Cluster, Topic, key_value, output};
use clap::{Args, Subcommand};
use flumen_client::{Client, ClientError, ConfigOp, NewTopic, TopicInfo};
use serde::Serialize;

const TOPIC_ALREADY_EXISTS: i16 = 36;
/// `ConfigSource` of a value set on the topic itself.
const SET_ON_TOPIC: i8 = 1;

#[derive(Debug, Subcommand)]
pub(crate) enum TopicsCommand {
    /// Create a topic.
    Create(CreateArgs),
    /// List the topics.
    List(ListArgs),
    /// Show partitions, replicas and configs.
    Describe(DescribeArgs),
    /// Change configs or add partitions.
    Alter(AlterArgs),
    /// Delete a topic and its records.
    Delete(DeleteArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    topic: Topic,
    /// How many partitions; the broker's default if left out.
    #[arg(long, value_name = "N", default_value_t = -1, hide_default_value = true)]
    partitions: i32,
    /// How many replicas of each; the broker's default if left out.
    #[arg(long, value_name = "N", default_value_t = -1, hide_default_value = true)]
    replication_factor: i16,
    /// Brokers per partition, such as 1:2,2:3.
    #[arg(long, value_name = "BROKERS", value_parser = assignment,
          conflicts_with_all = ["partitions", "replication_factor"])]
    replica_assignment: Option<Assignment>,
    /// A config of the topic; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    config: Vec<(String, String)>,
    /// Succeed if the topic is there already.
    #[arg(long)]
    if_not_exists: bool,
    #[command(flatten)]
    cluster: Cluster,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Leave internal topics out.
    #[arg(long)]
    exclude_internal: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cluster: Cluster,
}

#[derive(Debug, Args)]
pub(crate) struct DescribeArgs {
    /// The topics; all of them if none is named.
    #[arg(value_name = "TOPIC")]
    topics: Vec<String>,
    /// A topic, as Kafka's tools take it.
    #[arg(long = "topic", value_name = "TOPIC", hide = true)]
    topic_flag: Vec<String>,
    /// Show every config, not only those set on the topic.
    #[arg(long)]
    all_configs: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cluster: Cluster,
}

#[derive(Debug, Args)]
pub(crate) struct AlterArgs {
    #[command(flatten)]
    topic: Topic,
    /// The new number of partitions: more than there are.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    partitions: Option<i32>,
    /// A config to set; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    config: Vec<(String, String)>,
    /// A config to put back to its default; may be repeated.
    #[arg(long, value_name = "KEY")]
    delete_config: Vec<String>,
    #[command(flatten)]
    cluster: Cluster,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    topic: Topic,
    /// Succeed if there is no such topic.
    #[arg(long)]
    if_exists: bool,
    #[command(flatten)]
    cluster: Cluster,
}

/// Broker ids per partition.
#[derive(Clone, Debug)]
pub(crate) struct Assignment(Vec<Vec<i32>>);

fn assignment(text: &str) -> Result<Assignment, String> {
    let brokers = |part: &str| -> Option<Vec<i32>> {
        part.split(':').map(|b| b.trim().parse().ok()).collect()
    };
    let all: Option<Vec<_>> = text.split(',').map(brokers).collect();
    all.map(Assignment)
        .ok_or_else(|| "expected broker ids such as 1:2,2:3".to_owned())
}

/// Runs one of the commands.
pub(crate) fn run(command: &TopicsCommand) -> anyhow::Result<()> {
    match command {
        TopicsCommand::Create(args) => create(args),
        TopicsCommand::List(args) => list(args),
        TopicsCommand::Describe(args) => describe(args),
        TopicsCommand::Alter(args) => alter(args),
        TopicsCommand::Delete(args) => delete(args),
    }
}

fn create(args: &CreateArgs) -> anyhow::Result<()> {
    let mut client = args.cluster.connect()?;
    let topic = NewTopic {
        name: args.topic.name().to_owned(),
        partitions: args.partitions,
        replication_factor: args.replication_factor,
        assignment: args
            .replica_assignment
            .clone()
            .map_or_else(Vec::new, |a| a.0),
        configs: args.config.clone(),
    };
    match client.create_topic(&topic) {
        Err(e) if args.if_not_exists && e.code() == Some(TOPIC_ALREADY_EXISTS) => {
            output::line(format!("Topic {} exists already.", topic.name))
        }
        result => {
            result?;
            output::line(format!("Created topic {}.", topic.name))
        }
    }
}

fn list(args: &ListArgs) -> anyhow::Result<()> {
    let mut topics = args.cluster.connect()?.topics(None)?;
    topics.retain(|t| !(args.exclude_internal && t.internal));
    if args.json {
        return output::json(&topics.iter().map(|t| &t.name).collect::<Vec<_>>());
    }
    topics.iter().try_for_each(|t| output::line(&t.name))
}

#[derive(Serialize)]
struct TopicView {
    name: String,
    id: String,
    internal: bool,
    configs: serde_json::Map<String, serde_json::Value>,
    partitions: Vec<PartitionView>,
}

#[derive(Serialize)]
struct PartitionView {
    partition: i32,
    leader: Option<i32>,
    replicas: Vec<i32>,
    isr: Vec<i32>,
}

fn describe(args: &DescribeArgs) -> anyhow::Result<()> {
    let mut client = args.cluster.connect()?;
    let names: Vec<&str> = args
        .topics
        .iter()
        .chain(&args.topic_flag)
        .map(String::as_str)
        .collect();
    let topics = client.topics((!names.is_empty()).then_some(&names))?;
    let mut views = Vec::new();
    for topic in &topics {
        views.push(view(&mut client, topic, args.all_configs)?);
    }
    if args.json {
        return output::json(&views);
    }
    views.iter().try_for_each(print_topic)
}

fn view(client: &mut Client, topic: &TopicInfo, all: bool) -> anyhow::Result<TopicView> {
    let configs = client.topic_configs(&topic.name)?;
    let shown = configs
        .into_iter()
        .filter(|c| all || c.source == SET_ON_TOPIC);
    let partitions = topic.partitions.iter().map(|p| PartitionView {
        partition: p.index,
        leader: (p.leader >= 0).then_some(p.leader),
        replicas: p.replicas.clone(),
        isr: p.isr.clone(),
    });
    Ok(TopicView {
        name: topic.name.clone(),
        id: flumen_base::Uuid::from_bytes(topic.id).to_string(),
        internal: topic.internal,
        configs: shown.map(|c| (c.name, c.value.into())).collect(),
        partitions: partitions.collect(),
    })
}

fn print_topic(topic: &TopicView) -> anyhow::Result<()> {
    let config = |(key, value): (&String, &serde_json::Value)| {
        format!("{key}={}", value.as_str().unwrap_or(""))
    };
    let configs: Vec<String> = topic.configs.iter().map(config).collect();
    let factor = topic.partitions.first().map_or(0, |p| p.replicas.len());
    output::line(format!(
        "Topic: {}  Id: {}  Partitions: {}  ReplicationFactor: {factor}  Configs: {}",
        topic.name,
        topic.id,
        topic.partitions.len(),
        configs.join(",")
    ))?;
    let ids = |ids: &[i32]| ids.iter().map(i32::to_string).collect::<Vec<_>>().join(",");
    for p in &topic.partitions {
        let leader = p.leader.map_or("none".to_owned(), |l| l.to_string());
        output::line(format!(
            "  Partition: {}  Leader: {leader}  Replicas: {}  Isr: {}",
            p.partition,
            ids(&p.replicas),
            ids(&p.isr)
        ))?;
    }
    Ok(())
}

fn alter(args: &AlterArgs) -> anyhow::Result<()> {
    let name = args.topic.name();
    let set = args
        .config
        .iter()
        .cloned()
        .map(|(k, v)| ConfigOp::Set(k, v));
    let delete = args.delete_config.iter().cloned().map(ConfigOp::Delete);
    let ops: Vec<ConfigOp> = set.chain(delete).collect();
    anyhow::ensure!(
        !ops.is_empty() || args.partitions.is_some(),
        "nothing to change: give --partitions, --config or --delete-config"
    );
    let mut client = args.cluster.connect()?;
    if let Some(count) = args.partitions {
        client.create_partitions(name, count)?;
    }
    if !ops.is_empty() {
        client.alter_topic_configs(name, &ops)?;
    }
    output::line(format!("Altered topic {name}."))
}

fn delete(args: &DeleteArgs) -> anyhow::Result<()> {
    let name = args.topic.name();
    let mut client = args.cluster.connect()?;
    match client.delete_topic(name) {
        Err(ClientError::Api { code: 3, .. }) if args.if_exists => {
            output::line(format!("Topic {name} does not exist."))
        }
        result => {
            result?;
            output::line(format!("Deleted topic {name}."))
        }
    }
}
