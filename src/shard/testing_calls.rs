//! The requests that most tests begin with.

use crate::testing::{Client, Driver};
use flumen_base::{ErrorCode, Uuid};
use flumen_log::testing::MemDisk;
use flumen_wire::messages::create_topics_request::CreatableTopic;
use flumen_wire::messages::delete_topics_request::DeleteTopicState;
use flumen_wire::messages::incremental_alter_configs_request as alter;
use flumen_wire::messages::metadata_request::MetadataRequestTopic;
use flumen_wire::messages::produce_request::{PartitionProduceData, TopicProduceData};
use flumen_wire::messages::update_features_request::FeatureUpdateKey;
use flumen_wire::messages::{
    CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest, DeleteTopicsResponse,
    FindCoordinatorRequest, FindCoordinatorResponse, IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse, MetadataRequest, MetadataResponse, ProduceRequest,
    ProduceResponse, UpdateFeaturesRequest, UpdateFeaturesResponse,
};
use std::borrow::Cow;

/// A resource of configurations: a group, of any kind (KIP-848).
const GROUP_RESOURCE: i8 = 32;

/// How often a test asks for a coordinator: the first question creates the coordinator's topic.
const FINDS_MAX: usize = 10;

/// The test with one shard, with some, and with more than there are cores, each under a seed.
#[allow(clippy::print_stdout)] // what a failed test was about
pub fn each_shape(test: impl Fn(Driver)) {
    for (shards, seed) in [(1, 1), (4, 2), (3, 3), (4, 4)] {
        println!("shards {shards} seed {seed}");
        test(Driver::ready(shards, seed));
    }
}

/// A topic with one replica.
pub fn create_request(name: &str, partitions: i32) -> CreateTopicsRequest<'_> {
    CreateTopicsRequest {
        topics: vec![CreatableTopic {
            name: name.into(),
            num_partitions: partitions,
            replication_factor: 1,
            ..Default::default()
        }],
        timeout_ms: 1000,
        ..Default::default()
    }
}

/// Records for one partition.
pub fn produce_request<'a>(
    topic: &'a str,
    partition: i32,
    acks: i16,
    records: &'a [u8],
) -> ProduceRequest<'a> {
    ProduceRequest {
        acks,
        timeout_ms: 1000,
        topic_data: vec![TopicProduceData {
            name: topic.into(),
            partition_data: vec![PartitionProduceData {
                index: partition,
                records: Some(Cow::Borrowed(records)),
            }],
            ..Default::default()
        }],
        ..Default::default()
    }
}

impl Driver {
    /// Shards with the settings of tests on an empty disk, ready for clients.
    pub fn ready(count: u16, seed: u64) -> Self {
        let mut driver = Self::start(count, seed, Self::settings(), MemDisk::new());
        driver.run_until_ready();
        driver
    }

    /// Lowers a feature to level 0, where it is off; the error code (`UpdateFeatures`, KIP-584).
    pub fn switch_off(&mut self, client: Client, feature: &str) -> i16 {
        let request = UpdateFeaturesRequest {
            feature_updates: vec![FeatureUpdateKey {
                feature: feature.into(),
                max_version_level: 0,
                upgrade_type: 2,
                ..Default::default()
            }],
            ..Default::default()
        };
        let r: UpdateFeaturesResponse<'_> = self.call(client, &request, 2);
        r.error_code
    }

    /// Creates a topic; the error code.
    pub fn create_topic(&mut self, client: Client, name: &str, partitions: i32) -> i16 {
        let request = create_request(name, partitions);
        let r: CreateTopicsResponse<'_> = self.call(client, &request, 7);
        r.topics[0].error_code
    }

    /// Deletes a topic; the error code.
    pub fn delete_topic(&mut self, client: Client, name: &str) -> i16 {
        let request = DeleteTopicsRequest {
            topics: vec![DeleteTopicState {
                name: Some(name.into()),
                ..Default::default()
            }],
            timeout_ms: 1000,
            ..Default::default()
        };
        let r: DeleteTopicsResponse<'_> = self.call(client, &request, 6);
        r.responses[0].error_code
    }

    /// The id of a topic.
    pub fn topic_id(&mut self, client: Client, name: &str) -> Uuid {
        let request = MetadataRequest {
            topics: Some(vec![MetadataRequestTopic {
                name: Some(name.into()),
                ..Default::default()
            }]),
            ..Default::default()
        };
        let r: MetadataResponse<'_> = self.call(client, &request, 12);
        r.topics[0].topic_id
    }

    /// Asks for the coordinator of a group (type 0) or a transactional id (1) until it is there.
    ///
    /// # Panics
    /// If it does not come, or another error does.
    pub fn find_coordinator(&mut self, client: Client, key: &str, key_type: i8) {
        let request = FindCoordinatorRequest {
            key_type,
            coordinator_keys: vec![key.into()],
            ..Default::default()
        };
        for _ in 0..FINDS_MAX {
            let r: FindCoordinatorResponse<'_> = self.call(client, &request, 6);
            match ErrorCode::from_i16(r.coordinators[0].error_code) {
                Some(ErrorCode::None) => return,
                Some(ErrorCode::CoordinatorNotAvailable) => {}
                other => panic!("the coordinator of {key}: {other:?}"),
            }
        }
        panic!("{key} has no coordinator");
    }

    /// Sets configurations of one group.
    pub fn set_group_configs(&mut self, client: Client, group: &str, configs: &[(&str, &str)]) {
        let configs = configs.iter().map(|(name, value)| alter::AlterableConfig {
            name: Cow::Borrowed(name),
            value: Some(Cow::Borrowed(value)),
            ..Default::default()
        });
        let request = IncrementalAlterConfigsRequest {
            resources: vec![alter::AlterConfigsResource {
                resource_type: GROUP_RESOURCE,
                resource_name: group.into(),
                configs: configs.collect(),
            }],
            ..Default::default()
        };
        let r: IncrementalAlterConfigsResponse<'_> = self.call(client, &request, 1);
        let (error, message) = (r.responses[0].error_code, &r.responses[0].error_message);
        assert_eq!(error, 0, "{message:?}");
    }

    /// So many milliseconds of virtual time go by in which nothing is done.
    pub fn pass_ms(&mut self, ms: i64) {
        self.move_to(self.now.mono.plus_ms(ms));
    }

    /// Produces with acks=-1 and waits; error code and base offset.
    pub fn produce(&mut self, client: Client, topic: &str, n: i32, records: &[u8]) -> (i16, i64) {
        let request = produce_request(topic, n, -1, records);
        let r: ProduceResponse<'_> = self.call(client, &request, 9);
        let p = &r.responses[0].partition_responses[0];
        (p.error_code, p.base_offset)
    }
}
