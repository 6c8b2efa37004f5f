#!/usr/bin/env bash
# Flumen beside Apache Kafka and beside the limit of the core: scripts/bench.sh [--quick] [options]
#   --quick             four workloads, two short rounds: about three minutes
#   --full              also what runs for minutes once: troubles, the disk at its limit, the soak
#   --rounds N          alternating rounds (5)      --seconds S   measured seconds of a run (5)
#   --fs tmpfs,ext4,xfs file systems                --only REGEX  scenarios, by their whole name
#   --systems LIST      of kafka,flumen,limit       --dir DIR     a directory of the disk (/var/tmp)
#   --address HOST:PORT any Kafka-compatible broker in place of the three
# and what `bench-harness suite --help` lists. As root it mounts tmpfs and XFS, and removes them.
# Results go to perf-results/<date>-<commit>-<scenario>-<fs>/, the table to perf-results/README.md
# and README.md. Without arguments it takes hours; `bench-harness scenarios` says what there is.
set -euo pipefail
export RUST_BACKTRACE=0
HERE=$(cd "$(dirname "$0")/.." && pwd)
case " $* " in
  *" -h "* | *" --help "*) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 0 ;;
esac
TARGET=${CARGO_TARGET_DIR:-$HERE/target}
cd "$HERE"
"$HERE/scripts/fetch-deps.sh" --bench
cargo build --release --locked -p flumen-bench-harness --bin bench-harness
[ -n "${FLUMEN_BIN:-}" ] || cargo build --release --locked --bin flumen
export FLUMEN_BIN=${FLUMEN_BIN:-$TARGET/release/flumen}
export FLUMEN_DEPS=${FLUMEN_DEPS:-$HOME/.cache/flumen-deps}
exec "$TARGET/release/bench-harness" suite --root "$HERE" --out "$HERE/perf-results" \
  --readme "$HERE/README.md" "$@"
