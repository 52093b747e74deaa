//! What a relayed session waits for.
//!
//! For: the first event of either side, of TLS that is done elsewhere, and of the data plane; and sides
//! that are gone while nobody reads of them, since the other takes nothing or they had ended in order.
//! Not for: what an event leads to ([`super::Relay`]). A stream's error is its side's fault.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::net::TcpStream;
use weir_api::engine::End;
use weir_dataplane::{Patience, gone};
use weir_tls::TlsLeg;

use super::Fault;
use super::side::{Side, Wanted};
use super::timer::Timer;
use crate::leg::LegFault;

/// What a relay waits for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    Readable(End),
    Writable,
    Progress(End),
    /// Its peer is gone, and it is not being read.
    Gone(End),
    /// It is gone, and the other has acknowledged nothing more for as long as it may.
    Abandoned(End),
    /// The client, and the server, asked whether the other is there.
    Asked([bool; 2]),
    /// The session's timer.
    Time,
}

/// The parts of a side that are polled, and the stream of the other, which takes what is this one's.
pub(super) struct Watched<'a> {
    pub(super) end: End,
    pub(super) wanted: Wanted,
    pub(super) stream: &'a TcpStream,
    pub(super) tls: &'a mut Box<dyn TlsLeg>,
    pub(super) patience: &'a mut Option<Patience>,
    /// Whether it is to be seen that it is gone.
    pub(super) watched: bool,
    pub(super) other: &'a TcpStream,
}

/// The first event, and whether it was waited for. `sides`: the client's and the server's. `first`: the
/// one that is asked first; neither is so always. `asked` is asked where bytes neither come nor go.
pub(super) async fn next_event<'a>(
    mut sides: [Watched<'a>; 2],
    first: End,
    mut timer: Option<&mut Timer>,
    mut asked: Pin<&mut impl Future<Output = [bool; 2]>>,
) -> Result<(Event, bool), Fault> {
    let mut gone: [Option<Gone<'a>>; 2] = [None, None];
    let mut waited = false;
    let event = poll_fn(|context| {
        if timer.as_mut().is_some_and(|timer| timer.poll(context).is_ready()) {
            return Poll::Ready(Ok(Event::Time));
        }
        let [client, server] = &mut sides;
        let order = if first == End::Client { [client, server] } else { [server, client] };
        for side in order {
            let event = side.poll(context);
            if event.is_ready() {
                return event;
            }
        }
        for (side, gone) in sides.iter_mut().zip(&mut gone) {
            let event = side.poll_gone(gone, context);
            if event.is_ready() {
                return event.map(Ok);
            }
        }
        let event = asked.as_mut().poll(context).map(|asked| Ok(Event::Asked(asked)));
        waited |= event.is_pending();
        event
    });
    let event = event.await?;
    Ok((event, waited))
}

/// Made where a side is watched, and no part of every session's task.
type Gone<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

impl<'a> Watched<'a> {
    /// The client's side and the server's, with what is wanted of each.
    pub(super) fn both(
        [client, server]: [&'a mut Side; 2],
        [of_client, of_server]: [Wanted; 2],
    ) -> [Self; 2] {
        // Where both have ended, what is left has a time of its own.
        let drains = client.ended && server.ended;
        let watched = |side: &Side, wanted: Wanted| !wanted.read && !side.left && !drains;
        let [watches_client, watches_server] =
            [watched(client, of_client), watched(server, of_server)];
        let Side { leg: to_client, patience: clients, .. } = client;
        let Side { leg: to_server, patience: servers, .. } = server;
        let (to_client, client_tls) = (&to_client.stream, &mut to_client.tls);
        let (to_server, server_tls) = (&to_server.stream, &mut to_server.tls);
        [
            Watched {
                end: End::Client,
                wanted: of_client,
                stream: to_client,
                tls: client_tls,
                patience: clients,
                watched: watches_client,
                other: to_server,
            },
            Watched {
                end: End::Server,
                wanted: of_server,
                stream: to_server,
                tls: server_tls,
                patience: servers,
                watched: watches_server,
                other: to_client,
            },
        ]
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<Event, Fault>> {
        let end = self.end;
        let fault = |error: std::io::Error| Fault::of(end, LegFault::Tcp(error));
        if self.wanted.read
            && let Poll::Ready(ready) = self.stream.poll_read_ready(context)
        {
            return Poll::Ready(ready.map(|()| Event::Readable(end)).map_err(fault));
        }
        if self.wanted.write
            && let Poll::Ready(ready) = self.stream.poll_write_ready(context)
        {
            return Poll::Ready(ready.map(|()| Event::Writable).map_err(fault));
        }
        self.tls.poll_progress(context).map(|()| Ok(Event::Progress(end)))
    }

    /// A side that is read tells by itself.
    fn poll_gone(
        &mut self,
        is_gone: &mut Option<Gone<'a>>,
        context: &mut Context<'_>,
    ) -> Poll<Event> {
        if !self.watched {
            return Poll::Pending;
        }
        match self.patience {
            Some(patience) => {
                patience.poll(self.other, context).map(|()| Event::Abandoned(self.end))
            }
            None => {
                let stream = self.stream;
                let is_gone = is_gone.get_or_insert_with(|| Box::pin(gone(stream)));
                is_gone.as_mut().poll(context).map(|()| Event::Gone(self.end))
            }
        }
    }
}

#[cfg(test)]
mod tests;
