//! Kafka's own command-line tools, run in one warm JVM (`tests/clients/java/Tools.java`), and the
//! result of any program.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::deps;
use crate::process::Process;

/// The exit code of a tool that did not end in time.
const TIMED_OUT: i32 = 124;

/// How a program ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// The command, for messages.
    pub what: String,
    /// Exit code; -1 after a signal.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Output {
    /// Requires exit code 0.
    ///
    /// # Errors
    /// Another code; the message carries both streams.
    pub fn ok(self) -> Result<Self> {
        ensure!(self.code == 0, "{self}");
        Ok(self)
    }

    /// Requires an exit code other than 0 and `text` somewhere in the output.
    ///
    /// # Errors
    /// It succeeded, or said something else.
    pub fn fails_with(self, text: &str) -> Result<Self> {
        ensure!(
            self.code != 0 && self.code != TIMED_OUT,
            "should have failed: {self}"
        );
        ensure!(
            self.out.contains(text) || self.err.contains(text),
            "no {text:?} in {self}"
        );
        Ok(self)
    }

    /// Requires `text` in standard output.
    ///
    /// # Errors
    /// It is not there.
    pub fn has(self, text: &str) -> Result<Self> {
        ensure!(self.out.contains(text), "no {text:?} in {self}");
        Ok(self)
    }

    /// Requires `text` in either stream, whatever the exit code: some tools report a failure and
    /// end with 0.
    ///
    /// # Errors
    /// It is not there.
    pub fn says(self, text: &str) -> Result<Self> {
        ensure!(
            self.out.contains(text) || self.err.contains(text),
            "no {text:?} in {self}"
        );
        Ok(self)
    }

    /// The lines of standard output, trimmed, without empty ones.
    pub fn lines(&self) -> Vec<&str> {
        self.out
            .lines()
            .map(str::trim)
            .filter(|l| !l.is_empty())
            .collect()
    }

    /// The first line of standard output that starts with `start`, split at white space.
    ///
    /// # Errors
    /// There is no such line.
    pub fn row(&self, start: &[&str]) -> Result<Vec<&str>> {
        self.lines()
            .into_iter()
            .map(|l| l.split_whitespace().collect::<Vec<_>>())
            .find(|cells| cells.starts_with(start))
            .with_context(|| format!("no row {start:?} in {self}"))
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            what,
            code,
            out,
            err,
        } = self;
        write!(
            f,
            "{what}: exit code {code}\n--- stdout\n{out}\n--- stderr\n{err}"
        )
    }
}

/// The JVM that runs tools, one at a time.
struct Jvm {
    _process: Process,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

static JVM: Mutex<Option<Jvm>> = Mutex::new(None);

impl Jvm {
    fn start() -> Result<Self> {
        let kafka = deps::dir()?.join("kafka");
        let mut path = vec![kafka.join("driver")];
        let mut tools_jar = None;
        for entry in std::fs::read_dir(kafka.join("libs"))? {
            let jar = entry?.path();
            let name = jar
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if name.starts_with("kafka-tools-") && !name.contains("api") {
                tools_jar = Some(jar);
            } else {
                path.push(jar);
            }
        }
        let mut command = Command::new("java");
        command.args([
            "-Xmx300m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-Xshare:auto",
        ]);
        command
            .arg("-cp")
            .arg(std::env::join_paths(path)?)
            .arg("Tools");
        command.arg(tools_jar.context("no kafka-tools jar")?);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Process::start(&mut command)?;
        let requests = process.child().stdin.take().context("stdin")?;
        let answers = BufReader::new(process.child().stdout.take().context("stdout")?);
        Ok(Self {
            _process: process,
            requests,
            answers,
        })
    }

    fn run(&mut self, class: &str, stdin: &[u8], args: &[&str]) -> Result<Output> {
        let mut line = format!("60000\t{class}\t{}", hex(stdin));
        for arg in args {
            line.push('\t');
            line.push_str(&hex(arg.as_bytes()));
        }
        line.push('\n');
        self.requests.write_all(line.as_bytes())?;
        self.requests.flush()?;
        let mut head = String::new();
        self.answers.read_line(&mut head)?;
        let numbers: Vec<i64> = head
            .split_whitespace()
            .filter_map(|n| n.parse().ok())
            .collect();
        let [code, out_len, err_len] = numbers[..] else {
            bail!("the JVM of the tools answered {head:?} to {class} {args:?}");
        };
        let mut read = |len: i64| -> Result<String> {
            let mut text = vec![0; usize::try_from(len)?];
            self.answers.read_exact(&mut text)?;
            Ok(String::from_utf8_lossy(&text).into_owned())
        };
        let (out, err) = (read(out_len)?, read(err_len)?);
        Ok(Output {
            what: format!("{class} {args:?}"),
            code: i32::try_from(code)?,
            out,
            err,
        })
    }
}

fn hex(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return String::from("-");
    }
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, b| {
            let _ = write!(text, "{b:02x}");
            text
        })
}

/// The classes behind Kafka's scripts.
pub fn class_of(script: &str) -> &str {
    match script {
        "kafka-topics" => "org.apache.kafka.tools.TopicCommand",
        "kafka-configs" => "kafka.admin.ConfigCommand",
        "kafka-console-producer" => "org.apache.kafka.tools.ConsoleProducer",
        "kafka-console-consumer" => "org.apache.kafka.tools.consumer.ConsoleConsumer",
        "kafka-consumer-groups" => "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
        "kafka-get-offsets" => "org.apache.kafka.tools.GetOffsetShell",
        "kafka-delete-records" => "org.apache.kafka.tools.DeleteRecordsCommand",
        "kafka-broker-api-versions" => "org.apache.kafka.tools.BrokerApiVersionsCommand",
        "kafka-log-dirs" => "org.apache.kafka.tools.LogDirsCommand",
        "kafka-producer-perf-test" => "org.apache.kafka.tools.ProducerPerformance",
        "kafka-consumer-perf-test" => "org.apache.kafka.tools.ConsumerPerformance",
        "kafka-verifiable-producer" => "org.apache.kafka.tools.VerifiableProducer",
        "kafka-verifiable-consumer" => "org.apache.kafka.tools.VerifiableConsumer",
        "kafka-groups" => "org.apache.kafka.tools.GroupsCommand",
        "kafka-share-groups" => "org.apache.kafka.tools.consumer.group.ShareGroupCommand",
        "kafka-streams-groups" => "org.apache.kafka.tools.streams.StreamsGroupCommand",
        "kafka-console-share-consumer" => "org.apache.kafka.tools.consumer.ConsoleShareConsumer",
        "kafka-verifiable-share-consumer" => "org.apache.kafka.tools.VerifiableShareConsumer",
        "kafka-transactions" => "org.apache.kafka.tools.TransactionsCommand",
        "kafka-dump-log" => "org.apache.kafka.tools.DumpLogSegments",
        "kafka-storage" => "kafka.tools.StorageTool",
        other => other,
    }
}

/// Runs one of Kafka's tools (named as its script) with `stdin` and arguments.
///
/// # Errors
/// The JVM is broken. A tool's own failure is in the `Output`; not ending in a minute is an error.
pub fn tool_with(script: &str, stdin: &[u8], args: &[&str]) -> Result<Output> {
    let mut jvm = JVM.lock().unwrap_or_else(PoisonError::into_inner);
    if jvm.is_none() {
        *jvm = Some(Jvm::start()?);
    }
    let running = jvm.as_mut().context("just started")?;
    let result = running.run(class_of(script), stdin, args);
    match &result {
        Ok(output) if output.code != TIMED_OUT => {}
        _ => *jvm = None,
    }
    let output = result?;
    ensure!(output.code != TIMED_OUT, "did not end in time: {output}");
    Ok(output)
}

/// Runs one of Kafka's tools in a JVM of its own: for those that end the process themselves or do
/// their work in its shutdown hooks.
///
/// # Errors
/// It did not end in a minute.
pub fn tool_alone(script: &str, args: &[&str]) -> Result<Output> {
    let kafka = deps::dir()?.join("kafka");
    let mut command = Command::new("java");
    command.args([
        "-Xmx300m",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-Xshare:auto",
    ]);
    command
        .arg("-cp")
        .arg(format!("{0}/driver:{0}/libs/*", kafka.display()));
    command.arg(class_of(script)).args(args);
    crate::process::run(&mut command, b"", Duration::from_secs(60))
}

/// [`tool_with`] without input.
///
/// # Errors
/// As there.
pub fn tool(script: &str, args: &[&str]) -> Result<Output> {
    tool_with(script, b"", args)
}
