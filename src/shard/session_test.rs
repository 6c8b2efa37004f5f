use super::*;

/// Slots that are read, each with whether it is to be read again.
#[derive(Default)]
struct List(Vec<(u32, PartitionIndex, bool)>);

impl Reads for List {
    fn add(&mut self, slot: u32, want: FetchPartition) {
        self.0.push((slot, want.partition, false));
    }

    fn again(&mut self, place: u32) {
        self.0[place as usize].2 = true;
    }

    fn count(&self) -> u32 {
        self.0.len() as u32
    }
}

fn want(partition: i32) -> FetchPartition {
    FetchPartition {
        topic: TopicKey::Name("t".into()),
        partition,
        current_leader_epoch: -1,
        fetch_offset: 0,
        last_fetched_epoch: -1,
        max_bytes: 1,
    }
}

fn tp(partition: i32) -> TopicPartition {
    TopicPartition {
        topic_id: Uuid::ZERO,
        partition,
    }
}

fn answered(high_watermark: i64, bytes: usize) -> Answered {
    Answered {
        error: 0,
        high_watermark,
        log_start: 0,
        bytes,
        diverging: false,
    }
}

fn said(id: i32, epoch: i32) -> Said {
    Said {
        id,
        epoch,
        by_id: false,
        committed_only: false,
    }
}

/// A session of partitions 0 and up, each answered with nothing and watched.
fn quiet(sessions: &mut Sessions, partitions: i32) -> i32 {
    let mut prng = Prng::new(1);
    let id = sessions.create(Mono(0), said(0, 0), &mut prng, partitions as usize);
    for n in 0..partitions {
        let slot = sessions.add(id, want(n));
        assert_eq!(slot, n as u32);
        assert!(sessions.must_answer(id, slot, &answered(5, 0)));
        assert!(sessions.is_unwatched(id, slot));
        sessions.watched(id, slot, tp(n));
    }
    id
}

/// Begins a fetch that names these partitions, and gives those that it reads.
fn begin(
    sessions: &mut Sessions,
    (id, epoch): (i32, i32),
    fetch: u64,
    named: &[i32],
) -> Vec<PartitionIndex> {
    let named: Vec<_> = named.iter().map(|n| want(*n)).collect();
    let none = std::iter::empty();
    let mode = sessions.begin(Mono(0), said(id, epoch), fetch, named.into_iter(), none);
    assert_eq!(mode, Ok(Mode::Incremental(id)));
    let mut list = List::default();
    sessions.take_due(id, &mut list);
    list.0.iter().map(|(_, partition, _)| *partition).collect()
}

fn refused(sessions: &mut Sessions, said: Said) -> ErrorCode {
    let none = Vec::new().into_iter();
    let mode = sessions.begin(Mono(0), said, 9, none, std::iter::empty());
    mode.unwrap_err()
}

#[test]
fn epochs_and_kinds_of_names_are_checked() {
    let mut sessions = Sessions::new(ShardId(2), 4, 10);
    let id = quiet(&mut sessions, 2);
    assert_eq!(shard_of(id, 4), ShardId(2));
    assert_eq!(sessions.counts(), (1, 2));
    begin(&mut sessions, (id, 1), 7, &[]);
    sessions.fetch_ended(id);
    let wrong = refused(&mut sessions, said(id, 1));
    assert_eq!(wrong, ErrorCode::InvalidFetchSessionEpoch);
    let by_id = Said {
        by_id: true,
        ..said(id, 2)
    };
    let wrong = refused(&mut sessions, by_id);
    assert_eq!(wrong, ErrorCode::FetchSessionTopicIdError);
    let wrong = refused(&mut sessions, said(id + 4, 2));
    assert_eq!(wrong, ErrorCode::FetchSessionIdNotFound);
    // All are forgotten: the session ends, and its watches with it.
    let topic = TopicKey::Name("t".into());
    let forgotten = [(topic.clone(), 0), (topic, 1)].into_iter();
    let none = Vec::new().into_iter();
    let mode = sessions.begin(Mono(0), said(id, 2), 8, none, forgotten);
    assert_eq!(mode, Ok(Mode::Sessionless));
    assert_eq!(sessions.counts(), (0, 0));
    let watches = std::mem::take(&mut sessions.left.watches);
    assert_eq!(watches, [(id, 0, tp(0)), (id, 1, tp(1))]);
}

#[test]
fn only_what_is_named_or_has_news_is_read() {
    let mut sessions = Sessions::new(ShardId(0), 1, 10);
    let id = quiet(&mut sessions, 1000);
    assert!(begin(&mut sessions, (id, 1), 1, &[]).is_empty());
    assert_eq!(sessions.moved(id, 700), Some(1));
    assert!(sessions.is_unwatched(id, 700));
    let mut list = List::default();
    assert!(sessions.take_due(id, &mut list));
    assert_eq!(list.0, [(700, 700, false)]);
    // News of what is being read: once more, at the same place.
    assert_eq!(sessions.moved(id, 700), Some(1));
    assert!(sessions.take_due(id, &mut list));
    assert_eq!(list.0, [(700, 700, true)]);
    assert!(!sessions.take_due(id, &mut list));
    assert!(sessions.must_answer(id, 700, &answered(6, 10)));
    assert!(!sessions.must_answer(id, 701, &answered(5, 0)));
    sessions.was_read(id, 700);
    sessions.due_last(id, 700);
    sessions.fetch_ended(id);
    assert_eq!(sessions.moved(id, 3), None);
    assert_eq!(begin(&mut sessions, (id, 2), 2, &[9, 3]), [700, 3, 9]);
    // Another level of isolation: all of them.
    for slot in [700, 3, 9] {
        sessions.was_read(id, slot);
    }
    sessions.fetch_ended(id);
    let committed = Said {
        committed_only: true,
        ..said(id, 3)
    };
    let none = Vec::new().into_iter();
    let mode = sessions.begin(Mono(0), committed, 3, none, std::iter::empty());
    assert_eq!(mode, Ok(Mode::Incremental(id)));
    let mut list = List::default();
    sessions.take_due(id, &mut list);
    assert_eq!(list.0.len(), 1000);
}

#[test]
fn those_that_gave_data_come_last_and_those_without_room_first() {
    let mut sessions = Sessions::new(ShardId(0), 1, 10);
    let id = quiet(&mut sessions, 5);
    assert_eq!(begin(&mut sessions, (id, 1), 1, &[0, 1, 2]), [0, 1, 2]);
    sessions.moved(id, 4);
    for slot in [2, 1] {
        sessions.due_first(id, slot);
    }
    sessions.due_last(id, 0);
    for slot in 0..3 {
        sessions.was_read(id, slot);
    }
    sessions.fetch_ended(id);
    assert_eq!(begin(&mut sessions, (id, 2), 2, &[]), [1, 2, 4, 0]);
}

#[test]
fn an_overtaken_fetch_leaves_its_partitions_to_the_next() {
    let mut sessions = Sessions::new(ShardId(0), 1, 10);
    let id = quiet(&mut sessions, 3);
    assert_eq!(begin(&mut sessions, (id, 1), 1, &[2, 1]), [2, 1]);
    assert_eq!(begin(&mut sessions, (id, 2), 2, &[0]), [1, 2, 0]);
    assert_eq!(std::mem::take(&mut sessions.left.fetches), [1]);
    assert!(sessions.is_current(id, 2) && !sessions.is_current(id, 1));
    // The session ends while a fetch is in progress.
    let none = Vec::new().into_iter();
    let mode = sessions.begin(Mono(0), said(id, FINAL_EPOCH), 3, none, std::iter::empty());
    assert_eq!(mode, Ok(Mode::Sessionless));
    assert_eq!(sessions.left.fetches, [2]);
    assert_eq!(sessions.moved(id, 0), None);
}
