//! Fetches what an engine wants for a certificate's sake, by HTTP over the management port.
//!
//! The URL is an attacker's: any server whose certificate is looked at may write one. So nothing but
//! `http:`, no credentials, no redirects, no proxy, bounds on bytes and time, and only targets that
//! [`target`] admits, judged by the very address that is connected to. Not for: judging what came; it
//! is signed, or worth nothing. Fails by [`FetchFailure`], which the engine is told.

mod target;

use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::rc::Rc;
use std::sync::Arc;

use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::header::{ACCEPT, CONNECTION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode, client::conn::http1};
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, spawn_blocking, spawn_local};
use tracing::debug;
use weir_api::engine::ToEngine;
use weir_api::fetch::{Bytes, FETCH_WITHIN, Fetch, FetchFailure, HttpUrl, MOST_FETCHES};

use self::target::admit;

/// Fetches at one time; others wait their turn, within their own time.
const AT_ONCE: usize = 8;
/// Threads that wait for a name's resolution: the system's resolver may take longer than we wait. Past
/// it a further name does not resolve.
const LOOK_UPS: usize = 8;
/// Addresses of a name that are looked at; what comes after is ignored.
const ADDRESSES: usize = 8;
/// Bytes of an answer's head.
const HEAD: usize = 16 << 10;

/// For all engines together.
#[derive(Debug)]
pub struct Fetcher {
    /// At hand or waiting.
    places: Arc<Semaphore>,
    turns: Semaphore,
    look_ups: Arc<Semaphore>,
}

impl Default for Fetcher {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(MOST_FETCHES)),
            turns: Semaphore::new(AT_ONCE),
            look_ups: Arc::new(Semaphore::new(LOOK_UPS)),
        }
    }
}

impl Fetcher {
    /// Fetches in a task of its own, and tells the engine what came of it.
    pub fn start(
        self: &Rc<Self>,
        number: u64,
        fetch: Fetch,
        private: Vec<IpNet>,
        answers: &mpsc::Sender<ToEngine>,
    ) {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            // An engine that does not hear even this gives up by its own time.
            let _ = answers.try_send(ToEngine::Fetched { number, result: Err(FetchFailure::Busy) });
            return;
        };
        let (fetcher, answers) = (Rc::clone(self), answers.clone());
        spawn_local(async move {
            let result = fetcher.fetch(&fetch, &private).await;
            match &result {
                Ok(Bytes(bytes)) => debug!(url = %fetch.url(), bytes = bytes.len(), "fetched"),
                Err(error) => debug!(url = %fetch.url(), %error, "not fetched"),
            }
            let _ = answers.send(ToEngine::Fetched { number, result }).await;
            drop(place);
        });
    }

    async fn fetch(&self, fetch: &Fetch, private: &[IpNet]) -> Result<Bytes, FetchFailure> {
        let fetched = async {
            let _turn = self.turns.acquire().await;
            let stream = self.connect(fetch.url(), private).await?;
            ask(fetch, stream).await
        };
        tokio::time::timeout(FETCH_WITHIN, fetched).await.unwrap_or(Err(FetchFailure::TimedOut))
    }

    /// The first address that may be asked and answers.
    async fn connect(&self, url: &HttpUrl, private: &[IpNet]) -> Result<TcpStream, FetchFailure> {
        let mut failure = FetchFailure::Name;
        for address in self.addresses(url).await? {
            if let Err(why) = admit(address, private) {
                let (address, port) = (address.ip(), address.port());
                if failure == FetchFailure::Name {
                    failure = FetchFailure::Refused { address, port, why };
                }
                continue;
            }
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => {
                    debug!(%address, %error, "no connection");
                    failure = FetchFailure::Connection;
                }
            }
        }
        Err(failure)
    }

    async fn addresses(&self, url: &HttpUrl) -> Result<Vec<SocketAddr>, FetchFailure> {
        let (host, port) = (url.host().to_owned(), url.port());
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        let look_up = Arc::clone(&self.look_ups);
        let look_up = look_up.try_acquire_owned().map_err(|_| FetchFailure::Busy)?;
        let resolved = spawn_blocking(move || {
            // Held by the thread: it may outlive our patience.
            let _held = look_up;
            let addresses = (host.as_str(), port).to_socket_addrs().ok()?;
            Some(addresses.take(ADDRESSES).collect())
        });
        resolved.await.ok().flatten().ok_or(FetchFailure::Name)
    }
}

/// Asks on this connection, which serves nothing else.
async fn ask(fetch: &Fetch, stream: TcpStream) -> Result<Bytes, FetchFailure> {
    let io = TokioIo::new(stream);
    let mut client = http1::Builder::new();
    client.max_buf_size(HEAD);
    let (mut sender, connection) =
        client.handshake(io).await.map_err(|_| FetchFailure::Connection)?;
    let driver = spawn_local(connection);
    let _ends = Ends(driver.abort_handle());
    let response = sender.send_request(request(fetch)?).await.map_err(|error| broken(&error))?;
    if response.status() != StatusCode::OK {
        return Err(FetchFailure::Status(response.status().as_u16()));
    }
    let body = Limited::new(response.into_body(), fetch.bound());
    match body.collect().await {
        Ok(body) => Ok(Bytes(body.to_bytes().to_vec())),
        Err(error) if error.is::<LengthLimitError>() => Err(FetchFailure::TooLong),
        Err(error) => Err(error.downcast_ref().map_or(FetchFailure::Connection, broken)),
    }
}

fn request(fetch: &Fetch) -> Result<Request<Full<hyper::body::Bytes>>, FetchFailure> {
    let url = fetch.url();
    let request = Request::builder()
        .uri(url.target())
        .header(HOST, url.authority())
        .header(CONNECTION, "close");
    let request = match fetch {
        Fetch::Intermediate { .. } => {
            request.header(ACCEPT, "application/pkix-cert").body(Full::default())
        }
        Fetch::RevocationList { .. } => {
            request.header(ACCEPT, "application/pkix-crl").body(Full::default())
        }
        Fetch::Ocsp { request: Bytes(asked), .. } => request
            .method(Method::POST)
            .header(CONTENT_TYPE, "application/ocsp-request")
            .header(ACCEPT, "application/ocsp-response")
            .body(Full::from(asked.clone())),
    };
    request.map_err(|_| FetchFailure::Malformed)
}

fn broken(error: &hyper::Error) -> FetchFailure {
    if error.is_parse() { FetchFailure::Malformed } else { FetchFailure::Connection }
}

/// Ends a connection with the question asked on it.
struct Ends(AbortHandle);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests;
