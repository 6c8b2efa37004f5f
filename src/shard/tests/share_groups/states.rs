//! Stored states, where they are and where they are not.

use super::*;

#[test]
fn without_the_feature_there_are_no_share_groups() {
    let mut d = Driver::ready(2, 5);
    let c = d.connect(0);
    assert_eq!(d.switch_off(c, "share.version"), 0);
    let unsupported = ErrorCode::UnsupportedVersion.code();
    assert_eq!(beat(&mut d, c, "a", 0).error_code, unsupported);
    let mut a = Member::new(c, "a", Uuid::ZERO);
    assert_eq!(a.fetch(&mut d, &[], &[], 0).error, unsupported);
}

#[test]
fn stored_states_are_read_and_written_by_requests() {
    each_shape(|mut d| {
        let a = with_member(&mut d, 1);
        let topic_id = a.topic;
        let write = wire::WriteShareGroupStateRequest {
            group_id: GROUP.into(),
            topics: vec![wire::write_share_group_state_request::WriteStateData {
                topic_id,
                partitions: vec![wire::write_share_group_state_request::PartitionData {
                    state_epoch: 9,
                    leader_epoch: -1,
                    start_offset: 4,
                    delivery_complete_count: 2,
                    state_batches: vec![wire::write_share_group_state_request::StateBatch {
                        first_offset: 5,
                        last_offset: 6,
                        delivery_state: 2,
                        delivery_count: 1,
                    }],
                    ..Default::default()
                }],
            }],
        };
        let r: wire::WriteShareGroupStateResponse<'_> = d.call(a.c, &write, 1);
        assert_eq!(r.results[0].partitions[0].error_code, 0);
        let read = wire::ReadShareGroupStateRequest {
            group_id: GROUP.into(),
            topics: vec![wire::read_share_group_state_request::ReadStateData {
                topic_id,
                partitions: vec![wire::read_share_group_state_request::PartitionData {
                    leader_epoch: -1,
                    ..Default::default()
                }],
            }],
        };
        for _ in 0..2 {
            let r: wire::ReadShareGroupStateResponse<'_> = d.call(a.c, &read, 0);
            let line = &r.results[0].partitions[0];
            assert_eq!((line.error_code, line.start_offset), (0, 4));
            assert_eq!(line.state_batches.len(), 1);
            d.run_until_idle();
        }
    });
}

/// A later leader epoch has read its stored state: a fetch that waits for some bytes is told so,
/// and neither waits for them nor asks for the state again and again (simulator, +lost-sync 1282).
#[test]
fn who_waits_for_bytes_is_told_that_a_share_partition_cannot_be_loaded() {
    each_shape(|mut d| {
        let mut a = with_member(&mut d, 1);
        let lead = wire::ReadShareGroupStateRequest {
            group_id: GROUP.into(),
            topics: vec![wire::read_share_group_state_request::ReadStateData {
                topic_id: a.topic,
                partitions: vec![wire::read_share_group_state_request::PartitionData {
                    leader_epoch: 100,
                    ..Default::default()
                }],
            }],
        };
        let r: wire::ReadShareGroupStateResponse<'_> = d.call(a.c, &lead, 0);
        assert_eq!(r.results[0].partitions[0].error_code, 0);
        let request = wire::ShareFetchRequest {
            min_bytes: 200,
            ..a.request(&[0], &[], 30_000)
        };
        let r: wire::ShareFetchResponse<'_> = d.call(a.c, &request, 2);
        let told = r.responses[0].partitions[0].error_code;
        assert_eq!(told, ErrorCode::NotLeaderOrFollower.code());
    });
}

#[test]
fn states_that_are_not_stored_last_while_somebody_fetches() {
    let mut settings = Driver::settings();
    settings.share.stores_state = false;
    let mut d = Driver::start(3, 4, settings, MemDisk::new());
    d.run_until_ready();
    let mut a = with_member(&mut d, 1);
    assert_eq!(d.produce(a.c, "t", 0, &batch(0, 3)).0, 0);
    assert_eq!(a.fetch(&mut d, &[0], &[], 500).pieces, [(0, 0, 2, 1)]);
    assert_eq!(a.acknowledge(&mut d, &[(0, 0, 1, ACCEPT)]), (0, vec![0]));
    let mut b = Member::new(d.connect(1), "b", a.topic);
    assert_eq!(b.fetch(&mut d, &[0], &[], 0).pieces, []);
    a.epoch = -1;
    a.fetch(&mut d, &[], &[], 0);
    assert_eq!(b.fetch(&mut d, &[], &[], 1000).pieces, [(0, 2, 2, 2)]);
    b.epoch = -1;
    b.fetch(&mut d, &[], &[], 0);
    d.run_for_ms(100);
    b.epoch = 0;
    assert_eq!(
        b.fetch(&mut d, &[0], &[], 1000).pieces,
        [(0, 0, 2, 1)],
        "all over again"
    );
}
