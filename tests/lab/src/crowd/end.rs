//! One end of a session: rustls on a tokio socket, step by step, so that it can stop anywhere.

use std::io::{self, Read, Write};
use std::sync::Arc;

use anyhow::{Result, ensure};
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::ResolvesServerCertUsingSni;
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection,
};
use socket2::SockRef;
use tokio::net::TcpStream;

use crate::certificates::Identity;
use crate::ends::Ends;

/// Clients that trust both authorities of the lab, and resume nothing.
pub fn client_config(ends: &Ends) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(&ends.certificates.client_trust)? {
        roots.add(certificate?)?;
    }
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Servers by both names of [`super::target`], without tickets.
pub fn server_config(public: &Identity, shop: &Identity) -> Result<Arc<ServerConfig>> {
    let mut keys = ResolvesServerCertUsingSni::new();
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    for (name, identity) in [("public.example", public), ("shop.example", shop)] {
        let chain =
            CertificateDer::pem_file_iter(&identity.certificate)?.collect::<Result<_, _>>()?;
        let key = PrivateKeyDer::from_pem_file(&identity.key)?;
        keys.add(name, CertifiedKey::from_der(chain, key, &provider)?)?;
    }
    let builder = ServerConfig::builder().with_no_client_auth();
    let mut config = builder.with_cert_resolver(Arc::new(keys));
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(Arc::new(config))
}

pub struct End {
    pub stream: TcpStream,
    tls: Connection,
}

/// TCP as rustls wants it: what is not there now would block.
struct Now<'a>(&'a TcpStream);

impl Read for Now<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for Now<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl End {
    pub fn client(
        stream: TcpStream,
        config: &Arc<ClientConfig>,
        name: &'static str,
    ) -> Result<Self> {
        let tls = ClientConnection::new(config.clone(), ServerName::try_from(name)?)?;
        Ok(Self { stream, tls: tls.into() })
    }

    pub fn server(stream: TcpStream, config: &Arc<ServerConfig>) -> Result<Self> {
        Ok(Self { stream, tls: ServerConnection::new(config.clone())?.into() })
    }

    /// The start of the first flight only.
    pub async fn send_part_of_hello(&mut self) -> Result<()> {
        let mut hello = Vec::new();
        self.tls.write_tls(&mut hello)?;
        self.stream.writable().await?;
        self.stream.try_write(hello.get(..100).unwrap_or_default())?;
        Ok(())
    }

    pub async fn flush(&mut self) -> Result<()> {
        while self.tls.wants_write() {
            self.stream.writable().await?;
            match self.tls.write_tls(&mut Now(&self.stream)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => drop(done?),
            }
        }
        Ok(())
    }

    /// What TCP has next; `false` at its end.
    pub async fn read(&mut self) -> Result<bool> {
        self.stream.readable().await?;
        match self.tls.read_tls(&mut Now(&self.stream)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Ok(0) => return Ok(false),
            done => drop(done?),
        }
        self.tls.process_new_packets()?;
        Ok(true)
    }

    pub async fn shake_hands(&mut self) -> Result<()> {
        self.flush().await?;
        while self.tls.is_handshaking() {
            ensure!(self.read().await?, "ended amid the handshake");
            self.flush().await?;
        }
        Ok(())
    }

    pub async fn say(&mut self, bytes: &[u8]) -> Result<()> {
        self.tls.writer().write_all(bytes)?;
        self.flush().await
    }

    /// Waits for exactly these bytes. `false`: the peer closed before the first of them.
    pub async fn hear(&mut self, wanted: &[u8]) -> Result<bool> {
        let mut heard = Vec::new();
        let mut buffer = [0; 1024];
        loop {
            match self.tls.reader().read(&mut buffer) {
                Ok(0) if heard.is_empty() => return Ok(false),
                Ok(0) => anyhow::bail!("closed amid a message"),
                Ok(read) => heard.extend_from_slice(buffer.get(..read).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ensure!(self.read().await?, "truncated");
                }
                Err(error) => return Err(error.into()),
            }
            if heard.len() >= wanted.len() {
                ensure!(heard == wanted, "other bytes came");
                return Ok(true);
            }
        }
    }

    /// close_notify and FIN; the peer may go on.
    pub async fn close(&mut self) -> Result<()> {
        self.tls.send_close_notify();
        self.flush().await?;
        SockRef::from(&self.stream).shutdown(std::net::Shutdown::Write)?;
        Ok(())
    }

    /// Ends here and now, by RST or by FIN.
    pub fn abort(self, reset: bool) -> Result<()> {
        if reset {
            SockRef::from(&self.stream).set_linger(Some(std::time::Duration::ZERO))?;
        }
        Ok(())
    }
}
