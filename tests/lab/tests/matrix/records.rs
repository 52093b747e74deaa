//! What the appliance tells of its sessions, by the server's port.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use weir_lab::bench::Bench;
use weir_lab::wire::Wire as _;
use weir_lab::wire::lab::Lab;

use crate::Visit;

/// Most that the console tells at once.
pub const MOST: usize = 1000;

#[derive(Debug)]
pub struct Told {
    /// In the order in which they began; the console has them by their ends.
    number: u64,
    pub outcome: String,
    pub client_leg: String,
    pub server_leg: String,
    pub failure: String,
}

/// The newest sessions by port, oldest first, once each visit has all of its own.
pub fn told(bench: &mut Bench<Lab>, visits: &[Visit]) -> Result<BTreeMap<u16, Vec<Told>>> {
    let expected: usize = visits.iter().map(|visit| visit.peer.sessions()).sum();
    ensure!(expected <= MOST, "too many sessions for one question");
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let shown = bench.wire.console(&format!("show sessions detail {MOST}"))?;
        let told = parse(&shown);
        let all = |visit: &Visit| {
            told.get(&visit.port).is_some_and(|told| told.len() >= visit.peer.sessions())
        };
        if visits.iter().all(all) || Instant::now() > deadline {
            return Ok(told);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn parse(shown: &str) -> BTreeMap<u16, Vec<Told>> {
    let mut told = BTreeMap::<u16, Vec<Told>>::new();
    // Long lines are folded.
    for record in shown.split("\n\n") {
        let record = record.replace(&format!("\n{:24}", ""), " ");
        let field = |name: &str| {
            let line = record.lines().find_map(|line| line.strip_prefix(&format!("{name:24}")));
            line.unwrap_or_default().to_owned()
        };
        let server = field("Server");
        let Some(port) = server.rsplit_once(':').and_then(|(_, port)| port.parse().ok()) else {
            continue;
        };
        told.entry(port).or_default().push(Told {
            number: field("Session").parse().unwrap_or_default(),
            outcome: field("Outcome"),
            client_leg: field("TLS with the client"),
            server_leg: field("TLS with the server"),
            failure: field("Failure"),
        });
    }
    for sessions in told.values_mut() {
        sessions.sort_by_key(|session| session.number);
    }
    told
}
