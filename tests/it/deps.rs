//! Where the programs under test and the other clients are. A missing one is a loud failure.

use std::path::{Path, PathBuf};

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
