//! A PostgreSQL server of Debian's package, in its own folder and on its own port.

use std::fs::{File, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;

use crate::process::{Process, run};
use crate::{Output, broker, wait};

/// The database's superuser.
pub const USER: &str = "postgres";
/// How long one statement may take.
const STATEMENT_LIMIT: Duration = Duration::from_secs(30);

/// A running server. Dropping it ends it.
#[derive(Debug)]
pub struct Postgres {
    bin: PathBuf,
    port: u16,
    process: Process,
    dir: TempDir,
}

/// The programs of the newest installed version.
fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut found: Vec<PathBuf> = versions
        .flatten()
        .map(|e| e.path().join("bin"))
        .filter(|bin| bin.join("initdb").exists() && bin.join("psql").exists())
        .collect();
    found.sort();
    found.pop()
}

/// The user and group numbers of the package's user, when this process is root: the server refuses
/// to run as root.
fn owner() -> Result<Option<(u32, u32)>> {
    let number = |args: &[&str]| -> Result<u32> {
        let out = run(Command::new("id").args(args), b"", STATEMENT_LIMIT)?.ok()?;
        Ok(out.out.trim().parse()?)
    };
    if number(&["-u"])? != 0 {
        return Ok(None);
    }
    Ok(Some((number(&["-u", USER])?, number(&["-g", USER])?)))
}

impl Postgres {
    /// What is missing on this machine for running one.
    pub fn missing() -> Option<String> {
        if programs().is_none() {
            return Some("PostgreSQL is not installed (Debian: postgresql)".to_owned());
        }
        owner().err().map(|e| format!("no user {USER}: {e:#}"))
    }

    /// Makes and starts a server that serves logical replication.
    ///
    /// # Errors
    /// A program failed, or it did not serve in time.
    pub fn start() -> Result<Self> {
        let bin = programs().context("no PostgreSQL")?;
        let dir = tempfile::Builder::new().prefix("flumen-it-pg-").tempdir()?;
        let data = dir.path().join("data");
        std::fs::create_dir(&data)?;
        let owner = owner()?;
        if let Some((user, group)) = owner {
            // The server's user must reach its folder.
            std::fs::set_permissions(dir.path(), Permissions::from_mode(0o755))?;
            chown(&data, Some(user), Some(group))?;
        }
        let as_owner = |program: &str| {
            let Some((user, group)) = owner else {
                return Command::new(bin.join(program));
            };
            let mut command = Command::new("setpriv");
            command
                .arg(format!("--reuid={user}"))
                .arg(format!("--regid={group}"))
                .arg("--clear-groups")
                .arg(bin.join(program));
            command
        };
        let mut init = as_owner("initdb");
        init.args(["-A", "trust", "-U", USER, "--no-sync"]);
        init.args(["-E", "UTF8", "--locale=C.UTF-8", "-D"]);
        run(init.arg(&data), b"", Duration::from_secs(60))?.ok()?;
        let port = broker::free_port()?;
        let log = File::create(dir.path().join("log"))?;
        let mut server = as_owner("postgres");
        server.arg("-D").arg(&data).arg("-k").arg(&data);
        server.args(["-p", &port.to_string()]);
        for setting in [
            "listen_addresses=127.0.0.1",
            "wal_level=logical",
            "fsync=off",
            "max_replication_slots=4",
        ] {
            server.args(["-c", setting]);
        }
        server.stdin(Stdio::null());
        server.stdout(log.try_clone()?).stderr(log);
        let mut postgres = Self {
            bin,
            port,
            process: Process::start(&mut server)?,
            dir,
        };
        let ready = wait::until("PostgreSQL", Duration::from_secs(30), || {
            ensure!(postgres.process.alive(), "the server ended");
            postgres.query(USER, "select 1").map(Some)
        });
        if let Err(e) = ready {
            let log = std::fs::read_to_string(postgres.dir.path().join("log")).unwrap_or_default();
            bail!("{e:#}\n{log}");
        }
        Ok(postgres)
    }

    /// The port on the loopback address.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Runs statements in a database; rows one per line, columns with `|` between them.
    ///
    /// # Errors
    /// A statement failed.
    pub fn query(&self, database: &str, statements: &str) -> Result<String> {
        let mut psql = Command::new(self.bin.join("psql"));
        psql.args(["-h", "127.0.0.1", "-U", USER, "-d", database]);
        psql.args(["-p", &self.port.to_string()]);
        psql.env("PGCLIENTENCODING", "UTF8");
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"]);
        let Output { out, .. } = run(&mut psql, statements.as_bytes(), STATEMENT_LIMIT)?.ok()?;
        Ok(out)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // A fast shutdown; a server that was killed would leave its children behind.
        if self.process.signal("INT").is_ok() {
            let _ = self.process.wait(Duration::from_secs(20));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_answers_and_ends() {
        if let Some(what) = Postgres::missing() {
            crate::not_run(&what).unwrap();
            return;
        }
        let server = Postgres::start().unwrap();
        server.query(USER, "create database shop").unwrap();
        let text = "create table t (n int, s text); insert into t values (1, 'ü'), (2, null)";
        server.query("shop", text).unwrap();
        let rows = server.query("shop", "select * from t order by n").unwrap();
        assert_eq!(rows, "1|ü\n2|\n");
        let level = server.query("shop", "show wal_level").unwrap();
        assert_eq!(level.trim(), "logical");
        assert!(server.query("shop", "select nothing").is_err());
        let address = ("127.0.0.1", server.port());
        drop(server);
        std::net::TcpStream::connect(address).unwrap_err();
    }
}
