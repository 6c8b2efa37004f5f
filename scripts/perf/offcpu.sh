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
# All CPUs: the switch back to a thread is an event of the thread before it.
perf record -q -a -e sched:sched_switch -e sched:sched_wakeup -g -o "$WORK/perf.data" \
  -- sleep "$SECONDS_EACH"
end_load
perf script -i "$WORK/perf.data" --ns -F comm,tid,time,event,trace,ip,sym 2>/dev/null |
  python3 "$(dirname "$0")/offcpu.py" --tid "$TID" --rate "$RATE" |
  tee "$OUT/offcpu.txt"
