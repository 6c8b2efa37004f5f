//! Subscriptions by regular expression (RE2 syntax; an expression matches whole topic names).
//!
//! The group remembers which topics an expression matched and when. It looks again when an
//! expression is new, when topics were created since, and from time to time because topics may have
//! been deleted; never more often than every ten seconds.

use super::member::Member;
use super::records::ConsumerRecord;
use super::state::ConsumerGroup;
use super::{Refusal, counted};
use crate::group::Env;
use crate::out::Metadata;
use flumen_base::ErrorCode;
use regex::{Regex, RegexBuilder};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Memory of one compiled expression.
const COMPILED_BYTES_MAX: usize = 1 << 20;
/// Shortest time between two looks at all topics (Kafka's constant).
const REFRESH_INTERVAL_MIN_MS: i64 = 10_000;

/// What an expression matched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resolved {
    pub(crate) topics: BTreeSet<Box<str>>,
    /// Version of the metadata then.
    pub(crate) version: i64,
    /// Wall clock then.
    pub(crate) resolved_ms: i64,
}

/// What a heartbeat changed about expressions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RegexChange {
    Same,
    /// Changed; what the new one matches is not known yet.
    Updated,
    /// Changed, and what the new one matches is known.
    UpdatedAndResolved,
}

/// RE2's `\Q...\E` quotes what is between; the rest of the syntax is the same.
fn unquote(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len());
    let mut rest = pattern;
    while let Some(at) = rest.find('\\') {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        if let Some(quoted) = from.strip_prefix("\\Q") {
            let (literal, after) = quoted.split_once("\\E").unwrap_or((quoted, ""));
            out.push_str(&regex::escape(literal));
            rest = after;
            continue;
        }
        // The backslash and what it escapes.
        let mut escape = from.char_indices().skip(2);
        let end = escape.next().map_or(from.len(), |(end, _)| end);
        let (escaped, after) = from.split_at(end);
        out.push_str(escaped);
        rest = after;
    }
    out.push_str(rest);
    out
}

/// An expression that matches whole names.
fn compile(pattern: &str) -> Result<Regex, String> {
    let build = |text: &str| {
        RegexBuilder::new(text)
            .size_limit(COMPILED_BYTES_MAX)
            .build()
            .map_err(|e| why(&e))
    };
    let pattern = unquote(pattern);
    // On its own first: wrapped, brackets that do not match could find each other.
    build(&pattern)?;
    build(&format!("\\A(?:{pattern})\\z"))
}

/// The last line of the error, which says what is wrong; those before show where.
fn why(error: &regex::Error) -> String {
    let text = error.to_string();
    let last = text.lines().last().unwrap_or("");
    last.trim().trim_start_matches("error: ").to_owned()
}

/// Refuses an expression that can't be compiled.
fn check(pattern: &str) -> Result<(), Refusal> {
    match compile(pattern) {
        Ok(_) => Ok(()),
        Err(why) => Err(Refusal::new(
            ErrorCode::InvalidRegularExpression,
            format!("SubscribedTopicRegex `{pattern}` is not a valid regular expression: {why}."),
        )),
    }
}

/// The topics that each expression matches now.
fn resolve<'r>(
    metadata: &dyn Metadata,
    patterns: impl Iterator<Item = &'r str>,
    now_ms: i64,
) -> Vec<(&'r str, Resolved)> {
    let version = metadata.version();
    let empty = || Resolved {
        topics: BTreeSet::new(),
        version,
        resolved_ms: now_ms,
    };
    // One that can't be compiled matches nothing: it was checked when it came, by another version
    // perhaps.
    let mut all: Vec<_> = patterns
        .map(|pattern| (pattern, compile(pattern).ok(), empty()))
        .collect();
    metadata.for_each_topic(&mut |name| {
        for (_, regex, resolved) in &mut all {
            if regex.as_ref().is_some_and(|r| r.is_match(name)) {
                resolved.topics.insert(name.into());
            }
        }
    });
    let all = all.into_iter();
    all.map(|(pattern, _, resolved)| (pattern, resolved))
        .collect()
}

impl ConsumerGroup {
    /// What follows from `updated` having another expression than `member`: records are added, and
    /// whether the group should look at the topics again is the second result.
    pub(crate) fn plan_regex(
        &self,
        env: &Env<'_>,
        member: &Member,
        updated: &Member,
        records: &mut Vec<ConsumerRecord>,
    ) -> Result<(RegexChange, bool), Refusal> {
        let (old, new) = (member.regex(), updated.regex());
        let mut change = RegexChange::Same;
        let mut look = false;
        if member.regex != updated.regex {
            change = RegexChange::Updated;
            if let Some(old) = old.filter(|old| self.regex_members(old) == 1) {
                records.push(ConsumerRecord::Regex(old.into(), None));
            }
            match new {
                Some(new) if self.regex_members(new) == 0 => {
                    check(new)?;
                    look = true;
                }
                Some(new) if self.regexes.contains_key(new) => {
                    change = RegexChange::UpdatedAndResolved;
                }
                None if old.is_some() => change = RegexChange::UpdatedAndResolved,
                _ => {}
            }
        }
        if !look && self.subscribed_regexes().is_empty() {
            return Ok((change, false));
        }
        let last = self.regexes.values().next();
        let now = env.now.wall_ms;
        let last_ms = last.map_or(i64::MIN, |r| r.resolved_ms);
        if last.is_some() && now <= last_ms.saturating_add(REFRESH_INTERVAL_MIN_MS) {
            return Ok((change, false));
        }
        let subscribed = self.regexes_with(old, new);
        look |= subscribed.len() != self.regexes.len();
        look |= last.map_or(0, |r| r.version) < env.topics_created_at;
        let refresh_ms = i64::from(env.config.consumer_group_regex_refresh_interval_ms);
        look |= now > last_ms.saturating_add(refresh_ms);
        Ok((change, look && !subscribed.is_empty()))
    }

    /// The expressions that members would have if one member changed its own.
    fn regexes_with(&self, old: Option<&str>, new: Option<&str>) -> BTreeMap<Box<str>, usize> {
        let mut subscribed = self.subscribed_regexes().clone();
        if let Some(old) = old {
            counted(&mut subscribed, old, false);
        }
        if let Some(new) = new {
            counted(&mut subscribed, new, true);
        }
        subscribed
    }

    /// Looks at all topics; the records that say what matches now, and the new epoch if that
    /// changed something.
    pub(crate) fn plan_resolve(&self, env: &Env<'_>) -> Vec<ConsumerRecord> {
        let patterns = self.subscribed_regexes().keys().map(|p| &**p);
        let resolved = resolve(env.metadata, patterns, env.now.wall_ms);
        let mut records = Vec::new();
        let mut topics = self.topic_counts().clone();
        let mut bump = false;
        let nothing = BTreeSet::new();
        for (pattern, new) in resolved {
            let old = self.regexes.get(pattern).map_or(&nothing, |r| &r.topics);
            if *old != new.topics {
                bump = true;
                old.iter().for_each(|t| topics.by_regex(t, false));
                new.topics.iter().for_each(|t| topics.by_regex(t, true));
            }
            records.push(ConsumerRecord::Regex(pattern.into(), Some(Arc::new(new))));
        }
        let hash = topics.metadata_hash(env.metadata);
        if bump || hash != self.metadata_hash {
            let epoch = self.epoch.saturating_add(1);
            records.push(ConsumerRecord::Epoch(Some((epoch, hash))));
        }
        records
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        compile(pattern).is_ok_and(|r| r.is_match(name))
    }

    #[test]
    fn whole_names_match() {
        assert!(matches("foo|foobar", "foobar"));
        assert!(matches("foo.*", "foobar"));
        assert!(!matches("foo", "foobar"));
        assert!(!matches("bar", "foobar"));
        assert!(matches("t[0-9]{2}", "t42"));
        assert!(!matches("", "t"));
    }

    #[test]
    fn quoted_text_is_literal() {
        assert!(matches("\\Qa.b\\E.*", "a.bc"));
        assert!(!matches("\\Qa.b\\E.*", "axbc"));
        assert!(matches("\\Qa.b", "a.b"));
        assert!(matches("a\\.b\\d", "a.b1"));
        assert_eq!(unquote("\\"), "\\");
        assert_eq!(unquote("x\\é"), "x\\é");
    }

    #[test]
    fn what_is_no_expression_is_refused() {
        for pattern in [
            "[",
            "(",
            ")(",
            "a)(b",
            "*",
            "(?=a)",
            "\\1",
            "a{9999999}",
            "\\",
        ] {
            let refused = check(pattern).unwrap_err();
            assert_eq!(refused.error, ErrorCode::InvalidRegularExpression);
            assert!(refused.message.is_some_and(|m| m.contains(pattern)));
        }
    }
}
