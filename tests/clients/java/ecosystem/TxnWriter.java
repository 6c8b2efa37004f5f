import java.util.Properties;
import java.util.Random;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.errors.InvalidProducerEpochException;
import org.apache.kafka.common.errors.InvalidTxnStateException;
import org.apache.kafka.common.errors.ProducerFencedException;
import org.apache.kafka.common.errors.TimeoutException;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * Transactions for the checker of histories, as python/transactions.py makes them.
 *
 * TxnWriter ADDRESS TOPIC ID INCARNATION
 *
 * Runs until its input ends or another producer takes the transactional id. Prints "ready", and of
 * each transaction "begin N", "write PARTITION VALUE", "commit N" before it asks for the commit,
 * then "committed N", "aborted N" or "fenced N".
 */
public final class TxnWriter {
    private final KafkaProducer<String, String> producer;
    private final Random dice;
    private final String topic;
    private final String name;

    private TxnWriter(String address, String topic, String id, String incarnation) {
        Properties config = new Properties();
        config.put("bootstrap.servers", address);
        config.put("transactional.id", id);
        config.put("transaction.timeout.ms", "20000");
        config.put("batch.size", "256");
        config.put("reconnect.backoff.max.ms", "200");
        config.put("key.serializer", StringSerializer.class);
        config.put("value.serializer", StringSerializer.class);
        this.producer = new KafkaProducer<>(config);
        this.topic = topic;
        this.name = id + ":" + incarnation;
        this.dice = new Random(name.hashCode());
    }

    public static void main(String[] args) throws Exception {
        InputEnd.watch();
        TxnWriter writer = new TxnWriter(args[0], args[1], args[2], args[3]);
        writer.producer.initTransactions();
        System.out.println("ready");
        int partitions = writer.producer.partitionsFor(args[1]).size();
        int number = 0;
        try {
            while (!InputEnd.isReached()) {
                number++;
                writer.transaction(number, partitions);
                Thread.sleep(writer.dice.nextInt(20));
            }
        } catch (KafkaException e) {
            if (hasCause(e, InvalidTxnStateException.class)) {
                // What a replaced one is told while its transaction is rolled back, of Kafka too.
                System.out.println("stuck");
            } else if (isFenced(e)) {
                System.out.println("fenced " + number);
            } else {
                throw e;
            }
        }
        writer.producer.close(java.time.Duration.ofSeconds(10));
        System.exit(0);
    }

    private static boolean isFenced(Throwable e) {
        return hasCause(e, InvalidProducerEpochException.class)
            || hasCause(e, ProducerFencedException.class);
    }

    private static boolean hasCause(Throwable e, Class<? extends Throwable> kind) {
        for (Throwable t = e; t != null; t = t.getCause()) {
            if (kind.isInstance(t)) {
                return true;
            }
        }
        return false;
    }

    private void transaction(int number, int partitions) throws InterruptedException {
        System.out.println("begin " + number);
        producer.beginTransaction();
        boolean commit = dice.nextInt(4) != 0;
        try {
            int records = 1 + dice.nextInt(20);
            for (int sequence = 0; sequence < records; sequence++) {
                int partition = dice.nextInt(partitions);
                String value = name + ":" + number + ":" + sequence;
                System.out.println("write " + partition + " " + value);
                producer.send(new ProducerRecord<>(topic, partition, null, value));
            }
            if (commit) {
                System.out.println("commit " + number);
                patiently(producer::commitTransaction);
                System.out.println("committed " + number);
                return;
            }
            // What is on its way may arrive before the abort, or not.
            Thread.sleep(dice.nextInt(10));
        } catch (KafkaException e) {
            System.err.println("transaction " + number + ": " + e);
            if (e instanceof ProducerFencedException) {
                throw e;
            }
        }
        patiently(producer::abortTransaction);
        System.out.println("aborted " + number);
    }

    /** A call that timed out can be repeated, and only it. */
    private static void patiently(Runnable call) {
        for (int attempt = 0; ; attempt++) {
            try {
                call.run();
                return;
            } catch (TimeoutException e) {
                if (attempt == 3) {
                    throw e;
                }
            }
        }
    }
}
