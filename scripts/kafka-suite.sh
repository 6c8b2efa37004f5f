#!/usr/bin/env bash
# Runs Apache Kafka's own integration tests against Flumen and writes the count per class.
#   scripts/kafka-suite.sh quick        the classes of scripts/kafka-suite-quick.txt (10 minutes)
#   scripts/kafka-suite.sh --full       every test that passes on real Kafka; docs/kafka-suite.md
#   scripts/kafka-suite.sh quick --kafka   the same tests on real Kafka, to judge a failure
# FLUMEN_KAFKA_SUITE: the suite's folder (default: ../shared/kafka-suite). FLUMEN_BIN: the binary.
# quick fails when a class of the list has fewer passes than the list says; a full run never fails.
set -euo pipefail
HERE=$(cd "$(dirname "$0")/.." && pwd)
SUITE=${FLUMEN_KAFKA_SUITE:-$HERE/../shared/kafka-suite}
MODE=${1:-quick}
if [ ! -x "$SUITE/run.sh" ]; then
  echo "kafka-suite: THE SUITE IS NOT HERE: no $SUITE/run.sh" >&2
  echo "kafka-suite: nothing was run; set FLUMEN_KAFKA_SUITE to its folder" >&2
  exit 3
fi
export WORK=${WORK:-${XDG_CACHE_HOME:-$HOME/.cache}/kafka-suite}
OUT=$(mktemp -d "${TMPDIR:-/tmp}/kafka-suite.XXXXXX")
export ACCEPTANCE_TMP=$OUT/tmp
mkdir -p "$ACCEPTANCE_TMP"
trap 'rm -rf "$ACCEPTANCE_TMP"' EXIT
[ -f "$WORK/shim/acceptance/Runner.class" ] || bash "$SUITE/build.sh"

LAUNCHER=$HERE/scripts/kafka-suite-launcher.sh
BROKER=Flumen
if [ "${2:-}" = --kafka ]; then
  LAUNCHER=$SUITE/launchers/kafka-process.sh
  BROKER="Apache Kafka 4.3.1"
else
  if [ -z "${FLUMEN_BIN:-}" ]; then
    TARGET=${CARGO_TARGET_DIR:-$HERE/target}
    (cd "$HERE" && cargo build --locked --profile sim --bin flumen)
    FLUMEN_BIN=$TARGET/sim/flumen
  fi
  export FLUMEN_BIN
fi
# A test that hangs must cost little: those that pass on Kafka take a few seconds each.
COMMON=(--launcher "$LAUNCHER" --counted --out "$OUT" -Dacceptance.test.timeout=60)
export NICE=${NICE:-0}

run() { # SUITE [FILTER]
  bash "$SUITE/run.sh" "$1" "${COMMON[@]}" "${@:2}" || true
}
case $MODE in
  quick)
    LIST=$HERE/scripts/kafka-suite-quick.txt
    PATTERN=$(sed 's/#.*//; s/ .*//' "$LIST" | grep . | sed 's/\./\\./g' | paste -sd'|' -)
    for suite in core clients; do run "$suite" "($PATTERN)([^A-Za-z0-9]|$)"; done
    python3 "$HERE/scripts/kafka-suite-report.py" "$SUITE" --require "$LIST" \
      "$OUT/core-filter.csv" "$OUT/clients-filter.csv"
    ;;
  --full)
    for suite in core clients; do run "$suite"; done
    REPORT=$HERE/docs/kafka-suite.md
    [ "$BROKER" = Flumen ] || REPORT=$OUT/kafka-suite.md
    python3 "$HERE/scripts/kafka-suite-report.py" "$SUITE" --broker "$BROKER" \
      --markdown "$REPORT" "$OUT/core-counted.csv" "$OUT/clients-counted.csv"
    echo "kafka-suite: wrote $REPORT"
    ;;
  *) echo "usage: $0 quick|--full [--kafka]" >&2; exit 2 ;;
esac
echo "kafka-suite: results and stack traces in $OUT"
