#!/usr/bin/env python3
"""Writes src/wire/schemas/ from the message definitions inside Apache Kafka's jars.

    scripts/import-schemas.py JAR_DIR [--version 4.3.1] [--out src/wire/schemas]

Only facts are kept: names, types, versions, nullability, tags, defaults. The form is described in
src/wire/schemas/README.md. What is kept: requests and responses that a broker's client listener serves, the records of
the group, transaction and share coordinators, of the metadata log, control records, and the consumer protocol's own two
messages.
A latest version that Kafka calls unstable is left out, with the fields that only it has.
"""

import argparse
import json
import pathlib
import sys
import zipfile

# Other schemas, by the file that they go to.
RECORDS = {
    "control": (
        "kafka-clients",
        "ControlRecordTypeSchema EndTxnMarker LeaderChangeMessage SnapshotHeaderRecord SnapshotFooterRecord "
        "KRaftVersionRecord VotersRecord",
    ),
    "protocol": (
        "kafka-clients",
        "ConsumerProtocolSubscription ConsumerProtocolAssignment DefaultPrincipalData",
    ),
    "group": ("kafka-group-coordinator", None),
    "transaction": ("kafka-transaction-coordinator", None),
    "share": ("kafka-share-coordinator", None),
    "storage": ("kafka-storage", "ProducerSnapshot"),
    "metadata": ("kafka-metadata", None),
}
VERSION_MAX = 32767


def strip_comments(text):
    """JSON without // comments (outside of strings)."""
    out, i, quoted = [], 0, False
    while i < len(text):
        c = text[i]
        if quoted and c == "\\":
            out.append(text[i : i + 2])
            i += 2
            continue
        if c == '"':
            quoted = not quoted
        if not quoted and text.startswith("//", i):
            i = text.find("\n", i)
            if i < 0:
                break
            continue
        out.append(c)
        i += 1
    return "".join(out)


def load(jar):
    """Every schema of one jar, by name."""
    schemas = {}
    with zipfile.ZipFile(jar) as archive:
        for name in archive.namelist():
            if name.endswith(".json") and ("/message/" in "/" + name or "/metadata/" in "/" + name):
                schema = json.loads(strip_comments(archive.read(name).decode()))
                if "name" in schema:
                    schemas[schema["name"]] = schema
    return schemas


def versions(text):
    """(first, last) of "3-13", "9+", "0"; None of "none"."""
    text = text.strip()
    if text == "none":
        return None
    if text.endswith("+"):
        return int(text[:-1]), VERSION_MAX
    first, _, last = text.partition("-")
    return int(first), int(last or first)


def show(span, valid):
    """A span within the message's versions, in Kafka's form."""
    first, last = max(span[0], valid[0]), min(span[1], valid[1])
    if first > last:
        return None
    if last == valid[1]:
        return f"{first}+"
    return str(first) if first == last else f"{first}-{last}"


def default_of(field):
    if "default" not in field:
        return None
    value = field["default"]
    if value is None:
        # Not the same as "null": Kafka's generator reads JSON's null as no default, that is, as empty.
        return None
    if isinstance(value, bool):
        return str(value).lower()
    value = str(value)
    if field["type"].startswith(("int", "uint")):
        value = str(int(value, 0))
    return value if value != "" else None


def write_fields(fields, valid, depth, out):
    for field in fields:
        # A field may leave out its versions when it is always tagged.
        span = versions(field.get("versions") or field["taggedVersions"])
        shown = show(span, valid)
        if shown is None:
            continue
        kind = field["type"].replace("[] ", "[]")
        words = [field["name"], kind, shown]
        if "nullableVersions" in field:
            nullable = versions(field["nullableVersions"])
            text = nullable and show((max(nullable[0], span[0]), min(nullable[1], span[1])), valid)
            if text:
                words.append(f"nullable={text}")
        if "tag" in field:
            words.append(f"tag={field['tag']}")
            words.append(f"tagged={show(versions(field['taggedVersions']), valid)}")
        default = default_of(field)
        if default is not None:
            words.append(f"default={default}")
        if field.get("ignorable"):
            words.append("ignorable")
        out.append("  " * depth + " ".join(words))
        write_fields(field.get("fields", []), valid, depth + 1, out)


def write_message(schema, out):
    first, last = versions(schema["validVersions"])
    if schema.get("latestVersionUnstable"):
        last -= 1
    valid = (first, last)
    flexible = versions(schema["flexibleVersions"])
    words = [schema["type"], schema["name"]]
    if "apiKey" in schema:
        words.append(f"key={schema['apiKey']}")
    words.append(f"versions={first}-{last}" if first != last else f"versions={first}")
    words.append(f"flexible={f'{flexible[0]}+' if flexible and flexible[0] <= last else 'none'}")
    out.append(" ".join(words))
    write_fields(schema["fields"], valid, 1, out)
    for struct in schema.get("commonStructs", []):
        shown = show(versions(struct["versions"]), valid)
        if shown is not None:
            out.append(f"  struct {struct['name']} {shown}")
            write_fields(struct["fields"], valid, 2, out)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("jars", type=pathlib.Path, help="directory with Kafka's jars")
    parser.add_argument("--version", default="4.3.1")
    root = pathlib.Path(__file__).resolve().parent.parent
    parser.add_argument("--out", type=pathlib.Path, default=root / "src/wire/schemas")
    args = parser.parse_args()

    def jar(name):
        path = args.jars / f"{name}-{args.version}.jar"
        if not path.is_file():
            sys.exit(f"no {path}: give the directory with the jars of Kafka {args.version}")
        return load(path)

    args.out.mkdir(parents=True, exist_ok=True)
    for old in args.out.glob("*.schema"):
        old.unlink()
    clients = jar("kafka-clients")
    requests = [
        s for s in clients.values() if s["type"] == "request" and "broker" in s.get("listeners", [])
    ]
    for request in sorted(requests, key=lambda s: s["apiKey"]):
        name = request["name"].removesuffix("Request")
        out = []
        for schema in (request, clients[name + "Response"]):
            # Whether the latest version is unstable stands in the request alone.
            schema.setdefault("latestVersionUnstable", request.get("latestVersionUnstable", False))
            write_message(schema, out)
        path = args.out / f"{request['apiKey']:02}-{name}.schema"
        path.write_text("\n".join(out) + "\n")
    for file, (source, names) in RECORDS.items():
        schemas = jar(source)
        out = []
        for name in names.split() if names else sorted(schemas):
            write_message(schemas[name], out)
        (args.out / f"records-{file}.schema").write_text("\n".join(out) + "\n")
    print(f"{len(requests)} APIs and {len(RECORDS)} record files in {args.out}")


if __name__ == "__main__":
    main()
