#!/usr/bin/env bash
# System calls of one shard's thread by name: per second and per request, counted by the kernel's
# tracepoints (none is lost). A second of perf trace before says which names to count and how long
# each takes. Where tracepoints are missing: strace -c, which slows the broker down several times.
# Writes syscalls.txt.
# shellcheck source=scripts/perf/common.sh
. "$(dirname "$0")/common.sh"
options "$@"
EVENTS=/sys/kernel/tracing/events/syscalls
start_broker
start_load $((SECONDS_EACH + 3))
TID=$(shard_thread)
if command -v perf >/dev/null && [ -r $EVENTS ]; then
  HOW=tracepoints
  perf trace -s -t "$TID" -- sleep 1 >"$WORK/trace.txt" 2>&1
  # Columns: name, calls, errors, total, min, mean ms.
  awk '$2 ~ /^[0-9]+$/ && $6 ~ /^[0-9.]+$/ { print $1, $6 * 1000 }' \
    "$WORK/trace.txt" >"$WORK/means.txt"
  NAMES=(-e raw_syscalls:sys_enter)
  while read -r name _; do
    [ -d "$EVENTS/sys_enter_$name" ] && NAMES+=(-e "syscalls:sys_enter_$name")
  done <"$WORK/means.txt"
  perf stat -x , -o "$WORK/stat.csv" "${NAMES[@]}" -t "$TID" -- sleep "$SECONDS_EACH"
  awk 'NR == FNR { us[$1] = $2; next }
    { split($0, f, ","); name = f[3]; n = f[1] + 0 }
    name == "raw_syscalls:sys_enter" { rest += n; next }
    sub(/^syscalls:sys_enter_/, "", name) && n { print name, n, us[name]; rest -= n }
    END { if (rest > 0) print "others", rest, 0 }' \
    "$WORK/means.txt" "$WORK/stat.csv" >"$WORK/calls.txt"
else
  need strace "strace (or linux-perf, as root)"
  HOW="strace (slows the broker down)"
  timeout -s INT "$SECONDS_EACH" strace -c -p "$TID" -o "$WORK/trace.txt" 2>/dev/null || true
  # Columns: percent, seconds, us per call, calls, [errors,] name.
  awk '$4 ~ /^[0-9]+$/ && $NF != "total" { print $NF, $4, $3 }' \
    "$WORK/trace.txt" >"$WORK/calls.txt"
fi
end_load
[ -s "$WORK/calls.txt" ] || die "no system calls were seen"
{
  echo "shard $SHARD, load $LOAD: $RATE requests/s over $SECONDS_EACH s, by $HOW"
  printf '%-20s %12s %12s %14s\n' "" per-second per-request "us each, mean"
  sort -k2,2rn "$WORK/calls.txt" | awk -v s="$SECONDS_EACH" -v r="$RATE" '
    { printf "%-20s %12.1f %12.4f %14.1f\n", $1, $2 / s, r ? $2 / s / r : 0, $3; n += $2 }
    END { printf "%-20s %12.1f %12.4f\n", "all", n / s, r ? n / s / r : 0 }'
} | tee "$OUT/syscalls.txt"
