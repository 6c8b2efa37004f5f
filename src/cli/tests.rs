//! Tests of arguments and of what needs no broker.

use super::{Args, produce, storage, time};
use clap::{CommandFactory, Parser};

fn parse(line: &str) -> Result<Args, clap::Error> {
    Args::try_parse_from(std::iter::once("flumen").chain(line.split_whitespace()))
}

#[test]
fn the_arguments_are_consistent() {
    Args::command().debug_assert();
}

#[test]
fn the_command_lines_of_the_documentation_parse() {
    for line in [
        "start --dev",
        "start --dev --override num.partitions=4 --override flumen.shards=4",
        "start --config server.properties --override log.dirs=/d",
        "storage random-uuid",
        "storage format --cluster-id x --config f --standalone",
        "storage format -t x -c f --ignore-formatted",
        "storage format -t x -c f --release-version 3.9",
        "storage info -c f",
        "storage import --from d -c f",
        "storage import --from d --from m --config f --link --dry-run --leave-out-unsupported",
        "log dump f",
        "log dump d --deep --print-data-log --json --decoder offsets",
        "log verify d",
        "log verify d f --shallow --quiet --json",
        "topics create orders --partitions 8 --bootstrap-server 127.0.0.1:9092",
        "topics create --topic orders --config retention.ms=-1 --if-not-exists",
        "topics create placed --replica-assignment 1:2,2:3",
        "topics list --json",
        "topics describe",
        "topics describe a b --all-configs",
        "topics alter orders --partitions 9 --delete-config retention.ms",
        "topics delete orders --if-exists",
        "produce orders --key-separator : --headers --acks -1 --compression zstd",
        "produce orders --partition 0 --acks 0",
        "consume orders --from-beginning --max-messages 1",
        "consume orders --group g --timeout-ms 100 --json",
        "consume orders --partition 0 --offset 7 --print-key --print-headers",
        "groups list",
        "groups describe g --members",
        "groups reset-offsets g --topic t:0,1 --to-earliest --execute",
        "groups reset-offsets g --all-topics --shift-by -5 --dry-run",
        "groups reset-offsets g --topic t --to-datetime 2024-05-01T00:00:00Z",
        "groups delete a b",
    ] {
        parse(line).unwrap_or_else(|e| panic!("{line}: {e}"));
    }
}

#[test]
fn wrong_usage_is_exit_code_2() {
    for line in [
        "",
        "start",
        "start --dev --config f",
        "storage format -c f",
        "storage import -c f",
        "storage import --from d -c f --copy --link",
        "log dump",
        "log verify",
        "topics create",
        "topics create a --partitions x",
        "produce a --acks 2",
        "produce a --compression lzma",
        "consume a --offset 3",
        "consume a --group g --partition 0",
        "groups reset-offsets g --topic t",
        "groups reset-offsets g --topic t --to-earliest --to-latest",
        "groups reset-offsets g --to-earliest",
        "groups delete",
    ] {
        let error = parse(line).expect_err(line);
        assert_eq!(error.exit_code(), 2, "{line}");
    }
}

#[test]
fn moments_are_read_and_written() {
    let parse = |text: &str| time::parse_millis(text).unwrap();
    assert_eq!(parse("1970-01-01T00:00:00Z"), 0);
    assert_eq!(parse("2024-02-29T12:30:15.25"), 1_709_209_815_250);
    assert_eq!(parse("2024-02-29T12:30:15.250+02:00"), 1_709_202_615_250);
    assert_eq!(parse("2000-03-01 00:00:00-0100"), 951_872_400_000);
    assert_eq!(parse("1709209815250"), 1_709_209_815_250);
    assert_eq!(
        time::format_millis(1_709_209_815_250),
        "2024-02-29T12:30:15.250Z"
    );
    for day in (0..40_000).step_by(13) {
        let millis = day * 86_400_000 + 1;
        assert_eq!(parse(&time::format_millis(millis)), millis);
    }
    for bad in [
        "yesterday",
        "2024-13-01T00:00:00Z",
        "2024-01-01",
        "2024-01-01T25:00:00",
    ] {
        assert!(time::parse_millis(bad).is_err(), "{bad}");
    }
}

/// Values of `Utils.murmur2` (its own unit test has them too).
#[test]
fn keys_hash_as_in_kafkas_java_client() {
    let hash = |text: &str| produce::murmur2(text.as_bytes()) as i32;
    assert_eq!(hash("21"), -973_932_308);
    assert_eq!(hash("foobar"), -790_332_482);
    assert_eq!(hash("a-little-bit-long-string"), -985_981_536);
    assert_eq!(hash("a-little-bit-longer-string"), -1_486_304_829);
    assert_eq!(hash("abc"), 479_470_107);
}

#[test]
fn both_sample_configurations_load() {
    for text in [
        include_str!("../../config/server.properties"),
        include_str!("../../config/dev.properties"),
    ] {
        let loaded = storage::load_text(text, &[]).unwrap();
        assert!(loaded.unknown.is_empty(), "{:?}", loaded.unknown);
        assert!(loaded.config.roles.broker && loaded.config.roles.controller);
    }
    let overrides = ["num.partitions=7".to_owned()];
    let text = include_str!("../../config/dev.properties");
    let loaded = storage::load_text(text, &overrides).unwrap();
    assert_eq!(loaded.config.topics.num_partitions, 7);
}

#[test]
fn random_ids_are_ids() {
    let id = storage::random_uuid().unwrap().to_string();
    assert!(flumen_base::Uuid::parse(&id).is_some());
}
