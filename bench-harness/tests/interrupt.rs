//! A suite that is interrupted leaves no process and no directory.

#![allow(clippy::unwrap_used)] // a test may panic

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A broker that formats, starts, never listens and ignores being asked to end.
const FAKE: &str = "#!/bin/sh
[ \"$1\" = storage ] && exit 0
trap '' TERM INT HUP
echo $$ > \"$FAKE_PID\"
while :; do sleep 1; done
";

fn wait<T>(what: &str, dir: &Path, mut ready: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(Instant::now() < end, "{what} takes too long: {}", said(dir));
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What the suite in `dir` has said.
fn said(dir: &Path) -> String {
    fs::read_to_string(dir.join("stderr")).unwrap_or_default()
}

fn suite(dir: &Path, fake: &Path, pid: &Path) -> Child {
    let path = |p: &Path| p.display().to_string();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = port.local_addr().unwrap().port().to_string();
    Command::new(env!("CARGO_BIN_EXE_bench-harness"))
        .args([
            "suite",
            "--quick", // or it would first touch most of the memory
            "--systems",
            "flumen",
            "--only",
            "64k",
            "--fs",
            "dir",
            "--port",
            &port,
        ])
        .args([
            "--dir",
            &path(dir),
            "--out",
            &path(&dir.join("out")),
            "--no-publish",
        ])
        .args(["--flumen-bin", &path(fake)])
        .env("FAKE_PID", pid)
        .stdin(Stdio::null())
        .stderr(fs::File::create(dir.join("stderr")).unwrap())
        .spawn()
        .unwrap()
}

#[test]
fn a_broker_that_ignores_signals_ends_with_the_suite() {
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        return; // the suite itself refuses
    }
    for signal in ["-INT", "-TERM"] {
        let dir = tempfile::tempdir().unwrap();
        let (fake, pid_file) = (dir.path().join("fake"), dir.path().join("pid"));
        fs::write(&fake, FAKE).unwrap();
        fs::set_permissions(&fake, fs::Permissions::from_mode(0o755)).unwrap();
        let mut suite = suite(dir.path(), &fake, &pid_file);
        let pid: u32 = wait("the broker's start", dir.path(), || {
            assert!(
                suite.try_wait().unwrap().is_none(),
                "it ended: {}",
                said(dir.path())
            );
            fs::read_to_string(&pid_file).ok()?.trim().parse().ok()
        });
        let of_suite = suite.id().to_string();
        assert!(
            Command::new("kill")
                .args([signal, &of_suite])
                .status()
                .unwrap()
                .success()
        );
        let status = wait("the suite's end", dir.path(), || suite.try_wait().unwrap());
        assert!(!status.success(), "{}", said(dir.path()));
        assert!(
            said(dir.path()).contains("interrupted"),
            "{}",
            said(dir.path())
        );
        wait("the broker's end", dir.path(), || {
            (!Path::new(&format!("/proc/{pid}")).exists()).then_some(())
        });
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().flatten().collect();
        let left: Vec<_> = left.iter().map(fs::DirEntry::file_name).collect();
        let bench = left
            .iter()
            .any(|n| n.to_string_lossy().starts_with("flumen-bench"));
        assert!(!bench, "{left:?}");
    }
}
