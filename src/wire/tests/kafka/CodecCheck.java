import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.ByteBuffer;
import java.util.Arrays;
import java.util.HexFormat;
import org.apache.kafka.common.protocol.ByteBufferAccessor;
import org.apache.kafka.common.protocol.Message;
import org.apache.kafka.common.protocol.ObjectSerializationCache;

/** Reads lines "NAME VERSION HEX", and prints those that Kafka's own classes do not read and write again the same. */
public class CodecCheck {
    private static final String[] PACKAGES = {
        "org.apache.kafka.common.message.",
        "org.apache.kafka.coordinator.group.generated.",
        "org.apache.kafka.coordinator.transaction.generated.",
        "org.apache.kafka.coordinator.share.generated.",
        "org.apache.kafka.storage.internals.log.generated.",
        "org.apache.kafka.server.log.remote.metadata.storage.generated.",
        "org.apache.kafka.server.storage.log.generated.",
        "org.apache.kafka.common.metadata.",
    };

    public static void main(String[] args) throws Exception {
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
        int good = 0;
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            String[] words = line.split(" ", -1);
            String error = check(words[0], Short.parseShort(words[1]), HexFormat.of().parseHex(words[2]));
            if (error == null) {
                good++;
            } else {
                System.out.println("BAD " + words[0] + " v" + words[1] + ": " + error + "\n  " + words[2]);
            }
        }
        System.out.println("GOOD " + good);
    }

    private static Class<?> find(String name) {
        for (String prefix : PACKAGES) {
            // Requests and responses are called ...Data.
            for (String suffix : new String[] {"Data", ""}) {
                try {
                    Class<?> found = Class.forName(prefix + name + suffix);
                    if (Message.class.isAssignableFrom(found)) {
                        return found;
                    }
                } catch (ClassNotFoundException e) {
                    // Not in this package.
                }
            }
        }
        return null;
    }

    private static String check(String name, short version, byte[] bytes) {
        Class<?> type = find(name);
        if (type == null) {
            return "no such class";
        }
        try {
            Message message = (Message) type.getConstructor().newInstance();
            ByteBuffer in = ByteBuffer.wrap(bytes);
            message.read(new ByteBufferAccessor(in), version);
            if (in.hasRemaining()) {
                return in.remaining() + " bytes left";
            }
            ObjectSerializationCache cache = new ObjectSerializationCache();
            ByteBuffer out = ByteBuffer.allocate(message.size(cache, version));
            message.write(new ByteBufferAccessor(out), cache, version);
            boolean same = Arrays.equals(out.array(), bytes);
            return same ? null : "wrote\n  " + HexFormat.of().formatHex(out.array());
        } catch (Exception e) {
            return e.toString();
        }
    }
}
