import java.io.IOException;

/** The end of a program's input, by which a test tells it to stop. */
final class InputEnd {
    private static volatile boolean reached;

    private InputEnd() { }

    /** Begins to read, and to throw away what comes. */
    static void watch() {
        Thread reader = new Thread(() -> {
            try {
                while (System.in.read() >= 0) { }
            } catch (IOException e) {
                e.printStackTrace();
            }
            reached = true;
        });
        reader.setDaemon(true);
        reader.start();
    }

    static boolean isReached() {
        return reached;
    }
}
