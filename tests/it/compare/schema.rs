//! A codec that reads the message facts in `src/wire/schemas` at run time and turns requests and
//! answers into JSON and back: independent of both brokers' code and of the protocol crate, whose
//! tables lack the newest versions.
//!
//! Bytes and records are hexadecimal text. A field that a request leaves out has its default; one
//! that the version does not have is left out of the frame.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Map, Value, json};

/// An inclusive span of versions.
#[derive(Debug, Clone, Copy)]
struct Span(i16, i16);

impl Span {
    fn parse(text: &str) -> Result<Option<Self>> {
        if text == "none" {
            return Ok(None);
        }
        if let Some(first) = text.strip_suffix('+') {
            return Ok(Some(Self(first.parse()?, i16::MAX)));
        }
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        Ok(Some(Self(first.parse()?, last.parse()?)))
    }

    fn has(self, version: i16) -> bool {
        self.0 <= version && version <= self.1
    }
}

#[derive(Debug, Clone)]
struct Field {
    name: String,
    kind: String,
    versions: Span,
    nullable: Option<Span>,
    tag: Option<(u32, Span)>,
    default: Option<String>,
}

/// One request or response.
#[derive(Debug)]
pub(super) struct Message {
    /// Its API.
    pub(super) key: i16,
    name: String,
    flexible: Option<Span>,
    structs: BTreeMap<String, Vec<Field>>,
}

/// All messages by name.
#[derive(Debug)]
pub(super) struct Schemas(BTreeMap<String, Message>);

fn option<'a>(words: &[&'a str], key: &str) -> Option<&'a str> {
    let of = |w: &&'a str| w.strip_prefix(key)?.strip_prefix('=');
    words.iter().find_map(of)
}

fn span(words: &[&str], key: &str) -> Result<Option<Span>> {
    option(words, key).map_or(Ok(None), Span::parse)
}

fn field(words: &[&str]) -> Result<Field> {
    let [name, kind, versions, ..] = words else {
        bail!("{words:?}: not a field");
    };
    let tag = match (option(words, "tag"), span(words, "tagged")?) {
        (Some(tag), Some(tagged)) => Some((tag.parse()?, tagged)),
        _ => None,
    };
    Ok(Field {
        name: (*name).to_owned(),
        kind: (*kind).to_owned(),
        versions: Span::parse(versions)?.context("a field without versions")?,
        nullable: span(words, "nullable")?,
        tag,
        default: option(words, "default").map(str::to_owned),
    })
}

impl Schemas {
    /// Reads the files.
    pub(super) fn load() -> Result<Self> {
        let mut all = BTreeMap::new();
        let dir = flumen_it::deps::repository().join("src/wire/schemas");
        for entry in std::fs::read_dir(&dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "schema") {
                let text = std::fs::read_to_string(&path)?;
                Self::parse(&text, &mut all).with_context(|| path.display().to_string())?;
            }
        }
        Ok(Self(all))
    }

    fn parse(text: &str, all: &mut BTreeMap<String, Message>) -> Result<()> {
        let mut message: Option<Message> = None;
        let mut owners: BTreeMap<usize, String> = BTreeMap::new();
        for line in text.lines().filter(|l| !l.trim().is_empty()) {
            let depth = (line.len() - line.trim_start().len()) / 2;
            let words: Vec<&str> = line.split_whitespace().collect();
            if depth == 0 {
                all.extend(message.take().map(|m| (m.name.clone(), m)));
                let name = (*words.get(1).context("a message's name")?).to_owned();
                owners.insert(1, name.clone());
                message = Some(Message {
                    key: option(&words, "key").map_or(Ok(-1), str::parse)?,
                    flexible: span(&words, "flexible")?,
                    structs: BTreeMap::from([(name.clone(), Vec::new())]),
                    name,
                });
                continue;
            }
            let message = message.as_mut().context("a field before a message")?;
            let inner = if let ["struct", name, ..] = words.as_slice() {
                (*name).to_owned()
            } else {
                let field = field(&words)?;
                let inner = field.kind.trim_start_matches("[]").to_owned();
                let owner = owners.get(&depth).context("an owner")?;
                let fields = message.structs.entry(owner.clone()).or_default();
                fields.push(field);
                if !inner.starts_with(char::is_uppercase) {
                    continue;
                }
                inner
            };
            message.structs.entry(inner.clone()).or_default();
            owners.insert(depth + 1, inner);
        }
        all.extend(message.take().map(|m| (m.name.clone(), m)));
        Ok(())
    }

    /// The message of this name.
    pub(super) fn get(&self, name: &str) -> Result<&Message> {
        self.0
            .get(name)
            .with_context(|| format!("no schema of {name}"))
    }
}

impl Message {
    /// Whether this version has compact lengths and tagged fields.
    pub(super) fn is_flexible(&self, version: i16) -> bool {
        self.flexible.is_some_and(|f| f.has(version))
    }

    fn fields(&self, name: &str) -> Result<&[Field]> {
        let found = self.structs.get(name);
        Ok(found.with_context(|| format!("{}: no struct {name}", self.name))?)
    }

    /// The body's bytes.
    pub(super) fn encode(&self, version: i16, value: &Value) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        self.write_struct(&self.name, version, value, &mut out)
            .with_context(|| format!("{} v{version} {value}", self.name))?;
        Ok(out)
    }

    fn write_struct(&self, name: &str, v: i16, value: &Value, out: &mut Vec<u8>) -> Result<()> {
        let given = value
            .as_object()
            .with_context(|| format!("{name}: {value}"))?;
        let fields = self.fields(name)?;
        for key in given.keys() {
            ensure!(
                fields.iter().any(|f| f.name == *key),
                "{name} has no field {key}"
            );
        }
        let mut tagged = BTreeMap::new();
        for field in fields.iter().filter(|f| f.versions.has(v)) {
            let default = self.default(field, v)?;
            let value = given.get(&field.name).unwrap_or(&default);
            match field.tag {
                Some((tag, span)) if span.has(v) => {
                    if *value != default {
                        let mut body = Vec::new();
                        self.write(field, &field.kind, v, value, &mut body)?;
                        tagged.insert(tag, body);
                    }
                }
                _ => self
                    .write(field, &field.kind, v, value, out)
                    .with_context(|| field.name.clone())?,
            }
        }
        if self.is_flexible(v) {
            varint(tagged.len(), out);
            for (tag, body) in tagged {
                varint(usize::try_from(tag)?, out);
                varint(body.len(), out);
                out.extend(body);
            }
        }
        Ok(())
    }

    fn default(&self, field: &Field, v: i16) -> Result<Value> {
        let text = field.default.as_deref();
        if text == Some("null") {
            return Ok(Value::Null);
        }
        Ok(match field.kind.as_str() {
            "bool" => json!(text == Some("true")),
            "string" => json!(text.unwrap_or("")),
            "bytes" | "records" => json!(""),
            "uuid" => json!(hex(&[0; 16])),
            "float64" => json!(0.0),
            kind if kind.starts_with("[]") => json!([]),
            kind if kind.starts_with(char::is_uppercase) => {
                let mut all = Map::new();
                for f in self.fields(kind)?.iter().filter(|f| f.versions.has(v)) {
                    all.insert(f.name.clone(), self.default(f, v)?);
                }
                Value::Object(all)
            }
            _ => json!(text.map_or(Ok(0), str::parse::<i64>)?),
        })
    }

    fn write(
        &self,
        field: &Field,
        kind: &str,
        v: i16,
        value: &Value,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let number = || {
            value
                .as_i64()
                .with_context(|| format!("{}: {value}", field.name))
        };
        let text = || {
            value
                .as_str()
                .with_context(|| format!("{}: {value}", field.name))
        };
        match kind {
            "bool" => out.push(u8::from(value.as_bool().context("bool")?)),
            "int8" => out.extend(i8::try_from(number()?)?.to_be_bytes()),
            "int16" => out.extend(i16::try_from(number()?)?.to_be_bytes()),
            "uint16" => out.extend(u16::try_from(number()?)?.to_be_bytes()),
            "int32" => out.extend(i32::try_from(number()?)?.to_be_bytes()),
            "uint32" => out.extend(u32::try_from(number()?)?.to_be_bytes()),
            "int64" => out.extend(number()?.to_be_bytes()),
            "float64" => out.extend(value.as_f64().context("float")?.to_be_bytes()),
            "uuid" => out.extend(unhex(text()?)?),
            "string" if value.is_null() => self.write_len(None, v, false, out)?,
            "string" => {
                self.write_len(Some(text()?.len()), v, false, out)?;
                out.extend(text()?.as_bytes());
            }
            "bytes" | "records" if value.is_null() => self.write_len(None, v, true, out)?,
            "bytes" | "records" => {
                let bytes = unhex(text()?)?;
                self.write_len(Some(bytes.len()), v, true, out)?;
                out.extend(bytes);
            }
            _ => return self.write_nested(field, kind, v, value, out),
        }
        Ok(())
    }

    fn write_nested(
        &self,
        field: &Field,
        kind: &str,
        v: i16,
        value: &Value,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        if let Some(element) = kind.strip_prefix("[]") {
            let Some(all) = value.as_array() else {
                ensure!(value.is_null(), "{}: {value}", field.name);
                return self.write_len(None, v, true, out);
            };
            self.write_len(Some(all.len()), v, true, out)?;
            for one in all {
                self.write(field, element, v, one, out)?;
            }
            return Ok(());
        }
        if kind == field.kind && field.nullable.is_some_and(|n| n.has(v)) {
            out.push(if value.is_null() { 255 } else { 1 });
            if value.is_null() {
                return Ok(());
            }
        }
        self.write_struct(kind, v, value, out)
    }

    fn write_len(&self, n: Option<usize>, v: i16, wide: bool, out: &mut Vec<u8>) -> Result<()> {
        if self.is_flexible(v) {
            varint(n.map_or(0, |n| n + 1), out);
        } else if wide {
            out.extend(n.map_or(Ok(-1), i32::try_from)?.to_be_bytes());
        } else {
            out.extend(n.map_or(Ok(-1), i16::try_from)?.to_be_bytes());
        }
        Ok(())
    }

    /// The body as JSON. Bytes left over are an error.
    pub(super) fn decode(&self, version: i16, bytes: &[u8]) -> Result<Value> {
        let mut rest = bytes;
        let value = self
            .read_struct(&self.name, version, &mut rest)
            .with_context(|| format!("{} v{version}: {}", self.name, hex(bytes)))?;
        ensure!(rest.is_empty(), "{}: {} bytes left", self.name, rest.len());
        Ok(value)
    }

    fn read_struct(&self, name: &str, v: i16, rest: &mut &[u8]) -> Result<Value> {
        let fields: Vec<&Field> = self
            .fields(name)?
            .iter()
            .filter(|f| f.versions.has(v))
            .collect();
        let mut all = Map::new();
        for field in &fields {
            let tagged = field.tag.is_some_and(|(_, span)| span.has(v));
            let value = if tagged {
                self.default(field, v)?
            } else {
                self.read(field, &field.kind, v, rest)
                    .with_context(|| field.name.clone())?
            };
            all.insert(field.name.clone(), value);
        }
        if self.is_flexible(v) {
            for _ in 0..unvarint(rest)? {
                let tag = unvarint(rest)?;
                let len = unvarint(rest)?;
                let mut body = take(rest, len)?;
                let is = |f: &&&Field| f.tag.is_some_and(|(t, _)| usize::try_from(t) == Ok(tag));
                let field = fields.iter().find(is);
                let field = field.with_context(|| format!("{name}: unknown tag {tag}"))?;
                let value = self.read(field, &field.kind, v, &mut body)?;
                all.insert(field.name.clone(), value);
            }
        }
        Ok(Value::Object(all))
    }

    fn read(&self, field: &Field, kind: &str, v: i16, rest: &mut &[u8]) -> Result<Value> {
        let nullable = field.nullable.is_some_and(|n| n.has(v));
        let null_ok = |n: Option<usize>| {
            ensure!(n.is_some() || nullable, "null in {}", field.name);
            Ok(n)
        };
        Ok(match kind {
            "bool" => json!(take(rest, 1)? != [0]),
            "int8" => json!(i8::from_be_bytes(array(rest)?)),
            "int16" => json!(i16::from_be_bytes(array(rest)?)),
            "uint16" => json!(u16::from_be_bytes(array(rest)?)),
            "int32" => json!(i32::from_be_bytes(array(rest)?)),
            "uint32" => json!(u32::from_be_bytes(array(rest)?)),
            "int64" => json!(i64::from_be_bytes(array(rest)?)),
            "float64" => json!(f64::from_be_bytes(array(rest)?)),
            "uuid" => json!(hex(take(rest, 16)?)),
            "string" => match null_ok(self.read_len(v, false, rest)?)? {
                Some(n) => json!(std::str::from_utf8(take(rest, n)?)?),
                None => Value::Null,
            },
            "bytes" | "records" => match null_ok(self.read_len(v, true, rest)?)? {
                Some(n) => json!(hex(take(rest, n)?)),
                None => Value::Null,
            },
            _ => {
                if let Some(element) = kind.strip_prefix("[]") {
                    let Some(n) = null_ok(self.read_len(v, true, rest)?)? else {
                        return Ok(Value::Null);
                    };
                    let mut all = Vec::new();
                    for _ in 0..n {
                        all.push(self.read(field, element, v, rest)?);
                    }
                    return Ok(Value::Array(all));
                }
                // An element of a nullable array is not nullable itself.
                if nullable && kind == field.kind && array::<1>(rest)? == [255] {
                    return Ok(Value::Null);
                }
                self.read_struct(kind, v, rest)?
            }
        })
    }

    fn read_len(&self, v: i16, wide: bool, rest: &mut &[u8]) -> Result<Option<usize>> {
        if self.is_flexible(v) {
            return Ok(unvarint(rest)?.checked_sub(1));
        }
        let n = if wide {
            i64::from(i32::from_be_bytes(array(rest)?))
        } else {
            i64::from(i16::from_be_bytes(array(rest)?))
        };
        Ok(usize::try_from(n).ok())
    }
}

fn take<'a>(rest: &mut &'a [u8], n: usize) -> Result<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(n).context("too short")?;
    *rest = tail;
    Ok(head)
}

fn array<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N]> {
    Ok(take(rest, N)?.try_into()?)
}

fn varint(mut n: usize, out: &mut Vec<u8>) {
    while n > 127 {
        out.push((n & 127) as u8 | 128);
        n >>= 7;
    }
    out.push(n as u8);
}

fn unvarint(rest: &mut &[u8]) -> Result<usize> {
    let mut n = 0;
    for shift in (0..35).step_by(7) {
        let [byte] = array(rest)?;
        n |= usize::from(byte & 127) << shift;
        if byte < 128 {
            return Ok(n);
        }
    }
    bail!("a long varint")
}

/// Bytes as text.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, b| {
            let _ = write!(text, "{b:02x}");
            text
        })
}

/// Text as bytes.
pub(super) fn unhex(text: &str) -> Result<Vec<u8>> {
    let pair = |n: usize| {
        let two = text.get(n..n + 2).context("odd hexadecimal text")?;
        Ok(u8::from_str_radix(two, 16)?)
    };
    (0..text.len()).step_by(2).map(pair).collect()
}
