//! Tests of the properties format.

use crate::Properties;
use proptest::prelude::*;

fn rounds() -> u32 {
    let factor = std::env::var("FLUMEN_TEST_ROUNDS").ok();
    64 * factor.and_then(|f| f.parse().ok()).unwrap_or(1)
}

#[test]
fn separators_comments_continuations_and_escapes() {
    let text = "# comment \\\n! another\na=1\nb:2\nc 3\n  d  =  4 \ne\nf=\\u00e9\\t\\:\\=\\q\n\
        g\\ h\\=i=x=y:z\nlong=one,\\\n    two,\\\n  three\r\nend=a\\\\\n\\u0041=uni\n\
        dup=1\ndup=2\nface=\\ud83d\\ude00\n: empty key\nlast=open\\";
    let p = Properties::parse(text).unwrap();
    let expected = [
        ("a", "1"),
        ("b", "2"),
        ("c", "3"),
        ("d", "4 "),
        ("e", ""),
        ("f", "é\t:=q"),
        ("g h=i", "x=y:z"),
        ("long", "one,two,three"),
        ("end", "a\\"),
        ("A", "uni"),
        ("dup", "2"),
        ("face", "😀"),
        ("", "empty key"),
        ("last", "open"),
    ];
    for (key, value) in expected {
        assert_eq!(p.get(key), Some(value), "{key}");
    }
    assert_eq!(p.entries().len(), expected.len());
}

#[test]
fn an_incomplete_unicode_escape_is_named_with_its_line() {
    let error = Properties::parse("a=1\nb=\\u12").unwrap_err();
    assert_eq!(error.to_string(), "line 2: malformed \\uXXXX escape");
}

#[test]
fn overrides() {
    let mut p = Properties::default();
    p.set_override("a=b=c").unwrap();
    p.set_override("empty=").unwrap();
    assert_eq!((p.get("a"), p.get("empty")), (Some("b=c"), Some("")));
    assert!(p.set_override("novalue").is_err());
    assert!(p.set_override("=x").is_err());
}

/// Writes a key or value as `Properties.store` would: everything special escaped.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x0c' => out.push_str("\\f"),
            ' ' | '=' | ':' | '#' | '!' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_ascii_graphic() => out.push(c),
            c => {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    out.push_str(&format!("\\u{unit:04X}"));
                }
            }
        }
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(rounds()))]

    #[test]
    fn what_is_escaped_comes_back(
        pairs in prop::collection::btree_map(".{0,12}", ".{0,20}", 0..8),
    ) {
        let text: String = pairs
            .iter()
            .map(|(k, v)| format!("  {} : {}\n", escaped(k), escaped(v)))
            .collect();
        let parsed = Properties::parse(&text).unwrap();
        prop_assert_eq!(parsed.entries(), &pairs);
    }

    #[test]
    fn no_text_panics(text in "(?s).{0,200}") {
        let _ = Properties::parse(&text);
    }

    #[test]
    fn no_backslash_soup_panics(text in "[\\\\u0-9a-f =:\n\r#]{0,60}") {
        let _ = Properties::parse(&text);
    }
}
