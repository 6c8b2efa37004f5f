//! What is served, topics, and the controller's listener.

use super::*;
use flumen_log::testing::MemDisk;
use flumen_shard::io::CloseReason;
use flumen_shard::testing::decode_answer;

#[test]
fn api_versions_name_what_is_served_and_answer_unknown_versions() {
    each_shape(|mut d| {
        let c = d.connect(0);
        let request = wire::ApiVersionsRequest {
            client_software_name: "test".into(),
            client_software_version: "1".into(),
        };
        let r: wire::ApiVersionsResponse<'_> = d.call(c, &request, 4);
        assert_eq!(r.error_code, 0);
        let produce = r.api_keys.iter().find(|k| k.api_key == 0).unwrap();
        assert_eq!((produce.min_version, produce.max_version), (0, 13));
        // Version 99, header as version 3 has it; answered in version 0.
        d.send_frame(
            c,
            Bytes::from_static(&[0, 18, 0, 99, 0, 0, 0, 7, 0, 0, 0, 1, 1, 0]),
        );
        let frame = d.wait_answer(c);
        let r: wire::ApiVersionsResponse<'_> = decode_answer(18, 0, 7, frame);
        assert_eq!(r.error_code, 35);
        assert_eq!(r.api_keys[0].api_key, 18);
        // Produce 2 is advertised and refused.
        d.send_frame(c, Bytes::from_static(&[0, 0, 0, 2, 0, 0, 0, 8, 0, 0]));
        d.run_until_idle();
        assert_eq!(d.closed(c), Some(&CloseReason::UnsupportedVersion(0, 2)));
    });
}

#[test]
fn metadata_creates_topics_and_lists_them() {
    each_shape(|mut d| {
        let a = d.connect(0);
        let request = wire::MetadataRequest {
            topics: Some(vec![wire::metadata_request::MetadataRequestTopic {
                name: Some("auto".into()),
                ..Default::default()
            }]),
            allow_auto_topic_creation: true,
            ..Default::default()
        };
        let r: wire::MetadataResponse<'_> = d.call(a, &request, 12);
        assert_eq!(r.topics[0].error_code, 0);
        assert_eq!(r.topics[0].partitions.len(), 1);
        assert_eq!(r.brokers[0].port, 9092);
        assert_eq!(r.controller_id, 1);
        let all = wire::MetadataRequest {
            topics: None,
            ..Default::default()
        };
        let r: wire::MetadataResponse<'_> = d.call(a, &all, 9);
        assert_eq!(r.topics.len(), 1);
    });
}

#[test]
fn a_controller_listener_serves_what_controllers_do() {
    let mut settings = Driver::settings();
    let properties = "process.roles=broker,controller\nnode.id=1\n\
        listeners=PLAINTEXT://localhost:9092,CONTROLLER://localhost:9093\n\
        controller.listener.names=CONTROLLER\n\
        controller.quorum.voters=1@localhost:9093\n";
    let properties = flumen_settings::Properties::parse(properties).unwrap();
    let named = flumen_settings::BrokerConfig::load(&properties).unwrap();
    settings.listeners = named.config.listeners;
    let mut d = Driver::start(2, 8, settings, MemDisk::new());
    d.run_until_ready();
    let c = d.connect_through(1, 1);
    let ask = wire::ApiVersionsRequest::default();
    let r: wire::ApiVersionsResponse<'_> = d.call(c, &ask, 0);
    let keys: Vec<i16> = r.api_keys.iter().map(|k| k.api_key).collect();
    let all = [18, 19, 20, 32, 33, 37, 43, 44, 45, 46, 55, 57, 60, 64];
    assert_eq!(keys, all);
    assert_eq!(d.create_topic(c, "t", 1), 0);
    let metadata = wire::MetadataRequest::default();
    d.send(c, &metadata, 9);
    d.run_until_idle();
    let closed = d.closed(c);
    assert_eq!(closed, Some(&CloseReason::UnsupportedVersion(3, 9)));
}
