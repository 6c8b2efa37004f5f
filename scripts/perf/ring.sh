#!/usr/bin/env bash
# What one shard asks of io_uring and of the scheduler, per second and per request: submissions,
# completions, punts to kernel workers (io_uring_queue_async_work), task work; context switches,
# wake-ups and migrations of the shard's thread and of its workers. Writes ring.txt.
# shellcheck source=scripts/perf/common.sh
. "$(dirname "$0")/common.sh"
options "$@"
need_tracepoints

start_broker
start_load $((SECONDS_EACH + 2))
TID=$(shard_thread)
EVENTS=()
for event in submit_req complete queue_async_work task_add task_work_run local_work_run \
  poll_arm cqring_wait cqe_overflow req_failed link; do
  [ -d "/sys/kernel/tracing/events/io_uring/io_uring_$event" ] &&
    EVENTS+=(-e "io_uring:io_uring_$event")
done
EVENTS+=(-e raw_syscalls:sys_enter -e sched:sched_switch -e sched:sched_migrate_task)
# The shard's thread by its id; wake-ups are events of the waker, so they are counted by filter.
perf stat -x , -o "$WORK/shard.csv" -t "$TID" "${EVENTS[@]}" -- sleep "$SECONDS_EACH" &
STAT=$!
PIDS+=("$STAT")
perf record -q -a -e sched:sched_wakeup --filter "pid == $TID || comm ~ \"iou-wrk-$TID*\"" \
  -e sched:sched_switch --filter "prev_comm ~ \"iou-wrk-$TID*\"" \
  -e io_uring:io_uring_complete --filter "common_pid != $TID" \
  -o "$WORK/perf.data" -- sleep "$SECONDS_EACH"
wait "$STAT"
end_load
{
  echo "shard $SHARD, load $LOAD: $RATE requests/s over $SECONDS_EACH s"
  printf '%-44s %12s %12s\n' "" per-second per-request
  line() { awk -v what="$1" -v n="$2" -v s="$SECONDS_EACH" -v r="$RATE" \
    'BEGIN { printf "%-44s %12.1f %12.4f\n", what, n / s, r ? n / s / r : 0 }'; }
  grep -v '^#' "$WORK/shard.csv" | grep . | while IFS=, read -r n _ name _; do
    case $name in
      raw_syscalls*) name="system calls" ;;
      sched:sched_switch) name="shard switched out" ;;
      sched:sched_migrate_task) name="migrations caused by the shard" ;;
      io_uring:*queue_async_work) name="io_uring_queue_async_work (punts to workers)" ;;
      io_uring:*) name=${name#io_uring:} ;;
    esac
    line "$name" "$n"
  done
  perf script --no-inline -i "$WORK/perf.data" -F comm,tid,event,trace 2>/dev/null >"$WORK/events.txt"
  line "wake-ups of the shard" \
    "$(grep sched_wakeup "$WORK/events.txt" | grep -c "flumen-shard" || true)"
  line "wake-ups of its workers" \
    "$(grep sched_wakeup "$WORK/events.txt" | grep -c "iou-wrk-$TID" || true)"
  line "workers switched out" "$(grep -c sched_switch "$WORK/events.txt" || true)"
  line "completions outside the shard's thread" \
    "$(grep -c io_uring_complete "$WORK/events.txt" || true)"
} | sed "s/iou-wrk-$TID/iou-wrk/" | tee "$OUT/ring.txt"
