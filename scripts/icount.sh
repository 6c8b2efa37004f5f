#!/usr/bin/env bash
# Instructions and allocations per request of the hot paths, counted by callgrind, against the
# stored baseline (tests/icount/baseline.json): scripts/icount.sh [--update] [--only TEXT]
#   --update      store what is counted as the new baseline, after a change that is meant
#   --only TEXT   only scenarios whose name contains it
# Fails where a count exceeds the baseline by more than its tolerance. The counts are the same on a
# busy machine. `cargo run --release -p flumen-icount -- top NAME` shows the functions of one.
set -euo pipefail
cd "$(dirname "$0")/.."
COMMAND=check ONLY=
while [ $# -gt 0 ]; do
  case $1 in
    --update) COMMAND=update ;;
    --only) ONLY=$2; shift ;;
    *) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 2 ;;
  esac
  shift
done
command -v valgrind >/dev/null ||
  { echo "icount: valgrind is missing; Debian: apt-get install valgrind" >&2; exit 1; }
# With the profile of the shipped binary: other profiles inline differently, and so do incremental
# builds.
CARGO_INCREMENTAL=0 cargo build --release --locked -p flumen-icount
"${CARGO_TARGET_DIR:-target}/release/flumen-icount" "$COMMAND" --only "$ONLY"
