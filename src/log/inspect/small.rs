//! The small text files: checkpoints and identities, read leniently, with the line of each problem.

use std::str::FromStr;

/// Larger small files are not read.
pub(super) const SMALL_FILE_LEN_MAX: u64 = 64 << 20;

/// A checkpoint file: version, count, and lines of fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lines {
    /// Fields of each line behind the count, with the line's position in the file.
    pub lines: Vec<(u64, Vec<String>)>,
    /// What is wrong, and where.
    pub problems: Vec<(u64, String)>,
}

impl Lines {
    /// From the file's text; `fields` is how many each line has.
    pub fn parse(text: &str, fields: usize) -> Self {
        let mut found = Self::default();
        let mut pos = 0;
        let mut count: Option<usize> = None;
        for (n, line) in text.split_inclusive('\n').enumerate() {
            let at = pos;
            pos += line.len() as u64;
            let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            match (n, &words[..]) {
                (0, [version]) if version == "0" => {}
                (0, _) => found.problem(at, format!("version '{}' is not 0", line.trim())),
                (1, [text]) if text.parse::<usize>().is_ok() => count = text.parse().ok(),
                (1, _) => found.problem(at, format!("'{}' is no count of lines", line.trim())),
                (_, []) => {}
                (_, words_here) if words_here.len() != fields => {
                    let what = format!("'{}' does not have {fields} fields", shorten(line.trim()));
                    found.problem(at, what);
                }
                _ => found.lines.push((at, words)),
            }
        }
        match count {
            None if found.problems.is_empty() => {
                found.problem(pos, "the count of lines is missing".to_owned());
            }
            Some(count) if count != found.lines.len() && found.problems.is_empty() => {
                let what = format!("{} lines, but the count is {count}", found.lines.len());
                found.problem(pos, what);
            }
            _ => {}
        }
        found
    }

    pub(super) fn problem(&mut self, at: u64, what: String) {
        self.problems.push((at, what));
    }

    /// The fields from `first` on of each line as numbers; lines with others become problems.
    pub fn numbers<T: FromStr>(&mut self, first: usize) -> Vec<(u64, Vec<String>, Vec<T>)> {
        let mut good = Vec::new();
        for (at, words) in std::mem::take(&mut self.lines) {
            let (names, rest) = words.split_at(first.min(words.len()));
            let numbers: Option<Vec<T>> = rest.iter().map(|w| w.parse().ok()).collect();
            match numbers {
                Some(numbers) => good.push((at, names.to_vec(), numbers)),
                None => {
                    let what = format!("'{}' has a number that is none", shorten(&words.join(" ")));
                    self.problem(at, what);
                }
            }
        }
        good
    }
}

/// Text for a message, cut where it is long.
pub(super) fn shorten(text: &str) -> String {
    const CHARS_MAX: usize = 120;
    match text.char_indices().nth(CHARS_MAX) {
        Some((at, _)) => format!("{}...", text.get(..at).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// Topic and partition in the name of a partition's directory.
pub fn partition_of_dir(name: &str) -> Option<(&str, i32)> {
    let (topic, number) = name.rsplit_once('-')?;
    let plain = !topic.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    Some((topic, number.parse().ok().filter(|_| plain)?))
}
