import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.time.Duration;
import java.util.Arrays;
import java.util.Properties;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.StoreQueryParameters;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.errors.InvalidStateStoreException;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.processor.StateRestoreListener;
import org.apache.kafka.streams.state.KeyValueIterator;
import org.apache.kafka.streams.state.QueryableStoreTypes;
import org.apache.kafka.streams.state.ReadOnlyKeyValueStore;

/**
 * Counts the words of a topic in a state store with a changelog.
 *
 * WordCount ADDRESS STATE_DIR PROTOCOL GUARANTEE INPUT OUTPUT
 *
 * Prints "STATE name" at each change, "RESTORED store records" after each restored partition of a
 * store, "COUNTED lines" at every hundredth line. Reads commands: "all" prints "COUNT word number"
 * of all words of this instance, then "END" ("END why" when the store cannot be read now). Closes
 * when its input ends.
 */
public final class WordCount {
    private static final String STORE = "word-counts";

    public static void main(String[] args) throws Exception {
        Properties config = new Properties();
        config.put(StreamsConfig.APPLICATION_ID_CONFIG, "word-count");
        config.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, args[0]);
        config.put(StreamsConfig.STATE_DIR_CONFIG, args[1]);
        config.put(StreamsConfig.GROUP_PROTOCOL_CONFIG, args[2]);
        config.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, args[3]);
        config.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, "1");
        config.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, "200");
        config.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, "0");
        config.put(StreamsConfig.DEFAULT_KEY_SERDE_CLASS_CONFIG, Serdes.StringSerde.class);
        config.put(StreamsConfig.DEFAULT_VALUE_SERDE_CLASS_CONFIG, Serdes.StringSerde.class);
        config.put("auto.offset.reset", "earliest");
        config.put("reconnect.backoff.max.ms", "200");
        if (args[2].equals("classic")) {
            config.put("main.consumer.session.timeout.ms", "6000");
            config.put("main.consumer.heartbeat.interval.ms", "500");
        }
        KafkaStreams streams = new KafkaStreams(topology(args[4], args[5]).build(), config);
        streams.setStateListener((now, before) -> System.out.println("STATE " + now));
        streams.setGlobalStateRestoreListener(new Restored());
        streams.start();
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            if (line.equals("all")) {
                printAll(streams);
            }
        }
        boolean closed = streams.close(Duration.ofSeconds(60));
        System.exit(closed ? 0 : 1);
    }

    private static StreamsBuilder topology(String input, String output) {
        AtomicLong lines = new AtomicLong();
        StreamsBuilder builder = new StreamsBuilder();
        builder.<String, String>stream(input)
            .peek((key, line) -> {
                if (lines.incrementAndGet() % 100 == 0) {
                    System.out.println("COUNTED " + lines.get());
                }
            })
            .flatMapValues(line -> Arrays.asList(line.split(" ")))
            .groupBy((key, word) -> word, Grouped.with(Serdes.String(), Serdes.String()))
            .count(Materialized.as(STORE))
            .toStream()
            .map((word, number) -> KeyValue.pair(word, word + " " + number))
            .to(output, Produced.with(Serdes.String(), Serdes.String()));
        return builder;
    }

    private static void printAll(KafkaStreams streams) {
        StringBuilder text = new StringBuilder();
        try {
            ReadOnlyKeyValueStore<String, Long> store = streams.store(StoreQueryParameters
                .fromNameAndType(STORE, QueryableStoreTypes.<String, Long>keyValueStore()));
            try (KeyValueIterator<String, Long> all = store.all()) {
                while (all.hasNext()) {
                    KeyValue<String, Long> next = all.next();
                    text.append("COUNT ").append(next.key).append(' ');
                    text.append(next.value).append('\n');
                }
            }
            text.append("END");
        } catch (InvalidStateStoreException | IllegalStateException e) {
            text.setLength(0);
            text.append("END ").append(e);
        }
        System.out.println(text);
    }

    /** Tells how much came from the changelog. */
    private static final class Restored implements StateRestoreListener {
        @Override
        public void onRestoreStart(TopicPartition of, String store, long from, long to) { }

        @Override
        public void onBatchRestored(TopicPartition of, String store, long end, long count) { }

        @Override
        public void onRestoreEnd(TopicPartition of, String store, long total) {
            System.out.println("RESTORED " + store + " " + total);
        }
    }
}
