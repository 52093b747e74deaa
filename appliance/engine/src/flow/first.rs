//! What a flow's client says first: waited for while the flow is held, and read on where it was taken
//! with its hello incomplete. Bounded in time by [`HOLD`] and [`HELLO_DEADLINE`], in bytes by the parser.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;
use tracing::debug;
use weir_dataplane::{Held, HeldFlow};
use weir_policy::FirstBytes;
use weir_tls::hello::{self, ClientHello, Peek};

use crate::compiled::support;
use crate::leg::LegFault;

/// How long a hello may stay incomplete before the flow is taken over undecided (SPEC D12).
pub(super) const HOLD: Duration = Duration::from_millis(20);
/// How long a taken client may take to complete its hello; past it the flow is reset.
pub(super) const HELLO_DEADLINE: Duration = Duration::from_secs(30);

/// What the wait for the hello came to.
pub(super) enum First {
    Known(Known),
    StillIncomplete,
    ServerSpoke,
    Ended,
}

/// First bytes that can be judged.
pub(super) enum Known {
    Hello(Box<ClientHello>),
    Sslv2,
    NotTls,
    Malformed,
    Oversize,
    Incomplete,
}

impl Known {
    /// `None`: more bytes are needed.
    fn from_peek(peek: Peek) -> Option<Self> {
        Some(match peek {
            Peek::Incomplete => return None,
            Peek::Hello(hello) => Self::Hello(Box::new(hello)),
            Peek::Sslv2 => Self::Sslv2,
            Peek::NotTls(looks_like) => {
                debug!(?looks_like, "first bytes are not TLS");
                Self::NotTls
            }
            Peek::Malformed(error) => {
                debug!(%error, "malformed ClientHello");
                Self::Malformed
            }
            Peek::Oversize => Self::Oversize,
        })
    }

    pub(super) fn first_bytes(&self) -> FirstBytes<'_> {
        match self {
            Self::Hello(hello) if hello.invalid_server_name.is_some() => {
                FirstBytes::InvalidServerName
            }
            Self::Hello(hello) => FirstBytes::ClientHello {
                server_name: hello.server_name.as_deref(),
                support: support(hello, ClientHello::supported_by_any_stack),
                encrypted: hello.encrypted_client_hello,
            },
            Self::Sslv2 => FirstBytes::Sslv2Hello,
            Self::NotTls => FirstBytes::NotTls,
            Self::Malformed => FirstBytes::Malformed,
            Self::Oversize => FirstBytes::Oversize,
            Self::Incomplete => FirstBytes::Incomplete,
        }
    }
}

pub(super) async fn wait_for_hello(held: &mut HeldFlow) -> First {
    let deadline = Instant::now() + HOLD;
    loop {
        // What the client said behind that is no answer to nobody.
        if held.server_spoke() {
            return First::ServerSpoke;
        }
        if let Some(known) = Known::from_peek(hello::peek(held.payload())) {
            return First::Known(known);
        }
        match tokio::time::timeout_at(deadline, held.more()).await {
            Ok(Held::More) => {}
            Ok(Held::Full) => return First::Known(Known::Oversize),
            Ok(Held::Ended) => return First::Ended,
            Ok(Held::ServerSpoke) => return First::ServerSpoke,
            Err(_) => return First::StillIncomplete,
        }
    }
}

/// Reads until the first bytes can be judged. Fails where the client broke, or was slow enough to hope
/// for a relay.
pub(super) async fn rest_of_hello(
    client: &TcpStream,
    received: &mut Vec<u8>,
) -> Result<Known, LegFault> {
    let deadline = Instant::now() + HELLO_DEADLINE;
    loop {
        if let Some(known) = Known::from_peek(hello::peek(received)) {
            return Ok(known);
        }
        match tokio::time::timeout_at(deadline, read_more(client, received)).await {
            Ok(Ok(true)) => {}
            // It closed amid its hello: nothing more can come.
            Ok(Ok(false)) => return Ok(Known::Incomplete),
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => return Err(LegFault::Slow),
        }
    }
}

/// Appends what the client sent; `false` at its end. The bound is the parser's: over 64 KiB it says
/// `Oversize` and nobody reads on.
async fn read_more(client: &TcpStream, received: &mut Vec<u8>) -> std::io::Result<bool> {
    loop {
        client.readable().await?;
        match client.try_read_buf(received) {
            Ok(read) => return Ok(read > 0),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}
