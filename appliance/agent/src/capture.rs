//! The agent's requests to the capture helper.
//!
//! Not for: deciding whether a role may ask (see [`crate::console`]). Fails by refusing in words: a
//! helper that is away is being started again by supervision.

use std::path::Path;
use std::time::Duration;

use tokio::net::UnixStream;
use weir_api::capture::{FromCapture, ToCapture};
use weir_api::frame::{self, FrameError};

/// The helper answers from memory; longer means that it is stuck.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Largest answer: a thousand summary lines.
const LARGEST_ANSWER: usize = 1 << 20;

pub async fn ask(socket: &Path, request: &ToCapture) -> FromCapture {
    let asked = async {
        let mut stream = UnixStream::connect(socket).await?;
        frame::write(&mut stream, request).await?;
        frame::read_at_most(&mut stream, LARGEST_ANSWER).await
    };
    let away = |why: String| FromCapture::Refused(format!("the capture helper is away: {why}"));
    let answer: Result<Option<FromCapture>, FrameError> =
        match tokio::time::timeout(ANSWER_WITHIN, asked).await {
            Ok(answer) => answer,
            Err(_) => return away(format!("no answer within {} s", ANSWER_WITHIN.as_secs())),
        };
    match answer {
        Ok(Some(answer)) => answer,
        Ok(None) => away("it closed the connection".into()),
        Err(error) => away(format!("{}: {error}", socket.display())),
    }
}
