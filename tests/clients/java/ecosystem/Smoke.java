package org.apache.kafka.streams.tests;

import java.time.Duration;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;

/**
 * The driver of Kafka's own smoke test of Streams, with as much data as is asked for (its main
 * method takes a minute and a half). It stands in the driver's package to reach its result.
 *
 * Smoke create|drive ADDRESS KEYS RECORDS_PER_KEY SECONDS EXACTLY_ONCE
 */
public final class Smoke {
    private static final int PARTITIONS = 4;

    public static void main(String[] args) throws Exception {
        String address = args[1];
        int keys = Integer.parseInt(args[2]);
        int perKey = Integer.parseInt(args[3]);
        Duration time = Duration.ofSeconds(Long.parseLong(args[4]));
        boolean exactlyOnce = Boolean.parseBoolean(args[5]);
        if (args[0].equals("create")) {
            try (Admin admin = Admin.create(Map.of("bootstrap.servers", address))) {
                List<NewTopic> topics = Arrays.stream(SmokeTestDriver.topics())
                    .map(name -> new NewTopic(name, PARTITIONS, (short) 1))
                    .toList();
                admin.createTopics(topics).all().get();
            }
            return;
        }
        Map<String, Set<Integer>> data = SmokeTestDriver.generate(address, keys, perKey, time);
        SmokeTestUtil.VerificationResult result =
            SmokeTestDriver.verify(address, data, perKey, exactlyOnce);
        System.out.println("SMOKE " + (result.passed() ? "verified" : result.result()));
        System.exit(result.passed() ? 0 : 1);
    }
}
