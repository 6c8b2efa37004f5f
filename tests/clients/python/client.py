"""Drives a broker through librdkafka (confluent-kafka).

client.py roundtrip ADDRESS TOPIC     admin, every codec, transactions-free idempotent producer,
                                      consumer, offsets for times, delete
client.py rebalance ADDRESS TOPIC STRATEGY   three members come and go; each record is handled once
client.py survive ADDRESS TOPIC COUNT FILE   acks=all idempotent producer that outlives the broker's
                                      death; writes "partition offset value" of each ack to FILE
client.py endless ADDRESS TOPIC FILE   as survive, until stdin ends; prints how many were sent
client.py transactions ADDRESS TOPIC   two that are committed, two that are aborted
client.py group ADDRESS TOPIC GROUP COUNT    reads COUNT records, commits, prints "ready", and stays
                                      in the group until stdin ends
"""

import sys
import threading
import time

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewPartitions, NewTopic

LIMIT_S = 60


def require(condition, message):
    if not condition:
        sys.exit(f"failed: {message}")


def done(futures):
    for future in futures.values():
        future.result(timeout=30)


def produce(address, topic, values, **config):
    errors = []
    producer = Producer({"bootstrap.servers": address, "acks": "all", **config})

    def acked(error, _message):
        if error is not None:
            errors.append(error)

    for value in values:
        while True:
            try:
                producer.produce(topic, key=value, value=value, headers=[("h", b"1")], callback=acked)
                break
            except BufferError:
                producer.poll(0.05)
        producer.poll(0)
    left = producer.flush(LIMIT_S)
    require(left == 0 and not errors, f"{left} not sent, errors {errors[:3]}")


def consumer_of(address, group, **config):
    return Consumer(
        {
            "bootstrap.servers": address,
            "group.id": group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "session.timeout.ms": 6000,
            "heartbeat.interval.ms": 500,
            **config,
        }
    )


def roundtrip(address, topic):
    admin = AdminClient({"bootstrap.servers": address})
    done(admin.create_topics([NewTopic(topic, 3, 1, config={"retention.ms": "-1"})]))
    done(admin.create_partitions([NewPartitions(topic, 4)]))
    config = list(admin.describe_configs([ConfigResource("topic", topic)]).values())[0].result(30)
    require(config["retention.ms"].value == "-1", config["retention.ms"])
    expected = set()
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"]:
        values = [f"{codec}-{n}" for n in range(500)]
        expected.update(values)
        produce(address, topic, values, **{"compression.type": codec, "enable.idempotence": True})
    consumer = consumer_of(address, topic + "-group")
    consumer.subscribe([topic])
    seen = []
    end = time.monotonic() + LIMIT_S
    while len(seen) < len(expected) and time.monotonic() < end:
        for message in consumer.consume(500, timeout=0.2):
            require(message.error() is None, message.error())
            require(message.headers() == [("h", b"1")], message.headers())
            seen.append(message.value().decode())
    require(len(seen) == len(expected) and set(seen) == expected, f"{len(seen)} records")
    committed = consumer.commit(asynchronous=False)
    require(sum(p.offset for p in committed) == len(expected), committed)
    low_high = [consumer.get_watermark_offsets(TopicPartition(topic, p)) for p in range(4)]
    require(sum(high - low for low, high in low_high) == len(expected), low_high)
    at = consumer.offsets_for_times([TopicPartition(topic, p, 1000) for p in range(4)])
    require(all(p.offset == 0 for p in at), at)
    consumer.close()
    groups = admin.list_consumer_groups().result(timeout=30)
    require(topic + "-group" in [g.group_id for g in groups.valid], groups.valid)
    done(admin.delete_consumer_groups([topic + "-group"]))
    done(admin.delete_topics([topic]))
    print("ok", len(seen), "records")


def rebalance(address, topic, strategy):
    admin = AdminClient({"bootstrap.servers": address})
    partitions, count = 6, 6000
    done(admin.create_topics([NewTopic(topic, partitions, 1)]))
    group = f"{topic}-{strategy}"
    assigned = {}
    handled = []

    def member(name):
        consumer = consumer_of(address, group, **{"partition.assignment.strategy": strategy})
        assigned[name] = set()

        def on_assign(c, parts):
            if strategy == "cooperative-sticky":
                assigned[name] |= {p.partition for p in parts}
                c.incremental_assign(parts)
            else:
                assigned[name] = {p.partition for p in parts}
                c.assign(parts)

        def on_revoke(c, parts):
            if strategy == "cooperative-sticky":
                assigned[name] -= {p.partition for p in parts}
                c.incremental_unassign(parts)
            else:
                assigned[name] = set()
                c.unassign()

        consumer.subscribe([topic], on_assign=on_assign, on_revoke=on_revoke, on_lost=on_revoke)
        return consumer

    def poll(members):
        for consumer in members.values():
            for message in consumer.consume(100, timeout=0.05):
                require(message.error() is None, message.error())
                handled.append(message.value().decode())
                consumer.commit(message=message, asynchronous=True)

    def settle(members, what):
        end = time.monotonic() + LIMIT_S
        while time.monotonic() < end:
            poll(members)
            parts = [p for name in members for p in assigned[name]]
            shares = [len(assigned[name]) for name in members]
            if sorted(parts) == list(range(partitions)) and max(shares) - min(shares) <= 1:
                return
        sys.exit(f"failed: {what}: {assigned}")

    members = {"a": member("a")}
    settle(members, "one member owns all")
    produce(address, topic, [str(n) for n in range(count // 2)])
    members["b"] = member("b")
    members["c"] = member("c")
    settle(members, "three members share")
    produce(address, topic, [str(n) for n in range(count // 2, count)])
    end = time.monotonic() + LIMIT_S
    while len(handled) < count and time.monotonic() < end:
        poll(members)
    members.pop("a").close()
    settle(members, "two members are left")
    for consumer in members.values():
        consumer.close()
    # Commits are not awaited before a partition moves, so a record may be handled again; none may
    # be lost.
    require(set(handled) == {str(n) for n in range(count)}, f"{len(set(handled))} of {count}")
    print("ok", len(handled), "handled")


def survive(address, topic, count, path):
    send(address, topic, range(count), path)
    print("ok", count)


def send(address, topic, numbers, path):
    """Numbers to four partitions in turn, each acked in spite of lost connections."""
    acks = open(path, "w", buffering=1)
    failed = []
    producer = Producer(
        {
            "bootstrap.servers": address,
            "acks": "all",
            "enable.idempotence": True,
            "linger.ms": 2,
            "batch.num.messages": 50,
            "message.timeout.ms": 120000,
            "reconnect.backoff.max.ms": 200,
            "queue.buffering.max.messages": 2000,
        }
    )

    def acked(error, message):
        if error is not None:
            failed.append(str(error))
        else:
            acks.write(f"{message.partition()} {message.offset()} {message.value().decode()}\n")

    for n in numbers:
        while True:
            try:
                producer.produce(topic, value=str(n), partition=n % 4, callback=acked)
                break
            except BufferError:
                producer.poll(0.05)
        producer.poll(0)
    left = producer.flush(120)
    require(left == 0 and not failed, f"{left} not sent, errors {failed[:3]}")
    acks.close()


def endless(address, topic, path):
    stop = threading.Event()

    def watch():
        sys.stdin.read()
        stop.set()

    threading.Thread(target=watch, daemon=True).start()
    count = 0

    def numbers():
        nonlocal count
        while not stop.is_set():
            yield count
            count += 1
            if count % 10 == 0:
                time.sleep(0.002)

    send(address, topic, numbers(), path)
    print("ok", count)


def transactions(address, topic):
    producer = Producer({"bootstrap.servers": address, "transactional.id": topic + "-tx"})
    producer.init_transactions(LIMIT_S)
    for n in range(4):
        producer.begin_transaction()
        for i in range(25):
            producer.produce(topic, value=f"{n}-{i}")
        producer.flush(LIMIT_S)
        if n % 2 == 0:
            producer.commit_transaction(LIMIT_S)
        else:
            producer.abort_transaction(LIMIT_S)
    print("ok")


def group(address, topic, group_id, count):
    consumer = consumer_of(address, group_id)
    consumer.subscribe([topic])
    seen = 0
    end = time.monotonic() + LIMIT_S
    while seen < count and time.monotonic() < end:
        message = consumer.poll(0.1)
        if message is not None:
            require(message.error() is None, message.error())
            seen += 1
    require(seen == count, f"{seen} of {count}")
    consumer.commit(asynchronous=False)
    print("ready", flush=True)
    sys.stdin.read()
    consumer.close()


if __name__ == "__main__":
    command, arguments = sys.argv[1], sys.argv[2:]
    if command == "roundtrip":
        roundtrip(*arguments)
    elif command == "rebalance":
        rebalance(*arguments)
    elif command == "survive":
        survive(arguments[0], arguments[1], int(arguments[2]), arguments[3])
    elif command == "endless":
        endless(*arguments)
    elif command == "transactions":
        transactions(*arguments)
    elif command == "group":
        group(arguments[0], arguments[1], arguments[2], int(arguments[3]))
    else:
        sys.exit(f"unknown command {command}")
