//! A worker of Kafka Connect, and what is asked of it over REST.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flumen_it::deps::{self, java};
use flumen_it::{Broker, Output, Program, broker, http, wait};
use serde_json::{Value, json};

use super::{PACE, PATIENCE};

/// A worker's files and settings, and the process while it runs.
pub(super) struct Worker {
    name: &'static str,
    port: u16,
    dir: PathBuf,
    class: &'static str,
    /// What stands behind the class: the worker's file, and in standalone mode the connectors'.
    files: Vec<PathBuf>,
    process: Option<Program>,
}

impl Worker {
    /// A worker that keeps its offsets in a file, with these connectors.
    pub(super) fn standalone(
        broker: &Broker,
        connectors: &[(&str, &[(&str, &str)])],
    ) -> Result<Self> {
        let offsets = broker.scratch("standalone.offsets").display().to_string();
        let settings = [("offset.storage.file.filename", offsets.as_str())];
        let class = "org.apache.kafka.connect.cli.ConnectStandalone";
        let mut worker = Self::new(broker, "standalone", class, &settings)?;
        for (name, config) in connectors {
            let file = broker.scratch(&format!("{name}.properties"));
            let mut text = format!("name={name}\n");
            for (key, value) in *config {
                let _ = writeln!(text, "{key}={value}");
            }
            std::fs::write(&file, text)?;
            worker.files.push(file);
        }
        Ok(worker)
    }

    /// A worker of a group that keeps everything in topics.
    pub(super) fn distributed(broker: &Broker, name: &'static str) -> Result<Self> {
        let settings = [
            ("group.id", "connect"),
            ("config.storage.topic", "connect-configs"),
            ("offset.storage.topic", "connect-offsets"),
            ("status.storage.topic", "connect-status"),
            ("config.storage.replication.factor", "1"),
            ("offset.storage.replication.factor", "1"),
            ("status.storage.replication.factor", "1"),
            ("offset.storage.partitions", "4"),
            ("status.storage.partitions", "2"),
            ("session.timeout.ms", "6000"),
            ("heartbeat.interval.ms", "500"),
            ("scheduled.rebalance.max.delay.ms", "1000"),
        ];
        let class = "org.apache.kafka.connect.cli.ConnectDistributed";
        Self::new(broker, name, class, &settings)
    }

    fn new(
        broker: &Broker,
        name: &'static str,
        class: &'static str,
        settings: &[(&str, &str)],
    ) -> Result<Self> {
        let port = broker::free_port()?;
        let plugins = deps::step("connect-plugins")?;
        let mut text = format!(
            "bootstrap.servers={}\nlisteners=http://127.0.0.1:{port}\nplugin.path={}\n\
             plugin.discovery=service_load\noffset.flush.interval.ms=500\n\
             key.converter=org.apache.kafka.connect.storage.StringConverter\n\
             value.converter=org.apache.kafka.connect.storage.StringConverter\n\
             producer.enable.idempotence=true\nproducer.reconnect.backoff.max.ms=200\n\
             consumer.reconnect.backoff.max.ms=200\nreconnect.backoff.max.ms=200\n\
             consumer.metadata.max.age.ms=2000\n",
            broker.address(),
            plugins.display(),
        );
        for (key, value) in settings {
            let _ = writeln!(text, "{key}={value}");
        }
        let file = broker.scratch(&format!("{name}.worker.properties"));
        std::fs::write(&file, text)?;
        Ok(Self {
            name,
            port,
            dir: broker.scratch(""),
            class,
            files: vec![file],
            process: None,
        })
    }

    /// Adds a setting of the worker.
    pub(super) fn set(&self, key: &str, value: &str) -> Result<()> {
        let file = self.files.first().context("the worker's file")?;
        let mut text = std::fs::read_to_string(file)?;
        let _ = writeln!(text, "{key}={value}");
        Ok(std::fs::write(file, text)?)
    }

    /// Starts the process and waits until it answers.
    pub(super) fn start(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "the worker runs already");
        let mut command = java(400, &["kafka/driver", "kafka/libs/*"], &[], self.class)?;
        command.args(&self.files).current_dir(&self.dir);
        let mut process = Program::start(&self.dir, self.name, &mut command)?;
        let ready = wait::every(PACE, "the worker's REST", PATIENCE, || {
            ensure!(process.alive(), "the worker ended");
            let list = self.get("/connectors")?;
            Ok(list.is_array().then_some(()))
        });
        ready.with_context(|| process.tail())?;
        self.process = Some(process);
        Ok(())
    }

    /// SIGTERM, and waits for its end.
    pub(super) fn stop(&mut self) -> Result<Output> {
        let process = self.process.take().context("the worker does not run")?;
        process.stop(PATIENCE)
    }

    /// SIGKILL.
    pub(super) fn kill(&mut self) {
        self.process = None;
    }

    /// The ends of its streams.
    pub(super) fn tail(&self) -> String {
        let tail = self.process.as_ref().map(Program::tail);
        tail.unwrap_or_default()
    }

    /// One request.
    pub(super) fn rest(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        http::json(&format!("127.0.0.1:{}", self.port), method, path, body)
    }

    /// A GET.
    pub(super) fn get(&self, path: &str) -> Result<Value> {
        self.rest("GET", path, None)
    }

    /// A request that a worker refuses while its group rebalances is asked again.
    pub(super) fn patient(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        let limit = Duration::from_secs(60);
        wait::every(PACE, &format!("{method} {path}"), limit, || {
            self.rest(method, path, body).map(Some)
        })
        .with_context(|| self.tail())
    }

    /// Creates a connector.
    pub(super) fn create(&self, name: &str, config: &[(&str, &str)]) -> Result<()> {
        let config: serde_json::Map<String, Value> = config
            .iter()
            .map(|(k, v)| ((*k).to_owned(), Value::from(*v)))
            .collect();
        let body = json!({"name": name, "config": config});
        let (address, path) = (format!("127.0.0.1:{}", self.port), "/connectors");
        wait::every(PACE, "the connector", Duration::from_secs(60), || {
            let (status, text) = http::call(&address, "POST", path, Some(&body))?;
            // 409 says that the worker's group rebalances, or that it was created after all.
            let there = || self.get(&format!("/connectors/{name}")).is_ok();
            let done = status == 201 || (status == 409 && there());
            ensure!(done || status == 409 || status == 500, "{status} {text}");
            Ok(done.then_some(()))
        })
        .with_context(|| self.tail())
    }

    /// Waits until a connector and each of its tasks, one at least, are in this state.
    pub(super) fn await_state(&self, name: &str, state: &str) -> Result<()> {
        let what = format!("{name} {state}");
        wait::every(PACE, &what, PATIENCE, || {
            let status = self.get(&format!("/connectors/{name}/status"))?;
            let tasks = status["tasks"].as_array().cloned().unwrap_or_default();
            let fits = |v: &Value| v["state"] == state;
            let all = fits(&status["connector"]) && !tasks.is_empty() && tasks.iter().all(fits);
            ensure!(all, "{status}");
            Ok(Some(()))
        })
        .with_context(|| self.tail())
    }
}
