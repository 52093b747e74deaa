import java.io.BufferedReader;
import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyFactory;
import java.security.KeyStore;
import java.security.PrivateKey;
import java.security.Security;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import java.security.spec.PKCS8EncodedKeySpec;
import java.util.Base64;
import java.util.List;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SNIHostName;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLParameters;
import javax.net.ssl.SSLServerSocket;
import javax.net.ssl.SSLSession;
import javax.net.ssl.SSLSocket;
import javax.net.ssl.TrustManagerFactory;

/**
 * Java's own TLS (JSSE) as a client and as a server.
 *
 * <pre>
 * java Peer.java client TRUST
 *     jobs on standard input, a line each: HOST PORT SERVER_NAME VERSION SUITE
 *     (SERVER_NAME "-": none; the certificate is verified for SERVER_NAME under TRUST); answers on
 *     standard output: "ok VERSION SUITE ? -" twice, or "failed WORDS"
 * java Peer.java server HOST
 *     ports on standard input, a line each: PORT VERSION SUITE CHAIN KEY; then an empty line. Prints
 *     "ready", and echoes lines until its standard input ends
 * </pre>
 *
 * VERSION: as SSL 3.0's 0300. SUITE: Java's name.
 */
public final class Peer {
    private static final byte[] LINE = palindrome();

    public static void main(String[] arguments) throws Exception {
        // All that this Java has: SSL 3.0, TLS 1.0 and 1.1, 3DES, RSA key exchange.
        Security.setProperty("jdk.tls.disabledAlgorithms", "");
        Security.setProperty("jdk.tls.legacyAlgorithms", "");
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in));
        if (arguments[0].equals("client")) {
            client(input, arguments[1]);
        } else {
            server(input, arguments);
        }
    }

    private static byte[] palindrome() {
        String half = "weir ".repeat(60);
        String other = new StringBuilder(half).reverse().toString();
        return (half + other + "\n").getBytes(StandardCharsets.US_ASCII);
    }

    private static String protocol(String version) {
        return switch (version) {
            case "0300" -> "SSLv3";
            case "0301" -> "TLSv1";
            case "0302" -> "TLSv1.1";
            case "0303" -> "TLSv1.2";
            default -> "TLSv1.3";
        };
    }

    private static String code(String protocol) {
        return switch (protocol) {
            case "SSLv3" -> "0300";
            case "TLSv1" -> "0301";
            case "TLSv1.1" -> "0302";
            case "TLSv1.2" -> "0303";
            default -> "0304";
        };
    }

    private static void client(BufferedReader input, String trust) throws Exception {
        KeyStore authorities = KeyStore.getInstance(KeyStore.getDefaultType());
        authorities.load(null, null);
        try (InputStream file = new FileInputStream(trust)) {
            for (Certificate one : CertificateFactory.getInstance("X.509").generateCertificates(file)) {
                authorities.setCertificateEntry("authority" + authorities.size(), one);
            }
        }
        TrustManagerFactory trusting = TrustManagerFactory.getInstance("PKIX");
        trusting.init(authorities);
        for (String line; (line = input.readLine()) != null; ) {
            String[] job = line.split(" ");
            String answer;
            try {
                // Of its own for each job: it keeps the sessions that may be resumed.
                SSLContext context = SSLContext.getInstance("TLS");
                context.init(null, trusting.getTrustManagers(), null);
                answer = "ok " + session(context, job) + " " + session(context, job);
            } catch (Exception error) {
                answer = "failed " + error.toString().replace('\n', ' ');
            }
            System.out.println(answer);
        }
    }

    private static String session(SSLContext context, String[] job) throws IOException {
        InetSocketAddress address =
                new InetSocketAddress(InetAddress.getByName(job[0]), Integer.parseInt(job[1]));
        java.net.Socket plain = new java.net.Socket();
        plain.connect(address, 60_000);
        plain.setSoTimeout(60_000);
        boolean named = !job[2].equals("-");
        String name = named ? job[2] : job[0];
        try (SSLSocket socket =
                (SSLSocket) context.getSocketFactory().createSocket(plain, name, address.getPort(), true)) {
            SSLParameters parameters = socket.getSSLParameters();
            parameters.setProtocols(new String[] {protocol(job[3])});
            parameters.setCipherSuites(new String[] {job[4]});
            if (named && !name.matches("[0-9.]+")) {
                parameters.setServerNames(List.of(new SNIHostName(name)));
            }
            if (named) {
                parameters.setEndpointIdentificationAlgorithm("HTTPS");
            }
            socket.setSSLParameters(parameters);
            socket.startHandshake();
            socket.getOutputStream().write(LINE);
            byte[] answer = line(socket.getInputStream());
            if (!java.util.Arrays.equals(answer, LINE)) {
                throw new IOException(answer.length + " bytes came back for " + LINE.length);
            }
            SSLSession session = socket.getSession();
            return code(session.getProtocol()) + " " + session.getCipherSuite() + " ? -";
        }
    }

    /** With its end; what came before the peer closed, where it did first. */
    private static byte[] line(InputStream stream) throws IOException {
        java.io.ByteArrayOutputStream line = new java.io.ByteArrayOutputStream();
        for (int one; (one = stream.read()) >= 0; ) {
            line.write(one);
            if (one == '\n') {
                break;
            }
        }
        return line.toByteArray();
    }

    private static void server(BufferedReader input, String[] arguments) throws Exception {
        for (String line; (line = input.readLine()) != null && !line.isEmpty(); ) {
            String[] words = line.split(" ");
            SSLContext context = identity(words[3], words[4]);
            SSLServerSocket listener =
                    (SSLServerSocket) context.getServerSocketFactory()
                            .createServerSocket(Integer.parseInt(words[0]), 64,
                                    InetAddress.getByName(arguments[1]));
            listener.setEnabledProtocols(new String[] {protocol(words[1])});
            listener.setEnabledCipherSuites(new String[] {words[2]});
            daemon(() -> accept(listener));
        }
        System.out.println("ready");
        while (input.read() >= 0) {
            // Nothing more is said.
        }
        System.exit(0);
    }

    private static SSLContext identity(String certificate, String key) throws Exception {
        KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null, null);
        try (InputStream file = new FileInputStream(certificate)) {
            Certificate[] chain = CertificateFactory.getInstance("X.509")
                    .generateCertificates(file).toArray(new Certificate[0]);
            String pem = Files.readString(Path.of(key)).replaceAll("-----[A-Z ]+-----|\\s", "");
            PrivateKey secret = KeyFactory.getInstance(chain[0].getPublicKey().getAlgorithm())
                    .generatePrivate(new PKCS8EncodedKeySpec(Base64.getDecoder().decode(pem)));
            store.setKeyEntry("own", secret, new char[0], chain);
        }
        KeyManagerFactory keys = KeyManagerFactory.getInstance(KeyManagerFactory.getDefaultAlgorithm());
        keys.init(store, new char[0]);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(keys.getKeyManagers(), null, null);
        return context;
    }

    private static void accept(SSLServerSocket listener) {
        try {
            while (true) {
                SSLSocket socket = (SSLSocket) listener.accept();
                daemon(() -> echo(socket));
            }
        } catch (IOException error) {
            System.err.println(error);
        }
    }

    private static void echo(SSLSocket socket) {
        try (socket) {
            for (byte[] line; (line = line(socket.getInputStream())).length > 0; ) {
                socket.getOutputStream().write(line);
            }
        } catch (IOException error) {
            System.err.println(error);
        }
    }

    private static void daemon(Runnable what) {
        Thread thread = new Thread(what);
        thread.setDaemon(true);
        thread.start();
    }
}
