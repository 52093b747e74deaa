//! The agent's questions to init: the machine's status, reboot, power off, killing a service.
//!
//! Not for: deciding whether a role may ask (see [`crate::console`]). Fails by typed errors; where
//! init's socket is missing (the lab), [`MachineError::NoInit`].

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::UnixStream;
use weir_api::frame::{self, FrameError};
use weir_api::init::{FromInit, MachineStatus, ToInit};

/// init answers from memory; longer means that it is stuck.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Largest answer of init: some dozen services and ports.
const LARGEST_ANSWER: usize = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    #[error("no init on this machine ({} is missing)", .0.display())]
    NoInit(PathBuf),
    #[error("init did not answer within {} s", ANSWER_WITHIN.as_secs())]
    NoAnswer,
    #[error("init closed the connection")]
    Closed,
    #[error("init answered something else than was asked")]
    Unexpected,
    #[error("init refused: {0}")]
    Refused(String),
    #[error("init: {0}")]
    Frame(#[from] FrameError),
}

/// init's status of the machine.
pub async fn status(socket: &Path) -> Result<MachineStatus, MachineError> {
    match ask(socket, &ToInit::Status).await? {
        FromInit::Status(status) => Ok(status),
        FromInit::Refused(reason) => Err(MachineError::Refused(reason)),
        FromInit::Going => Err(MachineError::Unexpected),
    }
}

/// Reboot, power off or kill a service.
pub async fn order(socket: &Path, order: &ToInit) -> Result<(), MachineError> {
    match ask(socket, order).await? {
        FromInit::Going => Ok(()),
        FromInit::Refused(reason) => Err(MachineError::Refused(reason)),
        FromInit::Status(_) => Err(MachineError::Unexpected),
    }
}

async fn ask(socket: &Path, request: &ToInit) -> Result<FromInit, MachineError> {
    if !socket.exists() {
        return Err(MachineError::NoInit(socket.to_owned()));
    }
    tokio::time::timeout(ANSWER_WITHIN, async {
        let mut stream = UnixStream::connect(socket).await.map_err(FrameError::from)?;
        frame::write(&mut stream, request).await?;
        frame::read_at_most(&mut stream, LARGEST_ANSWER).await?.ok_or(MachineError::Closed)
    })
    .await
    .map_err(|_| MachineError::NoAnswer)?
}
