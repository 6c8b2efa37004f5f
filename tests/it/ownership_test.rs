//! The rules of ownership on small examples.

#![allow(clippy::unwrap_used)] // tests may panic

use super::*;

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

fn spans(members: &[(&str, &str, Option<u64>)]) -> Vec<Span> {
    let all = members.iter();
    all.flat_map(|(m, text, dead)| parse(m, &lines(text), *dead).unwrap().spans)
        .collect()
}

#[test]
fn a_member_that_hands_over_is_fine() {
    let found = spans(&[
        (
            "a",
            "started\n10 assigned 1 0,1\n50 revoked 1 1\n90 read 0 0 7",
            None,
        ),
        ("b", "60 assigned 2 1", None),
    ]);
    check_exclusive(&found).unwrap();
    check_generations(&found).unwrap();
    assert_eq!(unowned(&found, 3, 10, 110), [0, 10, 100]);
    let noted = parse(
        "a",
        &lines("10 assigned 1 0,1\n50 revoked 1 1\n90 read 0 0 7"),
        None,
    );
    let noted = noted.unwrap();
    assert_eq!(noted.owns(), BTreeSet::from([0]));
    assert_eq!(noted.reads, [(0, 0, 7)]);
    let closed = parse("a", &lines("10 assigned 1 0,1\n95 closed"), None).unwrap();
    assert!(closed.owns().is_empty() && closed.spans.iter().all(|s| s.to == Some(95)));
}

#[test]
fn two_owners_at_once_are_found() {
    let a = ("a", "10 assigned 1 0\n50 revoked 1 0", None);
    let early = spans(&[a, ("b", "40 assigned 2 0", None)]);
    check_exclusive(&early).unwrap_err();
    // The longer one counts, however many there are between.
    let long = ("a", "10 assigned 1 0", None);
    let between = ("b", "20 assigned 2 0\n30 lost 2 0", None);
    let after = ("c", "40 assigned 3 0", None);
    check_exclusive(&spans(&[long, between, after])).unwrap_err();
    // One that was taken for dead does not count.
    let dead = ("a", "10 assigned 1 0\n50 lost 1 0", None);
    check_exclusive(&spans(&[dead, ("b", "40 assigned 2 0", None)])).unwrap();
    // Nor one that was killed.
    let killed = ("a", "10 assigned 1 0", Some(30));
    check_exclusive(&spans(&[killed, ("b", "40 assigned 2 0", None)])).unwrap();
    let twice = spans(&[a, ("b", "60 assigned 1 0", None)]);
    check_exclusive(&twice).unwrap();
    check_generations(&twice).unwrap_err();
}

#[test]
fn what_was_never_owned_cannot_be_revoked() {
    parse("a", &lines("10 revoked 1 0"), None).unwrap_err();
    parse("a", &lines("10 assigned 1 0\n20 assigned 2 0"), None).unwrap_err();
}

#[test]
fn a_gap_in_what_was_read_is_found() {
    let reads = [(0, 0, 5), (0, 3, 9), (1, 0, 4), (1, 5, 9)];
    check_delivered(&reads, &[9]).unwrap();
    check_delivered(&reads, &[10]).unwrap_err();
    check_delivered(&reads, &[9, 9]).unwrap_err();
    check_delivered(&reads, &[9, 4]).unwrap_err();
}
