//! Records handed out, acknowledged and delivered again.

use super::*;

#[test]
fn records_are_handed_out_once_and_are_done_with_when_accepted() {
    each_shape(|mut d| {
        let mut a = with_member(&mut d, 3);
        for p in 0..3 {
            assert_eq!(d.produce(a.c, "t", p, &batch(0, 4)).0, 0);
        }
        let got = a.fetch(&mut d, &[0, 1, 2], &[], 500);
        assert_eq!(got.pieces, [(0, 0, 3, 1), (1, 0, 3, 1), (2, 0, 3, 1)]);
        assert_eq!(got.batches.len(), 3);
        let c = d.connect(d.shards() - 1);
        let mut b = Member::new(c, "b", a.topic);
        assert_eq!(b.fetch(&mut d, &[0, 1, 2], &[], 50).pieces, []);
        let says = [
            (0, 0, 3, ACCEPT),
            (1, 0, 1, ACCEPT),
            (1, 2, 3, RELEASE),
            (2, 0, 3, REJECT),
        ];
        let got = a.fetch(&mut d, &[], &says, 500);
        assert_eq!(got.error, 0);
        assert!(got.acks.values().all(|e| *e == 0), "{got:?}");
        let mut pieces = got.pieces;
        if pieces.is_empty() {
            // The release was written after the fetch had looked.
            pieces = a.fetch(&mut d, &[], &[], 500).pieces;
        }
        assert_eq!(pieces, [(1, 2, 3, 2)], "delivered again");
        assert_eq!(a.acknowledge(&mut d, &[(1, 2, 3, ACCEPT)]), (0, vec![0]));
        assert_eq!(a.fetch(&mut d, &[], &[], 50).pieces, []);
        let (error, of) = a.acknowledge(&mut d, &[(1, 2, 3, ACCEPT)]);
        assert_eq!((error, of), (0, vec![0]), "below the start");
        let (_, of) = a.acknowledge(&mut d, &[(1, 9, 9, ACCEPT)]);
        assert_eq!(of, [ErrorCode::InvalidRequest.code()]);
    });
}

#[test]
fn large_batches_are_handed_out() {
    each_shape(|mut d| {
        let mut a = with_member(&mut d, 1);
        let mut large = BatchBuilder::new();
        large.push(1_700_000_000_000, None, Some(&[7; 10_000]));
        let large = large.build().unwrap();
        assert_eq!(d.produce(a.c, "t", 0, &batch(0, 1)).0, 0);
        assert_eq!(d.produce(a.c, "t", 0, &large).0, 0);
        assert_eq!(d.produce(a.c, "t", 0, &batch(2, 1)).0, 0);
        let got = a.fetch(&mut d, &[0], &[], 500);
        assert_eq!(got.pieces, [(0, 0, 2, 1)]);
        assert_eq!(got.batches, [(0, 0), (0, 1), (0, 2)]);
    });
}

#[test]
fn a_fetch_waits_for_records() {
    each_shape(|mut d| {
        let mut a = with_member(&mut d, 2);
        let request = a.request(&[0, 1], &[], 30_000);
        d.send(a.c, &request, 2);
        d.run_for_ms(100);
        assert!(d.take_answer(a.c).is_none(), "nothing is there");
        let c = d.connect(0);
        assert_eq!(d.produce(c, "t", 1, &batch(0, 1)).0, 0);
        d.wait_answer(a.c);
        // And for those that another gives back.
        let mut b = Member::new(d.connect(d.shards() - 1), "b", a.topic);
        let request = b.request(&[1], &[], 30_000);
        d.send(b.c, &request, 2);
        d.run_for_ms(100);
        assert!(d.take_answer(b.c).is_none());
        assert_eq!(a.acknowledge(&mut d, &[(1, 0, 0, RELEASE)]), (0, vec![0]));
        d.wait_answer(b.c);
    });
}

#[test]
fn what_a_member_holds_is_free_when_it_is_gone_or_late() {
    each_shape(|mut d| {
        let mut a = with_member(&mut d, 1);
        assert_eq!(d.produce(a.c, "t", 0, &batch(0, 5)).0, 0);
        assert_eq!(a.fetch(&mut d, &[0], &[], 500).pieces, [(0, 0, 4, 1)]);
        let mut b = Member::new(d.connect(d.shards() - 1), "b", a.topic);
        assert_eq!(b.fetch(&mut d, &[0], &[], 50).pieces, []);
        d.disconnect(a.c);
        assert_eq!(b.fetch(&mut d, &[], &[], 1000).pieces, [(0, 0, 4, 2)]);
        // A lock that is renewed holds longer, one that is not runs out.
        d.run_for_ms(20_000);
        assert_eq!(b.acknowledge(&mut d, &[(0, 0, 1, RENEW)]), (0, vec![0]));
        let mut c = Member::new(d.connect(0), "c", a.topic);
        d.run_for_ms(11_000);
        assert_eq!(c.fetch(&mut d, &[0], &[], 50).pieces, [(0, 2, 4, 3)]);
        let (_, of) = b.acknowledge(&mut d, &[(0, 2, 4, ACCEPT)]);
        assert_eq!(of, [ErrorCode::InvalidRecordState.code()]);
        assert_eq!(b.acknowledge(&mut d, &[(0, 0, 1, ACCEPT)]), (0, vec![0]));
    });
}

#[test]
fn sessions_have_epochs_and_are_counted() {
    let mut settings = Driver::settings();
    settings.share.max_share_sessions = 1;
    let mut d = Driver::start(3, 8, settings, MemDisk::new());
    d.run_until_ready();
    let mut a = with_member(&mut d, 1);
    a.epoch = 5;
    let error = a.fetch(&mut d, &[0], &[], 0).error;
    assert_eq!(error, ErrorCode::ShareSessionNotFound.code());
    a.epoch = 0;
    assert_eq!(a.fetch(&mut d, &[0], &[], 0).error, 0);
    a.epoch = 7;
    let error = a.fetch(&mut d, &[], &[], 0).error;
    assert_eq!(error, ErrorCode::InvalidShareSessionEpoch.code());
    a.epoch = 0;
    let (error, _) = a.acknowledge(&mut d, &[(0, 0, 0, ACCEPT)]);
    assert_eq!(error, ErrorCode::InvalidShareSessionEpoch.code());
    let mut b = Member::new(d.connect(1), "b", a.topic);
    let error = b.fetch(&mut d, &[0], &[], 10).error;
    assert_eq!(error, ErrorCode::ShareSessionLimitReached.code());
    // The member comes back with another connection: that is no other session.
    let mut again = Member::new(d.connect(2), "a", a.topic);
    assert_eq!(again.fetch(&mut d, &[0], &[], 0).error, 0);
    again.epoch = -1;
    assert_eq!(again.fetch(&mut d, &[], &[], 0).error, 0);
    b.epoch = 0;
    assert_eq!(b.fetch(&mut d, &[0], &[], 10).error, 0, "there is room now");
    let initial = b.request(&[0], &[(0, 0, 0, ACCEPT)], 0);
    let initial = wire::ShareFetchRequest {
        share_session_epoch: 0,
        ..initial
    };
    let r: wire::ShareFetchResponse<'_> = d.call(b.c, &initial, 2);
    assert_eq!(r.error_code, ErrorCode::InvalidRequest.code());
}

#[test]
fn a_fetch_waits_for_as_much_as_it_wants() {
    each_shape(|mut d| {
        let mut a = with_member(&mut d, 2);
        let c = d.connect(0);
        a.fetch(&mut d, &[0, 1], &[], 0);
        let request = wire::ShareFetchRequest {
            min_bytes: 200,
            ..a.request(&[], &[], 30_000)
        };
        d.send(a.c, &request, 2);
        assert_eq!(d.produce(c, "t", 0, &batch(0, 1)).0, 0);
        d.run_for_ms(100);
        assert!(d.take_answer(a.c).is_none(), "less than 200 bytes");
        assert_eq!(d.produce(c, "t", 1, &batch(0, 30)).0, 0);
        d.wait_answer(a.c);
        // When its time is over it takes what there is.
        assert_eq!(d.produce(c, "t", 0, &batch(1, 1)).0, 0);
        let request = wire::ShareFetchRequest {
            min_bytes: 10_000,
            ..a.request(&[], &[], 500)
        };
        let got = got(&d.call(a.c, &request, 2));
        assert_eq!(got.pieces, [(0, 1, 1, 1)]);
    });
}

/// Members come, go, accept, release, fall silent; the process dies now and then. Every record is
/// accepted in the end, and none is delivered after its acceptance was confirmed.
#[test]
fn every_record_is_accepted_and_none_comes_back() {
    const IDS: [&str; 3] = ["a", "b", "c"];
    for seed in 0..12 {
        println!("seed {seed}");
        let mut prng = Prng::new(seed);
        let mut d = Driver::ready(1 + (seed % 3) as u16, seed);
        let first = with_member(&mut d, 2);
        set(&mut d, first.c, "share.delivery.count.limit", "10");
        let topic = first.topic;
        let mut members: Vec<Option<Member>> = vec![Some(first), None, None];
        let mut produced = [0i64; 2];
        let mut held: Vec<Vec<Say>> = vec![Vec::new(); 3];
        let mut done: BTreeSet<(i32, i64)> = BTreeSet::new();
        for round in 0..80 {
            let producing = round < 40;
            if producing && prng.below(3) == 0 {
                let p = prng.below(2) as i32;
                let c = d.connect(0);
                let count = 1 + prng.below(5) as i64;
                let (error, base) = d.produce(c, "t", p, &batch(0, count));
                assert_eq!(error, 0);
                assert_eq!(base, produced[p as usize]);
                produced[p as usize] += count;
                d.disconnect(c);
            }
            if prng.below(40) == 0 {
                d.kill();
                d.run_until_ready();
                members = vec![None, None, None];
                held = vec![Vec::new(); 3];
                d.run_for_ms(1000);
            }
            let n = prng.below(3) as usize;
            let shards = u64::from(d.shards());
            let member = match &mut members[n] {
                Some(member) => member,
                none => {
                    let c = d.connect(prng.below(shards) as u16);
                    none.insert(Member::new(c, IDS[n], topic))
                }
            };
            if prng.below(12) == 0 && producing {
                let c = member.c;
                members[n] = None;
                held[n].clear();
                d.disconnect(c);
                continue;
            }
            let mut says = std::mem::take(&mut held[n]);
            for say in &mut says {
                say.3 = if producing && prng.below(3) == 0 {
                    RELEASE
                } else {
                    ACCEPT
                };
            }
            let partitions: &[i32] = if member.epoch == 0 { &[0, 1] } else { &[] };
            if member.epoch == 0 {
                says.clear();
            }
            let got = member.fetch(&mut d, partitions, &says, 20);
            if got.error != 0 {
                member.epoch = 0;
                continue;
            }
            for (p, first, last, kind) in says {
                if got.acks.get(&p) == Some(&0) && kind == ACCEPT {
                    done.extend((first..=last).map(|offset| (p, offset)));
                }
            }
            for (p, first, last, _) in &got.pieces {
                for offset in *first..=*last {
                    assert!(
                        !done.contains(&(*p, offset)),
                        "seed {seed}: {p} {offset} again"
                    );
                }
                held[n].push((*p, *first, *last, ACCEPT));
            }
            if !producing {
                d.run_for_ms(2000); // locks of members that are gone run out
            }
        }
        let all = produced.iter().sum::<i64>() as usize;
        assert!(done.len() <= all);
        assert_eq!(done.len(), all, "seed {seed}: not all are accepted");
    }
}
