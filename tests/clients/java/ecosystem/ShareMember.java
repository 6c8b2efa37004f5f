import java.time.Duration;
import java.util.List;
import java.util.Properties;
import org.apache.kafka.clients.consumer.AcknowledgeType;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaShareConsumer;
import org.apache.kafka.common.serialization.StringDeserializer;

/**
 * A member of a share group that acknowledges explicitly.
 *
 * ShareMember ADDRESS TOPIC GROUP accept|release|reject
 *
 * Prints "ready", and for each record "got PARTITION OFFSET DELIVERY VALUE". Ends when its input
 * ends.
 */
public final class ShareMember {
    public static void main(String[] args) throws Exception {
        Properties config = new Properties();
        config.put("bootstrap.servers", args[0]);
        config.put("group.id", args[2]);
        config.put("share.acknowledgement.mode", "explicit");
        config.put("key.deserializer", StringDeserializer.class);
        config.put("value.deserializer", StringDeserializer.class);
        config.put("reconnect.backoff.max.ms", "200");
        InputEnd.watch();
        try (KafkaShareConsumer<String, String> consumer = new KafkaShareConsumer<>(config)) {
            consumer.subscribe(List.of(args[1]));
            System.out.println("ready");
            while (!InputEnd.isReached()) {
                ConsumerRecords<String, String> records = consumer.poll(Duration.ofMillis(200));
                if (records.isEmpty()) {
                    continue;
                }
                take(consumer, records, AcknowledgeType.valueOf(args[3].toUpperCase()));
            }
        }
    }

    private static void take(
        KafkaShareConsumer<String, String> consumer,
        ConsumerRecords<String, String> records,
        AcknowledgeType what
    ) {
        for (ConsumerRecord<String, String> record : records) {
            String place = record.partition() + " " + record.offset();
            int delivery = record.deliveryCount().map(Short::intValue).orElse(0);
            System.out.println("got " + place + " " + delivery + " " + record.value());
            consumer.acknowledge(record, what);
        }
        consumer.commitSync(Duration.ofSeconds(30)).forEach((partition, error) ->
            error.ifPresent(e -> System.err.println(partition + ": " + e)));
    }
}
