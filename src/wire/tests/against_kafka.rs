//! Our bytes, read and written again by Kafka 4.3.1's own classes, are the same bytes: every
//! message, record and version. Runs where `java` and Kafka's jars are (`FLUMEN_KAFKA_LIBS`, or
//! where the suite puts them); says so where not.
#![allow(clippy::unwrap_used)] // a test may

use flumen_wire::testing::{CODECS, Gen};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

fn jars() -> Option<PathBuf> {
    let from_env = std::env::var_os("FLUMEN_KAFKA_LIBS").map(PathBuf::from);
    let dir = from_env.or_else(|| {
        Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/kafka-suite/libs"))
    })?;
    dir.join("kafka-clients-4.3.1.jar").is_file().then_some(dir)
}

fn rounds(n: u64) -> u64 {
    n * std::env::var("FLUMEN_TEST_ROUNDS")
        .ok()
        .and_then(|r| r.parse().ok())
        .unwrap_or(1)
}

fn lines() -> (String, usize) {
    let (mut lines, mut count) = (String::new(), 0);
    for (i, codec) in CODECS.iter().enumerate() {
        for version in codec.versions.0..=codec.versions.1 {
            for round in 0..rounds(8) {
                let seed = 1 << 60 | round << 32 | (i as u64) << 16 | version as u64;
                let bytes = (codec.random)(&mut Gen::new(seed), version).unwrap();
                write!(lines, "{} {version} ", codec.name).unwrap();
                for byte in bytes {
                    write!(lines, "{byte:02x}").unwrap();
                }
                lines.push('\n');
                count += 1;
            }
        }
    }
    (lines, count)
}

#[test]
fn kafka_reads_and_writes_the_same_bytes() {
    let Some(jars) = jars() else {
        println!("skipped: no jars of Kafka 4.3.1 (set FLUMEN_KAFKA_LIBS)");
        return;
    };
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kafka/CodecCheck.java");
    let java = Command::new("java")
        .args([
            "-XX:+UseSerialGC",
            "-cp",
            &format!("{}/*", jars.display()),
            source,
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut java) = java else {
        println!("skipped: no java");
        return;
    };
    let (lines, count) = lines();
    let mut stdin = java.stdin.take().unwrap();
    let feeder = std::thread::spawn(move || {
        use std::io::Write as _;
        stdin.write_all(lines.as_bytes())
    });
    let output = java.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.ends_with(&format!("GOOD {count}\n")),
        "{said}\n{complained}"
    );
    feeder.join().unwrap().unwrap();
}
