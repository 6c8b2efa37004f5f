//! `docs/protocol-support.md` is generated from the table of handlers and the table of
//! configurations, and this test keeps it equal to them. `UPDATE_DOCS=1 cargo test --test docs`
//! writes it anew.

#![allow(clippy::expect_used)] // a test may panic

use flumen_settings::{ConfigResource, Effect, definitions, effect};
use flumen_shard::api::{Support, support_table};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

const HEAD: &str = "\
# What of Kafka 4.3.1's protocol is served

Generated from the table of handlers (`src/shard/api/mod.rs`) and of configurations
(`src/settings`) by `UPDATE_DOCS=1 cargo test --test docs`; a test keeps it equal to them.
ApiVersions advertises exactly the versions served here, but for Produce, which is advertised from
0 and refused below 3, as Kafka does. A version that is not served closes the connection, as Kafka
does. `no`: the API is not built and not advertised; known gaps: what a served API does not do yet.

## APIs of the broker listener
";

fn api_table(table: &[Support]) -> String {
    let mut out = String::new();
    let count = table.iter().filter(|s| s.served.is_some()).count();
    let _ = writeln!(out, "{count} of {} are served.\n", table.len());
    out.push_str("| key | API | Kafka 4.3.1 | served | known gaps |\n|--|--|--|--|--|\n");
    for s in table {
        let served = s.served.map_or("no".to_owned(), range);
        let (key, name, kafka, gaps) = (s.key, s.name, range(s.kafka), s.gaps);
        let _ = writeln!(out, "| {key} | {name} | {kafka} | {served} | {gaps} |");
    }
    out
}

fn range((min, max): (i16, i16)) -> String {
    if min == max {
        min.to_string()
    } else {
        format!("{min}-{max}")
    }
}

fn config_section(title: &str, resource: ConfigResource) -> String {
    let mut stored: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut refused: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let table = definitions(resource);
    for definition in table.values().filter(|d| !d.internal) {
        match effect(definition) {
            Effect::Works => {}
            Effect::Stored(why) => stored.entry(why).or_default().push(definition.name),
            Effect::Refused(why) => refused.entry(why).or_default().push(definition.name),
        }
    }
    let mut out = format!("\n### {title}\n\n");
    if stored.is_empty() && refused.is_empty() {
        out.push_str("All take effect.\n");
    }
    for (why, names) in &stored {
        let _ = writeln!(
            out,
            "- Known, checked and stored, without effect ({why}): {}.",
            list(names)
        );
    }
    for (why, names) in &refused {
        let _ = writeln!(
            out,
            "- The broker refuses to start with them (not built: {why}): {}.",
            list(names)
        );
    }
    out
}

fn list(names: &[&str]) -> String {
    names
        .iter()
        .map(|n| format!("`{n}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

fn document() -> String {
    let mut out = HEAD.to_owned();
    out.push('\n');
    out.push_str(&api_table(&support_table()));
    out.push_str(
        "\n## Configurations\n\nAll of Kafka 4.3.1's are known. Those not named here do what they do \
         in Kafka.\n",
    );
    out.push_str(&config_section("Topics", ConfigResource::Topic));
    out.push_str(&config_section("Brokers", ConfigResource::Broker));
    out.push_str(&config_section("Groups", ConfigResource::Group));
    out.push_str(&config_section(
        "Client metrics",
        ConfigResource::ClientMetrics,
    ));
    out
}

#[test]
fn protocol_support_is_what_the_tables_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/protocol-support.md");
    let expected = document();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &expected).expect("docs/ can be written");
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "docs/protocol-support.md is stale: run UPDATE_DOCS=1 cargo test --test docs"
    );
}
