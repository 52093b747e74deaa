//! A conversation whose every byte both sides know beforehand: HTTP/1.1 requests with a body and
//! answers with a body, made of the numbers of a seed.
//!
//! For: finding a wrong byte wherever it is, and saying how a connection ended where it did not end
//! well. Not for: TLS (see [`crate::tls`]), or how the connection came to be. Fails by [`Ended`].

use std::fmt::Write as _;
use std::io::{self, BufRead as _, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::sys::socket::{setsockopt, sockopt};

use crate::random::Random;

/// Longest head of a request or an answer.
const HEAD: u64 = 4096;
/// Bytes made, written or compared at once; a multiple of eight.
const PIECE: usize = 8192;

/// What one connection carries.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub seed: u64,
    /// Requests, one after the other's answer.
    pub rounds: u32,
    /// Largest body of a request; each round has its own length.
    pub up: u64,
    /// Largest body of an answer.
    pub down: u64,
    /// Longest rest between rounds.
    pub pause: Duration,
}

/// How a connection ended before its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// RST came.
    Reset,
    /// FIN came in the middle.
    Closed,
    /// Nobody answered retransmissions or keep-alives any more.
    Dead,
    /// Nothing came for as long as one waits.
    Hung,
    /// A byte was wrong, or TLS says so.
    Wrong(String),
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
            | ErrorKind::ConnectionRefused => Self::Reset,
            ErrorKind::UnexpectedEof => Self::Closed,
            ErrorKind::TimedOut | ErrorKind::HostUnreachable => Self::Dead,
            ErrorKind::WouldBlock => Self::Hung,
            _ => Self::Wrong(error.to_string()),
        }
    }
}

/// Nothing may take longer than `patience`; a peer that is gone is noticed within some 12 s.
pub fn prepare(stream: &TcpStream, patience: Duration) -> Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &2)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &2)?;
    setsockopt(stream, sockopt::TcpKeepCount, &5)?;
    Ok(())
}

/// The asking side. `round_begins` is told when each round begins.
pub fn ask(
    stream: impl Read + Write,
    host: &str,
    plan: &Plan,
    mut round_begins: impl FnMut(Instant),
) -> Result<(), Ended> {
    let mut stream = BufReader::new(stream);
    let mut rests = Random::of(plan.seed, u64::MAX);
    for round in 0..plan.rounds {
        let mut lengths = Random::of(plan.seed, u64::from(round) << 2 | 2);
        let up = lengths.between(1, plan.up + 1);
        let down = lengths.between(1, plan.down + 1);
        round_begins(Instant::now());
        let mut head = String::new();
        let _ = write!(
            head,
            "POST /exchange?seed={}&round={round}&down={down} HTTP/1.1\r\nHost: {host}\r\n\
             Content-Length: {up}\r\n\r\n",
            plan.seed
        );
        stream.get_mut().write_all(head.as_bytes())?;
        send(stream.get_mut(), plan.seed, Body::Up(round), up)?;
        let head = read_head(&mut stream)?.ok_or(Ended::Closed)?;
        if !head.starts_with("HTTP/1.1 200 ") {
            return Err(Ended::Wrong(format!("the server answered: {}", head.trim_end())));
        }
        let length = number(&head, "Content-Length: ")?;
        if length != down {
            return Err(Ended::Wrong(format!("answer of {length} bytes, not {down}")));
        }
        check(&mut stream, plan.seed, Body::Down(round), down)?;
        if round + 1 < plan.rounds && !plan.pause.is_zero() {
            let longest = u64::try_from(plan.pause.as_millis()).unwrap_or(u64::MAX);
            std::thread::sleep(Duration::from_millis(rests.between(0, longest)));
        }
    }
    Ok(())
}

/// What the answering side saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// Of the requests; none where none came whole.
    pub seed: Option<u64>,
    pub rounds: u32,
    /// Why it ended before the client closed between two rounds.
    pub ended: Option<Ended>,
}

/// The answering side, until the client closes.
pub fn answer(stream: impl Read + Write) -> Served {
    let mut stream = BufReader::new(stream);
    let mut served = Served::default();
    loop {
        match answer_one(&mut stream, &mut served) {
            Ok(true) => served.rounds += 1,
            Ok(false) => break,
            Err(ended) => {
                served.ended = Some(ended);
                break;
            }
        }
    }
    served
}

fn answer_one<S: Read + Write>(
    stream: &mut BufReader<S>,
    served: &mut Served,
) -> Result<bool, Ended> {
    let Some(head) = read_head(stream)? else { return Ok(false) };
    let seed = number(&head, "seed=")?;
    let round = u32::try_from(number(&head, "round=")?)
        .map_err(|_| Ended::Wrong(format!("no round: {head}")))?;
    let (up, down) = (number(&head, "Content-Length: ")?, number(&head, "down=")?);
    served.seed = Some(seed);
    let checked = check(stream, seed, Body::Up(round), up);
    if let Err(Ended::Wrong(why)) = &checked {
        let text = format!("HTTP/1.1 400 {why}\r\nContent-Length: 0\r\n\r\n");
        stream.get_mut().write_all(text.as_bytes())?;
    }
    checked?;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {down}\r\n\r\n");
    stream.get_mut().write_all(head.as_bytes())?;
    send(stream.get_mut(), seed, Body::Down(round), down)?;
    Ok(true)
}

/// Which of a round's two bodies.
#[derive(Clone, Copy)]
enum Body {
    Up(u32),
    Down(u32),
}

impl Body {
    fn bytes(self, seed: u64) -> Random {
        match self {
            Self::Up(round) => Random::of(seed, u64::from(round) << 2),
            Self::Down(round) => Random::of(seed, u64::from(round) << 2 | 1),
        }
    }
}

fn send(stream: &mut impl Write, seed: u64, body: Body, length: u64) -> Result<(), Ended> {
    let mut bytes = body.bytes(seed);
    let mut piece = [0; PIECE];
    let mut left = length;
    while left > 0 {
        bytes.fill(&mut piece);
        let now = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        stream.write_all(piece.get(..now).unwrap_or_default())?;
        left -= now as u64;
    }
    stream.flush()?;
    Ok(())
}

fn check(stream: &mut impl Read, seed: u64, body: Body, length: u64) -> Result<(), Ended> {
    let mut bytes = body.bytes(seed);
    let (mut wanted, mut came) = ([0; PIECE], [0; PIECE]);
    let mut done = 0;
    while done < length {
        bytes.fill(&mut wanted);
        let now = usize::try_from(length - done).unwrap_or(PIECE).min(PIECE);
        let (wanted, came) = (wanted.get(..now), came.get_mut(..now));
        let (Some(wanted), Some(came)) = (wanted, came) else { break };
        stream.read_exact(came)?;
        if let Some(at) = wanted.iter().zip(came.iter()).position(|(one, other)| one != other) {
            let at = done + at as u64;
            return Err(Ended::Wrong(format!("byte {at} of {length} is not what was sent")));
        }
        done += now as u64;
    }
    Ok(())
}

/// Up to the empty line; none where the connection ended before its first byte.
fn read_head<S: Read>(stream: &mut BufReader<S>) -> Result<Option<String>, Ended> {
    let mut head = String::new();
    loop {
        let before = head.len();
        let line = stream.by_ref().take(HEAD).read_line(&mut head)?;
        if line == 0 {
            return if head.is_empty() { Ok(None) } else { Err(Ended::Closed) };
        }
        if matches!(head.get(before..), Some("\r\n")) {
            return Ok(Some(head));
        }
        if head.len() as u64 > HEAD {
            return Err(Ended::Wrong(format!("a head of more than {HEAD} bytes")));
        }
    }
}

fn number(head: &str, name: &str) -> Result<u64, Ended> {
    let text = head.split_once(name).map(|(_, text)| text);
    let digits = text.and_then(|text| text.split(|c: char| !c.is_ascii_digit()).next());
    digits
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| Ended::Wrong(format!("no {name}NUMBER in {head:?}")))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    const PLAN: Plan = Plan { seed: 7, rounds: 3, up: 50_000, down: 90_000, pause: Duration::ZERO };

    /// Copies until either side ends, changing the byte at `wrong`.
    fn between(mut from: UnixStream, mut to: UnixStream, wrong: Option<usize>) {
        let mut bytes = [0; 1000];
        let mut done = 0;
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            if let Some(at) = wrong.and_then(|at| at.checked_sub(done)).filter(|at| *at < count) {
                bytes[at] ^= 1;
            }
            done += count;
            if to.write_all(&bytes[..count]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(std::net::Shutdown::Write);
    }

    fn converse(wrong_up: Option<usize>, wrong_down: Option<usize>) -> (Result<(), Ended>, Served) {
        let (client, near) = UnixStream::pair().unwrap();
        let (far, server) = UnixStream::pair().unwrap();
        std::thread::scope(|scope| {
            let (one, other) = (near.try_clone().unwrap(), far.try_clone().unwrap());
            scope.spawn(move || between(one, other, wrong_up));
            scope.spawn(move || between(far, near, wrong_down));
            let server = scope.spawn(move || answer(server));
            let mut rounds = 0;
            let asked = ask(&client, "a.example", &PLAN, |_| rounds += 1);
            drop(client);
            assert!(rounds > 0);
            (asked, server.join().unwrap())
        })
    }

    #[test]
    fn a_good_connection_carries_all_rounds() {
        let (asked, served) = converse(None, None);
        assert_eq!(asked, Ok(()));
        assert_eq!(served, Served { seed: Some(7), rounds: 3, ended: None });
    }

    #[test]
    fn a_wrong_byte_is_found_in_either_direction() {
        let (asked, served) = converse(Some(400), None);
        assert!(matches!(asked, Err(Ended::Wrong(_))), "{asked:?}");
        assert!(matches!(served.ended, Some(Ended::Wrong(_))), "{served:?}");
        let (asked, _) = converse(None, Some(20_000));
        assert!(matches!(asked, Err(Ended::Wrong(_))), "{asked:?}");
    }
}
