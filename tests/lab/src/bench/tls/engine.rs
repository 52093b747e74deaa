//! The engine's own part: its CPU time of an inspected session less that of a flow it relays unread,
//! beside the bare cryptography; what forging costs; and how often it forges.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::client::{self, Amount, Shown, Target};
use super::config::KeyExchange;
use super::crypto;
use super::site::{EXCEPTED, FIRST_PORT, NAME, OTHERS, P256_PORT, RSA_PORT, Site, at};
use crate::bench::cpu;
use crate::tls::own;
use crate::wire::Wire as _;

/// Longer than the engine waits for the rest of a hello before it takes the flow (SPEC D12: 20 ms).
const PAUSE: Duration = Duration::from_millis(40);
/// Handshakes in memory, and certificates forged, of a measurement.
const IN_MEMORY: usize = 400;
/// Of a measurement.
const TURNS: usize = 5;
const VISITS: usize = 100;

/// CPU nanoseconds, each.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct EngineSample {
    round: usize,
    /// The engine's, of a session inspected and of a flow relayed, by the server's key.
    inspected_p256: f64,
    inspected_rsa: f64,
    relayed_p256: f64,
    relayed_rsa: f64,
    /// In memory: the client's role with a server of this key, and the server's role with P-256.
    client_role_p256: f64,
    client_role_rsa: f64,
    server_role: f64,
    forging: f64,
    signature_and_parse: f64,
}

impl EngineSample {
    pub fn over_crypto_p256(&self) -> f64 {
        (self.inspected_p256 - self.relayed_p256) / (self.client_role_p256 + self.server_role)
    }

    pub fn over_crypto_rsa(&self) -> f64 {
        (self.inspected_rsa - self.relayed_rsa) / (self.client_role_rsa + self.server_role)
    }

    pub fn forging(&self) -> f64 {
        self.forging / self.signature_and_parse
    }
}

pub fn measure(site: &Site, round: usize, sessions: usize) -> Result<EngineSample> {
    let certificates = &site.bench.ends.certificates;
    let identities = &site.identities;
    let forging = crypto::forging(
        &identities.p256,
        &certificates.public_ca,
        &certificates.signing_ca,
        IN_MEMORY,
    )?;
    let handshakes = |identity, count| {
        crypto::handshakes(identity, NAME, &certificates.public_ca, count).context("in memory")
    };
    let mut sample = EngineSample {
        round,
        inspected_p256: 0.0,
        inspected_rsa: 0.0,
        relayed_p256: 0.0,
        relayed_rsa: 0.0,
        client_role_p256: 0.0,
        client_role_rsa: 0.0,
        server_role: 0.0,
        forging: forging.certificate,
        signature_and_parse: forging.bare,
    };
    // A processor's clock changes within a round: what is compared takes turns.
    for _ in 0..TURNS {
        let of_turn = |figure: f64| figure / TURNS as f64;
        let (turn, in_memory) = (sessions.div_ceil(TURNS), IN_MEMORY.div_ceil(TURNS));
        let roles = handshakes(&identities.p256, in_memory)?;
        sample.client_role_p256 += of_turn(roles.client);
        sample.server_role += of_turn(roles.server);
        let engine = |port, name| engine_for(site, port, name, turn);
        sample.inspected_p256 += of_turn(engine(P256_PORT, NAME).context("inspected")?);
        sample.relayed_p256 += of_turn(engine(P256_PORT, EXCEPTED).context("relayed")?);
        sample.relayed_rsa += of_turn(engine(RSA_PORT, EXCEPTED).context("relayed, RSA")?);
        sample.inspected_rsa += of_turn(engine(RSA_PORT, NAME).context("inspected, RSA")?);
        sample.client_role_rsa += of_turn(handshakes(&identities.rsa, in_memory)?.client);
    }
    Ok(sample)
}

/// The engine's CPU nanoseconds for each of these sessions.
fn engine_for(site: &Site, port: u16, server_name: &'static str, sessions: usize) -> Result<f64> {
    let own = site.own(port)?;
    let target = Target {
        address: at(OTHERS, port),
        server_name,
        connect: None,
        shown: if server_name == EXCEPTED { Shown::This(own) } else { Shown::CopyOf(own) },
        pause: Some(PAUSE),
        key_exchange: KeyExchange::X25519,
    };
    let amount = Amount { sessions, concurrent: 96, requests: 1, path: "/small", length: 6 };
    let engine = site.bench.wire.engine()?;
    let before = cpu::of_tree(engine)?;
    client::run(&site.client(), &target, amount)?;
    Ok(cpu::of_tree(engine)?.saturating_sub(before).as_secs_f64() * 1e9 / sessions as f64)
}

/// How many certificates the engine forges for [`VISITS`] at one time to a host that it does not
/// know.
pub fn forges_of_first_visits(site: &mut Site) -> Result<u64> {
    let shown = own_of(site)?;
    let target = Target {
        address: at(OTHERS, FIRST_PORT),
        server_name: "first.bench.example",
        connect: None,
        shown: Shown::CopyOf(shown),
        pause: None,
        key_exchange: KeyExchange::X25519,
    };
    let amount =
        Amount { sessions: VISITS, concurrent: VISITS, requests: 1, path: "/small", length: 6 };
    // The engine tells its counters once a second.
    std::thread::sleep(Duration::from_millis(1500));
    let (forged, shown) = (counter(site, FORGED)?, counter(site, SHOWN)?);
    client::run(&site.client(), &target, amount).context("first visits")?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while counter(site, SHOWN)? < shown + VISITS as u64 {
        ensure!(Instant::now() < deadline, "the engine does not tell of {VISITS} visits");
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(counter(site, FORGED)? - forged)
}

const FORGED: &str = "certificates forged";
const SHOWN: &str = "forged certificates shown";

fn own_of(site: &Site) -> Result<rustls::pki_types::CertificateDer<'static>> {
    let certificate = site.bench.run.path("certificates/first.crt");
    let key = site.bench.run.path("certificates/first.key");
    own(&crate::certificates::Identity { certificate, key })
}

/// One of the engine's counters, as the console tells it.
fn counter(site: &mut Site, name: &str) -> Result<u64> {
    let shown = site.bench.wire.console("show tls-inspection")?;
    let line = shown.lines().find(|line| line.contains(name));
    let line = line.with_context(|| format!("no {name:?} in {shown}"))?;
    line.split_whitespace()
        .find_map(|word| word.parse().ok())
        .with_context(|| format!("no number in {line:?}"))
}
