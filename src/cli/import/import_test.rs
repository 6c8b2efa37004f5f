use super::*;
use flumen_base::TopicId;
use flumen_log::BatchBuilder;
use flumen_quorum::{Quorum, ResourceType};
use flumen_wire::records::{
    AccessControlEntryRecord, BeginTransactionRecord, ConfigRecord, EndTransactionRecord,
    FeatureLevelRecord, PartitionChangeRecord, PartitionRecord, ProducerIdsRecord,
    RegisterBrokerRecord, RemoveTopicRecord, TopicRecord,
};
use flumen_wire::{Record, Writer};
use std::fs;
use tempfile::TempDir;

const T: TopicId = Uuid::from_bytes([1; 16]);
const GONE: TopicId = Uuid::from_bytes([2; 16]);

/// A record of the metadata log as it is stored.
fn stored<'a, R: Record<'a>>(record: &R) -> Vec<u8> {
    let version = *R::VERSIONS.end();
    let mut w = Writer::new();
    for prefix in [1, R::RECORD_TYPE as u32, version as u32] {
        w.uvarint(prefix);
    }
    record.encode(&mut w, version).unwrap();
    w.as_slice().to_vec()
}

fn partition(topic_id: Uuid, replicas: &[i32]) -> Vec<u8> {
    stored(&PartitionRecord {
        partition_id: 0,
        topic_id,
        replicas: replicas.to_vec(),
        isr: replicas.to_vec(),
        leader: 1,
        leader_epoch: 0,
        partition_epoch: 0,
        directories: vec![Uuid::ZERO; replicas.len()],
        ..Default::default()
    })
}

/// What a broker with one topic, one that was deleted, and a shut down leaves.
fn records() -> Vec<Vec<u8>> {
    let topic = |name: &'static str, topic_id| {
        let name = name.into();
        stored(&TopicRecord { name, topic_id })
    };
    let feature = |name: &'static str, level| {
        stored(&FeatureLevelRecord {
            name: name.into(),
            feature_level: level,
        })
    };
    let config = |value: Option<&'static str>| {
        stored(&ConfigRecord {
            resource_type: 2,
            resource_name: "t".into(),
            name: "retention.ms".into(),
            value: value.map(Into::into),
        })
    };
    vec![
        stored(&BeginTransactionRecord::default()),
        feature("metadata.version", 30),
        feature("group.version", 1),
        stored(&EndTransactionRecord::default()),
        stored(&RegisterBrokerRecord {
            broker_id: 1,
            broker_epoch: 5,
            ..Default::default()
        }),
        topic("t", T),
        partition(T, &[1]),
        config(Some("5")),
        config(Some("-1")),
        topic("gone", GONE),
        partition(GONE, &[1]),
        stored(&RemoveTopicRecord { topic_id: GONE }),
        stored(&ProducerIdsRecord {
            broker_id: 1,
            broker_epoch: 5,
            next_producer_id: 3000,
        }),
        // The controlled shutdown.
        stored(&PartitionChangeRecord {
            partition_id: 0,
            topic_id: T,
            leader: -1,
            ..Default::default()
        }),
    ]
}

struct Case {
    dir: TempDir,
}

impl Case {
    fn new(records: &[Vec<u8>]) -> Self {
        let case = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        let metadata = case.source().join(METADATA_DIR);
        fs::create_dir_all(&metadata).unwrap();
        let mut log = Vec::new();
        for (n, record) in records.iter().enumerate() {
            let mut batch = BatchBuilder::new().base_offset(n as i64).leader_epoch(3);
            batch.push(0, None, Some(record));
            log.extend_from_slice(&batch.build().unwrap());
        }
        fs::write(metadata.join("00000000000000000000.log"), log).unwrap();
        let source = case.source();
        let text = "version=1\nnode.id=1\ncluster.id=4L6g3nShT-eMCtK--X86sw\n";
        fs::write(source.join("meta.properties"), text).unwrap();
        fs::write(source.join(".kafka_cleanshutdown"), "{\"version\":0}").unwrap();
        let partition = source.join("t-0");
        fs::create_dir_all(&partition).unwrap();
        for (name, base) in [("0", 0), ("2", 2)] {
            let mut batch = BatchBuilder::new().base_offset(base);
            batch.push(0, None, Some(b"one"));
            batch.push(0, None, Some(b"two"));
            let path = partition.join(format!("{name:0>20}.log"));
            fs::write(path, batch.build().unwrap()).unwrap();
        }
        let id = format!("version: 0\ntopic_id: {T}\n");
        fs::write(partition.join("partition.metadata"), id).unwrap();
        fs::write(partition.join("leader-epoch-checkpoint"), "0\n1\n0 0\n").unwrap();
        let offsets = "0\n2\nt 0 4\ngone 0 9\n";
        fs::write(source.join(checkpoint::RECOVERY_POINT), offsets).unwrap();
        let text = format!(
            "node.id=1\nprocess.roles=broker,controller\nlisteners=PLAINTEXT://127.0.0.1:0,\
             CONTROLLER://127.0.0.1:0\ncontroller.listener.names=CONTROLLER\n\
             listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT\n\
             controller.quorum.voters=1@127.0.0.1:9093\nlog.dirs={}\n",
            case.target().display()
        );
        fs::write(case.dir.path().join("server.properties"), text).unwrap();
        case
    }

    fn source(&self) -> PathBuf {
        self.dir.path().join("kafka")
    }

    fn target(&self) -> PathBuf {
        self.dir.path().join("flumen")
    }

    fn args(&self) -> ImportArgs {
        ImportArgs {
            from: vec![self.source()],
            config: self.dir.path().join("server.properties"),
            overrides: Vec::new(),
            copy: false,
            link: false,
            leave_out_unsupported: false,
            dry_run: false,
        }
    }

    /// The refusal, which leaves nothing behind that a start would take.
    fn refused(&self, args: &ImportArgs) -> String {
        let error = run(args).expect_err("an import that should be refused");
        assert!(!self.target().join("meta.properties").exists());
        format!("{error:#}")
    }
}

#[test]
fn topics_ids_configs_and_files_come_over() {
    for link in [false, true] {
        let case = Case::new(&records());
        let dry_run = ImportArgs {
            dry_run: true,
            ..case.args()
        };
        run(&dry_run).unwrap();
        assert!(!case.target().exists());
        run(&ImportArgs {
            link,
            ..case.args()
        })
        .unwrap();
        let target = case.target();
        let loaded = Quorum::load(&FsDisk, &target.join(METADATA_DIR)).unwrap();
        let image = loaded.image();
        let names: Vec<&str> = image.topics().keys().map(|n| &**n).collect();
        assert_eq!(names, ["t"]);
        let topic = image.topic("t").unwrap();
        assert_eq!(topic.id, T);
        let partition = &topic.partitions[0];
        assert_eq!((partition.leader, partition.leader_epoch), (1, 2));
        let meta = checkpoint::read_meta_properties(&FsDisk, &target)
            .unwrap()
            .unwrap();
        assert_eq!(partition.directories, [meta.directory_id.unwrap()]);
        assert_eq!(meta.cluster_id, "4L6g3nShT-eMCtK--X86sw");
        assert_eq!(image.cluster_id().unwrap().to_string(), meta.cluster_id);
        let config = image.config(ResourceType::Topic, "t").unwrap();
        assert_eq!(config["retention.ms"], "-1");
        assert_eq!(image.next_producer_id(), 3000);
        assert_eq!(image.feature("metadata.version"), 30);
        assert_eq!(image.feature("group.version"), 1);
        assert_eq!((image.index(), image.term()), (14, 3));
        assert!(checkpoint::has_clean_shutdown(&FsDisk, &target));
        for name in fs::read_dir(case.source().join("t-0")).unwrap() {
            let name = name.unwrap().file_name();
            let read = |dir: PathBuf| fs::read(dir.join("t-0").join(&name)).unwrap();
            assert_eq!(read(target.clone()), read(case.source()), "{name:?}");
        }
        let points = checkpoint::read_offsets(&FsDisk, &target, checkpoint::RECOVERY_POINT);
        let expected = Offsets::from([(("t".to_owned(), 0), Offset(4))]);
        assert_eq!(points.unwrap(), expected);
        // A second time the target is not empty.
        let again = run(&case.args()).expect_err("a second import");
        assert!(again.to_string().contains("is not empty"), "{again:#}");
    }
}

#[test]
fn what_cannot_be_kept_is_refused_by_name() {
    let with = |more: Vec<u8>| {
        let mut all = records();
        all.push(more);
        Case::new(&all)
    };
    let case = Case::new(&records());
    fs::remove_file(case.source().join(".kafka_cleanshutdown")).unwrap();
    assert!(case.refused(&case.args()).contains("not shut down cleanly"));

    let case = Case::new(&records());
    let overrides = vec![
        "node.id=2".to_owned(),
        "controller.quorum.voters=2@h:1".to_owned(),
    ];
    let other = ImportArgs {
        overrides,
        ..case.args()
    };
    let refusal = case.refused(&other);
    assert!(refusal.contains("are of broker 1"), "{refusal}");

    let case = with(stored(&PartitionChangeRecord {
        partition_id: 0,
        topic_id: T,
        replicas: Some(vec![1, 2]),
        ..Default::default()
    }));
    let refusal = case.refused(&case.args());
    assert!(
        refusal.contains("partition t-0 has replicas [1, 2]"),
        "{refusal}"
    );

    let case = with(stored(&AccessControlEntryRecord::default()));
    let refusal = case.refused(&case.args());
    assert!(refusal.contains("1 ACLs"), "{refusal}");
    run(&ImportArgs {
        leave_out_unsupported: true,
        ..case.args()
    })
    .unwrap();

    let case = Case::new(&records());
    let path = case
        .source()
        .join(METADATA_DIR)
        .join("00000000000000000000.log");
    let mut log = fs::read(&path).unwrap();
    log[100] ^= 1;
    fs::write(&path, log).unwrap();
    let refusal = case.refused(&case.args());
    assert!(refusal.contains("at byte 72"), "{refusal}");

    let case = Case::new(&records());
    fs::create_dir_all(case.target().join("t-0")).unwrap();
    assert!(case.refused(&case.args()).contains("is not empty"));

    let case = with(vec![1, 99, 0]);
    let refusal = case.refused(&case.args());
    assert!(refusal.contains("type 99"), "{refusal}");
}

#[test]
fn records_of_a_transaction_count_when_it_ends() {
    let mut all = records();
    all.push(stored(&BeginTransactionRecord::default()));
    all.push(stored(&RemoveTopicRecord { topic_id: T }));
    let case = Case::new(&all);
    run(&case.args()).unwrap();
    let loaded = Quorum::load(&FsDisk, &case.target().join(METADATA_DIR)).unwrap();
    assert!(
        loaded.image().topic("t").is_some(),
        "the transaction has no end"
    );
}
