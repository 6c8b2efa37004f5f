#!/usr/bin/env python3
"""kafka-suite-report.py SUITE_DIR [--broker NAME] [--markdown FILE] [--require LIST] RESULT.csv...

Counts, of the tests that pass on real Kafka (SUITE_DIR/control-pass.txt), how many pass in these
results, per class. --markdown writes the table; --require fails when a class has fewer passes than
LIST says ("CLASS PASSES" per line)."""

import argparse
import collections
import csv
import datetime
import os
import re
import subprocess
import sys


# Why tests of a class fail, where that is known: what is not built yet.
KNOWN = {
    "kafka.server.ApiVersionsRequestTest": "counts Kafka's features and APIs: eligible.leader.replicas.version, and"
    " the APIs of security, quotas and replication, are not built",
    "kafka.server.SaslApiVersionsRequestTest": "SASL is not built",
    "org.apache.kafka.clients.admin.DescribeAuthorizedOperationsTest": "SASL is not built",
    "org.apache.kafka.clients.consumer.PlaintextConsumerPollTest": "members whose heartbeats (3 s) are further apart than a"
    " join phase is long (1 s) drop each other by turns unless all join at once: with Kafka they did, here one was 0.1 s"
    " ahead",
    "org.apache.kafka.clients.consumer.SaslPlainPlaintextConsumerTest": "SASL is not built",
}


def results(files):
    """Test name -> (status, reason) of the last run."""
    rows = {}
    for name in files:
        if os.path.exists(name):
            with open(name, newline="") as file:
                for row in csv.reader(file):
                    if len(row) >= 4:
                        rows[row[0]] = (row[1], row[3])
    return rows


def short(reason):
    """A reason without numbers that change from run to run, cut to a table cell."""
    text = re.sub(r"\s+", " ", reason).replace("|", "/")
    return text[:110]


def commit():
    command = ["git", "-C", os.path.dirname(os.path.abspath(__file__)), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "unknown"


def markdown(path, broker, made_by, per_class, totals, reasons):
    lines = [
        "# Apache Kafka's own integration tests",
        "",
        f"Broker: {broker}, commit {commit()}, {datetime.date.today()}. Made by",
        f"{made_by}; do not edit. Of the tests that pass on Apache",
        "Kafka 4.3.1 with the same harness, the ones that pass here:",
        "",
        f"**{totals['PASS']} of {sum(totals.values())}** "
        f"({totals['FAIL']} fail, {totals['SKIP']} skipped, {totals['NOT RUN']} not run)",
        "",
        "|Class|Pass|Of|Reason of the others, where not known the most frequent|",
        "|---|---:|---:|---|",
    ]
    for name, counts in sorted(per_class.items()):
        common = reasons[name].most_common(1)
        why = KNOWN.get(name) or short(common[0][0]) if common else ""
        lines.append(f"|{name}|{counts['PASS']}|{sum(counts.values())}|{why}|")
    with open(path, "w") as file:
        file.write("\n".join(lines) + "\n")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("suite")
    parser.add_argument("--broker", default="Flumen")
    parser.add_argument("--markdown")
    parser.add_argument("--made-by", default="`scripts/kafka-suite.sh --full`")
    parser.add_argument("--require")
    parser.add_argument("files", nargs="+")
    options = parser.parse_args()
    rows = results(options.files)
    with open(os.path.join(options.suite, "control-pass.txt")) as file:
        counted = [line.rstrip("\n") for line in file if line.strip()]
    per_class = collections.defaultdict(collections.Counter)
    reasons = collections.defaultdict(collections.Counter)
    totals = collections.Counter()
    for test in counted:
        name = test.split("#")[0]
        # A class that failed before its methods has one row of its own.
        status, why = rows.get(test) or rows.get(name) or ("NOT RUN", "")
        per_class[name][status] += 1
        totals[status] += 1
        if status != "PASS" and why:
            reasons[name][why] += 1
    failed = []
    required = {}
    if options.require:
        with open(options.require) as file:
            for line in file:
                words = line.split("#")[0].split()
                if words:
                    required[words[0]] = int(words[1]) if len(words) > 1 else 1
    for name, counts in sorted(per_class.items()):
        if options.require and name not in required:
            continue
        print(f"{name}: {counts['PASS']} of {sum(counts.values())} pass")
        if counts["PASS"] < required.get(name, 0):
            failed.append(name)
            for test in counted:
                if test.split("#")[0] == name and rows.get(test, ("", ""))[0] != "PASS":
                    print(f"  {rows.get(test, ('NOT RUN', ''))[0]} {test}: {rows.get(test, ('', ''))[1]}")
    unknown = [name for name in required if name not in per_class]
    if options.markdown:
        markdown(options.markdown, options.broker, options.made_by, per_class, totals, reasons)
    if not options.require:
        print(f"kafka-suite: {totals['PASS']} of {len(counted)} pass")
    else:
        passed = sum(per_class[name]["PASS"] for name in required if name in per_class)
        verdict = "FAILED" if failed or unknown else "ok"
        print(f"kafka-suite quick: {verdict}. {passed} passed; classes below their count: {len(failed)}")
    if unknown:
        print(f"no such class in control-pass.txt: {unknown}", file=sys.stderr)
    sys.exit(1 if failed or unknown else 0)


if __name__ == "__main__":
    main()
