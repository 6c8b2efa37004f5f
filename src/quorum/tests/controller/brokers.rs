//! Brokers, elections, producer ids, features.

use crate::fixture::*;

#[test]
fn the_first_start_writes_id_features_and_listeners_and_each_start_a_new_epoch() {
    let mut cluster = Cluster::new();
    let image = cluster.image();
    assert_eq!(
        controller::cluster_id_of(image),
        Some("4L6g3nShT-eMCtK--X86sw")
    );
    assert_eq!(image.feature("metadata.version"), 30);
    assert_eq!(image.features().len(), 1);
    assert_eq!(image.features_index(), image.index());
    assert_eq!(image.controller_id(), 0);
    let epoch = image.brokers()[&0].epoch;
    assert_eq!(epoch, image.index() as i64);

    let again = controller::register_broker(&cluster.ctx(), &registration()).unwrap();
    assert_eq!(again.len(), 1);
    cluster.commit(&again);
    assert!(cluster.image().brokers()[&0].epoch > epoch);

    let other = Registration {
        cluster_id: "other".to_owned(),
        ..registration()
    };
    let refused = controller::register_broker(&cluster.ctx(), &other).unwrap_err();
    assert_eq!(refused.code, ErrorCode::InconsistentClusterId);
}

#[test]
fn producer_id_blocks_are_never_given_out_twice() {
    let disk = MemDisk::new();
    let broker = BrokerConfig::default();
    let mut next = 0;
    for restart in 0..5 {
        let mut node = Node::start(&disk, 200);
        for _ in 0..4 {
            let ctx = Context {
                image: node.quorum.latest(),
                broker: &broker,
            };
            let decision = controller::allocate_producer_ids(&ctx, 0).unwrap();
            assert_eq!(decision.response.first, next, "restart {restart}");
            next += i64::from(decision.response.len);
            node.propose(&decision.records);
            node.settle();
        }
    }
    assert_eq!(next, 20_000);
}

#[test]
fn elections_and_reassignments_on_one_broker() {
    let mut cluster = Cluster::new();
    cluster.create(vec![topic("t")]);
    let ask = |kind, partitions| ElectLeadersRequest {
        election_type: kind,
        topic_partitions: partitions,
        ..ElectLeadersRequest::default()
    };
    let named = |name: &'static str, partition| {
        Some(vec![TopicPartitions {
            topic: name.into(),
            partitions: vec![partition],
        }])
    };
    for (request, code) in [
        (ask(0, named("t", 0)), 84),
        (ask(1, named("t", 1)), 84),
        (ask(0, named("t", 2)), 3),
        (ask(0, named("nope", 0)), 3),
        (ask(5, named("t", 0)), 42),
    ] {
        let decision = controller::elect_leaders(&cluster.ctx(), &request);
        assert!(decision.records.is_empty());
        let results = &decision.response.replica_election_results;
        assert_eq!(results[0].partition_result[0].error_code, code);
    }
    let all = controller::elect_leaders(&cluster.ctx(), &ask(0, None)).response;
    assert_eq!(all.error_code, 0);
    assert!(
        all.replica_election_results
            .iter()
            .all(|t| t.partition_result.is_empty())
    );

    let target =
        |name: &'static str, replicas: Option<Vec<i32>>| AlterPartitionReassignmentsRequest {
            topics: vec![reassign::ReassignableTopic {
                name: name.into(),
                partitions: vec![reassign::ReassignablePartition {
                    partition_index: 0,
                    replicas,
                }],
            }],
            ..AlterPartitionReassignmentsRequest::default()
        };
    for (request, code) in [
        (target("t", Some(vec![0])), 0),
        (target("t", None), 85),
        (target("t", Some(vec![])), 39),
        (target("t", Some(vec![1])), 39),
        (target("nope", None), 3),
    ] {
        let decision = controller::alter_partition_reassignments(&cluster.ctx(), &request);
        assert!(decision.records.is_empty());
        assert_eq!(
            decision.response.responses[0].partitions[0].error_code, code,
            "{request:?}"
        );
    }
    let request = ListPartitionReassignmentsRequest::default();
    let listed = controller::list_partition_reassignments(&cluster.ctx(), &request);
    assert!(listed.topics.is_empty());
}

#[test]
fn leader_changes_bump_epochs() {
    let mut cluster = Cluster::new();
    let fence = |fenced| [MetadataRecord::FenceBroker { id: 0, fenced }];
    cluster.create(vec![topic("t")]);
    let id = cluster.image().topic("t").unwrap().id;
    let lost = flumen_quorum::PartitionChange {
        topic_id: id,
        leader: Some(-1),
        ..Default::default()
    };
    cluster.commit(&[MetadataRecord::PartitionChange(lost)]);
    cluster.commit(&fence(true));
    let request = ElectLeadersRequest {
        election_type: 0,
        topic_partitions: None,
        ..ElectLeadersRequest::default()
    };
    let decision = controller::elect_leaders(&cluster.ctx(), &request);
    assert_eq!(
        decision.response.replica_election_results[0].partition_result[0].error_code,
        80
    );
    assert_eq!(
        cluster.create_one(topic("u")).0,
        ErrorCode::InvalidReplicationFactor
    );
    cluster.commit(&fence(false));
    let decision = controller::elect_leaders(&cluster.ctx(), &request);
    assert_eq!(
        decision.response.replica_election_results[0].partition_result[0].error_code,
        0
    );
    cluster.commit(&decision.records);
    let p = cluster
        .image()
        .topic("t")
        .unwrap()
        .partition(0)
        .unwrap()
        .clone();
    assert_eq!((p.leader, p.leader_epoch, p.partition_epoch), (0, 2, 2));
}

#[test]
fn features_that_are_not_complete_are_refused() {
    let mut cluster = Cluster::new();
    let ask = |feature: &'static str, level, kind| UpdateFeaturesRequest {
        feature_updates: vec![FeatureUpdateKey {
            feature: feature.into(),
            max_version_level: level,
            upgrade_type: kind,
            ..FeatureUpdateKey::default()
        }],
        ..UpdateFeaturesRequest::default()
    };
    for (request, message) in [
        (
            ask("eligible.leader.replicas.version", 1, 1),
            "The update failed for all features since the following feature had an error: Invalid \
             update version 1 for feature eligible.leader.replicas.version. Local controller 0 \
             does not support this feature.",
        ),
        (
            ask("group.version", 2, 1),
            "The update failed for all features since the following feature had an error: Invalid \
             update version 2 for feature group.version. Local controller 0 only supports versions \
             0-1",
        ),
        (
            ask("metadata.version", 31, 1),
            "The update failed for all features since the following feature had an error: Invalid \
             update version 31 for feature metadata.version. Local controller 0 only supports \
             versions 7-30",
        ),
        (
            ask("metadata.version", 29, 1),
            "The update failed for all features since the following feature had an error: Invalid \
             update version 29 for feature metadata.version. Can't downgrade the version of this \
             feature without setting the upgrade type to either safe or unsafe downgrade.",
        ),
        (
            ask("metadata.version", 29, 2),
            "The update failed for all features since the following feature had an error: \
             Unsupported metadata.version downgrade from 30 to 29. Refusing to perform the \
             requested downgrade because it might delete metadata information.",
        ),
        (
            ask("metadata.version", 30, 0),
            "The update failed for all features since the following feature had an error: Invalid \
             update version 30 for feature metadata.version. The controller does not support the \
             given upgrade type.",
        ),
    ] {
        let decision = controller::update_features(&cluster.ctx(), &request, 2);
        assert!(decision.records.is_empty());
        assert_eq!(decision.response.error_code, 95);
        assert_eq!(decision.response.error_message.as_deref(), Some(message));
    }
    let same = ask("metadata.version", 30, 1);
    let decision = controller::update_features(&cluster.ctx(), &same, 1);
    assert_eq!(
        (
            decision.response.error_code,
            decision.response.results.len()
        ),
        (0, 1)
    );
    cluster.commit(&decision.records);
    assert_eq!(cluster.image().feature("metadata.version"), 30);
    let decision = controller::update_features(&cluster.ctx(), &same, 2);
    assert!(decision.response.results.is_empty());
}

#[test]
fn a_cluster_begins_with_the_level_of_its_formatting_and_rises() {
    let mut cluster = Cluster::new();
    let registration = Registration {
        features: controller::first_features(13, &BTreeMap::new()),
        ..registration()
    };
    let ctx = Context {
        image: &Image::default(),
        broker: &cluster.broker,
    };
    let records = controller::register_broker(&ctx, &registration).unwrap();
    let feature = |level| MetadataRecord::Feature {
        name: "metadata.version".to_owned(),
        level,
    };
    assert_eq!(records[1], feature(13));
    cluster.commit(&[feature(13)]);
    let rise = UpdateFeaturesRequest {
        feature_updates: vec![FeatureUpdateKey {
            feature: "metadata.version".into(),
            max_version_level: 16,
            upgrade_type: 1,
            ..FeatureUpdateKey::default()
        }],
        ..UpdateFeaturesRequest::default()
    };
    let decision = controller::update_features(&cluster.ctx(), &rise, 2);
    assert_eq!(decision.response.error_code, 0);
    cluster.commit(&decision.records);
    assert_eq!(cluster.image().feature("metadata.version"), 16);
}

#[test]
fn unregistering_and_describing() {
    let mut cluster = Cluster::new();
    let ask = |broker_id| UnregisterBrokerRequest { broker_id };
    for (id, code) in [(5, 102), (0, 42)] {
        let decision = controller::unregister_broker(&cluster.ctx(), &ask(id));
        assert!(decision.records.is_empty());
        assert_eq!(decision.response.error_code, code);
    }
    cluster.commit(&[MetadataRecord::RegisterBroker(flumen_quorum::Broker {
        id: 5,
        fenced: true,
        ..Default::default()
    })]);
    let decision = controller::unregister_broker(&cluster.ctx(), &ask(5));
    assert_eq!(decision.response.error_code, 0);
    cluster.commit(&decision.records);
    assert_eq!(cluster.image().brokers().len(), 1);

    let describe = |name: &'static str| DescribeQuorumRequest {
        topics: vec![describe_quorum_request::TopicData {
            topic_name: name.into(),
            partitions: vec![describe_quorum_request::PartitionData { partition_index: 0 }],
        }],
    };
    let status = cluster.node.quorum.status();
    let ctx = cluster.ctx();
    let found = controller::describe_quorum(&ctx, &status, &describe("__cluster_metadata"), 2, 123);
    let p = &found.topics[0].partitions[0];
    assert_eq!((p.error_code, p.leader_id, p.leader_epoch), (0, 0, 1));
    assert_eq!(p.high_watermark, cluster.image().index() as i64 + 1);
    assert_eq!(p.current_voters.len(), 1);
    assert_eq!(p.current_voters[0].log_end_offset, p.high_watermark);
    let wrong = controller::describe_quorum(&ctx, &status, &describe("t"), 2, 123);
    assert_eq!(wrong.topics[0].partitions[0].error_code, 3);
}
