//! What the kernel and the limits must give, checked once at start, with messages that say what to
//! do.

use crate::sys;
use io_uring::{IoUring, Probe, opcode};
use std::io;

/// Memory that glommio registers per ring, its smallest: the shards do their I/O on rings of their
/// own.
pub(crate) const GLOMMIO_IO_BYTES: usize = 64 << 10;
/// Rings of a glommio executor that register it.
const GLOMMIO_RINGS: u64 = 3;
/// The least that glommio itself asks for.
const MEMLOCK_MIN: u64 = 512 << 10;

/// Why the runtime can't work here.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// io_uring is missing or forbidden.
    #[error("{0}")]
    Ring(String),
    /// The kernel's io_uring lacks something.
    #[error(
        "this kernel's io_uring lacks {missing}: Linux 6.1 or newer is needed, this is {kernel}"
    )]
    Feature {
        /// What is missing.
        missing: String,
        /// `uname -r`.
        kernel: String,
    },
    /// RLIMIT_MEMLOCK is too small.
    #[error(
        "the limit of locked memory (RLIMIT_MEMLOCK) is {limit} bytes, and {shards} shard(s) need \
         {needed}: raise it with `ulimit -l {kib}`, LimitMEMLOCK= in a systemd unit, or --ulimit \
         memlock={needed} for a container, or lower flumen.shards"
    )]
    Memlock {
        /// The limit in bytes.
        limit: u64,
        /// What is needed in bytes.
        needed: u64,
        /// The same in KiB, as `ulimit` takes it.
        kib: u64,
        /// Number of shards.
        shards: u16,
    },
}

fn kernel() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

/// What a failure to make a ring means for the user.
pub(crate) fn ring_error(e: &io::Error) -> String {
    let kernel = kernel();
    match e.raw_os_error() {
        Some(libc::ENOSYS) => {
            format!("this kernel ({kernel}) has no io_uring: Linux 6.1 or newer is needed")
        }
        Some(libc::EPERM | libc::EACCES) => "io_uring is forbidden here: allow it with `sysctl -w \
             kernel.io_uring_disabled=0`, or, in a container, with a seccomp profile that permits \
             io_uring_setup, io_uring_enter and io_uring_register"
            .to_owned(),
        Some(libc::EINVAL) => format!(
            "this kernel ({kernel}) lacks io_uring's SINGLE_ISSUER or DEFER_TASKRUN: Linux 6.1 or \
             newer is needed"
        ),
        Some(libc::ENOMEM) => {
            "not enough memory for an io_uring ring: raise RLIMIT_MEMLOCK (`ulimit -l`)".to_owned()
        }
        Some(libc::EMFILE | libc::ENFILE) => {
            "no file descriptor left for an io_uring ring: raise RLIMIT_NOFILE (`ulimit -n`)"
                .to_owned()
        }
        _ => format!("io_uring_setup failed: {e}"),
    }
}

/// Checks all that `shards` shards need.
pub fn probe(shards: u16) -> Result<(), ProbeError> {
    let ring_failure = |e: io::Error| ProbeError::Ring(ring_error(&e));
    let ring: IoUring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .build(8)
        .map_err(ring_failure)?;
    let lacks = |missing: &str| {
        Err(ProbeError::Feature {
            missing: missing.to_owned(),
            kernel: kernel(),
        })
    };
    let params = ring.params();
    if !params.is_feature_ext_arg() {
        return lacks("timeouts in io_uring_enter (EXT_ARG)");
    }
    if !params.is_feature_nodrop() || !params.is_feature_submit_stable() {
        return lacks("NODROP or SUBMIT_STABLE");
    }
    if !params.is_feature_fast_poll() || !params.is_feature_skip_cqe_on_success() {
        return lacks("FAST_POLL or CQE_SKIP");
    }
    let mut probe = Probe::new();
    ring.submitter()
        .register_probe(&mut probe)
        .map_err(ring_failure)?;
    let needed = [
        ("RECV", opcode::Recv::CODE),
        ("SENDMSG", opcode::SendMsg::CODE),
        ("ACCEPT", opcode::Accept::CODE),
        ("POLL_ADD", opcode::PollAdd::CODE),
        ("READ", opcode::Read::CODE),
        ("WRITEV", opcode::Writev::CODE),
        ("FSYNC", opcode::Fsync::CODE),
        ("SPLICE", opcode::Splice::CODE),
        ("MSG_RING", opcode::MsgRingData::CODE),
    ];
    for (name, code) in needed {
        if !probe.is_supported(code) {
            return lacks(&format!("the operation {name}"));
        }
    }
    check_memlock(sys::memlock_limit().map_err(ring_failure)?, shards)
}

fn check_memlock(limit: u64, shards: u16) -> Result<(), ProbeError> {
    let needed = (u64::from(shards) * GLOMMIO_RINGS * GLOMMIO_IO_BYTES as u64).max(MEMLOCK_MIN);
    if limit < needed {
        return Err(ProbeError::Memlock {
            limit,
            needed,
            kib: needed.div_ceil(1024),
            shards,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_passes() {
        probe(4).unwrap();
    }

    #[test]
    fn a_small_memlock_limit_is_named_with_the_cure() {
        let text = check_memlock(64 << 10, 1).unwrap_err().to_string();
        assert!(
            text.contains("65536 bytes") && text.contains("ulimit -l 512"),
            "{text}"
        );
        assert!(check_memlock(8 << 20, 4).is_ok());
        assert!(check_memlock(8 << 20, 64).is_err());
    }
}
