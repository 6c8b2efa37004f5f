//! A broker in its own process and folder: the real `flumen` binary, or Apache Kafka.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;

use crate::process::Process;
use crate::raw::Raw;
use crate::tools::tool;
use crate::{deps, wait};

/// The cluster id of every formatted broker.
pub const CLUSTER_ID: &str = "4L6g3nShT-eMCtK--X86sw";

/// Which broker the scenarios run against (`FLUMEN_IT_BROKER`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The real `flumen` binary.
    Flumen,
    /// Apache Kafka 4.3.1.
    Kafka,
}

impl Kind {
    /// The kind that the environment asks for.
    #[allow(clippy::panic)] // a misspelt value must not run the wrong broker
    pub fn chosen() -> Self {
        match std::env::var("FLUMEN_IT_BROKER").as_deref() {
            Err(_) | Ok("flumen") => Self::Flumen,
            Ok("kafka") => Self::Kafka,
            Ok(other) => panic!("FLUMEN_IT_BROKER={other}: flumen or kafka"),
        }
    }
}

/// The two configurations that every scenario meets. Kafka has only one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// `flumen start --dev`.
    Dev,
    /// The same with four shards.
    FourShards,
}

/// How to start a broker.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which broker.
    pub kind: Kind,
    /// The configuration's shape.
    pub shape: Shape,
    /// Server properties beyond the defaults.
    pub properties: Vec<(String, String)>,
    /// Start from a `server.properties` after formatting, as Kafka is, instead of `--dev`.
    pub from_file: bool,
    /// `ulimit -n` of the process.
    pub files_max: Option<u32>,
    /// `name=level` of features that Kafka is formatted with instead of its defaults.
    pub features: Vec<String>,
}

impl Options {
    /// A plain broker of this shape.
    pub fn new(shape: Shape) -> Self {
        Self {
            kind: Kind::chosen(),
            shape,
            properties: Vec::new(),
            from_file: false,
            files_max: None,
            features: Vec::new(),
        }
    }

    /// This broker instead of the one that the environment asks for.
    #[must_use]
    pub fn of(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// Adds a server property.
    #[must_use]
    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.properties.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Lets the process have so many files open only.
    #[must_use]
    pub fn files_max(mut self, files: u32) -> Self {
        self.files_max = Some(files);
        self
    }

    /// Starts from a file after formatting.
    #[must_use]
    pub fn from_file(mut self) -> Self {
        self.from_file = true;
        self
    }
}

/// One broker. Dropping it kills the process and removes the folder.
#[derive(Debug)]
pub struct Broker {
    kind: Kind,
    options: Options,
    dir: TempDir,
    port: u16,
    controller_port: u16,
    metrics_port: u16,
    process: Option<Process>,
    /// From the start of the process to the first answer that names the broker.
    pub start_time: Duration,
}

/// A port that nobody uses now and that the kernel does not give to outgoing connections.
///
/// # Errors
/// All of them are in use.
pub fn free_port() -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Far apart for test programs that were started one after the other: between a look at a port
    // and its use by a slow program are seconds.
    let start = u16::try_from(std::process::id().wrapping_mul(331) % 10_000)?;
    for _ in 0..10_000 {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 20_000 + (start + n % 10_000) % 10_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port between 20000 and 30000")
}

impl Broker {
    /// Starts a broker and waits until it serves.
    ///
    /// # Errors
    /// It ended or did not serve in time; the message carries the end of its log.
    pub fn start(options: Options) -> Result<Self> {
        let mut broker = Self::prepare(options)?;
        broker.launch()?;
        Ok(broker)
    }

    /// Makes folder and configuration (formatted where that is needed) without starting.
    ///
    /// # Errors
    /// Formatting failed.
    pub fn prepare(options: Options) -> Result<Self> {
        let broker = Self::unformatted(options)?;
        if broker.uses_file() {
            broker.format()?;
        }
        Ok(broker)
    }

    /// Makes folder and configuration, and leaves the formatting to the caller.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn unformatted(options: Options) -> Result<Self> {
        let mut dir = tempfile::Builder::new().prefix("flumen-it-").tempdir()?;
        if std::env::var_os("FLUMEN_IT_KEEP").is_some() {
            dir.disable_cleanup(true);
            #[allow(clippy::print_stderr)] // asked for
            {
                eprintln!("kept: {}", dir.path().display());
            }
        }
        let kind = options.kind;
        let broker = Self {
            kind,
            options,
            dir,
            port: free_port()?,
            controller_port: free_port()?,
            metrics_port: free_port()?,
            process: None,
            start_time: Duration::ZERO,
        };
        if broker.uses_file() {
            broker.write_file()?;
        }
        Ok(broker)
    }

    fn uses_file(&self) -> bool {
        self.kind == Kind::Kafka || self.options.from_file
    }

    /// The `server.properties` file.
    pub fn file(&self) -> PathBuf {
        self.dir.path().join("server.properties")
    }

    /// The folder with the partitions.
    pub fn log_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A file of ours in the broker's folder.
    pub fn scratch(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `host:port` for clients.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `host:port` of the controller listener, where there is one.
    pub fn controller_address(&self) -> String {
        format!("127.0.0.1:{}", self.controller_port)
    }

    /// `host:port` of the metrics listener.
    pub fn metrics_address(&self) -> String {
        format!("127.0.0.1:{}", self.metrics_port)
    }

    /// Which broker it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The process.
    ///
    /// # Errors
    /// It does not run.
    pub fn process(&mut self) -> Result<&mut Process> {
        self.process.as_mut().context("the broker is not started")
    }

    /// A new raw connection.
    ///
    /// # Errors
    /// It was refused.
    pub fn raw(&self) -> Result<Raw> {
        Raw::connect(SocketAddr::from(([127, 0, 0, 1], self.port)))
    }

    /// Runs one of Kafka's tools with `--bootstrap-server` and requires success.
    ///
    /// # Errors
    /// It failed.
    pub fn tool(&self, script: &str, args: &[&str]) -> Result<crate::Output> {
        self.try_tool(script, args)?.ok()
    }

    /// As [`Broker::tool`], failures included.
    ///
    /// # Errors
    /// The tool did not end.
    pub fn try_tool(&self, script: &str, args: &[&str]) -> Result<crate::Output> {
        let address = self.address();
        let mut all = vec!["--bootstrap-server", address.as_str()];
        all.extend_from_slice(args);
        tool(script, &all)
    }

    /// A `server.properties` as Kafka's users write it: combined mode with a controller listener.
    fn write_file(&self) -> Result<()> {
        use std::fmt::Write as _;
        let (port, controller) = (self.port, self.controller_port);
        let mut text = format!(
            "process.roles=broker,controller\nnode.id=1\n\
             controller.quorum.voters=1@127.0.0.1:{controller}\n\
             listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
             inter.broker.listener.name=PLAINTEXT\ncontroller.listener.names=CONTROLLER\n\
             listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT\n\
             log.dirs={}\noffsets.topic.replication.factor=1\n\
             transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\n\
             share.coordinator.state.topic.replication.factor=1\n\
             share.coordinator.state.topic.min.isr=1\ngroup.initial.rebalance.delay.ms=0\n",
            self.log_dir().display()
        );
        for (key, value) in self.extra() {
            if self.kind == Kind::Flumen || !key.starts_with("flumen.") {
                writeln!(text, "{key}={value}")?;
            }
        }
        std::fs::write(self.file(), text)?;
        Ok(())
    }

    fn extra(&self) -> Vec<(String, String)> {
        let mut all = self.options.properties.clone();
        if self.options.shape == Shape::FourShards {
            all.push(("flumen.shards".to_owned(), "4".to_owned()));
        }
        all.push(("flumen.metrics.listener".to_owned(), self.metrics_address()));
        all
    }

    fn format(&self) -> Result<()> {
        let file = self.file();
        let file = file.to_str().context("the folder's name")?;
        let args = ["format", "--cluster-id", CLUSTER_ID, "--config", file];
        match self.kind {
            Kind::Kafka => {
                let mut args = args.to_vec();
                for feature in &self.options.features {
                    args.extend(["--feature", feature]);
                }
                tool("kafka-storage", &args)?.ok()?
            }
            Kind::Flumen => {
                let mut command = Command::new(deps::flumen()?);
                command.arg("storage").args(args);
                crate::process::run(&mut command, b"", Duration::from_secs(10))?.ok()?
            }
        };
        Ok(())
    }

    fn command(&self) -> Result<Command> {
        if self.kind == Kind::Kafka {
            let kafka = deps::dir()?.join("kafka");
            let mut command = Command::new("java");
            command.args(["-Xmx400m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]);
            let path = format!("{0}/driver:{0}/libs/*", kafka.display());
            command.args(["-cp", &path, "kafka.Kafka"]).arg(self.file());
            return Ok(command);
        }
        let mut command = match self.options.files_max {
            None => Command::new(deps::flumen()?),
            Some(files) => {
                let mut command = Command::new("sh");
                let script = format!("ulimit -n {files} && exec \"$0\" \"$@\"");
                command.arg("-c").arg(script).arg(deps::flumen()?);
                command
            }
        };
        command.arg("start");
        if self.options.from_file {
            command.arg("--config").arg(self.file());
            return Ok(command);
        }
        command.arg("--dev");
        let port = self.port;
        let mut settings = vec![
            (
                "listeners".to_owned(),
                format!("PLAINTEXT://127.0.0.1:{port}"),
            ),
            ("log.dirs".to_owned(), self.log_dir().display().to_string()),
        ];
        settings.extend(self.extra());
        for (key, value) in settings {
            command.arg("--override").arg(format!("{key}={value}"));
        }
        Ok(command)
    }

    /// Starts the process (again) on the same port and folder and waits until it serves.
    ///
    /// # Errors
    /// It ended or did not serve in time.
    pub fn launch(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "the broker runs already");
        let mut command = self.command()?;
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.dir.path().join("out.log"))?;
        command.current_dir(self.dir.path()).stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log);
        let begin = Instant::now();
        self.process = Some(Process::start(&mut command)?);
        let limit = Duration::from_secs(if self.kind == Kind::Kafka { 60 } else { 20 });
        let ready = wait::until("the broker's first answer", limit, || {
            ensure!(self.raw()?.brokers()? == 1, "no broker in the metadata");
            Ok(Some(()))
        });
        if let Err(e) = ready {
            bail!("{e:#}\n--- end of its log\n{}", self.log_tail());
        }
        self.start_time = begin.elapsed();
        Ok(())
    }

    /// SIGTERM, then waits for exit code 0; returns how long it took.
    ///
    /// # Errors
    /// Another exit code (Kafka's JVM says 143), or not within `limit`.
    pub fn stop(&mut self, limit: Duration) -> Result<Duration> {
        let kind = self.kind;
        let mut process = self.process.take().context("the broker is not started")?;
        let begin = Instant::now();
        process.terminate()?;
        let status = process.wait(limit)?;
        let clean = status.code() == Some(if kind == Kind::Kafka { 143 } else { 0 });
        ensure!(clean, "SIGTERM ended with {status}\n{}", self.log_tail());
        Ok(begin.elapsed())
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// The end of what the broker wrote to its streams.
    pub fn log_tail(&self) -> String {
        let text = std::fs::read(self.dir.path().join("out.log")).unwrap_or_default();
        let from = text.len().saturating_sub(4_000);
        String::from_utf8_lossy(text.get(from..).unwrap_or_default()).into_owned()
    }

    /// The files of a topic's partitions with this extension, sorted.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn segment_files(&self, topic: &str, extension: &str) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(self.log_dir())? {
            let dir = entry?.path();
            if partition_of(&dir) != Some(topic) {
                continue;
            }
            for file in std::fs::read_dir(&dir)? {
                let file = file?.path();
                if file.extension().is_some_and(|e| e == extension) {
                    found.push(file);
                }
            }
        }
        found.sort();
        Ok(found)
    }
}

/// The topic in the name of a partition's folder.
fn partition_of(dir: &Path) -> Option<&str> {
    let (topic, number) = dir.file_name()?.to_str()?.rsplit_once('-')?;
    number.parse::<u32>().ok().map(|_| topic)
}
