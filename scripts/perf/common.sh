# Shared by the scripts of this directory: options, a broker, a load, and their end.
# shellcheck shell=bash disable=SC2034 # what is set here is used by those that source it
set -euo pipefail
ME=$(basename "$0" .sh)
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
TARGET=${CARGO_TARGET_DIR:-$HERE/target}
SECONDS_EACH=5 LOAD=16k SHARD=0 SHARDS=1 OUT='' DATA='' PORT=${FLUMEN_PERF_PORT:-29292}
UNDER=() PIDS=() BROKER='' CLIENT='' MADE=''

usage() {
  sed -n '2,/^[^#]/{/shellcheck/d;s/^# \{0,1\}//p}' "$0"
  cat <<'U'

Options of every script:
  --out DIR       where the result goes (/tmp/flumen-perf-<time>)
  --seconds N     how long to look (5)
  --load NAME     tiny: 1 x 100 B; 16k (default), 64k, 8x16k: produce; fetch64k: catch-up reads;
                  lat16k: 3,000 x 16 KiB per second; e2e1k: 1,000 x 1 KiB per second with a waiting
                  consumer; fanout100: 100 of those; idle: none
  --shards N      shards of the broker that is started (1)
  --shard N       the shard to look at (0); requests are always those of the whole broker
Environment:
  FLUMEN_PID      look at this broker and start none; FLUMEN_BOOTSTRAP is its address
  FLUMEN_DIR      where a started broker keeps its data (/dev/shm)
  FLUMEN_BIN      the broker to start, instead of building one with frame pointers
  FLUMEN_HARNESS  the bench-harness to use, instead of building it
U
}

die() { echo "$ME: $*" >&2; exit 1; }

# need TOOL PACKAGE
need() {
  command -v "$1" >/dev/null || die "$1 is missing; Debian: apt-get install $2"
}

need_perf() {
  need perf linux-perf
  local paranoid
  paranoid=$(cat /proc/sys/kernel/perf_event_paranoid 2>/dev/null || echo 4)
  if [ "$(id -u)" != 0 ] && [ "$paranoid" -gt "$1" ]; then
    die "needs root or: sysctl kernel.perf_event_paranoid=$1 (it is $paranoid)"
  fi
  if [ "$(id -u)" != 0 ] && [ "$(cat /proc/sys/kernel/kptr_restrict)" != 0 ]; then
    echo "$ME: names of kernel functions need: sysctl kernel.kptr_restrict=0" >&2
  fi
}

# Tracepoints are described by files that only root can read.
need_tracepoints() {
  need_perf -1
  if ! [ -r /sys/kernel/tracing/events/sched ]; then
    [ "$(id -u)" = 0 ] || die "tracepoints need root (or a readable /sys/kernel/tracing)"
    mount -t tracefs nodev /sys/kernel/tracing || die "no tracefs: no tracepoints in this kernel"
  fi
}

options() {
  while [ $# -gt 0 ]; do
    case $1 in
      -h | --help) usage; exit 0 ;;
      --out) OUT=$2; shift ;;
      --seconds) SECONDS_EACH=$2; shift ;;
      --load) LOAD=$2; shift ;;
      --shard) SHARD=$2; shift ;;
      --shards) SHARDS=$2; shift ;;
      *) usage >&2; exit 2 ;;
    esac
    shift
  done
  OUT=${OUT:-/tmp/flumen-perf-$(date +%Y%m%d-%H%M%S)}
  mkdir -p "$OUT"
  OUT=$(cd "$OUT" && pwd)
  WORK=$(mktemp -d "${TMPDIR:-/tmp}/flumen-perf.XXXXXX")
  trap finish EXIT
  trap 'exit 130' INT TERM
}

finish() {
  local pid
  for pid in "${PIDS[@]}"; do kill "$pid" 2>/dev/null || true; done
  if [ -n "$MADE" ]; then
    for _ in $(seq 100); do kill -0 "$BROKER" 2>/dev/null || break; sleep 0.05; done
    kill -9 "$BROKER" 2>/dev/null || true
  fi
  wait 2>/dev/null || true
  [ -z "$DATA" ] || rm -rf "$DATA"
  rm -rf "${WORK:?}"
}

# Builds the client, and the broker with frame pointers: stacks are then cheap and whole.
build() {
  HARNESS=${FLUMEN_HARNESS:-$TARGET/release/bench-harness}
  if [ -z "${FLUMEN_HARNESS:-}" ]; then
    (cd "$HERE" && cargo build -q --release --locked -p flumen-bench-harness --bin bench-harness)
  fi
  FLUMEN=${FLUMEN_BIN:-}
  if [ -z "$FLUMEN" ] && [ -z "${FLUMEN_PID:-}" ]; then
    local flags="-C force-frame-pointers=yes --remap-path-prefix=$HERE/="
    flags+=" --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}/=cargo/"
    FLUMEN=$TARGET/perf/release/flumen
    (cd "$HERE" && CARGO_TARGET_DIR=$TARGET/perf RUSTFLAGS="$flags" \
      cargo build -q --release --locked --bin flumen)
  fi
}

# In a session of its own, with a raised share of the CPU: the scheduler divides time between
# sessions, not between processes.
apart() {
  # shellcheck disable=SC2016
  exec setsid bash -c '(echo -5 >/proc/self/autogroup) 2>/dev/null || true; exec "$@"' apart "$@"
}

# Starts a broker (under the command UNDER) or takes FLUMEN_PID; sets BROKER.
start_broker() {
  build
  if [ -n "${FLUMEN_PID:-}" ]; then
    BROKER=$FLUMEN_PID
    BOOTSTRAP=${FLUMEN_BOOTSTRAP:-127.0.0.1:9092}
  else
    BOOTSTRAP=127.0.0.1:$PORT
    (exec 3<>"/dev/tcp/127.0.0.1/$PORT") 2>/dev/null && die "port $PORT is in use"
    DATA=$(mktemp -d "${FLUMEN_DIR:-/dev/shm}/flumen-perf.XXXXXX")
    local cpus=0
    [ "$SHARDS" = 1 ] || cpus=0-$((SHARDS - 1))
    apart taskset -c "$cpus" "${UNDER[@]}" "$FLUMEN" start --dev \
      --override "listeners=PLAINTEXT://$BOOTSTRAP,CONTROLLER://127.0.0.1:0" \
      --override "controller.quorum.voters=1@127.0.0.1:$((PORT + 1))" \
      --override "log.dirs=$DATA" --override "flumen.shards=$SHARDS" \
      --override log.retention.check.interval.ms=1000 \
      --override log.initial.task.delay.ms=1000 >"$OUT/broker.log" 2>&1 &
    BROKER=$! MADE=1
    PIDS+=("$BROKER")
    local tries=0
    until (exec 3<>"/dev/tcp/127.0.0.1/$PORT") 2>/dev/null; do
      kill -0 "$BROKER" 2>/dev/null || { tail -5 "$OUT/broker.log" >&2; die "the broker ended"; }
      tries=$((tries + 1))
      [ "$tries" -lt 600 ] || die "the broker does not listen"
      sleep 0.1
    done
  fi
}

# Retention and segment size bound what a started broker keeps.
KEEP=(--config retention.bytes=67108864 --config segment.bytes=16777216
  --config file.delete.delay.ms=0)

load_args() {
  case $LOAD in
    tiny) echo produce --record-bytes 100 --batch-bytes 1 ;;
    16k) echo produce --record-bytes 1000 --batch-bytes 16384 ;;
    64k) echo produce --record-bytes 1000 --batch-bytes 65536 ;;
    8x16k) echo produce --record-bytes 1000 --batch-bytes 16384 --partitions-per-request 8 ;;
    lat16k) echo produce --record-bytes 1000 --batch-bytes 16384 --rate 3000 ;;
    e2e1k) echo end-to-end --record-bytes 1024 --rate 1000 --partitions 1 ;;
    fanout100) echo fan-out --batch-bytes 16384 --partitions 1 --rate 100 --consumers 100 ;;
    fetch64k) echo fetch --record-bytes 1000 --batch-bytes 16384 --fetch-bytes 65536 \
      --connections 4 --partitions 4 ;;
    *) die "unknown load $LOAD" ;;
  esac
}

# start_load SECONDS: in the background, on the last CPU; returns when it is warm.
start_load() {
  REPORT=$OUT/load.json
  rm -f "$REPORT"
  [ "$LOAD" != idle ] || return 0
  local text args
  text=$(load_args) || exit 1
  read -ra args <<<"$text"
  apart taskset -c "$(($(nproc) - 1))" "$HARNESS" "${args[@]}" "${KEEP[@]}" \
    --bootstrap-server "$BOOTSTRAP" --topic "perf-$LOAD" \
    --warmup 2 --seconds "$1" --out "$REPORT" >"$OUT/load.txt" 2>&1 &
  CLIENT=$!
  PIDS+=("$CLIENT")
  sleep 2.5
  kill -0 "$CLIENT" 2>/dev/null || { cat "$OUT/load.txt" >&2; die "the load ended early"; }
}

# Waits for the load; sets RATE, its requests per second.
end_load() {
  RATE=0
  [ "$LOAD" != idle ] || return 0
  wait "$CLIENT" || { cat "$OUT/load.txt" >&2; die "the load failed"; }
  RATE=$(sed -n 's/^ *"requests_per_second": *\([0-9.]*\).*/\1/p' "$REPORT" | head -1)
  RATE=${RATE%.*}
  [ -n "$RATE" ] || die "no requests_per_second in $REPORT"
}

# Thread id of the shard that was asked for. A helper has its name too, until it begins to work, and
# a larger id.
shard_thread() {
  local name tid
  name=flumen-shard-$((SHARD + 1))
  tid=$(grep -lx "$name" "/proc/$BROKER/task/"*/comm | cut -d/ -f5 | sort -n | head -1)
  [ -n "$tid" ] || die "process $BROKER has no thread $name"
  echo "$tid"
}

# Takes machine paths out of a text: what is committed must not name directories of one machine.
clean_paths() {
  sed -e "s#$HERE/##g" -e "s#${CARGO_HOME:-$HOME/.cargo}/registry/src/[^/]*/##g" \
    -e "s#${FLUMEN_BIN:-$TARGET/perf/release/flumen}#flumen#g" -e "s#$OUT#OUT#g" \
    -e "s#$WORK#WORK#g" -e "s#$TARGET/##g" -e 's#/rustc/[0-9a-f]*/##g'
}
