//! Java's properties format (`java.util.Properties.load`, the text of `server.properties`).

use crate::{ConfigError, ConfigMap};
use std::iter::Peekable;
use std::str::Chars;

/// Keys and values of a properties file; of duplicate keys the last one counts.
///
/// ```
/// let p = flumen_settings::Properties::parse("# a comment\na = 1\nlong=x,\\\n   y\n").unwrap();
/// assert_eq!(p.get("a"), Some("1"));
/// assert_eq!(p.get("long"), Some("x,y"));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties {
    entries: ConfigMap,
}

impl Properties {
    /// Parses the text of a properties file. The only malformed thing in this format is an
    /// incomplete `\uXXXX`.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let mut entries = ConfigMap::new();
        for (number, line) in logical_lines(text) {
            let (key, value) = split(&line).map_err(|reason| ConfigError::Syntax {
                line: number,
                reason,
            })?;
            entries.insert(key, value);
        }
        Ok(Self { entries })
    }

    /// The value of a key.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.entries.get(name).map(String::as_str)
    }

    /// Sets a key.
    pub fn set(&mut self, name: &str, value: &str) {
        self.entries.insert(name.to_owned(), value.to_owned());
    }

    /// Applies `key=value` as given on a command line (the value may be empty and may hold further
    /// `=`).
    pub fn set_override(&mut self, assignment: &str) -> Result<(), ConfigError> {
        match assignment.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => {
                self.set(key.trim(), value.trim());
                Ok(())
            }
            _ => Err(ConfigError::Refused(format!(
                "an override has the form key=value, not '{assignment}'"
            ))),
        }
    }

    /// All keys and values by key.
    pub fn entries(&self) -> &ConfigMap {
        &self.entries
    }
}

impl FromIterator<(String, String)> for Properties {
    fn from_iter<T: IntoIterator<Item = (String, String)>>(iter: T) -> Self {
        Self {
            entries: iter.into_iter().collect(),
        }
    }
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\x0c')
}

/// Natural lines joined at an odd number of trailing backslashes, without comments and blank lines,
/// each with the number
/// (from 1) of its first line. A comment line never continues; leading blanks of every natural line
/// are dropped.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    let mut open: Option<(usize, String)> = None;
    let text = text.replace("\r\n", "\n");
    for (index, natural) in text.split(['\n', '\r']).enumerate() {
        let natural = natural.trim_start_matches(is_blank);
        if open.is_none() && (natural.is_empty() || natural.starts_with(['#', '!'])) {
            continue;
        }
        let (number, mut line) = open.take().unwrap_or((index + 1, String::new()));
        let backslashes = natural.bytes().rev().take_while(|&b| b == b'\\').count();
        if backslashes % 2 == 1 {
            line.push_str(&natural[..natural.len() - 1]);
            open = Some((number, line));
        } else {
            line.push_str(natural);
            lines.push((number, line));
        }
    }
    lines.extend(open.filter(|(_, line)| !line.is_empty()));
    lines
}

/// Key and value of one logical line: the key ends at the first unescaped blank, `=` or `:`; blanks
/// around one separator
/// are dropped.
fn split(line: &str) -> Result<(String, String), String> {
    let mut chars = line.chars().peekable();
    let mut key = String::new();
    while let Some(&c) = chars.peek() {
        if c == '=' || c == ':' || is_blank(c) {
            break;
        }
        chars.next();
        push_unescaped(c, &mut chars, &mut key)?;
    }
    while chars.next_if(|&c| is_blank(c)).is_some() {}
    if chars.next_if(|&c| c == '=' || c == ':').is_some() {
        while chars.next_if(|&c| is_blank(c)).is_some() {}
    }
    let mut value = String::new();
    while let Some(c) = chars.next() {
        push_unescaped(c, &mut chars, &mut value)?;
    }
    Ok((key, value))
}

/// Appends `c`, or what it stands for if it is a backslash and more follows.
fn push_unescaped(
    c: char,
    chars: &mut Peekable<Chars<'_>>,
    out: &mut String,
) -> Result<(), String> {
    if c != '\\' {
        out.push(c);
        return Ok(());
    }
    match chars.next() {
        None => {}
        Some('t') => out.push('\t'),
        Some('n') => out.push('\n'),
        Some('r') => out.push('\r'),
        Some('f') => out.push('\x0c'),
        Some('u') => {
            let unit = hex4(chars)?;
            out.push(code_point(unit, chars)?);
        }
        Some(other) => out.push(other),
    }
    Ok(())
}

fn hex4(chars: &mut Peekable<Chars<'_>>) -> Result<u32, String> {
    let mut unit = 0;
    for _ in 0..4 {
        let digit = chars.next().and_then(|c| c.to_digit(16));
        unit = unit * 16 + digit.ok_or("malformed \\uXXXX escape")?;
    }
    Ok(unit)
}

/// The character of a UTF-16 unit and, for a high surrogate, of the escape after it. A lone
/// surrogate becomes U+FFFD.
fn code_point(unit: u32, chars: &mut Peekable<Chars<'_>>) -> Result<char, String> {
    if (0xd800..0xdc00).contains(&unit) {
        let mut ahead = chars.clone();
        if ahead.next() == Some('\\') && ahead.next() == Some('u') {
            let low = hex4(&mut ahead)?;
            if (0xdc00..0xe000).contains(&low) {
                *chars = ahead;
                let scalar = 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
                return Ok(char::from_u32(scalar).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
        }
    }
    Ok(char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER))
}
