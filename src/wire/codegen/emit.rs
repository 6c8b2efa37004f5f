//! Rust text for parsed schemas.

use crate::schema::{Field, Kind, Message, Span, Struct};
use std::fmt::Write as _;

/// `FetchRequest` to `fetch_request`; runs of capitals are one word.
pub(crate) fn snake(name: &str) -> String {
    let chars: Vec<char> = name.chars().collect();
    let mut out = String::new();
    for (i, &c) in chars.iter().enumerate() {
        if c.is_uppercase() && i > 0 {
            let after_small = !chars[i - 1].is_uppercase();
            let before_small = chars.get(i + 1).is_some_and(|n| n.is_lowercase());
            if after_small || before_small {
                out.push('_');
            }
        }
        out.extend(c.to_lowercase());
    }
    out
}

pub(crate) fn ident(field: &Field) -> String {
    match snake(&field.name).as_str() {
        "type" => "r#type".into(),
        "match" => "r#match".into(),
        name => name.into(),
    }
}

/// Text of one message's module and its re-export.
pub(crate) struct Emitter<'m> {
    message: &'m Message,
}

impl<'m> Emitter<'m> {
    pub(crate) fn new(message: &'m Message) -> Self {
        Self { message }
    }

    fn lifetime(&self, name: &str) -> &'static str {
        if self.message.borrows(name) {
            "<'a>"
        } else {
            ""
        }
    }

    fn type_of(&self, kind: &Kind) -> String {
        match kind {
            Kind::Bool => "bool".into(),
            Kind::I8 => "i8".into(),
            Kind::I16 => "i16".into(),
            Kind::I32 => "i32".into(),
            Kind::I64 => "i64".into(),
            Kind::U16 => "u16".into(),
            Kind::U32 => "u32".into(),
            Kind::F64 => "f64".into(),
            Kind::Uuid => "Uuid".into(),
            Kind::Str => "Cow<'a, str>".into(),
            Kind::Bytes | Kind::Records => "Cow<'a, [u8]>".into(),
            Kind::Struct(name) => format!("{name}{}", self.lifetime(name)),
            Kind::Array(element) => format!("Vec<{}>", self.type_of(element)),
        }
    }

    /// Condition on `v` for being in `span`, `None` when every version of the message is.
    pub(crate) fn condition(&self, span: Span) -> Option<String> {
        let all = self.message.versions;
        if span.covers(all) {
            return None;
        }
        Some(match (span.first > all.first, span.last < all.last) {
            (true, true) if span.first == span.last => format!("v == {}", span.first),
            (true, true) => format!("({}..={}).contains(&v)", span.first, span.last),
            (true, false) => format!("v >= {}", span.first),
            _ => format!("v <= {}", span.last),
        })
    }

    fn default_of(&self, field: &Field) -> String {
        let default = field.default.as_deref();
        if default == Some("null") || (field.kind == Kind::Records && field.nullable.is_some()) {
            return "None".into();
        }
        let value = match (&field.kind, default) {
            (Kind::Bool, d) => d.unwrap_or("false").into(),
            (Kind::F64, d) => format!("{}f64", d.unwrap_or("0")),
            (Kind::Uuid, None) => "Uuid::ZERO".into(),
            (Kind::Str, None) => "Cow::Borrowed(\"\")".into(),
            (Kind::Bytes | Kind::Records, None) => "Cow::Borrowed(&[])".into(),
            (Kind::Struct(name), None) => format!("{name}::default()"),
            (Kind::Array(_), None) => "Vec::new()".into(),
            (Kind::Str | Kind::Uuid | Kind::Bytes | Kind::Records, Some(d)) => {
                panic!("{}: default {d}", field.name)
            }
            (Kind::Struct(_) | Kind::Array(_), Some(d)) => panic!("{}: default {d}", field.name),
            (_, d) => d.unwrap_or("0").into(),
        };
        if field.nullable.is_some() {
            format!("Some({value})")
        } else {
            value
        }
    }

    pub(crate) fn differs_from_default(&self, field: &Field) -> String {
        let at = format!("self.{}", ident(field));
        let default = self.default_of(field);
        match (&field.kind, default.as_str()) {
            (_, "None") => format!("{at}.is_some()"),
            (Kind::Str | Kind::Bytes | Kind::Records | Kind::Array(_), d) => {
                if d.starts_with("Some") {
                    format!("{at}.as_ref().is_none_or(|x| !x.is_empty())")
                } else {
                    format!("!{at}.is_empty()")
                }
            }
            (Kind::Bool, "false") => at,
            (Kind::Bool, "true") => format!("!{at}"),
            (_, d) => format!("{at} != {d}"),
        }
    }

    /// Module, re-export and impls of the message.
    pub(crate) fn emit(&self, out: &mut String) {
        let m = self.message;
        let module = snake(&m.name);
        let _ = writeln!(out, "/// {} and its structures.", m.name);
        let _ = writeln!(
            out,
            "pub mod {module} {{\n#[allow(unused_imports)]\nuse crate::prelude::*;"
        );
        for s in &m.structs {
            self.emit_struct(s, out);
        }
        let (name, lt) = (&m.name, self.lifetime(&m.name));
        let (first, last) = (m.versions.first, m.versions.last);
        let flexible = m
            .flexible
            .map_or("i16::MAX".to_string(), |f| f.first.to_string());
        let _ = writeln!(
            out,
            "impl<'a> Message<'a> for {name}{lt} {{\n\
             const NAME: &'static str = \"{name}\";\n\
             const VERSIONS: RangeInclusive<i16> = {first}..={last};\n\
             const FLEXIBLE_FROM: i16 = {flexible};\n}}"
        );
        if let Some(key) = m.key {
            let (trait_name, constant) = match m.kind.as_str() {
                "request" => ("Request", "API_KEY"),
                "response" => ("Response", "API_KEY"),
                _ => ("Record", "RECORD_TYPE"),
            };
            let _ = writeln!(
                out,
                "impl<'a> {trait_name}<'a> for {name}{lt} {{ const {constant}: i16 = {key}; }}"
            );
        }
        let _ = writeln!(out, "}}\npub use {module}::{name};");
    }

    fn emit_struct(&self, s: &Struct, out: &mut String) {
        let lt = self.lifetime(&s.name);
        let anonymous = if lt.is_empty() { "" } else { "<'_>" };
        let about = if s.name == self.message.name {
            let versions = self.message.versions;
            format!(
                "{}, versions {} to {}.",
                s.name, versions.first, versions.last
            )
        } else {
            format!("`{}` of [`{}`].", s.name, self.message.name)
        };
        let _ = writeln!(
            out,
            "/// {about}\n#[derive(Clone, Debug, PartialEq)]\npub struct {}{lt} {{",
            s.name
        );
        for f in &s.fields {
            let mut kind = self.type_of(&f.kind);
            if f.nullable.is_some() {
                kind = format!("Option<{kind}>");
            }
            let _ = writeln!(out, "/// `{}`\npub {}: {kind},", f.facts, ident(f));
        }
        let _ = writeln!(
            out,
            "}}\nimpl Default for {}{anonymous} {{ fn default() -> Self {{ Self {{",
            s.name
        );
        for f in &s.fields {
            let _ = writeln!(out, "{}: {},", ident(f), self.default_of(f));
        }
        let _ = writeln!(out, "}} }} }}\nimpl<'a> Value<'a> for {}{lt} {{", s.name);
        let min = self.message.size_min(&s.name);
        // A message may be empty; an element of an array must not be, or its number could not be
        // checked.
        let is_element = s.name != self.message.name;
        assert!(
            min > 0 || !is_element,
            "{}: {} can be empty",
            self.message.name,
            s.name
        );
        let _ = writeln!(out, "const SIZE_MIN: usize = {min};");
        self.emit_read(s, out);
        self.emit_write(s, out);
        out.push_str("}\n");
        if !lt.is_empty() {
            self.emit_into_static(s, out);
        }
    }

    /// A copy of what is borrowed, for values that outlive their frame.
    fn emit_into_static(&self, s: &Struct, out: &mut String) {
        let name = &s.name;
        let _ = writeln!(
            out,
            "impl {name}<'_> {{\n/// Copies what is borrowed, to outlive the frame.\n\
             pub fn into_static(self) -> {name}<'static> {{ {name} {{"
        );
        for f in &s.fields {
            let ident = ident(f);
            let at = format!("self.{ident}");
            let value = match (self.own("x", &f.kind), f.nullable.is_some()) {
                (None, _) => at,
                (Some(owned), true) => format!("{at}.map(|x| {owned})"),
                (Some(_), false) => self.own(&at, &f.kind).unwrap_or_default(),
            };
            let _ = writeln!(out, "{ident}: {value},");
        }
        out.push_str("} } }\n");
    }

    /// How to own what the expression `at` borrows; `None` when it borrows nothing.
    fn own(&self, at: &str, kind: &Kind) -> Option<String> {
        match kind {
            Kind::Str | Kind::Bytes | Kind::Records => {
                Some(format!("Cow::Owned({at}.into_owned())"))
            }
            Kind::Struct(name) if self.message.borrows(name) => Some(format!("{at}.into_static()")),
            Kind::Array(element) => {
                let owned = self.own("x", element)?;
                Some(format!("{at}.into_iter().map(|x| {owned}).collect()"))
            }
            _ => None,
        }
    }

    fn is_tagged(field: &Field) -> bool {
        field.tag.is_some()
    }

    fn emit_read(&self, s: &Struct, out: &mut String) {
        let tagged: Vec<&Field> = s.fields.iter().filter(|f| Self::is_tagged(f)).collect();
        let flexible = self.message.flexible.is_some();
        out.push_str("fn read(r: &mut Reader<'a>, v: i16, f: bool) -> Self {\n");
        let binding = if tagged.is_empty() { "let" } else { "let mut" };
        let _ = writeln!(out, "{binding} x = Self {{");
        for f in &s.fields {
            let value = if Self::is_tagged(f) {
                self.default_of(f)
            } else {
                self.read_field(f, "r")
            };
            let _ = writeln!(out, "{}: {value},", ident(f));
        }
        out.push_str("};\n");
        if flexible && tagged.is_empty() {
            out.push_str("if f { r.skip_tags(); }\n");
        } else if flexible {
            out.push_str("if f { let mut tags = r.tags();\n");
            out.push_str("while let Some((tag, mut t)) = r.next_tag(&mut tags) { match tag {\n");
            for f in &tagged {
                let Some((tag, span)) = f.tag else { continue };
                let condition = self
                    .condition(span)
                    .map_or(String::new(), |c| format!(" if {c}"));
                let _ = writeln!(
                    out,
                    "{tag}{condition} => {{ x.{} = {}; r.end_tag(t); }}",
                    ident(f),
                    self.read_in_version(f, "&mut t")
                );
                if !condition.is_empty() {
                    let _ = writeln!(out, "{tag} => r.fail(DecodeError::TagNotInVersion(tag)),");
                }
            }
            out.push_str("_ => {} } } }\n");
        }
        out.push_str("x }\n");
    }

    fn read_field(&self, f: &Field, reader: &str) -> String {
        let value = self.read_in_version(f, reader);
        match self.condition(f.versions) {
            None => value,
            Some(c) => format!("if {c} {{ {value} }} else {{ {} }}", self.default_of(f)),
        }
    }

    fn read_in_version(&self, f: &Field, reader: &str) -> String {
        if is_tagged_nullable_struct(f) {
            return format!("read_tagged_struct({reader}, v, f)");
        }
        let value = format!("Value::read({reader}, v, f)");
        let Some(nullable) = f.nullable else {
            return value;
        };
        let everywhere = nullable.covers(Span {
            first: f.versions.first.max(self.message.versions.first),
            last: f.versions.last.min(self.message.versions.last),
        });
        match self.condition(nullable) {
            Some(c) if !everywhere => format!("if {c} {{ {value} }} else {{ Some({value}) }}"),
            _ => value,
        }
    }

    fn emit_write(&self, s: &Struct, out: &mut String) {
        out.push_str("fn write(&self, w: &mut Writer, v: i16, f: bool) {\n");
        for f in s.fields.iter().filter(|f| !Self::is_tagged(f)) {
            let write = self.write_in_version(f);
            match self.condition(f.versions) {
                None => {
                    let _ = writeln!(out, "{write}");
                }
                Some(c) => {
                    let _ = writeln!(out, "if {c} {{ {write} }}{}", self.refuse(f));
                }
            }
        }
        let mut tagged: Vec<&Field> = s.fields.iter().filter(|f| Self::is_tagged(f)).collect();
        tagged.sort_by_key(|f| f.tag.map(|(tag, _)| tag));
        if self.message.flexible.is_some() {
            if tagged.is_empty() {
                out.push_str("if f { w.u8(0); }\n");
            } else {
                self.emit_write_tagged(&tagged, out);
            }
        }
        out.push_str("}\n");
    }

    fn emit_write_tagged(&self, tagged: &[&Field], out: &mut String) {
        out.push_str("let mut n = 0u32;\n");
        let condition = |f: &Field| {
            let differs = self.differs_from_default(f);
            match f.tag.and_then(|(_, span)| self.condition(span)) {
                Some(c) => format!("{c} && ({differs})"),
                None => differs,
            }
        };
        for f in tagged {
            let _ = writeln!(out, "if {} {{ n += 1; }}", condition(f));
            if !f.ignorable
                && f.tag
                    .is_some_and(|(_, span)| self.condition(span).is_some())
            {
                let c = f
                    .tag
                    .and_then(|(_, span)| self.condition(span))
                    .unwrap_or_default();
                let _ = writeln!(
                    out,
                    "if !({c}) && ({}) {{ {} }}",
                    self.differs_from_default(f),
                    fail(f)
                );
            }
        }
        out.push_str("if f { w.uvarint(n);\n");
        for f in tagged {
            let Some((tag, _)) = f.tag else { continue };
            let _ = writeln!(
                out,
                "if {} {{ let at = w.begin_tag({tag}); {} w.end_tag(at); }}",
                condition(f),
                self.write_in_version(f)
            );
        }
        out.push_str("}\n");
    }

    fn refuse(&self, f: &Field) -> String {
        if f.ignorable {
            return String::new();
        }
        format!(
            " else if {} {{ {} }}",
            self.differs_from_default(f),
            fail(f)
        )
    }

    fn write_in_version(&self, f: &Field) -> String {
        let name = ident(f);
        if is_tagged_nullable_struct(f) {
            return format!("write_tagged_struct(self.{name}.as_ref(), w, v, f);");
        }
        let value = format!("self.{name}.write(w, v, f);");
        let Some(nullable) = f.nullable else {
            return value;
        };
        let everywhere = nullable.covers(Span {
            first: f.versions.first.max(self.message.versions.first),
            last: f.versions.last.min(self.message.versions.last),
        });
        match self.condition(nullable) {
            Some(c) if !everywhere => format!(
                "if {c} {{ {value} }} else {{ w.non_null(&self.{name}, \"{}\", v, f); }}",
                f.name
            ),
            _ => value,
        }
    }
}

/// These say whether they are null in their own way.
fn is_tagged_nullable_struct(f: &Field) -> bool {
    f.tag.is_some() && f.nullable.is_some() && matches!(f.kind, Kind::Struct(_))
}

fn fail(f: &Field) -> String {
    format!(
        "w.fail(EncodeError::NotInVersion {{ field: \"{}\", version: v }});",
        f.name
    )
}

/// `Random` impls for the tests.
pub(crate) fn emit_random(message: &Message, module: &str, out: &mut String) {
    let e = Emitter::new(message);
    for s in &message.structs {
        let anonymous = if message.borrows(&s.name) { "<'_>" } else { "" };
        let path = format!("crate::{module}::{}::{}", snake(&message.name), s.name);
        let _ = writeln!(
            out,
            "impl Random for {path}{anonymous} {{\n\
             fn random(g: &mut Gen, v: i16) -> Self {{\n\
             let d = Self::default(); Self {{"
        );
        for f in &s.fields {
            let mut value = "Random::random(g, v)".to_string();
            if let Some(nullable) = f.nullable {
                value = match e.condition(nullable) {
                    None => value,
                    Some(c) => format!("if {c} {{ {value} }} else {{ Some({value}) }}"),
                };
            }
            let span = f.tag.map_or(f.versions, |(_, span)| span);
            let some_of = if f.tag.is_some() {
                "g.tagged()"
            } else {
                "true"
            };
            let condition = match e.condition(span) {
                None => some_of.to_string(),
                Some(c) => format!("({c}) && {some_of}"),
            };
            let name = ident(f);
            let _ = if condition == "true" {
                writeln!(out, "{name}: {value},")
            } else {
                writeln!(
                    out,
                    "{name}: if {condition} {{ {value} }} else {{ d.{name} }},"
                )
            };
        }
        out.push_str("} } }\n");
    }
    let m = message;
    let path = format!("crate::{module}::{}", m.name);
    let _ = writeln!(
        out,
        "codec!({}, {path}, \"{}\", {});",
        snake(&m.name),
        m.kind,
        m.key.unwrap_or(-1)
    );
}
