"""Transactions through librdkafka (confluent-kafka), for the checker of histories.

transactions.py write ADDRESS TOPIC ID INCARNATION   transactions with this transactional id until
                                      stdin ends or another producer takes the id; what it does goes
                                      to stdout, a line each: "begin N", "write PARTITION VALUE",
                                      "commit N" before the commit is asked for, then "committed N",
                                      "aborted N" or "fenced N"; "stuck" before it ends by itself
transactions.py follow ADDRESS TOPIC  reads what is committed from the beginning and follows the end
                                      until stdin ends: "read PARTITION OFFSET VALUE"
"""

import os
import random
import sys
import threading
import time

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

LIMIT_S = 60
FENCED = (KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH)


def until_input_ends():
    stop = threading.Event()

    def watch():
        sys.stdin.read()
        stop.set()

    threading.Thread(target=watch, daemon=True).start()
    return stop


def say(*words):
    print(*words, flush=True)


class Fenced(Exception):
    """Another producer has the transactional id now."""


class Stuck(Exception):
    """The client refuses to go on with this producer; another must take its transactional id."""


class MustAbort(Exception):
    """The transaction cannot be committed any more."""


def attempt(call, *arguments):
    """Repeats a call that the client says can be repeated; lost connections are such."""
    end = time.monotonic() + LIMIT_S
    while True:
        try:
            return call(*arguments)
        except KafkaException as e:
            error = e.args[0]
            if error.code() in FENCED:
                raise Fenced() from e
            if error.txn_requires_abort():
                raise MustAbort() from e
            if error.fatal() or not error.retriable() or time.monotonic() > end:
                raise


def send(producer, topic, partition, value):
    while True:
        try:
            producer.produce(topic, value=value, partition=partition)
            return
        except BufferError:
            producer.poll(0.05)
        except KafkaException as e:
            error = e.args[0]
            if error.code() in FENCED:
                raise Fenced() from e
            # The client has seen by itself that this transaction is lost.
            raise MustAbort() from e


class Connections:
    """Counts the connections that a client has lost; its `error_cb`."""

    def __init__(self):
        self.lost = 0

    def __call__(self, error):
        self.lost += error.code() in (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN)


def transaction(producer, connections, topic, partitions, name, number, dice):
    say("begin", number)
    lost_before = connections.lost
    attempt(producer.begin_transaction)
    try:
        for sequence in range(dice.randint(1, 20)):
            partition = dice.randrange(partitions)
            value = f"{name}:{number}:{sequence}"
            say("write", partition, value)
            send(producer, topic, partition, value)
        producer.poll(0)
        if dice.random() < 0.25:
            # What is on its way may arrive before the abort, or not.
            time.sleep(dice.random() * 0.01)
            raise MustAbort()
        say("commit", number)
        attempt(producer.commit_transaction, LIMIT_S)
        say("committed", number)
    except MustAbort:
        try:
            attempt(producer.abort_transaction, LIMIT_S)
        except KafkaException as e:
            # A connection that broke took the partitions along: the coordinator knows of no
            # transaction, of Kafka too, and that is fatal for this client.
            if e.args[0].code() == KafkaError.INVALID_TXN_STATE:
                raise Stuck() from e
            raise
        say("aborted", number)
        producer.poll(0)
        if connections.lost > lost_before:
            # The client has purged batches that may have arrived before the connection broke, and
            # gives their sequence numbers to the next ones: those are then out of order, which is
            # fatal, or taken for the old ones, which loses them
            # (rd_kafka_toppar_purge_queues, librdkafka 2).
            raise Stuck()


def write(address, topic, transactional_id, incarnation):
    stop = until_input_ends()
    connections = Connections()
    producer = Producer(
        {
            "bootstrap.servers": address,
            "error_cb": connections,
            "transactional.id": transactional_id,
            "transaction.timeout.ms": 20000,
            "linger.ms": 1,
            "reconnect.backoff.max.ms": 200,
        }
    )
    attempt(producer.init_transactions, LIMIT_S)
    say("ready")
    partitions = len(producer.list_topics(topic, LIMIT_S).topics[topic].partitions)
    dice = random.Random(f"{transactional_id}-{incarnation}")
    name = f"{transactional_id}:{incarnation}"
    number = 0
    try:
        while not stop.is_set():
            number += 1
            transaction(producer, connections, topic, partitions, name, number, dice)
            time.sleep(dice.random() * 0.02)
    except Fenced:
        say("fenced", number)
    except Stuck:
        say("stuck")


def follow(address, topic):
    stop = until_input_ends()
    consumer = Consumer(
        {
            "bootstrap.servers": address,
            "group.id": "follow",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "reconnect.backoff.max.ms": 200,
            "fetch.wait.max.ms": 100,
        }
    )
    partitions = consumer.list_topics(topic, LIMIT_S).topics[topic].partitions
    consumer.assign([TopicPartition(topic, p, 0) for p in partitions])
    while not stop.is_set():
        for message in consumer.consume(500, timeout=0.1):
            error = message.error()
            if error is None:
                say("read", message.partition(), message.offset(), message.value().decode())
            elif error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
                sys.exit(f"failed: the position is gone: {error}")
    consumer.close()


if __name__ == "__main__":
    command, arguments = sys.argv[1], sys.argv[2:]
    if command == "write":
        write(*arguments)
        # All is said. The client's destructor has been seen to crash (double free) when a fenced
        # producer had messages left.
        sys.stderr.flush()
        os._exit(0)
    elif command == "follow":
        follow(*arguments)
    else:
        sys.exit(f"unknown command {command}")
