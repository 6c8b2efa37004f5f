//! One registered broker and shorthands for requests.

pub(crate) use crate::common::Node;
pub(crate) use flumen_base::{ErrorCode, Prng, Uuid};
pub(crate) use flumen_log::testing::MemDisk;
pub(crate) use flumen_quorum::controller::{self, Context, Registration};
pub(crate) use flumen_quorum::{Endpoint, Image, MetadataRecord, Partition, ResourceType};
pub(crate) use flumen_settings::{BrokerConfig, Properties};
pub(crate) use flumen_wire::messages::alter_partition_reassignments_request as reassign;
pub(crate) use flumen_wire::messages::create_partitions_request::{
    CreatePartitionsAssignment, CreatePartitionsTopic,
};
pub(crate) use flumen_wire::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
pub(crate) use flumen_wire::messages::create_topics_response::CreatableTopicResult;
pub(crate) use flumen_wire::messages::delete_topics_request::DeleteTopicState;
pub(crate) use flumen_wire::messages::elect_leaders_request::TopicPartitions;
pub(crate) use flumen_wire::messages::incremental_alter_configs_request as incremental;
pub(crate) use flumen_wire::messages::update_features_request::FeatureUpdateKey;
pub(crate) use flumen_wire::messages::{
    AlterConfigsRequest, AlterPartitionReassignmentsRequest, CreatePartitionsRequest,
    CreateTopicsRequest, DeleteTopicsRequest, DescribeQuorumRequest, ElectLeadersRequest,
    IncrementalAlterConfigsRequest, ListPartitionReassignmentsRequest, UnregisterBrokerRequest,
    UpdateFeaturesRequest, alter_configs_request, describe_quorum_request,
};
pub(crate) use std::collections::BTreeMap;

/// A broker with id 0 that is registered.
pub(crate) struct Cluster {
    pub(crate) node: Node,
    pub(crate) broker: BrokerConfig,
    pub(crate) prng: Prng,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        let text = "process.roles=broker,controller\nnode.id=0\n\
            controller.quorum.voters=0@localhost:9093\n\
            listeners=PLAINTEXT://:9092,CONTROLLER://:9093\ncontroller.listener.names=CONTROLLER\n\
            num.partitions=2\noffsets.topic.replication.factor=1\n";
        let properties = Properties::parse(text).unwrap();
        let broker = BrokerConfig::load(&properties).unwrap().config;
        let mut cluster = Self {
            node: Node::start(&MemDisk::new(), u64::MAX),
            broker,
            prng: Prng::new(1),
        };
        let records = controller::register_broker(&cluster.ctx(), &registration()).unwrap();
        cluster.commit(&records);
        cluster
    }

    pub(crate) fn ctx(&self) -> Context<'_> {
        Context {
            image: self.node.quorum.latest(),
            broker: &self.broker,
        }
    }

    pub(crate) fn image(&self) -> &Image {
        &self.node.image
    }

    pub(crate) fn commit(&mut self, records: &[MetadataRecord]) {
        self.node.propose(records);
        self.node.settle();
    }

    pub(crate) fn create(
        &mut self,
        topics: Vec<CreatableTopic<'_>>,
    ) -> Vec<CreatableTopicResult<'static>> {
        let request = CreateTopicsRequest {
            topics,
            ..CreateTopicsRequest::default()
        };
        let mut prng = Prng::new(self.prng.next_u64());
        let decision = controller::create_topics(&self.ctx(), &mut prng, &request);
        self.commit(&decision.records);
        decision.response.topics
    }

    pub(crate) fn create_one(&mut self, topic: CreatableTopic<'_>) -> (ErrorCode, String) {
        let results = self.create(vec![topic]);
        assert_eq!(results.len(), 1);
        error(results[0].error_code, results[0].error_message.as_deref())
    }

    pub(crate) fn alter(
        &mut self,
        kind: i8,
        name: &str,
        ops: &[(&str, i8, Option<&str>)],
    ) -> (ErrorCode, String) {
        let configs = ops
            .iter()
            .map(|(key, op, value)| incremental::AlterableConfig {
                name: (*key).into(),
                config_operation: *op,
                value: value.map(Into::into),
            });
        let request = IncrementalAlterConfigsRequest {
            resources: vec![incremental::AlterConfigsResource {
                resource_type: kind,
                resource_name: name.into(),
                configs: configs.collect(),
            }],
            validate_only: false,
        };
        let decision = controller::incremental_alter_configs(&self.ctx(), &request);
        self.commit(&decision.records);
        let r = &decision.response.responses[0];
        assert_eq!((r.resource_type, &*r.resource_name), (kind, name));
        error(r.error_code, r.error_message.as_deref())
    }

    pub(crate) fn grow(
        &mut self,
        topic: CreatePartitionsTopic<'_>,
        validate_only: bool,
    ) -> (ErrorCode, String) {
        let request = CreatePartitionsRequest {
            topics: vec![topic],
            validate_only,
            ..CreatePartitionsRequest::default()
        };
        let mut prng = Prng::new(3);
        let decision = controller::create_partitions(&self.ctx(), &mut prng, &request);
        self.commit(&decision.records);
        let r = &decision.response.results[0];
        error(r.error_code, r.error_message.as_deref())
    }
}

pub(crate) fn registration() -> Registration {
    Registration {
        cluster_id: "4L6g3nShT-eMCtK--X86sw".to_owned(),
        incarnation: Uuid::from_bytes([1; 16]),
        endpoints: vec![Endpoint {
            listener: "PLAINTEXT".to_owned(),
            host: "localhost".to_owned(),
            port: 9092,
            security_protocol: 0,
        }],
        log_dirs: vec![Uuid::from_bytes([2; 16])],
        features: BTreeMap::from([(
            controller::METADATA_VERSION_FEATURE.to_owned(),
            controller::METADATA_VERSION,
        )]),
    }
}

pub(crate) fn error(code: i16, message: Option<&str>) -> (ErrorCode, String) {
    (
        ErrorCode::from_i16(code).unwrap(),
        message.unwrap_or("<null>").to_owned(),
    )
}

pub(crate) fn ok() -> (ErrorCode, String) {
    error(0, None)
}

pub(crate) fn topic(name: &str) -> CreatableTopic<'_> {
    CreatableTopic {
        name: name.into(),
        num_partitions: -1,
        replication_factor: -1,
        ..CreatableTopic::default()
    }
}

pub(crate) fn with_config<'a>(
    name: &'a str,
    key: &'a str,
    value: Option<&'a str>,
) -> CreatableTopic<'a> {
    CreatableTopic {
        configs: vec![CreatableTopicConfig {
            name: key.into(),
            value: value.map(Into::into),
        }],
        ..topic(name)
    }
}

pub(crate) fn assigned<'a>(name: &'a str, assignments: &[(i32, &[i32])]) -> CreatableTopic<'a> {
    let assignments = assignments
        .iter()
        .map(|(index, ids)| CreatableReplicaAssignment {
            partition_index: *index,
            broker_ids: ids.to_vec(),
        });
    CreatableTopic {
        assignments: assignments.collect(),
        ..topic(name)
    }
}
