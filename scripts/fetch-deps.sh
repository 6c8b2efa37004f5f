#!/usr/bin/env bash
# Fetches what the tests of the real binary need: Apache Kafka's jars, librdkafka for Python,
# franz-go and kafkajs, and builds the small programs in tests/clients. Idempotent: a second run
# does nothing. Everything goes to ${FLUMEN_DEPS:-$HOME/.cache/flumen-deps}. With --bench only what
# scripts/bench.sh needs: Kafka, and as root on Debian mkfs.xfs.
set -euo pipefail
HERE=$(cd "$(dirname "$0")/.." && pwd)
DEPS=${FLUMEN_DEPS:-$HOME/.cache/flumen-deps}
CLIENTS=$HERE/tests/clients
BENCH=
case ${1:-} in
  --bench) BENCH=1 ;;
  "") ;;
  *) echo "usage: $0 [--bench]" >&2; exit 2 ;;
esac

# As root on Debian, what is missing of TOOL is installed from PACKAGE; else it is told below.
install() { # TOOL PACKAGE
  if ! command -v "$1" >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "fetch-deps: $2" >&2
    apt-get install -y -q "$2" >/dev/null ||
      { apt-get update -q >/dev/null && apt-get install -y -q "$2" >/dev/null; } || true
  fi
}
install mkfs.xfs xfsprogs # scenarios on XFS and the test of power loss are left out without it
if [ -n "$BENCH" ]; then
  tools="java javac mvn"
else
  install valgrind valgrind # the instruction-count benchmark runs under it
  tools="java javac mvn python3 go node npm valgrind"
fi

missing=
for tool in $tools; do
  command -v "$tool" >/dev/null || missing="$missing $tool"
done
if [ -n "$missing" ]; then
  echo "fetch-deps: missing:$missing" >&2
  echo "  Debian: apt-get install openjdk-17-jdk-headless maven python3-venv golang nodejs npm valgrind" >&2
  exit 1
fi
mkdir -p "$DEPS"
exec 9>"$DEPS/.lock"
flock 9

# done_with NAME FILE...: true when step NAME already ran on exactly these files.
sum_of() { cat "$@" | sha256sum | cut -d' ' -f1; }
done_with() { [ "$(cat "$DEPS/.done-$1" 2>/dev/null)" = "$(sum_of "${@:2}")" ]; }
mark() { sum_of "${@:2}" > "$DEPS/.done-$1"; }

POM=$HERE/scripts/kafka-pom.xml
if ! done_with kafka "$POM"; then
  echo "fetch-deps: Apache Kafka jars" >&2
  rm -rf "$DEPS/kafka/libs"
  mvn -q -B -f "$POM" dependency:copy-dependencies -DincludeScope=runtime \
    -DoutputDirectory="$DEPS/kafka/libs"
  mark kafka "$POM"
fi

JAVA=("$CLIENTS/java/Tools.java" "$CLIENTS/java/log4j2.properties" "$POM")
if ! done_with driver "${JAVA[@]}"; then
  echo "fetch-deps: the driver of Kafka's tools" >&2
  rm -rf "$DEPS/kafka/driver"
  mkdir -p "$DEPS/kafka/driver"
  javac -nowarn -proc:none -d "$DEPS/kafka/driver" -cp "$DEPS/kafka/libs/*" \
    "$CLIENTS/java/Tools.java"
  cp "$CLIENTS/java/log4j2.properties" "$DEPS/kafka/driver/"
  mark driver "${JAVA[@]}"
fi

[ -z "$BENCH" ] || exit 0

if ! done_with python "$CLIENTS/python/requirements.txt"; then
  echo "fetch-deps: confluent-kafka for Python" >&2
  rm -rf "$DEPS/venv"
  python3 -m venv "$DEPS/venv"
  "$DEPS/venv/bin/pip" install -q -r "$CLIENTS/python/requirements.txt"
  mark python "$CLIENTS/python/requirements.txt"
fi

GO=("$CLIENTS/go/go.mod" "$CLIENTS/go/go.sum" "$CLIENTS/go/main.go")
if ! done_with go "${GO[@]}"; then
  echo "fetch-deps: franz-go" >&2
  (cd "$CLIENTS/go" && GOFLAGS=-mod=readonly go build -o "$DEPS/franz-client" .)
  mark go "${GO[@]}"
fi

JS=("$CLIENTS/js/package.json" "$CLIENTS/js/package-lock.json")
if ! done_with js "${JS[@]}"; then
  echo "fetch-deps: kafkajs" >&2
  rm -rf "$DEPS/js"
  mkdir -p "$DEPS/js"
  cp "${JS[@]}" "$DEPS/js/"
  (cd "$DEPS/js" && npm ci --no-audit --no-fund --silent)
  mark js "${JS[@]}"
fi
