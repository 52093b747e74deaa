//! The agent's questions to link-down synchronisation (SPEC D7): its settings, its status, and the
//! restart of a segment's ports.
//!
//! Not for: deciding whether a role may ask (see [`crate::console`]). Fails in words; a service that
//! is not there (the lab, or it is just starting) is told its settings again with the next round.

use std::path::Path;
use std::time::Duration;

use tokio::net::UnixStream;
use weir_api::frame;
use weir_api::links::{FromLinks, LinkSettings, LinkStatus, ToLinks};
use weir_policy::snapshot::Snapshot;

/// It answers from memory; longer means that it is stuck.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Largest answer: the status of all segments.
const LARGEST_ANSWER: usize = 64 << 10;

/// Asks; the status of all segments after it was done.
pub async fn ask(socket: &Path, question: &ToLinks) -> Result<Vec<LinkStatus>, String> {
    if !socket.exists() {
        return Err("link-down synchronisation does not run on this machine".into());
    }
    let asked = async {
        let mut stream = UnixStream::connect(socket).await.map_err(|error| error.to_string())?;
        frame::write(&mut stream, question).await.map_err(|error| error.to_string())?;
        frame::read_at_most(&mut stream, LARGEST_ANSWER).await.map_err(|error| error.to_string())
    };
    match tokio::time::timeout(ANSWER_WITHIN, asked).await {
        Ok(Ok(Some(FromLinks::Status(links)))) => Ok(links),
        Ok(Ok(Some(FromLinks::Refused(reason)))) => Err(reason),
        Ok(Ok(None)) => Err("link-down synchronisation closed the connection".into()),
        Ok(Err(error)) => Err(format!("link-down synchronisation: {error}")),
        Err(_) => Err("link-down synchronisation does not answer".into()),
    }
}

/// What a policy says of all segments.
pub fn settings(snapshot: &Snapshot) -> ToLinks {
    let of_segment = |segment: &weir_policy::snapshot::Segment| LinkSettings {
        segment: segment.id,
        mode: segment.link_down_synchronisation,
        wait: segment.wait_time,
    };
    ToLinks::Configure(snapshot.segments.iter().map(of_segment).collect())
}
