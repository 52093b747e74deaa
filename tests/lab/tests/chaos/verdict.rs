//! What the flows' ends say together.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use weir_lab::exchange::{Ended, Served};

use crate::flows::{Flow, Kill, Kind};

/// How a flow went, seen from the kills.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    /// All its bytes came, right.
    Whole,
    /// The same, though it was held when its engine was killed.
    WholeThoughHeld,
    /// Decrypted when its engine was killed, and reset.
    DiedWithEngine,
    /// Reset while its handshake, or the end of its takeover, met a kill.
    DiedInHandshake,
    /// It should have gone otherwise.
    Bad,
}

pub struct Verdict {
    counts: BTreeMap<(Kind, bool, Fate), usize>,
    bad: Vec<String>,
    kills: usize,
    flows: usize,
    /// Ends of connections that died with an engine: those reset, and those that found their peer
    /// silent.
    reset: usize,
    silent: usize,
}

impl Verdict {
    pub fn of(flows: &[Flow], kills: &[Kill], served: &[Served]) -> Self {
        let by_seed: BTreeMap<u64, &Served> =
            served.iter().filter_map(|served| Some((served.seed?, served))).collect();
        let mut verdict = Self {
            counts: BTreeMap::new(),
            bad: Vec::new(),
            kills: kills.len(),
            flows: flows.len(),
            reset: 0,
            silent: 0,
        };
        for flow in flows {
            let server = by_seed.get(&flow.seed).copied();
            let fate = fate(flow, kills, server).unwrap_or_else(|why| {
                let age = flow.ended.duration_since(flow.began);
                let since = |kill: &Kill| {
                    let seconds = |of: Duration| of.as_secs_f32();
                    match kill.after.checked_duration_since(flow.began) {
                        Some(after) => format!("{:.3} s after its start", seconds(after)),
                        None => {
                            format!("{:.3} s before it", seconds(flow.began - kill.after))
                        }
                    }
                };
                let near = kills.iter().map(since).collect::<Vec<_>>().join(", ");
                verdict.bad.push(format!(
                    "{why}: {flow:?}\n  after {:.3} s; server {server:?}; kills {near}",
                    age.as_secs_f32()
                ));
                Fate::Bad
            });
            let inspected = flow.established.is_some_and(|(_, inspected)| inspected);
            if matches!(fate, Fate::DiedWithEngine | Fate::DiedInHandshake) {
                let server = server.and_then(|server| server.ended.as_ref());
                for ended in [flow.end.as_ref().err(), server].into_iter().flatten() {
                    match ended {
                        Ended::Dead => verdict.silent += 1,
                        _ => verdict.reset += 1,
                    }
                }
            }
            *verdict.counts.entry((flow.kind, inspected, fate)).or_default() += 1;
        }
        for served in served {
            if let Some(Ended::Wrong(_) | Ended::Hung) = served.ended {
                verdict.bad.push(format!("the server's end: {served:?}"));
            }
        }
        verdict
    }

    /// All that should not be; `flows` and `kills` are how many there had to be.
    pub fn wrong(&self, flows: usize, kills: usize) -> Vec<String> {
        let mut wrong = self.bad.clone();
        let mut at_least = |what: &str, wanted: usize, count: usize| {
            if count < wanted {
                wrong.push(format!("{what}: {count}, not {wanted} or more"));
            }
        };
        at_least("flows", flows, self.flows);
        at_least("kills", kills, self.kills);
        let died = self.count(|_, _, fate| fate == Fate::DiedWithEngine);
        at_least("decrypted flows that died with an engine", self.kills, died);
        let held = self.count(|_, _, fate| fate == Fate::WholeThoughHeld);
        at_least("flows that were held at a kill and went well", self.kills, held);
        let inspected = self.count(|_, inspected, fate| inspected && fate == Fate::Whole);
        at_least("decrypted flows that went well", flows / 10, inspected);
        for kind in [Kind::NotCandidate, Kind::Released] {
            let whole = self.count(|of, _, fate| of == kind && fate == Fate::Whole);
            at_least(&format!("{kind:?} flows that went well"), flows / 10, whole);
        }
        if self.silent > 0 {
            wrong.push(format!("{} ends of taken flows met silence, not RST", self.silent));
        }
        wrong
    }

    fn count(&self, of: impl Fn(Kind, bool, Fate) -> bool) -> usize {
        let matching = self.counts.iter().filter(|((kind, by, fate), _)| of(*kind, *by, *fate));
        matching.map(|(_, count)| count).sum()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} flows, {} kills", self.flows, self.kills)?;
        write!(f, "; {} ends reset, {} found their peer silent", self.reset, self.silent)?;
        for ((kind, inspected, fate), count) in &self.counts {
            let decrypted = if *inspected { ", decrypted" } else { "" };
            write!(f, "; {kind:?}{decrypted}: {fate:?} {count}")?;
        }
        Ok(())
    }
}

/// The flow's fate, or what is wrong with it.
fn fate(flow: &Flow, kills: &[Kill], server: Option<&Served>) -> Result<Fate, &'static str> {
    let died = match &flow.end {
        Ok(()) => None,
        Err(Ended::Wrong(_)) => return Err("a wrong byte"),
        Err(Ended::Hung) => return Err("a flow that hangs"),
        Err(Ended::Closed) => return Err("a flow closed in the middle, not reset"),
        Err(died @ (Ended::Reset | Ended::Dead)) => Some(died),
    };
    let during = |kill: &&Kill| flow.began <= kill.after && kill.before <= flow.ended;
    let taken = |kill: &&Kill| during(kill) && kill.taken.contains(&flow.port);
    let held = |kill: &&Kill| during(kill) && kill.held.contains(&flow.port);
    let (established, inspected) = match flow.established {
        Some((at, inspected)) => (Some(at), inspected),
        None => (None, false),
    };
    if died.is_none() {
        // A round that began without an engine and was answered: on the bridge it cannot have been,
        // or TLS had told.
        let orphaned = |kill: &&Kill| {
            established.is_some_and(|at| at < kill.before)
                && flow.last_round.is_some_and(|at| at > kill.after)
        };
        if inspected && kills.iter().any(|kill| orphaned(&kill)) {
            return Err("a decrypted flow outlived its engine");
        }
        let whole = server.is_some_and(|server| server.ended.is_none());
        // FIN and close_notify of a decrypted flow may meet a kill when all bytes are there, and its client
        // knows of no more.
        let had = |kill: &Kill| flow.began <= kill.after && kill.taken.contains(&flow.port);
        let at_end = inspected && kills.iter().any(had);
        return match whole || at_end {
            true if kills.iter().any(|kill| held(&kill)) => Ok(Fate::WholeThoughHeld),
            true => Ok(Fate::Whole),
            false => Err("the server's end went wrong"),
        };
    }
    if flow.kind != Kind::Inspected {
        return Err("a flow that was not taken over died");
    }
    if !kills.iter().any(|kill| taken(&kill)) {
        return Err("a flow died that no engine had taken when it was killed");
    }
    if let Some(server) = server
        && !matches!(server.ended, Some(Ended::Reset | Ended::Dead))
        && server.rounds < flow.rounds
    {
        return Err("the client's end died, but the server's was not reset");
    }
    if established.is_some() && !inspected {
        return Err("a flow on the bridge died: the server's own certificate had been shown");
    }
    if !inspected { Ok(Fate::DiedInHandshake) } else { Ok(Fate::DiedWithEngine) }
}

/// A flow whose life met a kill, and that was reset.
fn reset_after(taken: bool, established: Option<bool>) -> Result<Fate, &'static str> {
    const PORT: u16 = 40_000;
    let began = Instant::now();
    let at = |second| began + Duration::from_secs(second);
    let flow = Flow {
        kind: Kind::Inspected,
        seed: 1,
        port: PORT,
        began,
        established: established.map(|inspected| (at(1), inspected)),
        last_round: established.map(|_| at(2)),
        rounds: established.map_or(0, |_| 1),
        ended: at(9),
        end: Err(Ended::Reset),
    };
    let ports = |is: bool| is.then_some(PORT).into_iter().collect();
    let kill = Kill { before: at(3), after: at(4), taken: ports(taken), held: ports(!taken) };
    fate(&flow, &[kill], None)
}

#[test]
fn only_a_flow_that_was_decrypted_or_in_its_handshake_may_die_with_an_engine() {
    assert_eq!(reset_after(true, None), Ok(Fate::DiedInHandshake));
    assert_eq!(reset_after(true, Some(true)), Ok(Fate::DiedWithEngine));
    let why = reset_after(true, Some(false)).unwrap_err();
    assert!(why.starts_with("a flow on the bridge died"), "{why}");
}

#[test]
fn a_flow_that_was_held_when_its_engine_died_may_not_die() {
    let why = reset_after(false, None).unwrap_err();
    assert!(why.starts_with("a flow died that no engine had taken"), "{why}");
}
