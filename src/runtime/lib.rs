//! The only crate that touches the OS: threads and CPUs, io_uring rings, sockets, disk, splice, the
//! mesh between shards, clocks and signals. Level 3.
//!
//! Each shard is a glommio executor whose main task is [`reactor`]'s loop: it collects what has
//! come (completions of the shard's private ring, messages of other shards, commands), steps the
//! synchronous core through it, carries out the effects in one batch, and sleeps in the ring.
//! glommio owns the threads and their placement, the background queue and the blocking pool; it
//! gets a turn only while background work can go on.
//!
//! ```text
//! start.rs    CPUs, listeners, executors, signals          shared.rs  what threads share
//! reactor.rs  the loop                                     mesh.rs    queues between shards
//! net.rs      connections: accept, receive, close          framing.rs bytes -> frames
//! send.rs     responses: sendmsg, read, splice             splice.rs  pipes
//! disk.rs     log writes, syncs, reads                     jobs.rs    jobs on glommio's pool
//! ring.rs     the ring and its operations (unsafe)         sys.rs     system calls (unsafe)
//! http.rs     metrics and health                           probe.rs   what the kernel must have
//! direct.rs   log writes with O_DIRECT                      logfile.rs  the open file of a log
//! writeback.rs  whether the kernel's write-back is behind   files.rs  how many log files are open
//! pace.rs     how fast writes enter the page cache then    spread.rs where directories are made
//! ```
//! What must not be here: anything that knows Kafka's protocol beyond the 4-byte size of a frame.

mod clock;
mod config;
mod core;
mod direct;
mod disk;
mod files;
mod framing;
mod fsdisk;
mod http;
mod jobs;
mod logfile;
mod mapped;
mod mesh;
mod net;
mod pace;
mod probe;
mod reactor;
mod receive;
mod ring;
mod sched;
mod send;
mod shared;
mod slices;
mod splice;
mod spread;
mod start;
mod sys;
mod turns;
mod writeback;

pub use self::core::{In, Out, ShardCore};
pub use clock::OsClock;
pub use config::{Listen, RuntimeConfig, ShardStart, WriteStrategy};
pub use framing::FrameError;
pub use fsdisk::FsDisk;
pub use probe::{ProbeError, probe};
pub use spread::spread_directories;
pub use start::{Prepared, Running, RuntimeError, Stopper, prepare, run, start};
