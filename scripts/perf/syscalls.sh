#!/usr/bin/env bash
# System calls of one shard's thread by name: per second, per request, and time in them (perf trace;
# strace -c where that does not work, which slows the broker down several times). Writes
# syscalls.txt.
# shellcheck source=scripts/perf/common.sh
. "$(dirname "$0")/common.sh"
options "$@"
start_broker
start_load $((SECONDS_EACH + 2))
TID=$(shard_thread)
if command -v perf >/dev/null && perf trace -s -t "$TID" -- true >/dev/null 2>&1; then
  HOW="perf trace"
  perf trace -s -t "$TID" -- sleep "$SECONDS_EACH" >"$WORK/trace.txt" 2>&1
  # Columns: name, calls, errors, total ms.
  awk '$2 ~ /^[0-9]+$/ && $4 ~ /^[0-9.]+$/ { print $1, $2, $3, $4 * 1000 }' \
    "$WORK/trace.txt" >"$WORK/calls.txt"
else
  need strace strace
  HOW="strace (slows the broker down)"
  timeout -s INT "$SECONDS_EACH" strace -c -p "$TID" -o "$WORK/trace.txt" 2>/dev/null || true
  # Columns: percent, seconds, us per call, calls, [errors,] name.
  awk '$4 ~ /^[0-9]+$/ && $NF != "total" { print $NF, $4, (NF > 5 ? $5 : 0), $2 * 1e6 }' \
    "$WORK/trace.txt" >"$WORK/calls.txt"
fi
end_load
[ -s "$WORK/calls.txt" ] || die "no system calls were seen"
{
  echo "shard $SHARD, load $LOAD: $RATE requests/s over $SECONDS_EACH s, by $HOW"
  printf '%-20s %12s %12s %8s %16s\n' "" per-second per-request errors "us each, mean"
  sort -k2,2rn "$WORK/calls.txt" | awk -v s="$SECONDS_EACH" -v r="$RATE" '
    { printf "%-20s %12.1f %12.4f %8d %16.1f\n", $1, $2 / s, r ? $2 / s / r : 0, $3, $4 / $2
      n += $2 }
    END { printf "%-20s %12.1f %12.4f\n", "all", n / s, r ? n / s / r : 0 }'
} | tee "$OUT/syscalls.txt"
