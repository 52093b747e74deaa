//! Agent and capture helper: the helper listens on [`crate::paths::CAPTURE_SOCKET`], the agent
//! connects, sends one [`ToCapture`] and gets one [`FromCapture`]. The console's requests carry the
//! same types (SPEC D11).

use serde::{Deserialize, Serialize};

/// Bounds of one capture.
pub const MOST_PACKETS: u64 = 1_000_000;
pub const MOST_SECONDS: u32 = 600;
pub const MOST_SNAPLEN: u32 = 262_144;
/// Longest name of a capture.
pub const LONGEST_NAME: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToCapture {
    Start(CaptureOptions),
    /// How far the capture `name` is, and its summary lines from the one numbered `from` on.
    Progress {
        name: String,
        from: u64,
    },
    /// Ends a running capture, by its name or by a port.
    Stop(String),
    List,
    /// Removes the file of an ended capture.
    Delete(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromCapture {
    /// The capture runs, under this name.
    Started(String),
    Progress(CaptureProgress),
    /// The newest first.
    Captures(Vec<CaptureFile>),
    Done(String),
    /// What was wrong and what would be right.
    Refused(String),
}

/// What to capture, and when it ends by itself: at the first bound that is met.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureOptions {
    /// `1A`.
    pub port: String,
    /// The other port of the segment as well.
    pub both: bool,
    /// Packets; at most [`MOST_PACKETS`], which also is the default.
    pub count: Option<u64>,
    /// Seconds; at most [`MOST_SECONDS`], which also is the default.
    pub duration: Option<u32>,
    /// Bytes kept of each packet; the default is [`MOST_SNAPLEN`]: all of it.
    pub snaplen: Option<u32>,
    pub filter: Option<String>,
    /// The capture's name; by default made from port and time.
    pub file: Option<String>,
    /// A line for each packet is kept for [`ToCapture::Progress`].
    pub print: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureProgress {
    pub name: String,
    /// Written to the file.
    pub packets: u64,
    /// The file's.
    pub bytes: u64,
    /// Lost by the kernel before the filter saw them.
    pub lost: u64,
    /// Why it ended; `None`: it runs.
    pub ended: Option<String>,
    pub lines: Vec<String>,
    /// What to ask for next; greater by more than `lines` where lines were dropped.
    pub next_line: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureFile {
    pub name: String,
    pub bytes: u64,
    /// Last written, ms since the Unix epoch.
    pub modified: u64,
    /// The ports it runs on; empty: it has ended.
    pub running: Vec<String>,
}
