//! What crosses an end's interface, as tcpdump has it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A running capture of an end's `e0`; [`Capture::stop`] reads it.
pub struct Capture {
    tcpdump: Child,
    file: PathBuf,
}

/// Bytes of the longest frame that an end's kernel makes (GSO).
const LONGEST: u32 = 66_000;

/// One TCP packet over IPv4.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    pub mac: [u8; 12],
    pub tos: u8,
    pub ttl: u8,
    pub from: ([u8; 4], u16),
    pub to: ([u8; 4], u16),
    pub sequence: u32,
    pub acknowledged: u32,
    pub flags: u8,
    /// Of its IPv4 header.
    pub id: u16,
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
}

impl Capture {
    /// Of plain IPv4 TCP.
    pub fn start(namespace: &Path) -> Self {
        Self::start_filtered(namespace, "tcp", LONGEST)
    }

    /// Of everything.
    pub fn start_all(namespace: &Path) -> Self {
        Self::start_filtered(namespace, "", LONGEST)
    }

    /// Of everything, where no frame is longer than this: there is room for as many more of them.
    pub fn start_all_of_length(namespace: &Path, longest: u32) -> Self {
        Self::start_filtered(namespace, "", longest)
    }

    fn start_filtered(namespace: &Path, filter: &str, longest: u32) -> Self {
        let name = namespace.file_name().unwrap().to_str().unwrap();
        let file = std::env::temp_dir().join(format!("{name}.pcap"));
        // The buffer is divided in slots of the snapshot length: with tcpdump's default of 256 KiB a
        // slot, a burst on a loaded machine overflows it and packets are missing from the capture.
        let tcpdump = Command::new("ip")
            .args(["netns", "exec", name, "tcpdump", "-U", "-n", "-B", "131072"])
            .args(["-s", &longest.to_string()])
            .args(["-i", "e0"])
            .args(["--immediate-mode", "-Z", "root", "-w"])
            .arg(&file)
            .arg(filter)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // The file has its header once tcpdump listens.
        super::wait_for(|| fs::metadata(&file).is_ok_and(|found| found.len() >= 24));
        Self { tcpdump, file }
    }

    pub fn stop(self) -> Vec<Packet> {
        self.stop_all().iter().map(|frame| read(frame)).collect()
    }

    /// Whole frames.
    pub fn stop_all(mut self) -> Vec<Vec<u8>> {
        // Until tcpdump has written what it saw.
        let (mut size, mut same) = (0, 0);
        for _ in 0..100 {
            std::thread::sleep(Duration::from_millis(100));
            let now = fs::metadata(&self.file).unwrap().len();
            same = if now == size { same + 1 } else { 0 };
            size = now;
            if same == 10 {
                break;
            }
        }
        let pid = nix::unistd::Pid::from_raw(self.tcpdump.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
        self.tcpdump.wait().unwrap();
        let bytes = fs::read(&self.file).unwrap();
        fs::remove_file(&self.file).unwrap();
        let mut packets = vec![];
        let mut rest = &bytes[24..];
        while rest.len() >= 16 {
            let length = u32::from_ne_bytes(rest[8..12].try_into().unwrap()) as usize;
            packets.push(rest[16..16 + length].to_vec());
            rest = &rest[16 + length..];
        }
        packets
    }
}

fn read(frame: &[u8]) -> Packet {
    let ip = &frame[14..];
    let header = usize::from(ip[0] & 15) * 4;
    let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
    let tcp = &ip[header..total];
    let offset = usize::from(tcp[12] >> 4) * 4;
    let four = |at: usize| u32::from_be_bytes(tcp[at..at + 4].try_into().unwrap());
    Packet {
        mac: frame[..12].try_into().unwrap(),
        tos: ip[1],
        ttl: ip[8],
        from: (ip[12..16].try_into().unwrap(), u16::from_be_bytes([tcp[0], tcp[1]])),
        to: (ip[16..20].try_into().unwrap(), u16::from_be_bytes([tcp[2], tcp[3]])),
        sequence: four(4),
        acknowledged: four(8),
        flags: tcp[13],
        id: u16::from_be_bytes([ip[4], ip[5]]),
        options: tcp[20..offset].to_vec(),
        payload: tcp[offset..].to_vec(),
    }
}

/// The byte stream of one direction, put together by sequence number; its first sequence number.
pub fn stream(packets: &[Packet], from: ([u8; 4], u16)) -> (u32, Vec<u8>) {
    let syn = packets.iter().find(|p| p.from == from && p.flags & 2 != 0).expect("a SYN");
    let first = syn.sequence.wrapping_add(1);
    // By sequence, not by arrival: frames given back may overtake one another, which TCP mends.
    let mut data: Vec<(usize, &[u8])> = packets
        .iter()
        .filter(|p| p.from == from && p.flags & 2 == 0)
        .map(|p| (p.sequence.wrapping_sub(first) as usize, p.payload.as_slice()))
        .collect();
    data.sort_by_key(|(start, _)| *start);
    let mut bytes = vec![];
    for (start, payload) in data {
        let end = start.saturating_add(payload.len());
        if start <= bytes.len() && end > bytes.len() {
            let known = bytes.len() - start;
            bytes.extend(&payload[known..]);
        }
    }
    (first, bytes)
}
