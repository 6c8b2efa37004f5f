//! Offsets of a group that tools see and change; groups in lists.

use super::*;

fn lag(d: &mut Driver, c: Client) -> (i64, i64) {
    let request = wire::DescribeShareGroupOffsetsRequest {
        groups: vec![
            wire::describe_share_group_offsets_request::DescribeShareGroupOffsetsRequestGroup {
                group_id: GROUP.into(),
                topics: None,
            },
        ],
    };
    let r: wire::DescribeShareGroupOffsetsResponse<'_> = d.call(c, &request, 1);
    let group = &r.groups[0];
    assert_eq!(group.error_code, 0);
    let line = &group.topics[0].partitions[0];
    assert_eq!(line.error_code, 0);
    (line.start_offset, line.lag)
}

/// Has the group begin at this offset of partition 0.
fn alter(start_offset: i64) -> wire::AlterShareGroupOffsetsRequest<'static> {
    use wire::alter_share_group_offsets_request as alter;
    let partition = alter::AlterShareGroupOffsetsRequestPartition {
        partition_index: 0,
        start_offset,
    };
    wire::AlterShareGroupOffsetsRequest {
        group_id: GROUP.into(),
        topics: vec![alter::AlterShareGroupOffsetsRequestTopic {
            topic_name: "t".into(),
            partitions: vec![partition],
        }],
    }
}

#[test]
fn offsets_are_described_altered_and_deleted_with_the_group() {
    each_shape(|mut d| {
        let mut a = with_member(&mut d, 1);
        assert_eq!(d.produce(a.c, "t", 0, &batch(0, 10)).0, 0);
        assert_eq!(lag(&mut d, a.c), (-1, -1));
        assert_eq!(a.fetch(&mut d, &[0], &[], 500).pieces, [(0, 0, 9, 1)]);
        let (_, of) = a.acknowledge(&mut d, &[(0, 2, 3, ACCEPT)]);
        assert_eq!(of, [0]);
        assert_eq!(lag(&mut d, a.c), (0, 8));
        a.epoch = -1;
        assert_eq!(a.fetch(&mut d, &[], &[], 0).error, 0);
        assert_eq!(beat(&mut d, a.c, "a", -1).error_code, 0);
        let r: wire::AlterShareGroupOffsetsResponse<'_> = d.call(a.c, &alter(7), 0);
        assert_eq!(
            (r.error_code, r.responses[0].partitions[0].error_code),
            (0, 0)
        );
        assert_eq!(lag(&mut d, a.c), (7, 3));
        join(&mut d, a.c, "a");
        a.epoch = 0;
        assert_eq!(a.fetch(&mut d, &[0], &[], 500).pieces, [(0, 7, 9, 1)]);
        a.epoch = -1;
        a.fetch(&mut d, &[], &[], 0);
        beat(&mut d, a.c, "a", -1);
        let delete = wire::DeleteGroupsRequest {
            groups_names: vec![GROUP.into()],
        };
        let r: wire::DeleteGroupsResponse<'_> = d.call(a.c, &delete, 2);
        assert_eq!(r.results[0].error_code, 0);
        let describe = wire::ShareGroupDescribeRequest {
            group_ids: vec![GROUP.into()],
            ..Default::default()
        };
        let r: wire::ShareGroupDescribeResponse<'_> = d.call(a.c, &describe, 1);
        assert_eq!(r.groups[0].error_code, ErrorCode::GroupIdNotFound.code());
    });
}

#[test]
fn groups_are_listed_by_their_kind() {
    each_shape(|mut d| {
        let a = with_member(&mut d, 1);
        let request = wire::ListGroupsRequest {
            types_filter: vec!["share".into()],
            ..Default::default()
        };
        let r: wire::ListGroupsResponse<'_> = d.call(a.c, &request, 5);
        let lines: Vec<_> = r
            .groups
            .iter()
            .map(|g| {
                (
                    &*g.group_id,
                    &*g.protocol_type,
                    &*g.group_state,
                    &*g.group_type,
                )
            })
            .collect();
        assert_eq!(lines, [(GROUP, "share", "Stable", "share")]);
    });
}
