"""Allocations and peak by place in our own code, from `heaptrack_print -m 0` on standard input."""

import collections
import re
import sys

CALLS = re.compile(r"^(\d+) calls to allocation functions with")
PEAK = re.compile(r"^([\d.]+)([BKMG]) peak memory consumed over")
PLACE = re.compile(r"^\s+at (\S+:\d+)$")
OURS = re.compile(r"^src/(base|settings|wire|log|coordinator|quorum|shard|runtime|client|cli)/|^src/main.rs")
UNIT = {"B": 1, "K": 1e3, "M": 1e6, "G": 1e9}
TOP = 20


def main():
    calls, peak = collections.Counter(), collections.Counter()
    tables = {"calls": calls, "peak": peak}
    kind, amount, name, tail = None, 0, "", []
    for line in sys.stdin:
        line = line.rstrip("\n")
        if match := CALLS.match(line):
            kind, amount = "calls", int(match[1])
        elif match := PEAK.match(line):
            kind, amount = "peak", float(match[1]) * UNIT[match[2]]
        elif kind and (match := PLACE.match(line)):
            if OURS.match(match[1]):
                tables[kind][f"{match[1]} {name}"] += amount
                kind = None
        elif kind and line.startswith("  "):
            name = line.strip()
        elif re.match(r"^(calls to|temporary memory|peak |total |suppressed)", line):
            tail.append(line)
    for title, table, form in (
        ("allocations", calls, lambda n: f"{n:12.0f}"),
        ("bytes at the peak", peak, lambda n: f"{n:12.0f}"),
    ):
        print(f"{title:>18}  by the innermost function of ours")
        for place, n in table.most_common(TOP):
            print(f"      {form(n)}  {place}")
        print()
    print("\n".join(tail))


main()
