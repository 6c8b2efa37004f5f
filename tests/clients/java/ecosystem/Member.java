import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.time.Duration;
import java.util.Collection;
import java.util.List;
import java.util.Properties;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.stream.Collectors;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.CooperativeStickyAssignor;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.RangeAssignor;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/**
 * Hosts one consumer at a time and notes what it is given and what it reads.
 *
 * Member ADDRESS GROUP TOPIC
 *
 * Commands on standard input: "join PROTOCOL INSTANCE" (eager, cooperative or consumer; "-" is no
 * static name), "leave", "clock". It ends when its input ends. Each note starts with the machine's
 * monotonic clock in nanoseconds: "assigned GENERATION P,P", "revoked GENERATION P,P", "lost
 * GENERATION P,P", "read PARTITION FROM TO" (TO excluded), "closed", "clock".
 */
public final class Member {
    private static final String END = "end";
    private final Properties config = new Properties();
    private final String topic;
    private KafkaConsumer<byte[], byte[]> consumer;

    private Member(String address, String group, String topic) {
        this.topic = topic;
        config.put("bootstrap.servers", address);
        config.put("group.id", group);
        config.put("key.deserializer", ByteArrayDeserializer.class);
        config.put("value.deserializer", ByteArrayDeserializer.class);
        config.put("enable.auto.commit", "false");
        config.put("auto.offset.reset", "earliest");
        config.put("reconnect.backoff.max.ms", "200");
        config.put("fetch.max.wait.ms", "100");
    }

    public static void main(String[] args) throws Exception {
        LinkedBlockingQueue<String> commands = new LinkedBlockingQueue<>();
        Thread reader = new Thread(() -> {
            try (BufferedReader in = new BufferedReader(new InputStreamReader(System.in))) {
                in.lines().forEach(commands::add);
            } catch (Exception e) {
                e.printStackTrace();
            }
            commands.add(END);
        });
        reader.setDaemon(true);
        reader.start();
        Member member = new Member(args[0], args[1], args[2]);
        while (true) {
            // With a consumer the polls wait, without one the queue does.
            String command = member.consumer == null ? commands.take() : commands.poll();
            if (END.equals(command)) {
                break;
            }
            if (command != null) {
                member.obey(command.split(" "));
            }
            member.poll();
        }
        member.leave();
    }

    private static void note(String event) {
        System.out.println(System.nanoTime() + " " + event);
    }

    private void obey(String[] command) {
        switch (command[0]) {
            case "join" -> join(command[1], command[2]);
            case "leave" -> leave();
            case "clock" -> note("clock");
            default -> throw new IllegalArgumentException(command[0]);
        }
    }

    private void join(String protocol, String instance) {
        Properties own = new Properties();
        own.putAll(config);
        if (!instance.equals("-")) {
            own.put("group.instance.id", instance);
        }
        if (protocol.equals("consumer")) {
            own.put("group.protocol", "consumer");
        } else {
            boolean eager = protocol.equals("eager");
            Class<?> assignor = eager ? RangeAssignor.class : CooperativeStickyAssignor.class;
            own.put("group.protocol", "classic");
            own.put("partition.assignment.strategy", assignor.getName());
            own.put("session.timeout.ms", "2000");
            own.put("heartbeat.interval.ms", "300");
        }
        consumer = new KafkaConsumer<>(own);
        consumer.subscribe(List.of(topic), new Notes());
    }

    private void leave() {
        if (consumer != null) {
            consumer.close();
            consumer = null;
            note("closed");
        }
    }

    private void poll() {
        if (consumer == null) {
            return;
        }
        ConsumerRecords<byte[], byte[]> records = consumer.poll(Duration.ofMillis(50));
        for (TopicPartition partition : records.partitions()) {
            List<ConsumerRecord<byte[], byte[]>> of = records.records(partition);
            long last = of.get(of.size() - 1).offset();
            note("read " + partition.partition() + " " + of.get(0).offset() + " " + (last + 1));
        }
        if (!records.isEmpty()) {
            try {
                consumer.commitSync(Duration.ofSeconds(5));
            } catch (KafkaException e) {
                // The partition's next owner reads these again.
                System.err.println("not committed: " + e);
            }
        }
    }

    private final class Notes implements ConsumerRebalanceListener {
        private void tell(String event, Collection<TopicPartition> partitions) {
            if (partitions.isEmpty()) {
                return;
            }
            String list = partitions.stream()
                .map(p -> Integer.toString(p.partition()))
                .collect(Collectors.joining(","));
            note(event + " " + consumer.groupMetadata().generationId() + " " + list);
        }

        @Override
        public void onPartitionsAssigned(Collection<TopicPartition> partitions) {
            tell("assigned", partitions);
        }

        @Override
        public void onPartitionsRevoked(Collection<TopicPartition> partitions) {
            tell("revoked", partitions);
        }

        @Override
        public void onPartitionsLost(Collection<TopicPartition> partitions) {
            tell("lost", partitions);
        }
    }
}
