//! Nothing that the suite starts outlives it.

use std::path::Path;
use std::time::{Duration, Instant};

use super::*;

/// Says that it runs, starts a child of its own, and ignores being asked to end.
const STUBBORN: &str = "trap '' TERM INT; sleep 1000 & echo $! > \"$1\"; while :; do sleep 1; done";

fn stubborn(dir: &Path) -> (Managed, u32) {
    let child = dir.join("child");
    let command: Vec<OsString> = ["sh", "-c", STUBBORN, "fake"].map(OsString::from).to_vec();
    let command = [command, vec![child.clone().into_os_string()]].concat();
    let log = dir.join("log");
    let managed = Managed::spawn("fake broker", "0", &command, &log).unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let text = std::fs::read_to_string(&child).unwrap_or_default();
        if let Ok(pid) = text.trim().parse() {
            return (managed, pid);
        }
        assert!(
            Instant::now() < end,
            "the fake broker does not start: {}",
            managed.tail()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A killed process is gone, or a zombie until somebody waits for it.
fn gone(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_none_or(|(_, rest)| rest.trim_start().starts_with('Z'))
}

fn wait_gone(pid: u32) {
    let end = Instant::now() + Duration::from_secs(20);
    while !gone(pid) {
        assert!(Instant::now() < end, "{pid} still runs");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn one_that_ignores_sigterm_is_killed_with_its_children() {
    let dir = tempfile::tempdir().unwrap();
    let (mut broker, child) = stubborn(dir.path());
    let pid = broker.pid();
    assert!(!gone(pid) && !gone(child));
    assert!(
        !broker.stop(Duration::from_millis(100)),
        "it ended by itself"
    );
    wait_gone(pid);
    wait_gone(child);
}

#[test]
fn an_interrupted_wait_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (mut broker, child) = stubborn(dir.path());
    let pid = broker.pid();
    let stop = Stop::default();
    stop.set();
    let error = broker.wait(Duration::from_secs(100), &stop).unwrap_err();
    assert_eq!(error.to_string(), "interrupted");
    drop(broker);
    wait_gone(pid);
    wait_gone(child);
}

#[test]
fn each_has_a_session_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let (broker, _) = stubborn(dir.path());
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", broker.pid())).unwrap();
    let (_, after) = stat.rsplit_once(')').unwrap();
    let session: u32 = after.split_whitespace().nth(3).unwrap().parse().unwrap();
    assert_eq!(session, broker.pid());
}

#[test]
fn what_ended_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let command = ["sh", "-c", "echo no such port; exit 3"].map(OsString::from);
    let mut broker = Managed::spawn("broker", "0", &command, &dir.path().join("log")).unwrap();
    let status = broker
        .wait(Duration::from_secs(20), &Stop::default())
        .unwrap();
    assert_eq!(status.code(), Some(3));
    let error = broker.ensure_running().unwrap_err().to_string();
    assert!(error.contains("no such port"), "{error}");
}
