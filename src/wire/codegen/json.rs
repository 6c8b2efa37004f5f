//! Rust text that shows stored records as JSON, and finds the schema of a record's number.

use crate::emit::{Emitter, ident, snake};
use crate::schema::{Field, Kind, Message};
use std::fmt::Write as _;

/// `GroupId` to `groupId`, as Kafka's own JSON names fields.
fn camel(name: &str) -> String {
    let mut chars = name.chars();
    let first = chars.next().map(|c| c.to_ascii_lowercase());
    first.into_iter().chain(chars).collect()
}

/// The `ToJson` impls of a message and its structures.
pub(crate) fn emit_json(message: &Message, out: &mut String) {
    let emitter = Emitter::new(message);
    for s in &message.structs {
        let anonymous = if message.borrows(&s.name) { "<'_>" } else { "" };
        let path = format!("crate::records::{}::{}", snake(&message.name), s.name);
        let _ = writeln!(
            out,
            "impl ToJson for {path}{anonymous} {{\n\
             fn to_json(&self, out: &mut String, v: i16) {{\n\
             let mut o = Object::new(out);"
        );
        for f in &s.fields {
            let field = format!("o.field(\"{}\", &self.{}, v);", camel(&f.name), ident(f));
            let conditions = conditions(&emitter, f);
            let _ = if conditions.is_empty() {
                writeln!(out, "{field}")
            } else {
                writeln!(out, "if {} {{ {field} }}", conditions.join(" && "))
            };
        }
        out.push_str("o.end();\n} }\n");
    }
}

/// When a field is shown: in the versions that have it, and with a tag only if it says something.
fn conditions(emitter: &Emitter<'_>, f: &Field) -> Vec<String> {
    let span = f.tag.map_or(f.versions, |(_, span)| span);
    let mut all: Vec<String> = emitter.condition(span).into_iter().collect();
    let has_default = !matches!(f.kind, Kind::Struct(_)) || f.default.as_deref() == Some("null");
    if f.tag.is_some() && has_default {
        all.push(emitter.differs_from_default(f));
    }
    all
}

/// A function `name(kind, version, body)` over the messages of one sort.
pub(crate) fn emit_table(name: &str, messages: &[&Message], out: &mut String) {
    let _ = writeln!(
        out,
        "pub(super) fn {name}(kind: i16, version: i16, body: &[u8]) -> Option<Shown> {{\n\
         match kind {{"
    );
    for m in messages {
        let Some(key) = m.key else { continue };
        let anonymous = if m.borrows(&m.name) { "<'_>" } else { "" };
        let _ = writeln!(
            out,
            "{key} => Some(show::<crate::records::{}{anonymous}>(body, version)),",
            m.name
        );
    }
    out.push_str("_ => None, } }\n");
}
