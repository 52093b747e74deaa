//! Clients of a crowd whose TLS is on the legacy stack: Python's, which is that of Debian's OpenSSL.
//!
//! For: TLS 1.0, and TLS 1.2 with RSA key exchange and CBC, each session to its end or to a stage. Not
//! for: old servers; Weir speaks with the crowd's as with any.

use std::fmt::Write as _;

use anyhow::{Context, Result, ensure};

use super::{PATIENCE, PORT};
use crate::ends::Ends;
use crate::peers;
use crate::process::finish;

/// Of each session, in turn.
const KINDS: [(&str, &str); 3] = [
    ("TLSv1", "ECDHE-ECDSA-AES128-SHA:ECDHE-RSA-AES128-SHA"),
    ("TLSv1_2", "AES128-SHA256"),
    ("TLSv1_1", "AES256-SHA"),
];
/// Sessions at one time.
const AT_ONCE: usize = 16;

/// What one client does: where, by this name, to the end or to a stage and then by RST or not.
pub struct Visit {
    pub target: (std::net::SocketAddr, &'static str),
    pub stops: Option<(String, bool)>,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Visited {
    pub completed: usize,
    pub aborted: usize,
    pub broken: usize,
}

/// All of them, to the last one's end.
pub fn visit(ends: &Ends, visits: &[Visit], name: &str) -> Result<Visited> {
    let mut jobs = String::new();
    for (Visit { target: (address, name), stops }, (version, suite)) in
        visits.iter().zip(KINDS.iter().cycle())
    {
        let (stage, reset) = stops.as_ref().map_or(("Never", false), |(at, reset)| (at, *reset));
        let end = if reset { "reset" } else { "close" };
        writeln!(jobs, "{} {PORT} {name} {version} {suite} {stage} {end}", address.ip())?;
    }
    let path = ends.run.path(name);
    std::fs::write(&path, jobs)?;
    let mut command = peers::python(&ends.client, "crowd_peer.py");
    let done = finish(command.arg(&path).arg(AT_ONCE.to_string()))?;
    let text = done.text();
    let mut words = text.split_whitespace();
    let mut count = |wanted| -> Result<usize> {
        ensure!(words.next() == Some(wanted), "it said {text}{}", done.errors);
        Ok(words.next().context("no number")?.parse()?)
    };
    let visited = Visited {
        completed: count("completed")?,
        aborted: count("aborted")?,
        broken: count("broken")?,
    };
    ensure!(visited.broken * 4 <= visits.len(), "{visited:?} within {PATIENCE:?}: {}", done.errors);
    Ok(visited)
}
