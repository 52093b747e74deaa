//! Layer-2 fallback, planned restarts and the threshold of sessions, with Weir's own processes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::{Tls, connect, lab, read_until, write_record};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use weir_lab::bench::Bench;
use weir_lab::checks;
use weir_lab::document;
use weir_lab::fetch::Fetch;
use weir_lab::wire::Wire as _;
use weir_lab::wire::lab::Lab;

fn passes(check: impl FnOnce(&mut Bench<Lab>) -> anyhow::Result<()>) {
    let mut bench = lab();
    if let Err(error) = check(&mut bench) {
        panic!("{error:#}; {}", bench.wire.state());
    }
    bench.run.succeeded();
}

/// Until it holds; an error after 60 s.
fn wait_for(what: &str, mut condition: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition()? {
        anyhow::ensure!(Instant::now() < deadline, "{what} did not come about");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// One request on a connection that lives on.
fn asks(bench: &Bench<Lab>, tls: &mut Tls) -> anyhow::Result<()> {
    let page = std::fs::read_to_string(bench.ends.served("index.html"))?;
    write_record(tls, b"GET / HTTP/1.1\r\nHost: public.example\r\n\r\n")?;
    let (answer, end) = read_until(tls, page.trim_end(), 1);
    end?;
    anyhow::ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    Ok(())
}

fn is_inspected(bench: &Bench<Lab>) -> anyhow::Result<bool> {
    let fetched = Fetch::new("public.example", "/").run(&bench.ends)?;
    fetched.succeeded()?;
    Ok(!checks::is_own(&bench.ends.certificates, &fetched.certificate()?)?)
}

/// An engine that is stuck counts as such after half a second.
fn provision_impatient(bench: &Bench<Lab>) -> anyhow::Result<()> {
    let document = document::weir_section(&bench.ends.certificates)?;
    bench.provision(&document::impatient(&document))
}

/// What was logged behind so many bytes: a machine that starved the engine before is told of, too.
fn log_since(bench: &Bench<Lab>, before: usize) -> anyhow::Result<String> {
    let log = bench.wire.log()?.into_bytes();
    Ok(String::from_utf8_lossy(log.get(before..).unwrap_or_default()).into_owned())
}

fn is_reset(tls: &mut Tls) -> bool {
    let (_, end) = read_until(tls, "nothing of this kind", 1);
    end.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
}

#[test]
fn a_session_outlives_a_planned_restart_and_new_ones_are_inspected_all_the_while() {
    passes(|bench| {
        let mut tls = connect(&bench.ends, "public.example");
        asks(bench, &mut tls)?;
        let old = bench.wire.engine()?;
        bench.wire.restart_engine()?;
        let mut inspected = 0;
        wait_for("the new engine", || {
            assert!(is_inspected(bench)?, "a connection was not inspected");
            inspected += 1;
            Ok(bench.wire.console("show high-availability")?.contains("Draining engines        1"))
        })?;
        assert!(is_inspected(bench)?);
        assert_eq!(bench.wire.engines()?.len(), 2, "after {inspected} connections");
        asks(bench, &mut tls)?;
        drop(tls);
        wait_for("the old engine's end", || Ok(!bench.wire.engines()?.contains(&old)))?;
        assert_eq!(bench.wire.engines()?.len(), 1);
        assert!(is_inspected(bench)?);
        let log = bench.wire.log()?;
        assert!(log.contains("engine with a successor ends"), "{log}");
        Ok(())
    });
}

#[test]
fn an_engine_that_was_stuck_falls_back_says_so_and_recovers_by_itself() {
    passes(|bench| {
        provision_impatient(bench)?;
        let (engine, before) = (bench.wire.engine()?, bench.wire.log()?.len());
        kill(engine, Signal::SIGSTOP)?;
        std::thread::sleep(Duration::from_millis(700));
        assert!(!is_inspected(bench)?);
        kill(engine, Signal::SIGCONT)?;
        wait_for("the reason", || {
            Ok(log_since(bench, before)?.contains("Layer-2 fallback: engine was stuck"))
        })?;
        wait_for("the recovery", || {
            Ok(log_since(bench, before)?.contains("normal operation: healthy again"))
        })?;
        // Where the machine is busy it is late again at times.
        wait_for("inspection", || is_inspected(bench))?;
        assert_eq!(bench.wire.engine()?, engine, "it was not killed");
        Ok(())
    });
}

/// Stops the engine for 150 ms again and again, as a machine does that has no time for it, until dropped.
struct Starved {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Starved {
    fn begin(engine: Pid) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                kill(engine, Signal::SIGSTOP).unwrap();
                std::thread::sleep(Duration::from_millis(150));
                kill(engine, Signal::SIGCONT).unwrap();
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Starved {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

#[test]
fn an_overloaded_engine_leaves_new_flows_to_the_segments_fallback_until_it_is_healthy() {
    passes(|bench| {
        let document = document::impatient(&document::weir_section(&bench.ends.certificates)?);
        let health = "health: { heartbeat-timeout: 10000, overload-lag: 50, recovery-time: 1 }";
        for fallback in ["permit-all", "block-all"] {
            let document = document
                .replace("  segments:\n", &format!("    {health}\n  segments:\n"))
                .replace("layer-2-fallback: permit-all", &format!("layer-2-fallback: {fallback}"));
            bench.provision(&document)?;
            bench.wait_for_inspection()?;
            let (engine, before) = (bench.wire.engine()?, bench.wire.log()?.len());
            let starved = Starved::begin(engine);
            wait_for("the reason", || {
                let told = "Layer-2 fallback: overloaded: engine runs late";
                Ok(log_since(bench, before)?.contains(told))
            })?;
            if fallback == "permit-all" {
                assert!(!is_inspected(bench)?);
            } else {
                let fetched = Fetch::new("public.example", "/").limit(2).run(&bench.ends)?;
                assert_eq!((fetched.exit, fetched.chain.as_str()), (28, ""), "timed out");
            }
            drop(starved);
            wait_for("the recovery", || {
                Ok(log_since(bench, before)?.contains("normal operation: healthy again"))
            })?;
            wait_for("inspection", || is_inspected(bench))?;
            assert_eq!(bench.wire.engine()?, engine, "it was not killed");
        }
        Ok(())
    });
}

#[test]
fn a_stopped_engine_is_killed_by_the_supervisor_and_replaced() {
    passes(|bench| {
        provision_impatient(bench)?;
        let mut tls = connect(&bench.ends, "public.example");
        asks(bench, &mut tls)?;
        let (engine, before) = (bench.wire.engine()?, bench.wire.log()?.len());
        kill(engine, Signal::SIGSTOP)?;
        wait_for("the agent's line", || {
            Ok(log_since(bench, before)?.contains("Layer-2 fallback: engine stuck"))
        })?;
        let shown = bench.wire.console("show high-availability")?;
        assert!(shown.contains("Layer-2 fallback (engine stuck)"), "{shown}");
        wait_for("the next engine", || {
            Ok(bench.wire.log()?.contains("watchdog missed") && bench.wire.engine()? != engine)
        })?;
        assert!(is_reset(&mut tls));
        bench.wait_for_inspection().map(drop)
    });
}

#[test]
fn forced_fallback_outlives_agent_and_engine() {
    passes(|bench| {
        bench.wire.console("high-availability force fallback")?;
        wait_for("fallback", || Ok(!is_inspected(bench)?))?;
        let (agent, engine) = (bench.wire.agent()?, bench.wire.engine()?);
        kill(agent, Signal::SIGKILL)?;
        kill(engine, Signal::SIGKILL)?;
        wait_for("their successors", || {
            Ok(bench.wire.agent()? != agent && bench.wire.engine()? != engine)
        })?;
        wait_for("the agent's answer", || {
            Ok(bench.wire.console("show health").is_ok_and(|shown| {
                shown.contains("Engine                  connected")
                    && shown.contains("Forced fallback         yes")
            }))
        })?;
        for _ in 0..5 {
            assert!(!is_inspected(bench)?);
        }
        bench.wire.console("high-availability force normal")?;
        bench.wait_for_inspection().map(drop)
    });
}

#[test]
fn cleared_sessions_are_reset_in_fallback_too_and_only_then() {
    passes(|bench| {
        let mut tls = connect(&bench.ends, "public.example");
        asks(bench, &mut tls)?;
        bench.wire.console("high-availability force fallback")?;
        wait_for("fallback", || Ok(!is_inspected(bench)?))?;
        asks(bench, &mut tls)?;
        bench.wire.console("debug tls-inspection clear-sessions")?;
        assert!(is_reset(&mut tls));
        wait_for("the record", || {
            Ok(bench.wire.console("show sessions")?.contains("blocked (cleared by command)"))
        })
    });
}

const LINE: &str =
    "TLS inspection reached critical threshold of max concurrent connections; action: ";

fn with_one_session(bench: &Bench<Lab>, over_threshold: &str) -> anyhow::Result<()> {
    let good = document::weir_section(&bench.ends.certificates)?;
    let one = format!("max-concurrent-sessions: 1\n    over-threshold: {over_threshold}");
    let before = bench.wire.log()?.matches("policy in force").count();
    bench.wire.configure(&good.replace("max-concurrent-sessions: 10000", &one))?;
    // The agent's line and the engine's.
    wait_for(
        "the policy",
        || Ok(bench.wire.log()?.matches("policy in force").count() >= before + 2),
    )
}

#[test]
fn sessions_over_the_threshold_are_bypassed_and_come_back_under_it() {
    passes(|bench| {
        with_one_session(bench, "bypass")?;
        let mut tls = connect(&bench.ends, "public.example");
        asks(bench, &mut tls)?;
        for _ in 0..3 {
            assert!(!is_inspected(bench)?);
        }
        let line = format!("{LINE}allow but bypass inspection");
        assert_eq!(bench.wire.log()?.matches(&line).count(), 1);
        let tells = |bench: &mut Bench<Lab>, command: &str, words: &str| {
            wait_for(words, || Ok(bench.wire.console(command)?.contains(words)))
        };
        tells(
            bench,
            "show tls-inspection",
            "Decrypted now           1, over the threshold: new sessions are bypassed\n",
        )?;
        tells(bench, "show health", "over its threshold of 1 concurrent")?;
        // By itself: nobody asks.
        drop(tls);
        let back = "TLS inspection is back under the threshold of max concurrent connections";
        wait_for(back, || Ok(bench.wire.log()?.contains(back)))?;
        tells(bench, "show tls-inspection", "Decrypted now           0\n")?;
        assert!(is_inspected(bench)?);
        Ok(())
    });
}

#[test]
fn sessions_over_the_threshold_are_blocked_where_the_device_says_so() {
    passes(|bench| {
        with_one_session(bench, "block")?;
        let mut tls = connect(&bench.ends, "public.example");
        asks(bench, &mut tls)?;
        for _ in 0..3 {
            assert!(Fetch::new("public.example", "/").run(&bench.ends)?.succeeded().is_err());
        }
        assert_eq!(bench.wire.log()?.matches(&format!("{LINE}block")).count(), 1);
        asks(bench, &mut tls)
    });
}
