import java.io.*;
import java.lang.reflect.InvocationTargetException;
import java.net.URL;
import java.net.URLClassLoader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.kafka.common.utils.Exit;

/**
 * Runs the main methods of Kafka's command-line tools one after the other in this JVM, so that a
 * test pays for one JVM start and not for forty.
 *
 * Request, one line: TIMEOUT_MS TAB CLASS TAB STDIN TAB ARG..., stdin and arguments in hex ("-" is
 * empty). Answer: "EXIT_CODE OUT_BYTES ERR_BYTES" and a newline, then those bytes. Exit code 124:
 * the tool did not end in time; the caller must then throw this JVM away.
 *
 * argument 1: the jar of the tools. It stays off the class path and is loaded anew for each run,
 * because the tools keep counters in static fields.
 */
public final class Tools {
    /** A tool asked to end the process. */
    static final class Ended extends RuntimeException {
        final int code;
        Ended(int code) { super("exit " + code, null, false, false); this.code = code; }
    }

    /** Forwards to the buffer of the run in progress: tools may keep the stream they found. */
    static final class Switch extends OutputStream {
        final AtomicReference<ByteArrayOutputStream> to =
            new AtomicReference<>(new ByteArrayOutputStream());
        @Override public void write(int b) { to.get().write(b); }
        @Override public void write(byte[] b, int off, int len) { to.get().write(b, off, len); }
    }

    /** What the tool in progress wants done at the end of its process. */
    static final List<Runnable> HOOKS = new CopyOnWriteArrayList<>();
    static final AtomicReference<Integer> FIRST_EXIT = new AtomicReference<>();

    public static void main(String[] args) throws Exception {
        URL toolsJar = Path.of(args[0]).toUri().toURL();
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
        DataOutputStream answers = new DataOutputStream(new BufferedOutputStream(System.out));
        Switch out = new Switch();
        Switch err = new Switch();
        System.setOut(new PrintStream(out, true));
        System.setErr(new PrintStream(err, true));
        // Thrown and not parked, so that finally blocks close the tool's clients. Some tools catch it
        // as a failure and exit again: the first code is the one.
        Exit.Procedure ended = (code, message) -> {
            FIRST_EXIT.compareAndSet(null, code);
            throw new Ended(code);
        };
        Exit.setExitProcedure(ended);
        Exit.setHaltProcedure(ended);
        Exit.setShutdownHookAdder((name, hook) -> HOOKS.add(hook));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            String[] f = line.split("\t", -1);
            out.to.set(new ByteArrayOutputStream());
            err.to.set(new ByteArrayOutputStream());
            System.setIn(new ByteArrayInputStream(bytes(f[2])));
            String[] toolArgs = new String[f.length - 3];
            for (int i = 3; i < f.length; i++) {
                toolArgs[i - 3] = new String(bytes(f[i]), StandardCharsets.UTF_8);
            }
            int code = run(toolsJar, f[1], toolArgs, Long.parseLong(f[0]), err.to.get());
            System.out.flush();
            System.err.flush();
            byte[] o = out.to.get().toByteArray();
            byte[] e = err.to.get().toByteArray();
            answers.write((code + " " + o.length + " " + e.length + "\n").getBytes());
            answers.write(o);
            answers.write(e);
            answers.flush();
        }
        Runtime.getRuntime().halt(0);
    }

    static byte[] bytes(String hex) {
        return hex.equals("-") ? new byte[0] : HexFormat.of().parseHex(hex);
    }

    static int run(URL jar, String tool, String[] args, long timeoutMs, ByteArrayOutputStream err)
        throws Exception {
        int[] code = {0};
        FIRST_EXIT.set(null);
        HOOKS.clear();
        try (URLClassLoader loader = new URLClassLoader(new URL[] {jar}, Tools.class.getClassLoader())) {
            Thread t = new Thread(() -> {
                code[0] = call(loader, tool, args);
                HOOKS.forEach(Runnable::run);
            }, tool);
            t.setContextClassLoader(loader);
            t.setDaemon(true);
            t.start();
            t.join(timeoutMs);
            if (t.isAlive()) {
                PrintStream w = new PrintStream(err, true);
                w.println("still running after " + timeoutMs + " ms:");
                for (Map.Entry<Thread, StackTraceElement[]> e : Thread.getAllStackTraces().entrySet()) {
                    if (e.getKey() != t) continue;
                    for (StackTraceElement s : e.getValue()) w.println("  " + s);
                }
                return 124;
            }
        }
        return FIRST_EXIT.get() != null ? FIRST_EXIT.get() : code[0];
    }

    static int call(ClassLoader loader, String tool, String[] args) {
        try {
            Class.forName(tool, true, loader).getMethod("main", String[].class)
                .invoke(null, (Object) args);
            return 0;
        } catch (InvocationTargetException e) {
            Throwable why = e.getCause();
            why.printStackTrace();
            return 1;
        } catch (Throwable e) {
            e.printStackTrace();
            return 1;
        }
    }
}
