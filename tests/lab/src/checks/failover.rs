//! Check 6: connection after connection while the engine is killed and comes back.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::is_own;
use crate::bench::{Bench, INSPECTION};
use crate::certificates::SIGNING_CA;
use crate::ends::Ends;
use crate::fetch::{Fetch, Fetched};
use crate::report::Evidence;
use crate::wire::Wire;

/// Kills until a connection fell between two engines: a quick machine restarts the engine before
/// the next connection was made. Supervision's delay doubles from kill to kill.
const KILLS: usize = 3;

/// What a connection was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Inspected,
    /// The server's own certificate: the connection crossed the bridge.
    NotInspected,
    Failed,
}

/// One connection after another, the engine killed meanwhile. Decrypted sessions die with their
/// engine, so the one that is open at the kill may fail; no later one may.
pub fn engine_killed<W: Wire>(bench: &mut Bench<W>, evidence: &mut Evidence) -> Result<()> {
    for _ in 0..KILLS {
        let series = kill_and_watch(bench, evidence)?;
        if series.contains(&Seen::NotInspected) {
            return Ok(());
        }
        evidence.line("the engine was back before the next connection was made: once more");
    }
    bail!("no connection was made while no engine ran, in {KILLS} kills")
}

fn kill_and_watch<W: Wire>(bench: &mut Bench<W>, evidence: &mut Evidence) -> Result<Vec<Seen>> {
    let ends = &bench.ends;
    let wire = &mut bench.wire;
    let stop = std::sync::atomic::AtomicBool::new(false);
    let stop = &stop;
    let (killed, fetches) = std::thread::scope(|scope| -> Result<_> {
        let fetching = scope.spawn(move || fetch_until(ends, stop));
        // A few connections before the kill, on a busy machine too.
        std::thread::sleep(Duration::from_millis(700));
        let killed = wire.kill_engine();
        let fetches = match &killed {
            Ok(_) => fetching.join(),
            Err(_) => {
                stop.store(true, std::sync::atomic::Ordering::Relaxed);
                fetching.join()
            }
        };
        let fetches = fetches.map_err(|_| anyhow::anyhow!("the thread of connections panicked"))?;
        Ok((killed?, fetches?))
    })?;
    evidence.line(killed);
    judge(ends, evidence, &fetches)
}

/// Connections until inspection was away and came back, or a minute has passed.
fn fetch_until(ends: &Ends, stop: &std::sync::atomic::AtomicBool) -> Result<Vec<(Fetched, Seen)>> {
    let started = Instant::now();
    let mut fetches = Vec::new();
    let mut away = false;
    let mut inspected_in_a_row = 0;
    while started.elapsed() < INSPECTION && !stop.load(std::sync::atomic::Ordering::Relaxed) {
        let fetched = Fetch::new("public.example", "/").limit(20).run(ends)?;
        let seen = classify(ends, &fetched)?;
        away |= seen != Seen::Inspected;
        inspected_in_a_row = if seen == Seen::Inspected { inspected_in_a_row + 1 } else { 0 };
        fetches.push((fetched, seen));
        // Back for good; or, where it never was seen away, long after the kill.
        let enough = if away { 5 } else { 200 };
        if inspected_in_a_row >= enough {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(fetches)
}

fn classify(ends: &Ends, fetched: &Fetched) -> Result<Seen> {
    if fetched.succeeded().is_err() {
        return Ok(Seen::Failed);
    }
    let shown = fetched.certificate()?;
    if shown.issuer.contains(SIGNING_CA) {
        Ok(Seen::Inspected)
    } else if is_own(&ends.certificates, &shown)? {
        Ok(Seen::NotInspected)
    } else {
        bail!("a certificate of nobody's: {shown:?}")
    }
}

/// Prints the series run by run and checks its order.
fn judge(ends: &Ends, evidence: &mut Evidence, fetches: &[(Fetched, Seen)]) -> Result<Vec<Seen>> {
    let series: Vec<Seen> = fetches.iter().map(|(_, seen)| *seen).collect();
    let (first, _) = fetches.first().context("no connection was made")?;
    evidence.command(&first.command);
    let own = crate::certificates::seen(&ends.certificates.public.certificate_pem()?)?;
    for group in series.chunk_by(|one, next| one == next) {
        evidence.line(match group.first() {
            Some(Seen::Inspected) => {
                format!("{:3} connections inspected (issuer {SIGNING_CA})", group.len())
            }
            Some(Seen::NotInspected) => format!(
                "{:3} connections work un-inspected (the server's own certificate, issuer {})",
                group.len(),
                own.issuer
            ),
            _ => format!("{:3} connection open at the kill, reset", group.len()),
        });
    }
    for (fetched, _) in fetches.iter().filter(|(_, seen)| *seen == Seen::Failed) {
        evidence.line(fetched.end());
    }
    let failed = series.iter().filter(|seen| **seen == Seen::Failed).count();
    ensure!(failed <= 1, "{failed} connections failed; only the one open at the kill may");
    ensure!(series.first() == Some(&Seen::Inspected), "inspection was not there before the kill");
    ensure!(
        series.last() == Some(&Seen::Inspected),
        "inspection was not back within {} s",
        INSPECTION.as_secs()
    );
    if let (Some(failure), Some(away)) = (
        series.iter().position(|seen| *seen == Seen::Failed),
        series.iter().position(|seen| *seen == Seen::NotInspected),
    ) {
        ensure!(failure < away, "a connection failed after the kill was over");
    }
    Ok(series)
}
