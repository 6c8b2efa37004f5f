#!/usr/bin/env bash
# Instructions per request of the core and the codec under callgrind: the table of all scenarios
# (instructions.txt), and for each scenario the functions that cost most (top-NAME.txt) and the
# annotated source (annotated-NAME.txt). Needs no quiet machine: counts do not depend on load.
# Scenarios: --load TEXT takes those whose name contains TEXT (default: all). See tests/icount.
# shellcheck source=scripts/perf/common.sh
. "$(dirname "$0")/common.sh"
LOAD=
options "$@"
need valgrind valgrind
need callgrind_annotate valgrind
(cd "$HERE" && cargo build -q --release --locked -p flumen-icount)
ICOUNT=$TARGET/release/flumen-icount
"$ICOUNT" check --only "$LOAD" --keep "$WORK" | tee "$OUT/instructions.txt" || true
"$ICOUNT" list | while read -r name _; do
  case $name in *"$LOAD"*) ;; *) continue ;; esac
  file=${name//\//-}
  "$ICOUNT" top "$name" --keep "$WORK" >"$OUT/top-$file.txt"
  callgrind_annotate --auto=yes --context=2 --threshold=95 --inclusive=no \
    "$WORK/callgrind.$file" | clean_paths >"$OUT/annotated-$file.txt"
done
echo "$OUT"
