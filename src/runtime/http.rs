//! The metrics and health endpoint: HTTP/1.1 GET on a port and a thread of its own, one short
//! request at a time.

use crate::jobs::HelperCpus;
use crate::shared::{Control, Shared};
use crate::sys;
use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A request line and headers longer than this are refused.
const REQUEST_BYTES_MAX: usize = 8 << 10;
/// For a client to send its request or take the answer.
const CLIENT_MAX: Duration = Duration::from_secs(2);
/// For all shards to answer.
const SHARDS_MAX: Duration = Duration::from_secs(2);

/// The running endpoint.
pub(crate) struct Endpoint {
    address: SocketAddr,
    ended: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Endpoint {
    /// Serves on the listener.
    pub(crate) fn start(
        listener: TcpListener,
        shared: Arc<Shared>,
        cpus: Arc<HelperCpus>,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let ended = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&ended);
        let serve = move || {
            cpus.pin_current();
            while let Ok((client, _)) = listener.accept() {
                if is_over.load(Ordering::SeqCst) {
                    return;
                }
                let _ = answer(client, &shared); // its own trouble
            }
        };
        let thread = std::thread::Builder::new()
            .name("flumen-http".to_owned())
            .stack_size(256 << 10)
            .spawn(serve)?;
        Ok(Self {
            address,
            ended,
            thread,
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends the thread.
    pub(crate) fn stop(self) {
        self.ended.store(true, Ordering::SeqCst);
        let mut address = self.address;
        if address.ip().is_unspecified() {
            address.set_ip(match address {
                SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            });
        }
        // A connection of our own makes accept return.
        if TcpStream::connect_timeout(&address, CLIENT_MAX).is_ok() {
            let _ = self.thread.join();
        }
    }
}

fn answer(mut client: TcpStream, shared: &Shared) -> io::Result<()> {
    client.set_read_timeout(Some(CLIENT_MAX))?;
    client.set_write_timeout(Some(CLIENT_MAX))?;
    let request = read_request(&mut client)?;
    let mut words = request.split(|&b| b == b' ' || b == b'\r');
    let (method, target) = (words.next().unwrap_or(b""), words.next().unwrap_or(b""));
    let path = target.split(|&b| b == b'?').next().unwrap_or(b"");
    let (status, body) = match (method, path) {
        (b"GET" | b"HEAD", b"/metrics") => match metrics(shared) {
            Some(text) => ("200 OK", text),
            None => (
                "503 Service Unavailable",
                "a shard does not answer\n".to_owned(),
            ),
        },
        (b"GET" | b"HEAD", b"/healthz") => ("200 OK", "ok\n".to_owned()),
        (b"GET" | b"HEAD", b"/readyz") if shared.all_ready() => ("200 OK", "ready\n".to_owned()),
        (b"GET" | b"HEAD", b"/readyz") => ("503 Service Unavailable", "starting\n".to_owned()),
        (b"GET" | b"HEAD", _) => ("404 Not Found", "not found\n".to_owned()),
        _ => ("405 Method Not Allowed", "only GET\n".to_owned()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    client.write_all(head.as_bytes())?;
    if method == b"GET" {
        client.write_all(body.as_bytes())?;
    }
    client.flush()
}

fn read_request(client: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut request = Vec::new();
    let mut part = [0u8; 1024];
    let end = Instant::now() + CLIENT_MAX;
    while !request.windows(4).any(|w| w == b"\r\n\r\n") {
        let n = client.read(&mut part)?;
        if n == 0 || request.len() + n > REQUEST_BYTES_MAX || Instant::now() > end {
            return Err(io::ErrorKind::InvalidData.into());
        }
        request.extend_from_slice(part.get(..n).unwrap_or(&[]));
    }
    Ok(request)
}

/// The text of all shards and of the process; `None` if a shard does not answer in time.
pub(crate) fn metrics(shared: &Shared) -> Option<String> {
    let (sender, receiver) = channel();
    for shard in &shared.shards {
        shard.send(Control::Metrics(sender.clone()));
    }
    drop(sender);
    let end = Instant::now() + SHARDS_MAX;
    let mut texts = Vec::new();
    while texts.len() < shared.shards.len() {
        let left = end.saturating_duration_since(Instant::now());
        texts.push(receiver.recv_timeout(left).ok()?);
    }
    texts.sort_by_key(|(shard, _)| *shard);
    let mut texts: Vec<String> = texts.into_iter().map(|(_, text)| text).collect();
    texts.push(process_metrics());
    Some(merge(&texts))
}

/// Joins texts so that every metric has its HELP and TYPE once and its samples in one group, as the
/// format demands.
fn merge(texts: &[String]) -> String {
    let mut names: Vec<&str> = Vec::new();
    let mut groups: std::collections::BTreeMap<&str, (Vec<&str>, Vec<&str>)> =
        std::collections::BTreeMap::new();
    for text in texts {
        let mut current = "";
        for line in text.lines().filter(|line| !line.is_empty()) {
            let comment = line
                .strip_prefix("# HELP ")
                .or_else(|| line.strip_prefix("# TYPE "));
            if let Some(rest) = comment {
                current = rest.split(' ').next().unwrap_or("");
            } else if !belongs(line, current) {
                current = line.split(['{', ' ']).next().unwrap_or("");
            }
            let group = groups.entry(current).or_insert_with(|| {
                names.push(current);
                (Vec::new(), Vec::new())
            });
            if comment.is_none() {
                group.1.push(line);
            } else if !group.0.iter().any(|&old| old.get(..7) == line.get(..7)) {
                group.0.push(line);
            }
        }
    }
    let mut out = String::new();
    for name in names {
        if let Some((comments, samples)) = groups.get(name) {
            for line in comments.iter().chain(samples) {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    out
}

/// Whether a sample is of this metric: its name, or with the suffix of a histogram or summary.
fn belongs(line: &str, name: &str) -> bool {
    let rest = match line.strip_prefix(name) {
        Some(rest) if !name.is_empty() => rest,
        _ => return false,
    };
    let suffix = rest.split(['{', ' ']).next().unwrap_or("");
    matches!(suffix, "" | "_bucket" | "_sum" | "_count")
}

fn process_metrics() -> String {
    let (cpu, _) = sys::usage();
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok())
        .unwrap_or(0);
    let fds = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let mut text = String::new();
    for (name, kind, help, value) in [
        (
            "process_cpu_seconds_total",
            "counter",
            "CPU time in seconds.",
            cpu,
        ),
        (
            "process_resident_memory_bytes",
            "gauge",
            "Resident memory in bytes.",
            (pages * 4096) as f64,
        ),
        (
            "process_open_fds",
            "gauge",
            "Open file descriptors.",
            fds as f64,
        ),
    ] {
        let _ = writeln!(
            text,
            "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::merge;

    #[test]
    fn texts_of_shards_are_grouped_by_metric() {
        let shard = |i: u32| {
            format!(
                "# HELP a what\n# TYPE a counter\na{{shard=\"{i}\"}} 1\n# HELP h x\n# TYPE h \
                 histogram\nh_bucket{{shard=\"{i}\"}} 2\nh_count{{shard=\"{i}\"}} 3\n"
            )
        };
        assert_eq!(
            merge(&[shard(0), shard(1), "bare 7\n".to_owned()]),
            "# HELP a what\n# TYPE a counter\na{shard=\"0\"} 1\na{shard=\"1\"} 1\n# HELP h x\n# TYPE \
             h histogram\nh_bucket{shard=\"0\"} 2\nh_count{shard=\"0\"} 3\nh_bucket{shard=\"1\"} \
             2\nh_count{shard=\"1\"} 3\nbare 7\n"
        );
    }
}
