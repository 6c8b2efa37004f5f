#!/usr/bin/env bash
# Fetches what the tests of the real binary need: Apache Kafka's jars, librdkafka for Python,
# franz-go and kafkajs, and what tests/it/ecosystem runs (Kafka Streams, plugins of Kafka Connect,
# Spring, Burrow with ZooKeeper, PostgreSQL); builds the small programs in tests/clients.
# Idempotent: a second run does nothing. Everything goes to ${FLUMEN_DEPS:-$HOME/.cache/flumen-deps}. With --bench only what
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

# As root on Debian, a package is installed; elsewhere what is missing is told below.
package() { # PACKAGE
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "fetch-deps: $1" >&2
    export DEBIAN_FRONTEND=noninteractive
    apt-get install -y -q "$1" >/dev/null ||
      { apt-get update -q >/dev/null && apt-get install -y -q "$1" >/dev/null; } || true
  fi
}
install() { # TOOL PACKAGE
  command -v "$1" >/dev/null || package "$2"
}
install mkfs.xfs xfsprogs # scenarios on XFS and the test of power loss are left out without it
if [ -n "$BENCH" ]; then
  tools="java javac mvn"
else
  install valgrind valgrind # the instruction-count benchmark runs under it
  # A scenario with a database is left out without its programs, which are not on the path.
  compgen -G "/usr/lib/postgresql/*/bin/initdb" >/dev/null || package postgresql
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

# The programs of other people that tests/it/ecosystem runs. fetch NAME FOLDER [MVN_ARGUMENT...]:
# the jars of scripts/ecosystem/NAME.xml.
fetch() {
  local name=$1 folder=$2 pom=$HERE/scripts/ecosystem/$1.xml
  shift 2
  done_with "$name" "$pom" && return
  echo "fetch-deps: $name" >&2
  rm -rf "${DEPS:?}/$folder"
  mvn -q -B -f "$pom" dependency:copy-dependencies -DincludeScope=runtime \
    -DoutputDirectory="$DEPS/$folder" "$@"
  mark "$name" "$pom"
}
# Connect itself has Kafka's classes, the loggers and Jackson, whose classes stand in the signatures
# of its converters; plugins must not bring their own.
ours=-DexcludeGroupIds=org.apache.kafka,org.slf4j,com.fasterxml.jackson.core
fetch streams streams
fetch connect-file connect-plugins/file -DexcludeTransitive=true
fetch debezium connect-plugins/debezium "$ours"
mark connect-plugins "$HERE"/scripts/ecosystem/{connect-file,debezium}.xml
fetch zookeeper zookeeper

PROGRAMS=("$CLIENTS"/java/ecosystem/*.java "$POM" "$HERE/scripts/ecosystem/streams.xml")
if ! done_with programs "${PROGRAMS[@]}"; then
  echo "fetch-deps: programs on Kafka's clients" >&2
  rm -rf "$DEPS/programs"
  mkdir -p "$DEPS/programs"
  javac -nowarn -proc:none -d "$DEPS/programs" -cp "$DEPS/streams/*:$DEPS/kafka/libs/*" \
    "$CLIENTS"/java/ecosystem/*.java
  mark programs "${PROGRAMS[@]}"
fi

fetch spring-jars spring
SPRING=("$CLIENTS/java/spring/SpringApp.java" "$HERE/scripts/ecosystem/spring-jars.xml")
if ! done_with spring "${SPRING[@]}"; then
  echo "fetch-deps: a program on Spring" >&2
  rm -rf "$DEPS/spring/classes"
  mkdir -p "$DEPS/spring/classes"
  javac -nowarn -proc:none -parameters -d "$DEPS/spring/classes" -cp "$DEPS/spring/*" \
    "$CLIENTS/java/spring/SpringApp.java"
  mark spring "${SPRING[@]}"
fi

LAG=("$CLIENTS/go/go.mod" "$CLIENTS/go/go.sum" "$CLIENTS/go/lag/main.go")
if ! done_with lag-reader "${LAG[@]}"; then
  echo "fetch-deps: a reader of the offsets topic" >&2
  (cd "$CLIENTS/go" && GOFLAGS=-mod=readonly go build -o "$DEPS/lag-reader" ./lag)
  mark lag-reader "${LAG[@]}"
fi

# Burrow comes from Debian's package, unpacked and not installed: it would start a service.
BURROW=$HERE/scripts/ecosystem/burrow.txt
if ! done_with burrow "$BURROW"; then
  read -r version sum < <(grep -v '^#' "$BURROW")
  deb=burrow_${version}_amd64.deb
  rm -rf "$DEPS/burrow" "$DEPS/fetch"
  mkdir -p "$DEPS/fetch"
  if [ "$(dpkg --print-architecture 2>/dev/null)" != amd64 ]; then
    echo "NOT RUN: Burrow is only had from Debian's packages for amd64" >&2
  elif (cd "$DEPS/fetch" && { apt-get download -q "burrow=$version" ||
    { apt-get update -q && apt-get download -q "burrow=$version"; }; } >/dev/null 2>&1); then
    echo "fetch-deps: Burrow" >&2
    echo "$sum  $DEPS/fetch/$deb" | sha256sum -c --quiet
    dpkg-deb -x "$DEPS/fetch/$deb" "$DEPS/burrow"
    mark burrow "$BURROW"
  else
    echo "NOT RUN: this Debian has no Burrow $version" >&2
  fi
  rm -rf "$DEPS/fetch"
fi
