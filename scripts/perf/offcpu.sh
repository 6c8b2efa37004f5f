#!/usr/bin/env bash
# Off-CPU time of one shard's thread and its io_uring workers: how long it slept or waited for a
# CPU, and in which kernel function, from sched:sched_switch. Writes offcpu.txt.
# shellcheck source=scripts/perf/common.sh
. "$(dirname "$0")/common.sh"
options "$@"
need_tracepoints
need python3 python3

start_broker
start_load $((SECONDS_EACH + 2))
TID=$(shard_thread)
# All CPUs, because the switch to a thread is an event of the one before it; filtered, because
# other programs switch too.
MINE="comm ~ \"iou-wrk-$TID*\""
perf record -q -a -g --kernel-callchains -o "$WORK/perf.data" \
  -e sched:sched_switch --filter \
  "prev_pid == $TID || next_pid == $TID || prev_$MINE || next_$MINE" \
  -e sched:sched_wakeup --filter "pid == $TID || $MINE" -- sleep "$SECONDS_EACH"
end_load
perf script --no-inline -i "$WORK/perf.data" --ns -F comm,tid,time,event,trace,ip,sym 2>/dev/null |
  python3 "$(dirname "$0")/offcpu.py" --tid "$TID" --rate "$RATE" |
  tee "$OUT/offcpu.txt"
