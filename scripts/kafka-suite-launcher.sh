#!/usr/bin/env bash
# LAUNCHER FILE: how the suite of Kafka's own integration tests starts this broker. Formats the log
# directory at the first start, with what the test says formatting would get (keys acceptance.*),
# then becomes the broker. The binary: $FLUMEN_BIN, or the one scripts/kafka-suite.sh built.
set -euo pipefail
FILE=$1
BIN=${FLUMEN_BIN:?FLUMEN_BIN names the flumen binary}
get() { sed -n "s/^$1=//p" "$FILE" | head -1; }
ID=$(get acceptance.cluster.id)
RELEASE=$(get acceptance.metadata.version)
# Of the features only those that are built; formatting refuses the others.
FEATURES=()
for FEATURE in $(get acceptance.features | tr ',' ' '); do
    case $FEATURE in
    group.version=* | share.version=* | streams.version=* | transaction.version=*)
        FEATURES+=(--feature "$FEATURE")
        ;;
    esac
done
"$BIN" storage format --ignore-formatted --cluster-id "$ID" --config "$FILE" \
    ${RELEASE:+--release-version "$RELEASE"} ${FEATURES[@]+"${FEATURES[@]}"}
exec "$BIN" start --config "$FILE"
