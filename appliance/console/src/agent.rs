//! The connection to the agent: one request, one answer, with a bound on the wait.
//!
//! Not for: what the answers mean. Fails by [`Away`]: the connection is then of no more use.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use weir_api::console::{Greeting, Request, Response};
use weir_api::frame;

/// The longest answer is a login slowed down after many failures: 30 s.
const ANSWER_WITHIN: Duration = Duration::from_secs(45);

/// The agent does not answer; why, in words.
#[derive(Debug)]
pub struct Away(pub String);

pub struct Agent {
    runtime: Runtime,
    stream: UnixStream,
}

impl Agent {
    pub fn connect(socket: &Path) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let stream = runtime.block_on(UnixStream::connect(socket))?;
        Ok(Self { runtime, stream })
    }

    pub fn ask(&mut self, request: &Request) -> Result<Response, Away> {
        let stream = &mut self.stream;
        let asked = async {
            frame::write(stream, request).await?;
            frame::read(stream).await
        };
        self.runtime
            .block_on(async { tokio::time::timeout(ANSWER_WITHIN, asked).await })
            .map_err(|_| Away(format!("no answer within {} s", ANSWER_WITHIN.as_secs())))?
            .map_err(|error| Away(error.to_string()))?
            .ok_or_else(|| Away("the agent closed the connection".into()))
    }

    /// Waits, at most until Ctrl-C (SIGINT): `true`.
    pub fn interrupted_within(&mut self, time: Duration) -> bool {
        self.runtime.block_on(async {
            matches!(tokio::time::timeout(time, tokio::signal::ctrl_c()).await, Ok(Ok(())))
        })
    }

    pub fn greeting(&mut self) -> Result<Greeting, Away> {
        match self.ask(&Request::Greeting)? {
            Response::Greeting(greeting) => Ok(greeting),
            _ => Err(Away("the agent answered something else than was asked".into())),
        }
    }
}
