#!/usr/bin/env bash
# Flame graph of one shard's thread: where its CPU time goes, kernel included. Samples the software
# event cpu-clock, which virtual machines without hardware counters have too, and walks stacks by
# frame pointers. Writes flamegraph.svg, stacks.txt (folded) and top.txt (by function).
# shellcheck source=scripts/perf/common.sh
. "$(dirname "$0")/common.sh"
FREQUENCY=${FLUMEN_PERF_FREQUENCY:-997}
# dwarf: for a broker that was built without frame pointers; much slower to read.
STACKS=${FLUMEN_PERF_STACKS:-fp}
options "$@"
need_perf 1
TOOLS=$TARGET/perf-tools
if ! command -v inferno-flamegraph >/dev/null && ! [ -x "$TOOLS/bin/inferno-flamegraph" ]; then
  cargo install -q --locked --root "$TOOLS" inferno ||
    die "inferno could not be built: cargo install inferno"
fi
PATH=$TOOLS/bin:$PATH

start_broker
start_load $((SECONDS_EACH + 2))
TID=$(shard_thread)
perf record -q -e cpu-clock -F "$FREQUENCY" --call-graph "$STACKS" -t "$TID" -o "$WORK/perf.data" \
  -- sleep "$SECONDS_EACH"
end_load
perf script --no-inline -i "$WORK/perf.data" -F comm,tid,event,ip,sym,dso 2>/dev/null | clean_paths |
  inferno-collapse-perf >"$OUT/stacks.txt" 2>"$WORK/inferno.log"
[ -s "$OUT/stacks.txt" ] || die "no samples: did the shard do anything?"
inferno-flamegraph --title "shard $SHARD, load $LOAD" \
  --subtitle "$RATE requests/s, $FREQUENCY samples/s of CPU time" \
  --minwidth 0.3 --hash <"$OUT/stacks.txt" >"$OUT/flamegraph.svg"
# Self time by function.
awk '{ n = $NF; sub(/ [0-9]+$/, ""); k = split($0, f, ";"); self[f[k]] += n; all += n }
  END { for (x in self) printf "%6.2f %%  %s\n", 100 * self[x] / all, x }' "$OUT/stacks.txt" |
  sort -rn | head -40 >"$OUT/top.txt"
head -15 "$OUT/top.txt"
echo "$OUT/flamegraph.svg"
