#!/usr/bin/env bash
# Everything a change must pass: scripts/test.sh [--full]. About half an hour on two cores from a
# clean clone, a few minutes with a warm cache. Nothing is skipped silently: a missing tool or
# folder fails the run. --full: larger random tests, and all of Kafka's own suites.
set -euo pipefail
cd "$(dirname "$0")/.."
FULL=
case ${1:-} in
  --full) FULL=1 ;;
  "") ;;
  *) echo "usage: $0 [--full]" >&2; exit 2 ;;
esac
SECONDS=0
step() { echo; echo "== $* (at ${SECONDS}s)"; }
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-never}
# A run that starts cold and ends with its machine gains nothing from incremental builds, and they
# are a third of what it writes to disk.
[ -z "${CI:-}" ] || export CARGO_INCREMENTAL=${CARGO_INCREMENTAL:-0}
if [ -n "$FULL" ]; then
  export FLUMEN_TEST_ROUNDS=${FLUMEN_TEST_ROUNDS:-50} FLUMEN_SIM_SEEDS=${FLUMEN_SIM_SEEDS:-3000}
fi
LOG=$(mktemp "${TMPDIR:-/tmp}/flumen-test.XXXXXX")
trap 'rm -f "$LOG"' EXIT

step "programs and clients the tests talk to"
scripts/fetch-deps.sh

step "format"
cargo fmt --all --check

step "lints"
cargo clippy --workspace --all-targets --locked -- -D warnings
if command -v cargo-deny >/dev/null; then
  # Advisories need their database: cargo deny check advisories, where it can be reached.
  cargo deny --locked check bans licenses sources
else
  echo "NOT RUN: cargo-deny is not installed; deny.toml was not checked"
fi

step "unit, property and tidy tests"
cargo test --workspace --locked --exclude flumen-it --exclude sim 2>&1 | tee -a "$LOG"

step "instructions per request"
scripts/icount.sh

step "the binary"
cargo build --profile sim --locked --bin flumen

step "simulation"
cargo test --profile sim --locked -p sim 2>&1 | tee -a "$LOG"

step "integration: the real binary with real clients"
cargo test --profile sim --locked -p flumen-it -- --nocapture --test-threads=2 2>&1 | tee -a "$LOG"

step "Apache Kafka's own tests"
if [ -n "$FULL" ]; then
  scripts/kafka-suite.sh --full 2>&1 | tee -a "$LOG"
else
  scripts/kafka-suite.sh quick 2>&1 | tee -a "$LOG"
fi

step "results"
grep -E '^test result:|^kafka-suite( quick)?: ' "$LOG"
echo "all passed in ${SECONDS}s"
