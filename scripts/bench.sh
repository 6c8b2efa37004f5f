#!/usr/bin/env bash
# Flumen beside Apache Kafka on the same CPU, in turn: scripts/bench.sh [--quick] [options]
#   --quick            four workloads, short: about three minutes
#   --rounds N         alternating rounds (3)
#   --seconds S        measured seconds per workload (5; quick 3)
#   --dir DIR          where the brokers' data goes (default: a tmpfs of 6 GiB when root, else /dev/shm)
#   --only FILTER      workloads whose name matches this regular expression
#   --brokers "LIST"   of: flumen kafka (default both)
# Broker on CPU 0, client on CPU 1, each in a session of its own with a raised autogroup: otherwise
# the scheduler shares time between sessions and not between processes. Results go to
# perf-results/<date>-<commit>-<scenario>/, the table to perf-results/README.md.
set -euo pipefail
export RUST_BACKTRACE=0
HERE=$(cd "$(dirname "$0")/.." && pwd)
ROUNDS=3 SECONDS_EACH=5 QUICK= DIR= ONLY=. BROKERS="kafka flumen"
while [ $# -gt 0 ]; do
  case $1 in
    --quick) QUICK=1; SECONDS_EACH=3 ;;
    --rounds) ROUNDS=$2; shift ;;
    --seconds) SECONDS_EACH=$2; shift ;;
    --dir) DIR=$2; shift ;;
    --only) ONLY=$2; shift ;;
    --brokers) BROKERS=$2; shift ;;
    *) sed -n '2,13s/^# \{0,1\}//p' "$0"; exit 2 ;;
  esac
  shift
done
[ "$(nproc)" -ge 2 ] || { echo "bench: needs two CPUs" >&2; exit 1; }
"$HERE/scripts/fetch-deps.sh"
DEPS=${FLUMEN_DEPS:-$HOME/.cache/flumen-deps}
TARGET=${CARGO_TARGET_DIR:-$HERE/target}
(cd "$HERE" && cargo build --release --locked -p flumen-bench-harness --bin bench-harness)
case $BROKERS in
  *flumen*) [ -n "${FLUMEN_BIN:-}" ] || (cd "$HERE" && cargo build --release --locked --bin flumen) ;;
esac
FLUMEN=${FLUMEN_BIN:-$TARGET/release/flumen}
HARNESS=$TARGET/release/bench-harness

MOUNTED= PID=
cleanup() {
  [ -z "$PID" ] || kill -9 "$PID" 2>/dev/null || true
  [ -z "$MOUNTED" ] || umount -l "$MOUNTED" || true
  [ -z "$DIR" ] || rm -rf "${DIR:?}/flumen-bench" || true
}
trap cleanup EXIT
if [ -z "$DIR" ]; then
  if [ "$(id -u)" = 0 ]; then
    DIR=$(mktemp -d "${TMPDIR:-/tmp}/flumen-bench.XXXXXX")
    mount -t tmpfs -o size=6g tmpfs "$DIR"
    MOUNTED=$DIR
  else
    DIR=/dev/shm
  fi
fi
DATA=$DIR/flumen-bench
FS=$(stat -f -c %T "$DIR")
PORT=${BENCH_PORT:-29192}
DATE=$(date +%Y-%m-%d)
COMMIT=$(git -C "$HERE" rev-parse --short HEAD)
OUT=$HERE/perf-results
RAW=$(mktemp -d "${TMPDIR:-/tmp}/flumen-bench-raw.XXXXXX")

# Both brokers read this file: the same retention keeps the directory small.
properties() {
  cat <<P
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$((PORT + 1))
listeners=PLAINTEXT://127.0.0.1:$PORT,CONTROLLER://127.0.0.1:$((PORT + 1))
advertised.listeners=PLAINTEXT://127.0.0.1:$PORT
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs=$DATA
offsets.topic.replication.factor=1
log.retention.check.interval.ms=1000
log.segment.delete.delay.ms=0
log.initial.task.delay.ms=1000
P
}
JVM=(-Xms1g -Xmx1g -server -XX:+UseG1GC -XX:MaxGCPauseMillis=20
  -XX:InitiatingHeapOccupancyPercent=35 -XX:+ExplicitGCInvokesConcurrent
  -cp "$DEPS/kafka/driver:$DEPS/kafka/libs/*")
ID=4L6g3nShT-eMCtK--X86sw

pinned() { # PIDFILE CPU COMMAND...: in a session of its own, with a raised autogroup
  # exec keeps the process id through taskset, so the file names the broker itself.
  setsid --wait bash -c 'echo $$ > "$1"; shift
    (echo -20 > /proc/self/autogroup) 2>/dev/null || true
    exec taskset -c "$@"' pinned "$@"
}
now_ms() { echo $(($(date +%s%N) / 1000000)); }
start() { # BROKER; sets PID and START_MS
  if (exec 3<>"/dev/tcp/127.0.0.1/$PORT") 2>/dev/null; then
    echo "bench: port $PORT is in use (set BENCH_PORT)" >&2; exit 1
  fi
  rm -rf "$DATA" "$RAW/pid"; mkdir -p "$DATA"
  properties > "$RAW/server.properties"
  local begin
  if [ "$1" = kafka ]; then
    java "${JVM[@]}" kafka.tools.StorageTool format -t $ID -c "$RAW/server.properties" >/dev/null
    begin=$(now_ms)
    pinned "$RAW/pid" 0 java "${JVM[@]}" kafka.Kafka "$RAW/server.properties" >"$RAW/$1.log" 2>&1 &
  else
    "$FLUMEN" storage format -t $ID -c "$RAW/server.properties" >/dev/null
    begin=$(now_ms)
    pinned "$RAW/pid" 0 "$FLUMEN" start --config "$RAW/server.properties" >"$RAW/$1.log" 2>&1 &
  fi
  until (exec 3<>"/dev/tcp/127.0.0.1/$PORT") 2>/dev/null; do
    [ $(($(now_ms) - begin)) -lt 60000 ] || { tail -20 "$RAW/$1.log" >&2; exit 1; }
    sleep 0.01
  done
  START_MS=$(($(now_ms) - begin))
  PID=$(cat "$RAW/pid")
}
stop() {
  kill "$PID" 2>/dev/null || true
  for _ in $(seq 200); do kill -0 "$PID" 2>/dev/null || break; sleep 0.05; done
  kill -9 "$PID" 2>/dev/null || true
  PID=
  rm -rf "$DATA"
}

# Name, then the harness's arguments. Retention and segment size bound the directory; batches are
# encoded beforehand, so their time must not count.
KEEP=(--config retention.bytes=67108864 --config segment.bytes=16777216
  --config file.delete.delay.ms=0 --config retention.ms=-1)
workload() {
  case $1 in
    tiny) echo produce --record-bytes 100 --batch-bytes 1 ;;
    16k) echo produce --record-bytes 1000 --batch-bytes 16384 ;;
    64k) echo produce --record-bytes 1000 --batch-bytes 65536 ;;
    256k) echo produce --record-bytes 1000 --batch-bytes 262144 ;;
    8x16k) echo produce --record-bytes 1000 --batch-bytes 16384 --partitions-per-request 8 ;;
    lat16k) echo produce --record-bytes 1000 --batch-bytes 16384 --rate 3000 ;;
    e2e1k) echo end-to-end --record-bytes 1024 --rate 1000 --partitions 1 ;;
    serve64k) echo fetch --record-bytes 1000 --batch-bytes 16384 --fetch-bytes 65536 \
      --connections 4 --partitions 4 ;;
    serve1m) echo fetch --record-bytes 1000 --batch-bytes 65536 --fetch-bytes 1048576 \
      --connections 4 --partitions 4 ;;
  esac
}
ALL="tiny 16k 64k 256k 8x16k lat16k e2e1k serve64k serve1m"
[ -z "$QUICK" ] || ALL="64k lat16k e2e1k serve64k"
ALL=$(for w in $ALL; do if [[ $w =~ $ONLY ]]; then echo "$w"; fi; done)

run() { # BROKER ROUND WORKLOAD SECONDS WARMUP OUT
  local keep=("${KEEP[@]}")
  case $3 in serve*) keep=(--config segment.bytes=16777216 --config retention.ms=-1) ;; esac
  # shellcheck disable=SC2046
  pinned /dev/null 1 "$HARNESS" $(workload "$3") --scenario "$3" --topic "$3" "${keep[@]}" \
    --bootstrap-server "127.0.0.1:$PORT" --seconds "$4" --warmup "$5" --broker-pid "$PID" \
    --out "$6"
}
for round in $(seq "$ROUNDS"); do
  for broker in $BROKERS; do
    start "$broker"
    echo "== round $round, $broker: listening after $START_MS ms"
    echo "$START_MS" >> "$RAW/start-$broker"
    # Kafka's code must be compiled before it is measured; Flumen needs only its caches.
    case $broker$QUICK in kafka) warm=15 ;; kafka1) warm=6 ;; *) warm=1 ;; esac
    for w in 64k serve64k e2e1k; do
      run "$broker" "$round" "$w" "$warm" 0 /dev/null >/dev/null
    done
    for w in $ALL; do
      run "$broker" "$round" "$w" "$SECONDS_EACH" 1 "$RAW/$w-$broker-$round.json"
    done
    stop
  done
done

median() { sort -n "$1" | awk '{v[NR]=$1} END {print v[int((NR+1)/2)]}'; }
mkdir -p "$OUT"
case $BROKERS in *kafka*flumen* | *flumen*kafka*) ;; *) echo "one broker: no comparison"; exit 0 ;; esac
MACHINE="$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1), $(nproc) CPUs, kernel $(uname -r), $FS"
NOTE="$ROUNDS alternating rounds of $SECONDS_EACH s, medians; broker on CPU 0, client on CPU 1; \
Kafka 4.3.1 with 1 GiB heap, warmed; start to listening: Flumen $(median "$RAW/start-flumen") ms, \
Kafka $(median "$RAW/start-kafka") ms."
TABLES=$RAW/tables.md
for w in $ALL; do
  to=$OUT/$DATE-$COMMIT-$w
  mkdir -p "$to"
  cp "$RAW/$w"-*.json "$RAW/server.properties" "$to/"
  printf '%s\n%s\n' "$MACHINE" "$NOTE" > "$to/machine.txt"
  "$HARNESS" compare --ours "$RAW/$w"-flumen-*.json --theirs "$RAW/$w"-kafka-*.json > "$to/table.md"
  { cat "$to/table.md"; echo; } >> "$TABLES"
done
{
  echo "# Measurements"
  echo
  echo "Made by \`scripts/bench.sh${QUICK:+ --quick}\`. Each folder holds the reports with their raw"
  echo "histograms (HdrHistogram V2, hexadecimal); folders are never edited. The newest run:"
  echo
  echo "**$DATE, commit $COMMIT.** $MACHINE. $NOTE"
  echo
  cat "$TABLES"
} > "$OUT/README.md"
cat "$TABLES"
echo "$NOTE"
rm -rf "$RAW"
