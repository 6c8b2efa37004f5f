#!/usr/bin/env python3
"""Records real frames between Kafka's own tools and a real broker, for src/wire/tests/vectors/.

    scripts/capture-frames.py JAR_DIR [--out src/wire/tests/vectors]

Starts a Kafka node from the jars in JAR_DIR in a temporary directory, runs Kafka's command-line tools against it through
a proxy on loopback, and stores the first frames of each API and version (header and body, without the length) as
KEY-vVERSION-request-N.bin and KEY-vVERSION-response-N.bin. Frames above 4 KiB are left out.
"""

import argparse
import pathlib
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
import time

FRAMES_PER_KIND = 2
FRAME_BYTES_MAX = 4096
ADMIN = "org.apache.kafka.tools."


class Store:
    """Frames seen so far; a pair is kept when either half is new enough."""

    def __init__(self, out):
        self.out = out
        self.lock = threading.Lock()
        self.count = {}
        self.seen = set()

    def add(self, key, version, kind, frame):
        # Correlation ids differ between frames that are otherwise the same.
        same = (key, version, kind, frame[8:] if kind == "request" else frame[4:])
        name = (key, version, kind)
        with self.lock:
            n = self.count.get(name, 0)
            if n >= FRAMES_PER_KIND or len(frame) > FRAME_BYTES_MAX or same in self.seen:
                return
            self.seen.add(same)
            self.count[name] = n + 1
        (self.out / f"{key:02}-v{version}-{kind}-{n}.bin").write_bytes(frame)


def read_exact(sock, n):
    data = b""
    while len(data) < n:
        chunk = sock.recv(n - len(data))
        if not chunk:
            raise EOFError
        data += chunk
    return data


def pump(source, sink, on_frame):
    try:
        while True:
            size = read_exact(source, 4)
            frame = read_exact(source, struct.unpack(">i", size)[0])
            on_frame(frame)
            sink.sendall(size + frame)
    except (EOFError, OSError):
        pass
    finally:
        for sock in (source, sink):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


def serve(listener, broker, store):
    while True:
        client, _ = listener.accept()
        server = socket.create_connection(broker)
        waiting = {}

        def request(frame, waiting=waiting):
            key, version, correlation = struct.unpack(">hhi", frame[:8])
            waiting[correlation] = (key, version)
            store.add(key, version, "request", frame)

        def response(frame, waiting=waiting):
            key, version = waiting.pop(struct.unpack(">i", frame[:4])[0])
            store.add(key, version, "response", frame)

        threading.Thread(target=pump, args=(client, server, request), daemon=True).start()
        threading.Thread(target=pump, args=(server, client, response), daemon=True).start()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Kafka:
    def __init__(self, jars, work, proxy_port):
        self.java = ["java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", f"{jars}/*"]
        self.work = work
        self.port = free_port()
        controller = free_port()
        self.config = work / "server.properties"
        self.config.write_text(
            f"""process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{proxy_port},CONTROLLER://127.0.0.1:{controller}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={work}/data
offsets.topic.replication.factor=1
offsets.topic.num.partitions=2
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=2
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=2
group.initial.rebalance.delay.ms=0
group.share.min.session.timeout.ms=1000
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
"""
        )
        uuid = self.run("kafka.tools.StorageTool", "random-uuid").strip().splitlines()[-1]
        self.run("kafka.tools.StorageTool", "format", "-t", uuid, "-c", str(self.config), "--standalone")
        self.process = subprocess.Popen(
            [*self.java, "kafka.Kafka", str(self.config)],
            stdout=(work / "kafka.log").open("w"),
            stderr=subprocess.STDOUT,
        )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except OSError:
                time.sleep(0.2)
        raise SystemExit(f"Kafka did not start: {(work / 'kafka.log').read_text()[-2000:]}")

    def run(self, main, *args, stdin=""):
        try:
            done = subprocess.run(
                [*self.java, main, *args], input=stdin, capture_output=True, text=True, timeout=60
            )
        except subprocess.TimeoutExpired:
            return "timeout"
        return done.stdout

    def stop(self):
        self.process.terminate()
        self.process.wait(30)


def drive(kafka, server, work):
    """Every tool that talks to brokers, once."""
    to = ["--bootstrap-server", server]

    def tool(name, *args, stdin=""):
        started = time.monotonic()
        out = kafka.run(ADMIN + name, *to, *args, stdin=stdin)
        last = (out.strip().splitlines() or [""])[-1]
        print(f"{name} {' '.join(args)[:60]}: {last[:80]} ({time.monotonic() - started:.1f} s)", flush=True)

    consume = ["--from-beginning", "--max-messages", "3", "--timeout-ms", "20000"]
    tool("TopicCommand", "--create", "--topic", "t", "--partitions", "2", "--config", "segment.bytes=1048576")
    tool("TopicCommand", "--list")
    tool("TopicCommand", "--describe")
    tool("TopicCommand", "--alter", "--topic", "t", "--partitions", "3")
    tool("ConsoleProducer", "--topic", "t", stdin="a\nb\nc\n")
    tool("ConsoleProducer", "--topic", "t", "--compression-codec", "gzip", stdin="d\ne\nf\n")
    tool("consumer.ConsoleConsumer", "--topic", "t", "--group", "g", *consume)
    tool("consumer.ConsoleConsumer", "--topic", "t", "--group", "g2", *consume,
         "--consumer-property", "group.protocol=consumer")
    tool("consumer.group.ConsumerGroupCommand", "--list", "--state")
    tool("consumer.group.ConsumerGroupCommand", "--describe", "--group", "g")
    tool("consumer.group.ConsumerGroupCommand", "--describe", "--group", "g2", "--members", "--verbose")
    tool("consumer.group.ConsumerGroupCommand", "--reset-offsets", "--group", "g", "--topic", "t",
         "--to-earliest", "--execute")
    tool("consumer.group.ConsumerGroupCommand", "--delete-offsets", "--group", "g", "--topic", "t")
    tool("consumer.group.ConsumerGroupCommand", "--delete", "--group", "g")
    share = ["--topic", "t", "--group", "s", "--max-messages", "2", "--timeout-ms", "15000"]
    tool("consumer.ConsoleShareConsumer", *share)
    tool("consumer.group.ShareGroupCommand", "--describe", "--group", "s")
    tool("consumer.group.ShareGroupCommand", "--reset-offsets", "--group", "s", "--topic", "t", "--to-earliest",
         "--execute")
    tool("streams.StreamsGroupCommand", "--list")
    configs = ["--entity-type", "topics", "--entity-name", "t"]
    kafka_config = "kafka.admin.ConfigCommand"
    for args in (
        ["--alter", *configs, "--add-config", "retention.ms=1000000"],
        ["--describe", *configs],
        ["--describe", "--entity-type", "brokers", "--entity-name", "1"],
        ["--alter", "--entity-type", "clients", "--entity-name", "c", "--add-config", "producer_byte_rate=1048576"],
        ["--describe", "--entity-type", "clients"],
        ["--alter", "--entity-type", "users", "--entity-name", "u", "--add-config", "SCRAM-SHA-256=[password=x]"],
        ["--describe", "--entity-type", "users"],
    ):
        kafka.run(kafka_config, *to, *args)
    tool("GetOffsetShell", "--topic", "t")
    records = work / "delete.json"
    records.write_text('{"partitions": [{"topic": "t", "partition": 0, "offset": 0}], "version": 1}')
    tool("DeleteRecordsCommand", "--offset-json-file", str(records))
    tool("LogDirsCommand", "--describe", "--topic-list", "t")
    tool("BrokerApiVersionsCommand")
    tool("MetadataQuorumCommand", "describe", "--status")
    tool("FeatureCommand", "describe")
    tool("reassign.ReassignPartitionsCommand", "--list")
    election = work / "election.json"
    election.write_text('{"partitions": [{"topic": "t", "partition": 0}]}')
    tool("LeaderElectionCommand", "--election-type", "preferred", "--path-to-json-file", str(election))
    kafka.run("kafka.admin.AclCommand", *to, "--add", "--allow-principal", "User:u", "--operation", "Read",
              "--topic", "t")
    kafka.run("kafka.admin.AclCommand", *to, "--list")
    kafka.run("kafka.admin.AclCommand", *to, "--remove", "--allow-principal", "User:u", "--operation", "Read",
              "--topic", "t", "--force")
    tool("TransactionsCommand", "list")
    kafka.run(ADMIN + "ProducerPerformance", "--topic", "t", "--num-records", "20", "--record-size", "10",
              "--throughput", "-1", "--transactional-id", "x", "--bootstrap-server", server)
    tool("TransactionsCommand", "describe", "--transactional-id", "x")
    tool("TransactionsCommand", "describe-producers", "--topic", "t", "--partition", "0")
    tool("ClientMetricsCommand", "--describe")
    tool("GroupsCommand", "--list")
    tool("TopicCommand", "--delete", "--topic", "t")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("jars", type=pathlib.Path, help="directory with Kafka's jars")
    root = pathlib.Path(__file__).resolve().parent.parent
    parser.add_argument("--out", type=pathlib.Path, default=root / "src/wire/tests/vectors")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for old in args.out.glob("*.bin"):
        old.unlink()
    work = pathlib.Path(tempfile.mkdtemp(prefix="capture-frames-"))
    listener = socket.create_server(("127.0.0.1", 0))
    proxy_port = listener.getsockname()[1]
    kafka = Kafka(args.jars, work, proxy_port)
    try:
        threading.Thread(
            target=serve, args=(listener, ("127.0.0.1", kafka.port), Store(args.out)), daemon=True
        ).start()
        drive(kafka, f"127.0.0.1:{proxy_port}", work)
    finally:
        kafka.stop()
        shutil.rmtree(work)
    files = list(args.out.glob("*.bin"))
    print(f"{len(files)} frames, {sum(f.stat().st_size for f in files)} bytes in {args.out}")


if __name__ == "__main__":
    main()
