//! Generates the codec from `schemas/`: see `schemas/README.md` for their form and `lib.rs` for
//! what comes out.

// A build script may stop the build: that is how a wrong schema is reported.
#![allow(clippy::panic, clippy::expect_used)]

#[path = "codegen/emit.rs"]
mod emit;
#[path = "codegen/json.rs"]
mod json;
#[path = "codegen/schema.rs"]
mod schema;

use emit::{Emitter, emit_random, snake};
use json::{emit_json, emit_table};
use schema::Message;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-changed=schemas");
    println!("cargo::rerun-if-changed=codegen");
    println!("cargo::rerun-if-changed=build.rs");
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let (apis, records) = load(Path::new("schemas"));

    let mut text = String::new();
    for m in &apis {
        Emitter::new(m).emit(&mut text);
    }
    write(&out_dir, "messages.rs", &text);

    text.clear();
    for m in &records {
        Emitter::new(m).emit(&mut text);
    }
    write(&out_dir, "records.rs", &text);
    write(&out_dir, "api.rs", &api_table(&apis));
    write(&out_dir, "json.rs", &json(&records));

    text.clear();
    for (messages, module) in [(&apis, "messages"), (&records, "records")] {
        for m in messages.iter() {
            emit_random(m, module, &mut text);
        }
    }
    text.push_str("/// Every message and record.\npub static CODECS: &[Codec] = &[\n");
    for m in apis.iter().chain(&records) {
        let _ = writeln!(text, "{}::CODEC,", snake(&m.name));
    }
    text.push_str("];\n");
    write(&out_dir, "random.rs", &text);
}

/// What shows stored records: the tables by the file that a schema came from.
fn json(records: &[Message]) -> String {
    let mut text = String::new();
    for m in records {
        emit_json(m, &mut text);
    }
    for (name, file, kind) in [
        ("group_key", "group", "coordinator-key"),
        ("group_value", "group", "coordinator-value"),
        ("transaction_key", "transaction", "coordinator-key"),
        ("transaction_value", "transaction", "coordinator-value"),
        ("share_key", "share", "coordinator-key"),
        ("share_value", "share", "coordinator-value"),
        ("metadata", "metadata", "metadata"),
    ] {
        let of = |m: &&Message| m.kind == kind && m.file == file;
        emit_table(
            name,
            &records.iter().filter(of).collect::<Vec<_>>(),
            &mut text,
        );
    }
    text
}

fn write(dir: &Path, name: &str, text: &str) {
    fs::write(dir.join(name), text).unwrap_or_else(|e| panic!("{name}: {e}"));
}

fn load(dir: &Path) -> (Vec<Message>, Vec<Message>) {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|p| p.extension().is_some_and(|e| e == "schema"))
        .collect();
    paths.sort();
    let (mut apis, mut records) = (Vec::new(), Vec::new());
    for path in paths {
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        for m in schema::parse(&path.display().to_string(), &text) {
            match m.kind.as_str() {
                "request" | "response" => apis.push(m),
                _ => records.push(m),
            }
        }
    }
    apis.sort_by_key(|m| (m.key, m.kind == "response"));
    (apis, records)
}

fn api_table(apis: &[Message]) -> String {
    let mut out = String::from("api_table! {\n");
    for pair in apis.chunks(2) {
        let [request, response] = pair else {
            panic!("a request without response")
        };
        assert!(
            request.key == response.key
                && request.versions == response.versions
                && request.flexible == response.flexible,
            "{} and {} differ",
            request.name,
            response.name
        );
        let name = request.name.trim_end_matches("Request");
        let flexible = request
            .flexible
            .map_or("i16::MAX".into(), |f| f.first.to_string());
        let (first, last) = (request.versions.first, request.versions.last);
        let key = request.key.expect("a request has a key");
        let _ = writeln!(out, "{name} {key} {first} {last} {flexible},");
    }
    out.push_str("}\n");
    out
}
