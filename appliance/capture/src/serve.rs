//! The helper's socket: one request a connection, one answer.
//!
//! For: checking what is asked for against the bounds, one capture a port, and what runs now. Not
//! for: who may ask what of the agent. Fails by refusing in words.

use std::collections::VecDeque;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use weir_api::capture::{
    CaptureFile, CaptureOptions, FromCapture, MOST_PACKETS, MOST_SECONDS, MOST_SNAPLEN, ToCapture,
};
use weir_api::frame::{FrameError, blocking};

use crate::filter::Filter;
use crate::port::{self, Port};
use crate::running::{Plan, Running};
use crate::store::Store;

/// Largest request: options with a filter.
const LARGEST_REQUEST: usize = 16 << 10;
/// A peer that does not speak, or does not read, for longer is cut off.
const PATIENCE: Duration = Duration::from_secs(5);
/// Ended captures whose progress can still be asked for.
const ENDED_KEPT: usize = 16;

pub struct Captures {
    pub store: Store,
    pub largest_file: u64,
    /// The newest last.
    pub known: VecDeque<Arc<Running>>,
}

impl Captures {
    /// Answers one connection's request.
    pub fn answer(&mut self, stream: &mut UnixStream) -> Result<(), FrameError> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        if let Some(request) = blocking::read_at_most(stream, LARGEST_REQUEST)? {
            let answer = self.serve(request).unwrap_or_else(FromCapture::Refused);
            blocking::write(stream, &answer)?;
        }
        Ok(())
    }

    fn serve(&mut self, request: ToCapture) -> Result<FromCapture, String> {
        match request {
            ToCapture::Start(options) => self.start(&options).map(FromCapture::Started),
            ToCapture::Progress { name, from } => {
                let running = self.known.iter().find(|one| one.name == name);
                let running = running.ok_or_else(|| format!("there is no capture {name}"))?;
                Ok(FromCapture::Progress(running.progress(from)))
            }
            ToCapture::Stop(which) => {
                let runs = |one: &&Arc<Running>| {
                    !one.has_ended() && (one.name == which || one.ports.contains(&which))
                };
                let running = self.known.iter().find(runs);
                let running = running.ok_or_else(|| format!("no capture {which} runs"))?;
                running.stop();
                Ok(FromCapture::Done(format!("capture {} stops", running.name)))
            }
            ToCapture::List => self.list().map(FromCapture::Captures),
            ToCapture::Delete(name) => {
                if self.known.iter().any(|one| one.name == name && !one.has_ended()) {
                    return Err(format!("capture {name} runs; stop it first: capture stop {name}"));
                }
                self.store.delete(&name)?;
                self.known.retain(|one| one.name != name);
                Ok(FromCapture::Done(format!("capture {name} is removed")))
            }
        }
    }

    fn list(&self) -> Result<Vec<CaptureFile>, String> {
        let mut files = self.store.list().map_err(|error| error.to_string())?;
        for file in &mut files {
            let running = self.known.iter().find(|one| one.name == file.name && !one.has_ended());
            file.running = running.map(|one| one.ports.clone()).unwrap_or_default();
        }
        Ok(files)
    }

    fn start(&mut self, options: &CaptureOptions) -> Result<String, String> {
        let ports = ports(options)?;
        let within = |value: Option<u64>, most: u64, what: &str| match value {
            Some(value) if value == 0 || value > most => {
                Err(format!("{what} {value}: right would be 1 to {most}"))
            }
            value => Ok(value.unwrap_or(most)),
        };
        let count = within(options.count, MOST_PACKETS, "count")?;
        let duration = within(options.duration.map(u64::from), MOST_SECONDS.into(), "duration")?;
        let snaplen = within(options.snaplen.map(u64::from), MOST_SNAPLEN.into(), "snaplen")?;
        let filter = match &options.filter {
            Some(text) => {
                let filter = Filter::compile(text).map_err(|error| error.to_string())?;
                Some((text.clone(), filter))
            }
            None => None,
        };
        let busy =
            self.known.iter().filter(|one| !one.has_ended()).find_map(|one| {
                one.ports.iter().find(|port| ports.contains(port)).map(|p| (p, one))
            });
        if let Some((port, running)) = busy {
            return Err(format!(
                "capture {} runs on {port}; stop it first: capture stop {port}",
                running.name
            ));
        }
        let opened = ports
            .iter()
            .map(|name| Port::open(name).map_err(|error| not_opened(name, &error)))
            .collect::<Result<Vec<_>, _>>()?;
        let name = options.file.clone().unwrap_or_else(|| name_of(&options.port));
        let promised = self.known.iter().fold(0u64, |sum, one| sum.saturating_add(one.promised()));
        let largest_file = self.store.room(self.largest_file, promised)?;
        let file = self.store.create(&name)?;
        let plan = Plan {
            ports: opened,
            filter,
            count,
            duration: Duration::from_secs(duration),
            snaplen: u32::try_from(snaplen).unwrap_or(MOST_SNAPLEN),
            largest_file,
            print: options.print,
        };
        let running = Running::start(&name, plan, file)
            .map_err(|error| format!("the capture cannot be started: {error}"))?;
        self.known.retain(|one| one.name != name);
        self.known.push_back(running);
        self.forget();
        Ok(name)
    }

    /// The oldest that ended.
    fn forget(&mut self) {
        while self.known.iter().filter(|one| one.has_ended()).count() > ENDED_KEPT
            && let Some(oldest) = self.known.iter().position(|one| one.has_ended())
        {
            self.known.remove(oldest);
        }
    }
}

fn not_opened(port: &str, error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENODEV) => {
            format!("there is no port {port}: it is of no segment; see: show segments")
        }
        _ => format!("port {port} cannot be captured: {error}"),
    }
}

/// `1A`, and `1B` where both are asked for.
fn ports(options: &CaptureOptions) -> Result<Vec<String>, String> {
    let port = options.port.to_ascii_uppercase();
    let wrong = || {
        let given = options.port.escape_default().take(40).collect::<String>();
        format!("\"{given}\" is no port: right would be a segment's number and A or B, as 1A")
    };
    let (side, other) = match port.chars().next_back() {
        Some('A') => ('A', 'B'),
        Some('B') => ('B', 'A'),
        _ => return Err(wrong()),
    };
    let number = port.strip_suffix(side).unwrap_or_default();
    if number.parse::<u8>().is_err() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let mut ports = vec![format!("{number}{side}")];
    if options.both {
        ports.push(format!("{number}{other}"));
    }
    Ok(ports)
}

/// `1A-20260131-123456`, UTC.
fn name_of(port: &str) -> String {
    let seconds = i64::try_from(port::now() / 1_000_000_000).unwrap_or_default();
    let time = time::OffsetDateTime::from_unix_timestamp(seconds)
        .unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    let (year, month, day) = time.to_calendar_date();
    let (hour, minute, second) = time.to_hms();
    let (port, month) = (port.to_ascii_uppercase(), u8::from(month));
    format!("{port}-{year:04}{month:02}{day:02}-{hour:02}{minute:02}{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(options: CaptureOptions) -> String {
        let directory = tempfile::tempdir().unwrap();
        let store = Store { directory: directory.path().to_owned() };
        let mut captures = Captures { store, largest_file: 1 << 20, known: VecDeque::new() };
        captures.start(&options).unwrap_err()
    }

    #[test]
    fn a_port_is_a_number_and_a_side() {
        let named = |port: &str, both| {
            ports(&CaptureOptions { port: port.into(), both, ..CaptureOptions::default() })
        };
        assert_eq!(named("1A", false).unwrap(), ["1A"]);
        assert_eq!(named("12b", true).unwrap(), ["12B", "12A"]);
        for wrong in ["", "A", "1", "1C", "A1", "+1A", "1AA", "999A", "\u{e4}A", "lo"] {
            assert!(named(wrong, false).unwrap_err().contains("as 1A"), "{wrong}");
        }
    }

    #[test]
    fn what_is_over_its_bound_or_unknown_is_refused_with_what_would_be_right() {
        let options = CaptureOptions { port: "63A".into(), ..CaptureOptions::default() };
        for (options, part) in [
            (CaptureOptions { count: Some(0), ..options.clone() }, "1 to 1000000"),
            (CaptureOptions { count: Some(1_000_001), ..options.clone() }, "1 to 1000000"),
            (CaptureOptions { duration: Some(601), ..options.clone() }, "1 to 600"),
            (CaptureOptions { snaplen: Some(262_145), ..options.clone() }, "1 to 262144"),
            (CaptureOptions { filter: Some("prt 1".into()), ..options.clone() }, "character 1"),
            (options.clone(), "there is no port 63A: it is of no segment; see: show segments"),
        ] {
            let error = refused(options);
            assert!(error.contains(part), "{error}");
        }
    }
}
