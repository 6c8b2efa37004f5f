//! Rules about the tree that no compiler checks: which crate may depend on which, how large a file
//! may be, what must exist. Each failure names the file and what to do.

#![allow(clippy::unwrap_used)] // a test may panic

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Crate -> what it may use of ours. Dependencies point down; a new arrow is a decision, so it is
/// written here first.
const ARROWS: &[(&str, &[&str])] = &[
    ("flumen-base", &[]),
    ("flumen-settings", &["flumen-base"]),
    ("flumen-wire", &["flumen-base"]),
    ("flumen-log", &["flumen-base"]),
    ("flumen-coordinator", &["flumen-base", "flumen-wire"]),
    (
        "flumen-quorum",
        &["flumen-base", "flumen-settings", "flumen-wire"],
    ),
    (
        "flumen-shard",
        &[
            "flumen-base",
            "flumen-coordinator",
            "flumen-log",
            "flumen-quorum",
            "flumen-settings",
            "flumen-wire",
        ],
    ),
    ("flumen-runtime", &["flumen-base", "flumen-shard"]),
    ("flumen-client", &[]),
    (
        // Formatting and importing write what the log and the quorum read at the first start; the
        // log tools show records by their schemas.
        "flumen",
        &[
            "flumen-base",
            "flumen-client",
            "flumen-log",
            "flumen-quorum",
            "flumen-runtime",
            "flumen-settings",
            "flumen-shard",
            "flumen-wire",
        ],
    ),
    ("flumen-bench-harness", &[]),
    (
        "flumen-icount",
        &["flumen-base", "flumen-log", "flumen-shard", "flumen-wire"],
    ),
    ("flumen-it", &["flumen-client"]),
    (
        "sim",
        &[
            "flumen-base",
            "flumen-coordinator",
            "flumen-log",
            "flumen-quorum",
            "flumen-settings",
            "flumen-shard",
            "flumen-wire",
        ],
    ),
];

/// Further arrows of tests only: the disk in memory that tears and forgets is the log's.
const TEST_ARROWS: &[(&str, &str)] = &[("flumen-quorum", "flumen-log")];

/// Crates without I/O: these never get a dependency that does I/O or runs tasks.
const PURE: &[&str] = &[
    "flumen-base",
    "flumen-settings",
    "flumen-wire",
    "flumen-log",
    "flumen-coordinator",
    "flumen-quorum",
    "flumen-shard",
];
const IMPURE: &[&str] = &["glommio", "io-uring", "libc", "tempfile", "signal-hook"];

const LINES_MAX: usize = 600;
const LINES_WITH_TESTS_MAX: usize = 700;
const COLUMNS_MAX: usize = 100;
const ADR_LINES_MAX: usize = 70;

const DOCS: &[&str] = &[
    "README.md",
    "CHANGELOG.md",
    "LICENSE",
    "config/server.properties",
    "config/dev.properties",
    "docs/architecture.md",
    "docs/durability.md",
    "docs/log-tools.md",
    "docs/protocol-support.md",
    "docs/kafka-suite.md",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file of the workspace, without build output.
fn rust_files() -> Vec<PathBuf> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                walk(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    for dir in ["src", "bench-harness", "tests"] {
        walk(&root().join(dir), &mut found);
    }
    found.sort();
    assert!(
        found.len() > 50,
        "the walk found only {} files",
        found.len()
    );
    found
}

fn short(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().display().to_string()
}

fn is_test_file(name: &str) -> bool {
    let tail = name.ends_with("_test.rs") || name.ends_with("/tests.rs");
    tail || name.starts_with("tests/") || name.contains("/tests/")
}

fn metadata() -> serde_json::Value {
    let out = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--locked",
            "--manifest-path",
        ])
        .arg(root().join("Cargo.toml"))
        .output()
        .unwrap();
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    serde_json::from_slice(&out.stdout).unwrap()
}

fn report(rule: &str, bad: &[String]) {
    assert!(bad.is_empty(), "{rule}:\n  {}", bad.join("\n  "));
}

/// Names of the dependencies of one kind: "normal", "dev" or "build".
fn dependencies<'a>(package: &'a serde_json::Value, kind: &str) -> Vec<&'a str> {
    let list = package["dependencies"].as_array().unwrap();
    let of_kind = list
        .iter()
        .filter(|d| d["kind"].as_str().unwrap_or("normal") == kind);
    of_kind.map(|d| d["name"].as_str().unwrap()).collect()
}

#[test]
fn dependencies_point_down() {
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let metadata = metadata();
    let mut bad = Vec::new();
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        let Some(may) = allowed.get(name) else {
            bad.push(format!("{name} is not in the table of tests/tidy.rs"));
            continue;
        };
        for kind in ["normal", "dev", "build"] {
            for dependency in dependencies(package, kind) {
                // A crate may name itself to switch on a feature in its tests.
                let own = allowed.contains_key(dependency) && dependency != name;
                let test = kind == "dev" && TEST_ARROWS.contains(&(name, dependency));
                if own && !test && !may.contains(&dependency) {
                    bad.push(format!("{name} -> {dependency} ({kind})"));
                }
                if kind == "normal" && PURE.contains(&name) && IMPURE.contains(&dependency) {
                    bad.push(format!("{name} has no I/O, yet depends on {dependency}"));
                }
            }
        }
    }
    report("arrows that the architecture does not have", &bad);
}

#[test]
fn files_stay_small() {
    let mut bad = Vec::new();
    for path in rust_files() {
        let text = fs::read_to_string(&path).unwrap();
        let all = text.lines().count();
        let name = short(&path);
        let test_file = is_test_file(&name);
        let code = match text.lines().position(|l| l.trim() == "#[cfg(test)]") {
            // An inline test module ends the file; a declaration of one (`mod x_test;`) does not.
            Some(at) if text.lines().nth(at + 1).is_some_and(|l| l.ends_with('{')) => at,
            _ => all,
        };
        let limit = if test_file {
            LINES_WITH_TESTS_MAX
        } else {
            LINES_MAX
        };
        if code > limit {
            bad.push(format!("{name}: {code} lines, at most {limit}"));
        } else if all > LINES_WITH_TESTS_MAX {
            bad.push(format!(
                "{name}: {all} lines with tests, at most {LINES_WITH_TESTS_MAX}"
            ));
        }
    }
    report("files to split", &bad);
}

#[test]
fn lines_stay_short() {
    let mut bad = Vec::new();
    for path in rust_files() {
        let text = fs::read_to_string(&path).unwrap();
        for (at, line) in text.lines().enumerate() {
            let columns = line.chars().count();
            // Messages stay whole, so that they can be searched for; so do the rows of tables in
            // tests.
            let message = line.trim_start().starts_with('"');
            let row = is_test_file(&short(&path)) && line.contains('"');
            if columns > COLUMNS_MAX && !message && !row {
                bad.push(format!("{}:{}: {columns} columns", short(&path), at + 1));
            }
        }
    }
    report("lines longer than 100 columns", &bad);
}

#[test]
fn nothing_pretends_to_work() {
    let stubs = [["to", "do!("].concat(), ["unimple", "mented!("].concat()];
    let mut bad = Vec::new();
    for path in rust_files() {
        let text = fs::read_to_string(&path).unwrap();
        for (at, line) in text.lines().enumerate() {
            if stubs.iter().any(|stub| line.contains(stub)) {
                bad.push(format!("{}:{}", short(&path), at + 1));
            }
        }
    }
    report("stubs", &bad);
}

#[test]
fn unsafe_code_lives_in_the_runtime_only() {
    let metadata = metadata();
    let mut bad = Vec::new();
    for package in metadata["packages"].as_array().unwrap() {
        if package["name"] == "flumen-runtime" {
            continue;
        }
        for target in package["targets"].as_array().unwrap() {
            let kind = target["kind"][0].as_str().unwrap();
            let path = Path::new(target["src_path"].as_str().unwrap());
            if !["lib", "bin"].contains(&kind) {
                continue;
            }
            let text = fs::read_to_string(path).unwrap();
            if !text.contains("#![forbid(unsafe_code)]") {
                bad.push(short(path));
            }
        }
    }
    report("no forbid(unsafe_code)", &bad);
}

#[test]
fn documents_exist_and_records_of_decisions_fit_a_page() {
    let mut bad = Vec::new();
    for doc in DOCS {
        let size = fs::metadata(root().join(doc)).map_or(0, |m| m.len());
        if size == 0 {
            bad.push(format!("{doc} is missing or empty"));
        }
    }
    let mut records = 0;
    for entry in fs::read_dir(root().join("docs/adr")).unwrap() {
        let path = entry.unwrap().path();
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        records += 1;
        if lines > ADR_LINES_MAX {
            bad.push(format!(
                "{}: {lines} lines, a page has {ADR_LINES_MAX}",
                short(&path)
            ));
        }
    }
    if records == 0 {
        bad.push("docs/adr has no record".to_owned());
    }
    report("documents", &bad);
}
