//! Where the programs under test and the other clients are. A missing one is a loud failure.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// The folder that `scripts/fetch-deps.sh` fills.
///
/// # Errors
/// The folder is not complete: the script has not run.
pub fn dir() -> Result<PathBuf> {
    let dir = match std::env::var_os("FLUMEN_DEPS") {
        Some(dir) => PathBuf::from(dir),
        None => Path::new(&std::env::var_os("HOME").context("HOME is not set")?)
            .join(".cache/flumen-deps"),
    };
    for step in ["kafka", "driver", "python", "go", "js"] {
        if !dir.join(format!(".done-{step}")).exists() {
            bail!("{} has no {step}: run scripts/fetch-deps.sh", dir.display());
        }
    }
    Ok(dir)
}

/// What `scripts/fetch-deps.sh` made in `step` of its part for other people's programs.
///
/// # Errors
/// The script has not run, or not that step.
pub fn step(step: &str) -> Result<PathBuf> {
    let dir = dir()?;
    if !dir.join(format!(".done-{step}")).exists() {
        bail!("{} has no {step}: run scripts/fetch-deps.sh", dir.display());
    }
    Ok(dir.join(step))
}

/// A Java program with this heap (MiB) and class path (below the folder of dependencies; `x/*` is
/// all jars of `x`).
///
/// # Errors
/// The dependencies are not there.
pub fn java(heap: u32, path: &[&str], options: &[&str], class: &str) -> Result<Command> {
    let dir = dir()?;
    for part in path {
        let made_by = part.split('/').next().unwrap_or(part);
        if made_by != "kafka" {
            step(made_by)?;
        }
    }
    let path: Vec<String> = path
        .iter()
        .map(|p| dir.join(p).display().to_string())
        .collect();
    let mut command = Command::new("java");
    command
        .arg(format!("-Xmx{heap}m"))
        .args(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
        .args(["-Xshare:auto"])
        .args(options)
        .arg("-cp")
        .arg(path.join(":"))
        .arg(class);
    Ok(command)
}

/// The repository's root folder.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A file of `tests/clients`.
pub fn client_file(name: &str) -> PathBuf {
    repository().join("tests/clients").join(name)
}

/// The `flumen` binary: `FLUMEN_BIN`, or the one cargo built beside this test program.
///
/// # Errors
/// There is none.
pub fn flumen() -> Result<PathBuf> {
    if let Some(bin) = std::env::var_os("FLUMEN_BIN") {
        return Ok(PathBuf::from(bin));
    }
    let me = std::env::current_exe()?;
    let profile = me
        .parent()
        .and_then(Path::parent)
        .context("no target folder")?;
    let bin = profile.join("flumen");
    if !bin.exists() {
        bail!(
            "no {}: build it with the same profile, or set FLUMEN_BIN",
            bin.display()
        );
    }
    Ok(bin)
}
