"""Off-CPU time from `perf script` of sched_switch and sched_wakeup events on standard input.

A thread that is switched out in state R was preempted: it waits for a CPU until it is switched in.
In any other state it sleeps until somebody wakes it, then waits for a CPU.
"""

import argparse
import collections
import re
import sys

HEAD = re.compile(r"^\s*(?P<comm>.+?)\s+(?P<tid>\d+)\s+(?P<time>[\d.]+):\s+(?P<event>\S+):\s*(?P<rest>.*)$")
SWITCH = re.compile(
    r"(?P<prev>.+):(?P<prev_tid>\d+) \[\d+\] (?P<state>\S+) ==> (?P<next>.+):(?P<next_tid>\d+) \[\d+\]"
    r"|prev_comm=.* prev_pid=(?P<prev_tid2>\d+) .*prev_state=(?P<state2>\S+) ==> .*next_pid=(?P<next_tid2>\d+)"
)
WAKEUP = re.compile(r":(\d+) \[\d+\]|pid=(\d+)")
# Frames that every sleep has.
PLUMBING = ("__schedule", "schedule", "__traceiter", "perf_trace", "preempt_schedule", "__cond_resched")


def events(lines):
    """Blocks of a head line and the stack below it."""
    head, stack = None, []
    for line in lines:
        if not line.strip():
            if head:
                yield head, stack
            head, stack = None, []
            continue
        match = HEAD.match(line)
        if match:
            if head:
                yield head, stack
            head, stack = match, []
        elif head:
            words = line.split()
            if len(words) > 1:
                stack.append(words[1])
    if head:
        yield head, stack


def reason(stack):
    frames = [f for f in stack if not f.startswith(PLUMBING)]
    return " < ".join(frames[:4]) or "(no stack)"


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--tid", type=int, required=True)
    args.add_argument("--rate", type=float, default=0)
    args = args.parse_args()
    worker = f"iou-wrk-{args.tid}"
    out = {}  # tid -> [since, reason, woken]
    slept, waited = collections.Counter(), collections.Counter()
    count = collections.Counter()
    first = last = None
    for head, stack in events(sys.stdin):
        now = float(head["time"])
        first = now if first is None else first
        last = now
        if head["event"].endswith("sched_wakeup"):
            match = WAKEUP.search(head["rest"])
            tid = int(match.group(1) or match.group(2)) if match else None
            if tid in out and out[tid][2] is None:
                out[tid][2] = now
            continue
        match = SWITCH.search(head["rest"])
        if not match:
            continue
        prev = int(match["prev_tid"] or match["prev_tid2"])
        following = int(match["next_tid"] or match["next_tid2"])
        state = match["state"] or match["state2"]
        comm = head["comm"].strip()
        if prev == args.tid or comm.startswith(worker):
            kind = "shard" if prev == args.tid else "worker"
            out[prev] = [now, (kind, state, reason(stack)), now if state.startswith("R") else None]
        if following in out:
            since, why, woken = out.pop(following)
            count[why] += 1
            slept[why] += (woken or now) - since
            waited[why] += now - woken if woken else 0
    if first is None:
        sys.exit("offcpu: no events")
    seconds = last - first
    requests = args.rate * seconds
    print(f"{seconds:.2f} s, {args.rate:.0f} requests/s; a state of R is preemption, S and D are sleep")
    print(f"{'thread':7} {'state':5} {'asleep ms':>10} {'waits for CPU ms':>17} {'times/s':>9} {'per request':>12}  in")
    for why, _ in (slept + waited).most_common(20):
        kind, state, text = why
        per = count[why] / requests if requests else 0
        print(
            f"{kind:7} {state:5} {slept[why] * 1e3:10.1f} {waited[why] * 1e3:17.1f} "
            f"{count[why] / seconds:9.1f} {per:12.4f}  {text}"
        )


main()
