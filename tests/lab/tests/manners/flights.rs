//! What TLS has to say of its own accord, and when it is on the wire: our Finished goes to the server with
//! the client's first data, the client's tickets go with the server's first answer, no end that says
//! nothing waits for either, and what a client that has closed answers to them is not the server's.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use weir_lab::bench::Bench;
use weir_lab::ends::Ends;
use weir_lab::wire::lab::Lab;

use super::{OTHER, configure, give_address, passes, record_of};

const PATIENCE: Duration = Duration::from_secs(30);
/// What is sent too early is there within it.
const SILENCE: Duration = Duration::from_millis(500);

/// What a [`Server`] has heard.
#[derive(Debug, PartialEq)]
enum Heard {
    /// The client's Finished, and so many bytes of data in the same read.
    HandsShaken {
        with: usize,
    },
    Data(Vec<u8>),
    /// close_notify, and FIN or a reset.
    End(Result<(), io::ErrorKind>),
    /// What has come of a reset since.
    Since(Option<io::ErrorKind>),
}

/// A server for one connection of TLS 1.3, which says what it is told to, when it is told to.
struct Server {
    heard: Receiver<Heard>,
    say: Sender<&'static [u8]>,
}

impl Server {
    fn start(ends: &Ends, greeting: &'static [u8]) -> anyhow::Result<Self> {
        give_address(ends)?;
        let identity = &ends.certificates.public;
        let chain = CertificateDer::pem_file_iter(&identity.certificate)?.collect::<Result<_, _>>();
        let key = PrivateKeyDer::from_pem_file(&identity.key)?;
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain?, key)?;
        let listener = ends.server.enter(|| Ok(TcpListener::bind((OTHER, 443))?))?;
        let ((tell, heard), (say, told)) = (channel(), channel());
        // Ends with its connection.
        std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let tls = ServerConnection::new(Arc::new(config)).unwrap();
            // The test looks at what was told; that the client leaves is no failure.
            let _ = serve(tls, stream, greeting, &tell, &told);
        });
        Ok(Self { heard, say })
    }

    fn next(&self) -> anyhow::Result<Heard> {
        Ok(self.heard.recv_timeout(PATIENCE)?)
    }
}

fn serve(
    mut tls: ServerConnection,
    mut stream: TcpStream,
    greeting: &[u8],
    tell: &Sender<Heard>,
    told: &Receiver<&'static [u8]>,
) -> anyhow::Result<()> {
    while tls.is_handshaking() {
        anyhow::ensure!(tls.read_tls(&mut stream)? > 0, "closed amid the handshake");
        let state = tls.process_new_packets()?;
        if !tls.is_handshaking() {
            tell.send(Heard::HandsShaken { with: state.plaintext_bytes_to_read() })?;
            tls.writer().write_all(greeting)?;
        }
        while tls.wants_write() {
            tls.write_tls(&mut stream)?;
        }
    }
    let mut stream = rustls::StreamOwned::new(tls, stream);
    let mut buffer = [0; 1024];
    loop {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            let end = stream.sock.read(&mut buffer).map(|_| ());
            tell.send(Heard::End(end.map_err(|error| error.kind())))?;
            let words = told.recv_timeout(PATIENCE)?;
            let since = |error: Option<io::Error>| Heard::Since(error.map(|error| error.kind()));
            tell.send(since(stream.sock.take_error()?))?;
            if !words.is_empty() {
                stream.write_all(words)?;
                // Who ended in order, and resets then, has no end that could be read.
                let deadline = Instant::now() + PATIENCE;
                let mut error = None;
                while error.is_none() && Instant::now() < deadline {
                    std::thread::sleep(Duration::from_millis(10));
                    error = stream.sock.take_error()?;
                }
                return Ok(tell.send(since(error))?);
            }
            stream.conn.send_close_notify();
            return Ok(stream.flush()?);
        }
        tell.send(Heard::Data(buffer[..read].to_vec()))?;
        if let Ok(words) = told.recv_timeout(PATIENCE) {
            stream.write_all(words)?;
        }
    }
}

/// A record from the server after its handshake.
#[derive(Debug, PartialEq)]
enum Record {
    /// A ticket, as there is nothing else to say.
    Own,
    Data(Vec<u8>),
}

/// A client of TLS 1.3 that looks at each record by itself.
struct Client {
    tls: ClientConnection,
    stream: TcpStream,
    /// Of a record that is not whole.
    wire: Vec<u8>,
}

impl Client {
    /// Up to its own last flight, which is not sent.
    fn shake_hands(ends: &Ends) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(&ends.certificates.client_trust)? {
            roots.add(certificate?)?;
        }
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let tls = ClientConnection::new(Arc::new(config), ServerName::try_from("public.example")?)?;
        let stream = ends.connect_from_client(SocketAddr::from((OTHER, 443)))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut client = Self { tls, stream, wire: Vec::new() };
        while client.tls.is_handshaking() {
            if client.tls.wants_write() {
                client.flush()?;
            }
            client.read()?;
            let after = client.take_records(|tls| !tls.is_handshaking())?;
            anyhow::ensure!(after.is_empty(), "before its Finished: {after:?}");
        }
        anyhow::ensure!(client.tls.wants_write(), "its Finished has been sent");
        Ok(client)
    }

    /// With its Finished, where that was not sent: in one segment.
    fn say(&mut self, words: &[u8]) -> anyhow::Result<()> {
        self.tls.writer().write_all(words)?;
        self.flush()
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        let mut flight = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut flight)?;
        }
        Ok(self.stream.write_all(&flight)?)
    }

    fn read(&mut self) -> anyhow::Result<()> {
        let mut buffer = [0; 16 << 10];
        let read = self.stream.read(&mut buffer)?;
        anyhow::ensure!(read > 0, "closed");
        self.wire.extend_from_slice(&buffer[..read]);
        Ok(())
    }

    /// Records that are whole; those are told of that come when `counts` is true.
    fn take_records(
        &mut self,
        counts: impl Fn(&ClientConnection) -> bool,
    ) -> anyhow::Result<Vec<Record>> {
        let mut records = Vec::new();
        while let Some(header) = self.wire.first_chunk::<5>() {
            let end = 5 + usize::from(u16::from_be_bytes([header[3], header[4]]));
            if self.wire.len() < end {
                break;
            }
            let record: Vec<u8> = self.wire.drain(..end).collect();
            let counted = counts(&self.tls);
            self.tls.read_tls(&mut &*record)?;
            let mut data = vec![0; self.tls.process_new_packets()?.plaintext_bytes_to_read()];
            self.tls.reader().read_exact(&mut data)?;
            if counted {
                records.push(if data.is_empty() { Record::Own } else { Record::Data(data) });
            }
        }
        Ok(records)
    }

    /// The records up to this data, which is a record of its own.
    fn hear(&mut self, data: &[u8]) -> anyhow::Result<Vec<Record>> {
        self.hear_until(|record| *record == Record::Data(data.to_vec()))
    }

    fn hear_until(&mut self, last: impl Fn(&Record) -> bool) -> anyhow::Result<Vec<Record>> {
        let mut records = Vec::new();
        while !records.last().is_some_and(&last) {
            self.read()?;
            records.append(&mut self.take_records(|_| true)?);
        }
        Ok(records)
    }

    fn ensure_nothing_comes(&mut self) -> anyhow::Result<()> {
        self.stream.set_read_timeout(Some(SILENCE))?;
        let came = self.stream.peek(&mut [0; 1]);
        self.stream.set_read_timeout(Some(PATIENCE))?;
        match came {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            came => anyhow::bail!("something came: {came:?}"),
        }
    }
}

/// Whoever speaks first, and whenever.
const ANY_SERVICE: (&str, &str) =
    ("service: http\n      reset-client", "service: other\n      reset-client");

#[test]
fn tickets_go_with_the_first_answer_to_a_client_that_has_asked_and_not_before() {
    passes(|bench| {
        configure(bench, &[ANY_SERVICE])?;
        let server = Server::start(&bench.ends, b"")?;
        let mut client = Client::shake_hands(&bench.ends)?;
        client.say(b"asked at once")?;
        // Our Finished, and the data that it waited for.
        assert_eq!(server.next()?, Heard::HandsShaken { with: 13 });
        assert_eq!(server.next()?, Heard::Data(b"asked at once".into()));
        client.ensure_nothing_comes()?;
        // It asks for more, and still nobody has answered.
        server.say.send(b"")?;
        client.say(b"and again")?;
        assert_eq!(server.next()?, Heard::Data(b"and again".into()));
        client.ensure_nothing_comes()?;
        server.say.send(b"an answer")?;
        let records = client.hear(b"an answer")?;
        let (answer, before) = records.split_last().unwrap();
        assert_eq!(*answer, Record::Data(b"an answer".into()));
        assert!(!before.is_empty() && before.iter().all(|one| *one == Record::Own), "{records:?}");
        // From then on nothing is withheld, and nothing said twice.
        client.say(b"more")?;
        assert_eq!(server.next()?, Heard::Data(b"more".into()));
        server.say.send(b"the end")?;
        assert_eq!(client.hear(b"the end")?, [Record::Data(b"the end".into())]);
        let port = client.stream.local_addr()?.port();
        drop(client);
        let record = record_of(bench, port)?;
        assert!(record.contains("Outcome decrypted and inspected"), "{record}");
        Ok(())
    });
}

#[test]
fn client_that_says_nothing_for_long_has_its_tickets_at_once_and_then_its_answer() {
    passes(|bench| {
        configure(bench, &[ANY_SERVICE])?;
        let server = Server::start(&bench.ends, b"")?;
        let mut client = Client::shake_hands(&bench.ends)?;
        client.flush()?;
        // Neither end's handshake waits for data.
        assert_eq!(server.next()?, Heard::HandsShaken { with: 0 });
        client.hear_until(|record| *record == Record::Own)?;
        std::thread::sleep(Duration::from_secs(2));
        client.say(b"at last")?;
        assert_eq!(server.next()?, Heard::Data(b"at last".into()));
        server.say.send(b"an answer")?;
        client.hear(b"an answer")?;
        Ok(())
    });
}

/// As servers of mail do.
#[test]
fn client_that_only_listens_hears_a_server_that_speaks_first() {
    passes(|bench| {
        configure(bench, &[ANY_SERVICE])?;
        let server = Server::start(&bench.ends, b"220 ready\r\n")?;
        let mut client = Client::shake_hands(&bench.ends)?;
        client.flush()?;
        assert_eq!(server.next()?, Heard::HandsShaken { with: 0 });
        let records = client.hear(b"220 ready\r\n")?;
        let greeting = Record::Data(b"220 ready\r\n".into());
        assert!(records.iter().all(|one| *one == Record::Own || *one == greeting), "{records:?}");
        client.say(b"QUIT\r\n")?;
        assert_eq!(server.next()?, Heard::Data(b"QUIT\r\n".into()));
        server.say.send(b"221 bye\r\n")?;
        client.hear(b"221 bye\r\n")?;
        Ok(())
    });
}

/// Of a client that asks, ends in order, and closes at once. Its kernel answers with a reset to what comes
/// later, or has come and was not read.
fn asks_and_closes(
    bench: &mut Bench<Lab>,
    has_tickets: bool,
    answer: &'static [u8],
) -> anyhow::Result<()> {
    let server = Server::start(&bench.ends, b"")?;
    let mut client = Client::shake_hands(&bench.ends)?;
    client.flush()?;
    if has_tickets {
        assert_eq!(client.stream.peek(&mut [0; 1])?, 1);
    }
    client.tls.writer().write_all(b"asked")?;
    client.tls.send_close_notify();
    client.flush()?;
    client.stream.shutdown(Shutdown::Write)?;
    let port = client.stream.local_addr()?.port();
    drop(client);
    assert!(matches!(server.next()?, Heard::HandsShaken { .. }));
    assert_eq!(server.next()?, Heard::Data(b"asked".into()));
    server.say.send(b"")?;
    assert_eq!(server.next()?, Heard::End(Ok(())));
    // What comes of the client's reset is there by then.
    std::thread::sleep(SILENCE);
    server.say.send(answer)?;
    assert_eq!(server.next()?, Heard::Since(None));
    if answer.is_empty() {
        let record = record_of(bench, port)?;
        anyhow::ensure!(!record.contains("Broken off"), "{record}");
    } else {
        // As the client's kernel would, without us.
        assert_eq!(server.next()?, Heard::Since(Some(io::ErrorKind::BrokenPipe)));
        let record = record_of(bench, port)?;
        anyhow::ensure!(record.contains("Broken off by the client: "), "{record}");
    }
    Ok(())
}

#[test]
fn client_that_closes_at_once_and_resets_for_its_tickets_has_ended_in_order_to_its_server() {
    for has_tickets in [true, false] {
        passes(|bench| {
            configure(bench, &[ANY_SERVICE])?;
            asks_and_closes(bench, has_tickets, b"")
        });
    }
}

#[test]
fn server_that_answers_a_client_that_has_closed_hears_its_reset() {
    passes(|bench| {
        configure(bench, &[ANY_SERVICE])?;
        asks_and_closes(bench, true, b"an answer")
    });
}
