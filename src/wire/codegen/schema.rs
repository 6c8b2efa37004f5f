//! The compact schema files, parsed.

use std::collections::BTreeMap;

pub(crate) const VERSION_MAX: i16 = i16::MAX;

/// An inclusive span of versions; `last` is [`VERSION_MAX`] for an open one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) first: i16,
    pub(crate) last: i16,
}

impl Span {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if text == "none" {
            return None;
        }
        let number = |t: &str| {
            t.parse::<i16>()
                .unwrap_or_else(|e| panic!("version {t}: {e}"))
        };
        if let Some(first) = text.strip_suffix('+') {
            return Some(Self {
                first: number(first),
                last: VERSION_MAX,
            });
        }
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        Some(Self {
            first: number(first),
            last: number(last),
        })
    }

    pub(crate) fn has(self, version: i16) -> bool {
        self.first <= version && version <= self.last
    }

    pub(crate) fn covers(self, other: Self) -> bool {
        self.first <= other.first && self.last >= other.last
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    Bool,
    I8,
    I16,
    I32,
    I64,
    U16,
    U32,
    F64,
    Uuid,
    Str,
    Bytes,
    Records,
    Struct(String),
    Array(Box<Self>),
}

impl Kind {
    fn parse(text: &str) -> Self {
        if let Some(element) = text.strip_prefix("[]") {
            return Self::Array(Box::new(Self::parse(element)));
        }
        match text {
            "bool" => Self::Bool,
            "int8" => Self::I8,
            "int16" => Self::I16,
            "int32" => Self::I32,
            "int64" => Self::I64,
            "uint16" => Self::U16,
            "uint32" => Self::U32,
            "float64" => Self::F64,
            "uuid" => Self::Uuid,
            "string" => Self::Str,
            "bytes" => Self::Bytes,
            "records" => Self::Records,
            name if name.starts_with(char::is_uppercase) => Self::Struct(name.into()),
            other => panic!("unknown type {other}"),
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Field {
    /// As in the schema.
    pub(crate) name: String,
    /// The line it stands on, for its doc comment.
    pub(crate) facts: String,
    pub(crate) kind: Kind,
    pub(crate) versions: Span,
    pub(crate) nullable: Option<Span>,
    pub(crate) tag: Option<(u32, Span)>,
    pub(crate) default: Option<String>,
    pub(crate) ignorable: bool,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Struct {
    pub(crate) name: String,
    pub(crate) fields: Vec<Field>,
}

#[derive(Clone, Debug)]
pub(crate) struct Message {
    /// request, response, data, coordinator-key, coordinator-value, metadata.
    pub(crate) kind: String,
    /// What stands behind the dash in its file's name: `group` of `records-group.schema`.
    pub(crate) file: String,
    pub(crate) name: String,
    pub(crate) key: Option<i16>,
    pub(crate) versions: Span,
    pub(crate) flexible: Option<Span>,
    /// The message itself first.
    pub(crate) structs: Vec<Struct>,
}

impl Message {
    pub(crate) fn find(&self, name: &str) -> &Struct {
        self.structs
            .iter()
            .find(|s| s.name == name)
            .unwrap_or_else(|| panic!("{}: no struct {name}", self.name))
    }

    pub(crate) fn is_flexible(&self, version: i16) -> bool {
        self.flexible.is_some_and(|f| f.has(version))
    }

    /// Whether the struct holds strings or bytes, itself or further in.
    pub(crate) fn borrows(&self, name: &str) -> bool {
        fn kind_borrows(message: &Message, kind: &Kind) -> bool {
            match kind {
                Kind::Str | Kind::Bytes | Kind::Records => true,
                Kind::Struct(name) => message.borrows(name),
                Kind::Array(element) => kind_borrows(message, element),
                _ => false,
            }
        }
        self.find(name)
            .fields
            .iter()
            .any(|f| kind_borrows(self, &f.kind))
    }

    /// The fewest bytes that a value of this struct takes in any version.
    pub(crate) fn size_min(&self, name: &str) -> usize {
        let versions = self.versions.first..=self.versions.last;
        let used = versions.filter(|&v| name == self.name || self.is_used(name, v));
        used.map(|v| self.size_in(name, v)).min().unwrap_or(0)
    }

    /// Whether a field of this version has the struct for its type.
    fn is_used(&self, name: &str, version: i16) -> bool {
        let is = |kind: &Kind| matches!(kind, Kind::Struct(n) if n == name);
        self.structs
            .iter()
            .flat_map(|s| &s.fields)
            .filter(|f| f.versions.has(version))
            .any(|f| match &f.kind {
                Kind::Array(element) => is(element),
                kind => is(kind),
            })
    }

    fn size_in(&self, name: &str, version: i16) -> usize {
        let flexible = self.is_flexible(version);
        let fields = self.find(name).fields.iter().filter(|f| {
            f.versions.has(version) && !f.tag.is_some_and(|(_, span)| span.has(version))
        });
        fields
            .map(|f| self.field_size(f, version, flexible))
            .sum::<usize>()
            + usize::from(flexible)
    }

    fn field_size(&self, field: &Field, version: i16, flexible: bool) -> usize {
        match &field.kind {
            Kind::Bool | Kind::I8 => 1,
            Kind::I16 | Kind::U16 => 2,
            Kind::I32 | Kind::U32 => 4,
            Kind::I64 | Kind::F64 => 8,
            Kind::Uuid => 16,
            Kind::Struct(_) if field.nullable.is_some_and(|s| s.has(version)) => 1,
            Kind::Struct(name) => self.size_in(name, version),
            _ if flexible => 1,
            Kind::Str => 2,
            Kind::Bytes | Kind::Records | Kind::Array(_) => 4,
        }
    }
}

/// All messages of one file.
pub(crate) fn parse(file: &str, text: &str) -> Vec<Message> {
    let mut messages: Vec<Message> = Vec::new();
    // Struct that the fields at each depth belong to.
    let mut owners: BTreeMap<usize, usize> = BTreeMap::new();
    for line in text.lines().filter(|l| !l.trim().is_empty()) {
        let depth = (line.len() - line.trim_start().len()) / 2;
        let words: Vec<&str> = line.split_whitespace().collect();
        if depth == 0 {
            messages.push(parse_message(file, &words));
            owners.insert(1, 0);
            continue;
        }
        let message = messages
            .last_mut()
            .unwrap_or_else(|| panic!("{file}: field before message"));
        let name = if words[0] == "struct" {
            words[1].to_string()
        } else {
            let field = parse_field(&words);
            let kind = match &field.kind {
                Kind::Array(element) => (**element).clone(),
                kind => kind.clone(),
            };
            message.structs[owners[&depth]].fields.push(field);
            let Kind::Struct(name) = kind else { continue };
            name
        };
        let at = message
            .structs
            .iter()
            .position(|s| s.name == name)
            .unwrap_or_else(|| {
                message.structs.push(Struct {
                    name,
                    fields: Vec::new(),
                });
                message.structs.len() - 1
            });
        owners.insert(depth + 1, at);
    }
    messages
}

fn option<'a>(words: &[&'a str], key: &str) -> Option<&'a str> {
    words
        .iter()
        .find_map(|w| w.strip_prefix(key)?.strip_prefix('='))
}

/// `group` of `schemas/records-group.schema`.
fn stem(file: &str) -> &str {
    let name = file.strip_suffix(".schema").unwrap_or(file);
    name.rsplit_once('-').map_or(name, |(_, stem)| stem)
}

fn parse_message(file: &str, words: &[&str]) -> Message {
    let need = |key| option(words, key).unwrap_or_else(|| panic!("{}: no {key}", words[1]));
    Message {
        kind: words[0].into(),
        file: stem(file).into(),
        name: words[1].into(),
        key: option(words, "key").map(|k| k.parse().unwrap_or_else(|e| panic!("key {k}: {e}"))),
        versions: Span::parse(need("versions"))
            .unwrap_or_else(|| panic!("{}: no versions", words[1])),
        flexible: Span::parse(need("flexible")),
        structs: vec![Struct {
            name: words[1].into(),
            fields: Vec::new(),
        }],
    }
}

fn parse_field(words: &[&str]) -> Field {
    let span = |text| Span::parse(text).unwrap_or_else(|| panic!("{words:?}: no versions"));
    Field {
        name: words[0].into(),
        facts: words[1..].join(" "),
        kind: Kind::parse(words[1]),
        versions: span(words[2]),
        nullable: option(words, "nullable").map(span),
        tag: option(words, "tag").map(|tag| {
            let tagged = option(words, "tagged").unwrap_or_else(|| panic!("{words:?}: no tagged"));
            (
                tag.parse().unwrap_or_else(|e| panic!("tag {tag}: {e}")),
                span(tagged),
            )
        }),
        default: option(words, "default").map(String::from),
        ignorable: words.contains(&"ignorable"),
    }
}
