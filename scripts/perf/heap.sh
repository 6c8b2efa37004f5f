#!/usr/bin/env bash
# Heap of a broker under a short load: peak, growth, allocations and who made them, by heaptrack.
# The broker is started under it, so FLUMEN_PID is not possible; it runs several times slower.
# (Valgrind's massif is no choice: a thread that waits in io_uring_enter stops all others there.)
# Writes heap.txt (places in our code) and stacks.txt (all stacks).
# shellcheck source=scripts/perf/common.sh
. "$(dirname "$0")/common.sh"
options "$@"
[ -z "${FLUMEN_PID:-}" ] || die "the broker must be started under heaptrack: unset FLUMEN_PID"
need heaptrack heaptrack
need heaptrack_print heaptrack
need python3 python3

UNDER=(env -C "$WORK" heaptrack)
# Newer ones would open a window at the end.
heaptrack --help | grep -q -e --record-only && UNDER+=(--record-only)
start_broker
# heaptrack is a script around the broker.
WRAPPER=$BROKER
BROKER=$(pgrep -P "$WRAPPER" -x flumen | head -1)
[ -n "$BROKER" ] || die "heaptrack did not start the broker"
PIDS+=("$BROKER")
start_load "$SECONDS_EACH"
end_load
kill "$BROKER"
wait "$WRAPPER" || true # it writes its file
heaptrack_print -m 0 -n 200 -a 1 -p 1 -l 0 -f "$(ls "$WORK"/heaptrack.flumen.*)" |
  clean_paths >"$OUT/stacks.txt"
{
  echo "load $LOAD for $SECONDS_EACH s"
  python3 "$(dirname "$0")/heap.py" <"$OUT/stacks.txt"
} | tee "$OUT/heap.txt"
