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
use crate::leg::LegFault;

/// What a relay waits for.
pub(super) enum Event {
    Readable(End),
    Writable,
    Progress(End),
    /// Its peer is gone, and it is not being read.
    Gone(End),
    /// It is gone, and the other has taken nothing more for as long as it may.
    Abandoned(End),
    /// The client, and the server, asked whether the other is there.
    Asked([bool; 2]),
    /// Both sides ended, and had their time to take what is left.
    Drained,
}

/// The parts of a side that are polled, and how far the other has come in taking what is this one's.
pub(super) struct Watched<'a> {
    pub(super) end: End,
    pub(super) wanted: Wanted,
    pub(super) stream: &'a TcpStream,
    pub(super) tls: &'a mut Box<dyn TlsLeg>,
    pub(super) patience: &'a mut Option<Patience>,
    pub(super) progress: u64,
}

/// The first event, and whether it was waited for. `sides`: the client's and the server's. `first`: the
/// one that is asked first; neither is so always. `drain`: where both have ended, which bounds what is
/// left. `asked` is asked where bytes neither come nor go.
pub(super) async fn next_event<'a>(
    mut sides: [Watched<'a>; 2],
    first: End,
    mut drain: Option<Pin<&mut tokio::time::Sleep>>,
    mut asked: Pin<&mut impl Future<Output = [bool; 2]>>,
) -> Result<(Event, bool), Fault> {
    let mut gone: [Option<Gone<'a>>; 2] = [None, None];
    let mut waited = false;
    let event = poll_fn(|context| {
        let drains = drain.is_some();
        if drain.as_mut().is_some_and(|drain| drain.as_mut().poll(context).is_ready()) {
            return Poll::Ready(Ok(Event::Drained));
        }
        let [client, server] = &mut sides;
        let order = if first == End::Client { [client, server] } else { [server, client] };
        for side in order {
            let event = side.poll(context);
            if event.is_ready() {
                return event;
            }
        }
        if !drains {
            for (side, gone) in sides.iter_mut().zip(&mut gone) {
                let event = side.poll_gone(gone, context);
                if event.is_ready() {
                    return event.map(Ok);
                }
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
    pub(super) fn of(end: End, side: &'a mut Side, wanted: Wanted, progress: u64) -> Self {
        let Side { leg, patience, .. } = side;
        Watched { end, wanted, stream: &leg.stream, tls: &mut leg.tls, patience, progress }
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
        if self.wanted.read {
            return Poll::Pending;
        }
        match self.patience {
            Some(patience) => {
                patience.poll(self.progress, context).map(|()| Event::Abandoned(self.end))
            }
            None => {
                let stream = self.stream;
                let is_gone = is_gone.get_or_insert_with(|| Box::pin(gone(stream)));
                is_gone.as_mut().poll(context).map(|()| Event::Gone(self.end))
            }
        }
    }
}
