//! Captures by tcpdump on an end's interface, and the frames of one connection in them.

mod layers;

use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;

use crate::ends::INTERFACE;
use crate::namespace::Namespace;
use crate::process::{Process, shown};
use crate::run::Run;

pub use layers::{Around, Layers};

/// A running capture.
pub struct Capture {
    process: Process,
    pub command: String,
    path: PathBuf,
}

impl Capture {
    /// Captures the end's TCP and ICMP traffic from now on, heads of frames only.
    pub fn start(run: &Run, namespace: &Namespace, name: &str) -> Result<Self> {
        Self::start_with(run, namespace, name, &[])
    }

    /// The same for long runs: the last 100 MB are kept, in `NAME.pcap0` to `NAME.pcap3`.
    pub fn start_ring(run: &Run, namespace: &Namespace, name: &str) -> Result<Self> {
        Self::start_with(run, namespace, name, &["-C", "25", "-W", "4"])
    }

    fn start_with(
        run: &Run,
        namespace: &Namespace,
        name: &str,
        arguments: &[&str],
    ) -> Result<Self> {
        let path = run.path(&format!("{name}.pcap"));
        let log = run.path(&format!("{name}-tcpdump.log"));
        let mut command = namespace.command("tcpdump");
        command.args(["-i", INTERFACE, "-Z", "root", "-n", "-U", "--immediate-mode", "-s", "128"]);
        command.args(arguments).arg("-w").arg(&path).arg("tcp or icmp");
        let mut process = Process::start("tcpdump", &mut command, &log)?;
        let deadline = Instant::now() + Duration::from_secs(20);
        while !std::fs::read_to_string(&log)?.contains("listening on") {
            process.check()?;
            if Instant::now() > deadline {
                bail!("tcpdump does not listen after 20 s: {}", log.display());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(Self { process, command: shown(&command), path })
    }

    /// Its file, which has each frame as soon as it was seen.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Ends the capture; its file.
    pub fn stop(mut self) -> Result<PathBuf> {
        // Until tcpdump has written the connection's last frames: nothing more comes for a while.
        let (mut size, mut same) = (0, 0);
        for _ in 0..100 {
            std::thread::sleep(Duration::from_millis(100));
            let now = std::fs::metadata(&self.path).map_or(0, |file| file.len());
            same = if now == size { same + 1 } else { 0 };
            size = now;
            if same == 5 {
                break;
            }
        }
        self.process.stop(Signal::SIGINT);
        Ok(self.path.clone())
    }
}

/// Who a frame says it is from and to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ends {
    pub source_mac: [u8; 6],
    pub destination_mac: [u8; 6],
    pub source: (Ipv4Addr, u16),
    pub destination: (Ipv4Addr, u16),
}

impl fmt::Display for Ends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} > {}  {}:{} > {}:{}",
            mac(self.source_mac),
            mac(self.destination_mac),
            self.source.0,
            self.source.1,
            self.destination.0,
            self.destination.1
        )
    }
}

fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

/// The distinct ends of all frames of the connection with client port `port` in a capture, and how
/// many frames there were.
pub fn connection(path: &Path, port: u16) -> Result<(BTreeSet<Ends>, usize)> {
    let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let mut seen = BTreeSet::new();
    let mut frames = 0;
    for frame in frames_of(&bytes)? {
        if let Some(ends) = ends_of(frame)
            && (ends.source.1 == port || ends.destination.1 == port)
        {
            frames += 1;
            seen.insert(ends);
        }
    }
    Ok((seen, frames))
}

/// The distinct headers of all TCP frames of a capture.
pub fn layers(path: &Path) -> Result<BTreeSet<Layers>> {
    let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    Ok(frames_of(&bytes)?.into_iter().filter_map(Layers::parse).collect())
}

/// Frames of a classic pcap file of this machine's byte order, link type Ethernet.
fn frames_of(bytes: &[u8]) -> Result<Vec<&[u8]>> {
    const HEADER: usize = 24;
    const RECORD: usize = 16;
    let magic = word(bytes, 0).context("empty capture")?;
    ensure!(matches!(magic, 0xa1b2_c3d4 | 0xa1b2_3c4d), "not a pcap file: magic {magic:#x}");
    ensure!(word(bytes, 20) == Some(1), "capture is not of Ethernet frames");
    let mut frames = Vec::new();
    let mut rest = bytes.get(HEADER..).unwrap_or_default();
    while let Some(length) = word(rest, 8) {
        let end = RECORD + length as usize;
        let Some(frame) = rest.get(RECORD..end) else { break };
        frames.push(frame);
        rest = rest.get(end..).unwrap_or_default();
    }
    Ok(frames)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Untagged Ethernet, IPv4, TCP; anything else is `None`.
fn ends_of(frame: &[u8]) -> Option<Ends> {
    let (ethernet, ip) = (frame.get(..14)?, frame.get(14..)?);
    if ethernet.get(12..14)? != [0x08, 0x00] || ip.first()? >> 4 != 4 || *ip.get(9)? != 6 {
        return None;
    }
    let tcp = ip.get(usize::from(ip.first()? & 15) * 4..)?;
    let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(ip.get(at..at + 4)?).ok()?));
    let port = |at: usize| Some(u16::from_be_bytes(tcp.get(at..at + 2)?.try_into().ok()?));
    Some(Ends {
        destination_mac: ethernet.get(..6)?.try_into().ok()?,
        source_mac: ethernet.get(6..12)?.try_into().ok()?,
        source: (address(12)?, port(0)?),
        destination: (address(16)?, port(2)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp_frame(source_port: u16) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x08, 0x00];
        frame.extend([0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 10, 66, 0, 1, 10, 66, 0, 2]);
        frame.extend(source_port.to_be_bytes());
        frame.extend(443u16.to_be_bytes());
        frame.extend([0; 16]);
        frame
    }

    fn pcap(frames: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for value in [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 128, 1] {
            bytes.extend(value.to_ne_bytes());
        }
        for frame in frames {
            let length = u32::try_from(frame.len()).unwrap();
            for value in [0, 0, length, length] {
                bytes.extend(value.to_ne_bytes());
            }
            bytes.extend(frame);
        }
        bytes
    }

    #[test]
    fn only_frames_of_the_asked_connection_count() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let frames = [tcp_frame(5000), tcp_frame(5000), tcp_frame(6000), vec![0; 20]];
        std::fs::write(file.path(), pcap(&frames)).unwrap();
        let (ends, count) = connection(file.path(), 5000).unwrap();
        assert_eq!(count, 2);
        let shown: Vec<String> = ends.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            ["02:00:00:00:00:01 > 02:00:00:00:00:02  10.66.0.1:5000 > 10.66.0.2:443"]
        );
    }

    #[test]
    fn a_file_that_is_no_capture_is_refused() {
        assert!(frames_of(b"not a capture at all").is_err());
    }
}
