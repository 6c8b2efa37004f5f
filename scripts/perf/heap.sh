#!/usr/bin/env bash
# Heap of a broker under a short load: peak, growth, and who allocated it. By heaptrack where it is
# installed (also counts allocations per call site), else by valgrind's massif. The broker is
# started under the tool, so FLUMEN_PID is not possible; it runs several times slower. Writes
# heap.txt (places in our code) and stacks.txt (all stacks).
# shellcheck source=scripts/perf/common.sh
. "$(dirname "$0")/common.sh"
options "$@"
[ -z "${FLUMEN_PID:-}" ] || die "the broker must be started under the tool: unset FLUMEN_PID"

stop_broker() {
  kill "$BROKER"
  for _ in $(seq 600); do kill -0 "$BROKER" 2>/dev/null || break; sleep 0.1; done
}
if command -v heaptrack >/dev/null; then
  need python3 python3
  UNDER=(env -C "$WORK" heaptrack)
  # Newer ones would open a window at the end.
  heaptrack --help | grep -q -e --record-only && UNDER+=(--record-only)
  start_broker
  # heaptrack is a script around the broker.
  WRAPPER=$BROKER
  BROKER=$(pgrep -P "$WRAPPER" -x flumen | head -1)
  [ -n "$BROKER" ] || die "heaptrack did not start the broker"
  start_load "$SECONDS_EACH"
  end_load
  stop_broker
  wait "$WRAPPER" || true # writes its file
  heaptrack_print -m 0 -n 200 -a 1 -p 1 -l 0 -f "$(ls "$WORK"/heaptrack.flumen.*)" |
    tee "$OUT/stacks.txt" | python3 "$(dirname "$0")/heap.py"
else
  need valgrind "valgrind (or heaptrack)"
  UNDER=(valgrind --tool=massif "--massif-out-file=$WORK/massif.out" --threshold=2.0)
  start_broker
  start_load "$SECONDS_EACH"
  end_load
  stop_broker
  ms_print --threshold=2.0 "$WORK/massif.out"
fi >"$WORK/report.txt"
{
  echo "load $LOAD for $SECONDS_EACH s"
  clean_paths <"$WORK/report.txt"
} >"$OUT/heap.txt"
cat "$OUT/heap.txt"
echo "$OUT/heap.txt"
