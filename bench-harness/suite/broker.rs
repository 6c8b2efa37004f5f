//! What is measured: Flumen, Kafka, or a probe that stands in for both; started and stopped.

use std::ffi::OsString;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::process::{Managed, Stop};

/// Longest start of a broker.
const START_MAX: Duration = Duration::from_secs(120);
/// Longest clean stop.
const STOP_MAX: Duration = Duration::from_secs(60);
/// Any fixed id: both brokers format their directory with it.
const CLUSTER_ID: &str = "4L6g3nShT-eMCtK--X86sw";

/// Which program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum System {
    /// This repository's broker
    Flumen,
    /// Apache Kafka 4.3.1
    Kafka,
    /// A bare program that moves the same bytes
    Limit,
    /// Somebody's broker at an address: neither started nor stopped
    Remote,
}

impl System {
    /// Its name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flumen => "flumen",
            Self::Kafka => "kafka",
            Self::Limit => "limit",
            Self::Remote => "remote",
        }
    }
}

/// A system with settings of its own: one column of a comparison.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Variant {
    /// Its name in files and tables.
    pub name: String,
    /// The program.
    pub system: System,
    /// Broker settings besides those that all share.
    pub config: Vec<(String, String)>,
}

/// Where the programs are and how they run.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The `flumen` binary.
    pub flumen: PathBuf,
    /// Kafka's jars: `kafka/libs` and `kafka/driver` below it.
    pub deps: PathBuf,
    /// This program.
    pub harness: PathBuf,
    /// Listeners: this port, and the next for Kafka's controller.
    pub port: u16,
    /// CPUs of the broker, as `taskset` takes them.
    pub broker_cpu: usize,
    /// CPU of the client.
    pub client_cpu: usize,
    /// Where output and properties go.
    pub logs: PathBuf,
}

/// JVM flags: Kafka's own of its start script with a heap of 1 GiB.
pub const JVM: &[&str] = &[
    "-Xms1g",
    "-Xmx1g",
    "-server",
    "-XX:+UseG1GC",
    "-XX:MaxGCPauseMillis=20",
    "-XX:InitiatingHeapOccupancyPercent=35",
    "-XX:+ExplicitGCInvokesConcurrent",
];

/// A running one.
#[derive(Debug)]
pub struct Broker {
    process: Option<Managed>,
    /// host:port.
    pub address: String,
    /// When its process began.
    pub begun: Instant,
    /// When it accepted the first connection.
    pub listening: Duration,
}

impl Programs {
    /// host:port of a broker that runs here.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The properties of both brokers: the same retention keeps the directory small.
    pub fn properties(&self, variant: &Variant, data: &Path) -> String {
        let (port, controller) = (self.port, self.port + 1);
        let mut text = format!(
            "process.roles=broker,controller\n\
             node.id=1\n\
             controller.quorum.voters=1@127.0.0.1:{controller}\n\
             listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
             controller.listener.names=CONTROLLER\n\
             listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT\n\
             log.dirs={}\n\
             offsets.topic.replication.factor=1\n\
             log.retention.check.interval.ms=1000\n\
             log.segment.delete.delay.ms=0\n\
             log.initial.task.delay.ms=1000\n",
            data.display()
        );
        for (key, value) in &variant.config {
            text += &format!("{key}={value}\n");
        }
        text
    }

    /// Formats `data` for a broker.
    ///
    /// # Errors
    /// Its storage tool failed.
    pub fn format(&self, variant: &Variant, data: &Path) -> Result<()> {
        let file = self.properties_file(variant);
        fs::write(&file, self.properties(variant, data))?;
        let mut command = match variant.system {
            System::Flumen => vec![self.flumen.clone().into_os_string(), "storage".into()],
            System::Kafka => {
                let mut java = self.java();
                java.push("kafka.tools.StorageTool".into());
                java
            }
            System::Limit | System::Remote => return Ok(()),
        };
        command.extend(["format".into(), "-t".into(), CLUSTER_ID.into(), "-c".into()]);
        command.push(file.into_os_string());
        let (program, args) = command.split_first().context("a command")?;
        let out = Command::new(program).args(args).output();
        let out = out.with_context(|| program.to_string_lossy().into_owned())?;
        ensure!(
            out.status.success(),
            "formatting for {}: {}{}",
            variant.name,
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        );
        Ok(())
    }

    fn properties_file(&self, variant: &Variant) -> PathBuf {
        self.logs.join(format!("{}.properties", variant.name))
    }

    fn java(&self) -> Vec<OsString> {
        let kafka = self.deps.join("kafka");
        let mut class_path = kafka.join("driver").into_os_string();
        class_path.push(":");
        class_path.push(kafka.join("libs"));
        class_path.push("/*");
        let mut all: Vec<OsString> = vec!["java".into()];
        all.extend(JVM.iter().map(OsString::from));
        all.extend(["-cp".into(), class_path]);
        all
    }

    /// Starts a broker on a formatted directory and waits until it listens.
    ///
    /// # Errors
    /// The port is in use, the broker ended, or it does not listen in time.
    pub fn start(&self, variant: &Variant, cpus: &str, stop: &Stop) -> Result<Broker> {
        let file = self.properties_file(variant).into_os_string();
        let command = match variant.system {
            System::Flumen => vec![
                self.flumen.clone().into_os_string(),
                "start".into(),
                "--config".into(),
                file,
            ],
            System::Kafka => {
                let mut java = self.java();
                java.extend(["kafka.Kafka".into(), file]);
                java
            }
            System::Limit | System::Remote => bail!("{} is no broker to start", variant.name),
        };
        self.listen(&variant.name, cpus, &command, stop)
    }

    /// Starts a probe that stands in for a broker.
    ///
    /// # Errors
    /// As [`Programs::start`].
    pub fn start_probe(&self, kind: &str, dir: &Path, stop: &Stop) -> Result<Broker> {
        let mut command: Vec<OsString> = vec![self.harness.clone().into_os_string()];
        let address = self.address();
        command.extend(["limit", "--kind", kind, "--listen", &address, "--dir"].map(Into::into));
        command.push(dir.into());
        let name = format!("limit-{kind}");
        self.listen(&name, &self.broker_cpu.to_string(), &command, stop)
    }

    fn listen(&self, name: &str, cpus: &str, command: &[OsString], stop: &Stop) -> Result<Broker> {
        let address: SocketAddr = self.address().parse()?;
        ensure!(
            TcpStream::connect(address).is_err(),
            "port {} is in use: see --port",
            self.port
        );
        let log = self.logs.join(format!("{name}.log"));
        let begun = Instant::now();
        let mut process = Managed::spawn(name, cpus, command, &log)?;
        while TcpStream::connect(address).is_err() {
            process.ensure_running()?;
            ensure!(
                begun.elapsed() < START_MAX,
                "{name} does not listen after {START_MAX:?}:\n{}",
                process.tail()
            );
            stop.check()?;
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(Broker {
            process: Some(process),
            address: self.address(),
            begun,
            listening: begun.elapsed(),
        })
    }
}

impl Broker {
    /// One that runs elsewhere.
    pub fn remote(address: &str) -> Self {
        Self {
            process: None,
            address: address.to_owned(),
            begun: Instant::now(),
            listening: Duration::ZERO,
        }
    }

    /// Its process id, when it runs here.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Managed::pid)
    }

    /// `/proc/PID/autogroup`: its session's weight.
    pub fn autogroup(&self) -> String {
        let path = self.pid().map(|pid| format!("/proc/{pid}/autogroup"));
        let text = path.and_then(|p| fs::read_to_string(p).ok());
        text.map_or_else(|| "unknown".to_owned(), |t| t.trim().to_owned())
    }

    /// # Errors
    /// It ended by itself.
    pub fn ensure_running(&mut self) -> Result<()> {
        self.process
            .as_mut()
            .map_or(Ok(()), Managed::ensure_running)
    }

    /// Stops it; returns whether it ended by itself when asked.
    pub fn stop(mut self) -> bool {
        self.process.as_mut().is_none_or(|p| p.stop(STOP_MAX))
    }

    /// Ends it at once: a probe has nothing to keep.
    pub fn kill(mut self) {
        self.process.take();
    }
}
