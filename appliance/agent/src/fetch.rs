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

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use hyper::header::{ACCEPT, CONNECTION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode, client::conn::http1};
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{AbortHandle, spawn_blocking, spawn_local};
use tracing::debug;
use weir_api::engine::ToEngine;
use weir_api::fetch::{
    Bytes, FETCH_WITHIN, Fetch, FetchFailure, HttpUrl, Kind, MOST_FETCHES, TURN_WITHIN,
};

use self::target::admit;

/// Fetches of one kind at one time, with those whose answers the engine has not taken yet; others wait
/// their turn, for [`TURN_WITHIN`].
const AT_ONCE: usize = 8;
/// Threads that wait for the resolution of names of one kind: the system's resolver may take longer
/// than we wait. Past it a further fetch is one too many.
const LOOK_UPS: usize = 8;
/// Addresses of a name that are looked at; what comes after is ignored.
const ADDRESSES: usize = 8;
/// Bytes of an answer's head.
const HEAD: usize = 16 << 10;

/// For all engines together.
#[derive(Debug, Default)]
pub struct Fetcher {
    unverified: Bounds,
    verified: Bounds,
}

/// How much of one kind is fetched.
#[derive(Debug)]
struct Bounds {
    /// At hand or waiting.
    places: Arc<Semaphore>,
    turns: Arc<Semaphore>,
    look_ups: Arc<Semaphore>,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(MOST_FETCHES)),
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            look_ups: Arc::new(Semaphore::new(LOOK_UPS)),
        }
    }
}

/// What an engine is told. Its turn ends when it is dropped, which is when it is written: an engine
/// that does not read has no more than [`AT_ONCE`] of a kind wait for it.
#[derive(Debug)]
pub struct Told {
    pub message: ToEngine,
    _place: Option<OwnedSemaphorePermit>,
    _turn: Option<OwnedSemaphorePermit>,
}

/// Answers that one engine may have waiting: those of both kinds, and as many refusals.
pub const MOST_TOLD: usize = 4 * MOST_FETCHES;

impl Fetcher {
    fn bounds(&self, kind: Kind) -> &Bounds {
        match kind {
            Kind::Unverified => &self.unverified,
            Kind::Verified => &self.verified,
        }
    }

    /// Fetches in a task of its own, and tells the engine what came of it.
    pub fn start(
        self: &Rc<Self>,
        number: u64,
        fetch: Fetch,
        private: Vec<IpNet>,
        answers: &mpsc::Sender<Told>,
    ) {
        let places = &self.bounds(fetch.kind()).places;
        let Ok(place) = Arc::clone(places).try_acquire_owned() else {
            let message = ToEngine::Fetched { number, result: Err(FetchFailure::Busy) };
            // An engine that does not hear even this gives up by its own time.
            let _ = answers.try_send(Told { message, _place: None, _turn: None });
            return;
        };
        let (fetcher, answers) = (Rc::clone(self), answers.clone());
        spawn_local(async move {
            let (result, turn) = fetcher.fetch_in_turn(&fetch, &private).await;
            match &result {
                Ok(Bytes(bytes)) => debug!(url = %fetch.url(), bytes = bytes.len(), "fetched"),
                Err(error) => debug!(url = %fetch.url(), %error, "not fetched"),
            }
            let message = ToEngine::Fetched { number, result };
            let _ = answers.send(Told { message, _place: Some(place), _turn: turn }).await;
        });
    }

    /// With the turn that it had.
    async fn fetch_in_turn(
        &self,
        fetch: &Fetch,
        private: &[IpNet],
    ) -> (Result<Bytes, FetchFailure>, Option<OwnedSemaphorePermit>) {
        let turn = Arc::clone(&self.bounds(fetch.kind()).turns).acquire_owned();
        let Ok(Ok(turn)) = tokio::time::timeout(TURN_WITHIN, turn).await else {
            // Says nothing of who was to be asked.
            return (Err(FetchFailure::Busy), None);
        };
        let fetched = tokio::time::timeout(FETCH_WITHIN, self.fetch(fetch, private)).await;
        (fetched.unwrap_or(Err(FetchFailure::TimedOut)), Some(turn))
    }

    async fn fetch(&self, fetch: &Fetch, private: &[IpNet]) -> Result<Bytes, FetchFailure> {
        let stream = self.connect(fetch, private).await?;
        ask(fetch, stream).await
    }

    /// The first address that may be asked and answers.
    async fn connect(&self, fetch: &Fetch, private: &[IpNet]) -> Result<TcpStream, FetchFailure> {
        let mut failure = FetchFailure::Name;
        let look_ups = &self.bounds(fetch.kind()).look_ups;
        for address in addresses(fetch.url(), look_ups).await? {
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
}

async fn addresses(
    url: &HttpUrl,
    look_ups: &Arc<Semaphore>,
) -> Result<Vec<SocketAddr>, FetchFailure> {
    let (host, port) = (url.host().to_owned(), url.port());
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let look_up = Arc::clone(look_ups).try_acquire_owned().map_err(|_| FetchFailure::Busy)?;
    let resolved = spawn_blocking(move || {
        // Held by the thread: it may outlive our patience.
        let _held = look_up;
        let addresses = (host.as_str(), port).to_socket_addrs().ok()?;
        Some(addresses.take(ADDRESSES).collect())
    });
    resolved.await.ok().flatten().ok_or(FetchFailure::Name)
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
    whole(response.into_body(), fetch.bound()).await
}

/// In one piece, however small those are in which it comes: kept apart, each would cost more than the
/// bytes in it.
async fn whole(mut body: Incoming, bound: usize) -> Result<Bytes, FetchFailure> {
    let said = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    let mut whole = Vec::new();
    if said > bound {
        return Err(FetchFailure::TooLong);
    }
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| broken(&error))?;
        // Trailers say nothing.
        let Some(piece) = frame.data_ref() else { continue };
        if piece.len() > bound.saturating_sub(whole.len()) {
            return Err(FetchFailure::TooLong);
        }
        whole.extend_from_slice(piece);
    }
    Ok(Bytes(whole))
}

fn request(fetch: &Fetch) -> Result<Request<Full<hyper::body::Bytes>>, FetchFailure> {
    let url = fetch.url();
    let request = Request::builder()
        .uri(url.target())
        .header(HOST, url.authority())
        .header(CONNECTION, "close");
    let request = match fetch {
        Fetch::Intermediate { .. } => request
            .header(ACCEPT, "application/pkix-cert, application/pkcs7-mime")
            .body(Full::default()),
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
