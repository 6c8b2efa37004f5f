import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;
import org.springframework.context.annotation.AnnotationConfigApplicationContext;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;
import org.springframework.kafka.annotation.EnableKafka;
import org.springframework.kafka.annotation.KafkaListener;
import org.springframework.kafka.config.ConcurrentKafkaListenerContainerFactory;
import org.springframework.kafka.core.DefaultKafkaConsumerFactory;
import org.springframework.kafka.core.DefaultKafkaProducerFactory;
import org.springframework.kafka.core.KafkaTemplate;
import org.springframework.kafka.core.ProducerFactory;
import org.springframework.kafka.listener.ContainerProperties.AckMode;
import org.springframework.kafka.listener.DeadLetterPublishingRecoverer;
import org.springframework.kafka.listener.DefaultErrorHandler;
import org.springframework.kafka.support.KafkaHeaders;
import org.springframework.kafka.transaction.KafkaTransactionManager;
import org.springframework.util.backoff.FixedBackOff;

/**
 * Spring for Apache Kafka as its users write it, over numbered records.
 *
 * SpringApp ADDRESS listen|transactions RECORDS
 *
 * Prints "STARTED", "HANDLED n" as it goes on, and at the end "RESULT" with its counts, as JSON.
 */
public final class SpringApp {
    static final String ORDERS = "orders";
    static final String DEAD = "orders-dead";
    static final String PAYMENTS = "payments";
    static final String RECEIPTS = "receipts";
    static final int PARTITIONS = 4;
    static final Duration LIMIT = Duration.ofSeconds(180);

    static String address;
    static final AtomicInteger attempts = new AtomicInteger();
    static final AtomicInteger wrongHeaders = new AtomicInteger();
    static final Set<Integer> failedOnce = ConcurrentHashMap.newKeySet();
    static final Set<Integer> handled = ConcurrentHashMap.newKeySet();
    static final Set<Integer> dead = ConcurrentHashMap.newKeySet();

    static void handled(int n) {
        if (handled.add(n)) {
            System.out.println("HANDLED " + handled.size());
        }
    }

    static Map<String, Object> consumerConfig() {
        Map<String, Object> config = new HashMap<>();
        config.put(ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG, address);
        config.put(ConsumerConfig.KEY_DESERIALIZER_CLASS_CONFIG, StringDeserializer.class);
        config.put(ConsumerConfig.VALUE_DESERIALIZER_CLASS_CONFIG, StringDeserializer.class);
        config.put(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest");
        config.put(ConsumerConfig.ISOLATION_LEVEL_CONFIG, "read_committed");
        config.put(ConsumerConfig.RECONNECT_BACKOFF_MAX_MS_CONFIG, "200");
        return config;
    }

    static Map<String, Object> producerConfig() {
        Map<String, Object> config = new HashMap<>();
        config.put(ProducerConfig.BOOTSTRAP_SERVERS_CONFIG, address);
        config.put(ProducerConfig.KEY_SERIALIZER_CLASS_CONFIG, StringSerializer.class);
        config.put(ProducerConfig.VALUE_SERIALIZER_CLASS_CONFIG, StringSerializer.class);
        config.put(ProducerConfig.RECONNECT_BACKOFF_MAX_MS_CONFIG, "200");
        return config;
    }

    /** Two threads for each listener. */
    public static class Containers extends ConcurrentKafkaListenerContainerFactory<String, String> {
        public Containers() {
            setConsumerFactory(new DefaultKafkaConsumerFactory<>(consumerConfig()));
            setConcurrency(2);
        }
    }

    /** Retries in place, then the dead-letter topic. */
    @Configuration(proxyBeanMethods = false)
    @EnableKafka
    public static class Listening {
        @Bean
        public ProducerFactory<String, String> producers() {
            return new DefaultKafkaProducerFactory<>(producerConfig());
        }

        @Bean
        public KafkaTemplate<String, String> template(ProducerFactory<String, String> producers) {
            return new KafkaTemplate<>(producers);
        }

        @Bean
        public Containers kafkaListenerContainerFactory(KafkaTemplate<String, String> template) {
            Containers factory = new Containers();
            factory.getContainerProperties().setAckMode(AckMode.RECORD);
            DeadLetterPublishingRecoverer recoverer = new DeadLetterPublishingRecoverer(template,
                (record, error) -> new TopicPartition(DEAD, record.partition()));
            factory.setCommonErrorHandler(
                new DefaultErrorHandler(recoverer, new FixedBackOff(20, 2)));
            return factory;
        }

        @Bean
        public Orders orders() {
            return new Orders();
        }
    }

    /** Refuses every tenth order, and every other order that ends with a five once. */
    public static class Orders {
        @KafkaListener(id = "orders-group", topics = ORDERS)
        public void order(ConsumerRecord<String, String> record) {
            attempts.incrementAndGet();
            int n = Integer.parseInt(record.value());
            if (n % 10 == 0) {
                throw new IllegalArgumentException("poisoned");
            }
            if (n % 10 == 5 && failedOnce.add(n)) {
                throw new IllegalStateException("not now");
            }
            handled(n);
        }

        @KafkaListener(id = "dead-group", topics = DEAD)
        public void dead(ConsumerRecord<String, String> record) {
            boolean right = text(record, KafkaHeaders.DLT_ORIGINAL_TOPIC).equals(ORDERS)
                && text(record, KafkaHeaders.DLT_EXCEPTION_CAUSE_FQCN)
                    .equals(IllegalArgumentException.class.getName())
                && record.key().equals("k" + record.value());
            if (!right) {
                wrongHeaders.incrementAndGet();
            }
            dead.add(Integer.parseInt(record.value()));
        }

        private static String text(ConsumerRecord<?, ?> record, String name) {
            Header header = record.headers().lastHeader(name);
            return header == null ? "" : new String(header.value(), StandardCharsets.UTF_8);
        }
    }

    /** A listener whose records, what it sends and its offsets are one transaction. */
    @Configuration(proxyBeanMethods = false)
    @EnableKafka
    public static class Transacting {
        @Bean
        public ProducerFactory<String, String> producers() {
            DefaultKafkaProducerFactory<String, String> factory =
                new DefaultKafkaProducerFactory<>(producerConfig());
            factory.setTransactionIdPrefix("spring-");
            return factory;
        }

        @Bean
        public KafkaTemplate<String, String> template(ProducerFactory<String, String> producers) {
            return new KafkaTemplate<>(producers);
        }

        @Bean
        public KafkaTransactionManager<String, String> transactions(
            ProducerFactory<String, String> producers
        ) {
            return new KafkaTransactionManager<>(producers);
        }

        @Bean
        public Containers kafkaListenerContainerFactory(
            KafkaTransactionManager<String, String> transactions
        ) {
            Containers factory = new Containers();
            factory.getContainerProperties().setKafkaAwareTransactionManager(transactions);
            return factory;
        }

        @Bean
        public Payments payments(KafkaTemplate<String, String> template) {
            return new Payments(template);
        }
    }

    /** Writes two receipts for each payment; every seventh fails once between the two. */
    public static class Payments {
        private final KafkaTemplate<String, String> template;

        public Payments(KafkaTemplate<String, String> template) {
            this.template = template;
        }

        @KafkaListener(id = "payments-group", topics = PAYMENTS)
        public void pay(ConsumerRecord<String, String> record) throws Exception {
            int n = Integer.parseInt(record.value());
            // Waited for, so that the first is in the log when the transaction fails.
            template.send(RECEIPTS, record.key(), n + "-a").get();
            if (n % 7 == 0 && failedOnce.add(n)) {
                throw new IllegalStateException("not now");
            }
            template.send(RECEIPTS, record.key(), n + "-b").get();
            handled(n);
        }
    }

    public static void main(String[] args) throws Exception {
        address = args[0];
        int records = Integer.parseInt(args[2]);
        String result = args[1].equals("listen") ? listen(records) : transact(records);
        System.out.println("RESULT " + result);
        System.exit(0);
    }

    interface Condition {
        boolean holds() throws Exception;
    }

    static void await(String what, Condition condition) throws Exception {
        long end = System.nanoTime() + LIMIT.toNanos();
        while (!condition.holds()) {
            if (System.nanoTime() > end) {
                throw new IllegalStateException(what + " did not happen");
            }
            Thread.sleep(20);
        }
    }

    @SuppressWarnings("unchecked")
    static String listen(int records) throws Exception {
        try (AnnotationConfigApplicationContext context =
                 new AnnotationConfigApplicationContext(Listening.class)) {
            System.out.println("STARTED");
            KafkaTemplate<String, String> template = context.getBean(KafkaTemplate.class);
            List<CompletableFuture<?>> sent = new ArrayList<>();
            for (int n = 0; n < records; n++) {
                sent.add(template.send(ORDERS, "k" + n, Integer.toString(n)));
                Thread.sleep(2);
            }
            for (CompletableFuture<?> one : sent) {
                one.get();
            }
            int poisoned = (records + 9) / 10;
            await("all orders and dead letters",
                () -> handled.size() == records - poisoned && dead.size() == poisoned);
        }
        return "{\"sent\": " + records + ", \"handled\": " + handled.size() + ", \"dead\": "
            + dead.size() + ", \"attempts\": " + attempts + ", \"wrong_headers\": " + wrongHeaders
            + "}";
    }

    @SuppressWarnings("unchecked")
    static String transact(int records) throws Exception {
        try (AnnotationConfigApplicationContext context =
                 new AnnotationConfigApplicationContext(Transacting.class)) {
            System.out.println("STARTED");
            KafkaTemplate<String, String> template = context.getBean(KafkaTemplate.class);
            for (int from = 0; from < records; from += 10) {
                int first = from;
                template.executeInTransaction(t -> {
                    for (int n = first; n < Math.min(first + 10, records); n++) {
                        t.send(PAYMENTS, "k" + n, Integer.toString(n));
                    }
                    return null;
                });
                Thread.sleep(20);
            }
            template.executeInTransaction(t -> {
                for (int n = 0; n < 10; n++) {
                    t.send(RECEIPTS, "kept", "kept-" + n);
                }
                return null;
            });
            try {
                template.executeInTransaction(t -> {
                    for (int n = 0; n < 10; n++) {
                        t.send(RECEIPTS, "gone", "gone-" + n);
                    }
                    t.flush();
                    throw new IllegalStateException("given up");
                });
            } catch (IllegalStateException e) {
                if (!"given up".equals(e.getMessage())) {
                    throw e;
                }
            }
            await("all payments", () -> handled.size() == records);
            // The last transaction commits after its listener.
            await("all receipts", () -> receipts(read("read_committed")).size() >= 2 * records);
        }
        List<String> committed = read("read_committed");
        List<String> receipts = receipts(committed);
        return "{\"committed\": " + receipts.size() + ", \"distinct\": "
            + new HashSet<>(receipts).size() + ", \"uncommitted\": "
            + receipts(read("read_uncommitted")).size() + ", \"kept_seen\": "
            + committed.stream().filter(v -> v.startsWith("kept")).count() + ", \"given_up_seen\": "
            + committed.stream().filter(v -> v.startsWith("gone")).count() + "}";
    }

    static List<String> receipts(List<String> values) {
        return values.stream().filter(v -> v.endsWith("-a") || v.endsWith("-b")).toList();
    }

    /** Everything in the topic of receipts up to the end that this reader may see. */
    static List<String> read(String isolation) {
        Map<String, Object> config = consumerConfig();
        config.put(ConsumerConfig.ISOLATION_LEVEL_CONFIG, isolation);
        List<TopicPartition> partitions = new ArrayList<>();
        for (int p = 0; p < PARTITIONS; p++) {
            partitions.add(new TopicPartition(RECEIPTS, p));
        }
        List<String> values = new ArrayList<>();
        try (KafkaConsumer<String, String> consumer = new KafkaConsumer<>(config)) {
            consumer.assign(partitions);
            consumer.seekToBeginning(partitions);
            Map<TopicPartition, Long> ends = consumer.endOffsets(partitions);
            long deadline = System.nanoTime() + LIMIT.toNanos();
            while (partitions.stream().anyMatch(p -> consumer.position(p) < ends.get(p))) {
                if (System.nanoTime() > deadline) {
                    throw new IllegalStateException("the receipts could not be read");
                }
                consumer.poll(Duration.ofMillis(200)).forEach(r -> values.add(r.value()));
            }
        }
        return values;
    }
}
