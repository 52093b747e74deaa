//! Hosts in quarantine.

use super::*;

/// Whether an answer comes at all, be it a refusal: nobody listens at the client's end.
fn reaches_client(bench: &Bench<Lab>) -> bool {
    bench
        .ends
        .server
        .enter(|| {
            let to = SocketAddr::from((CLIENT, 81));
            let end = TcpStream::connect_timeout(&to, Duration::from_millis(1500));
            Ok(!end.is_err_and(|error| error.kind() == std::io::ErrorKind::TimedOut))
        })
        .unwrap()
}

#[test]
fn a_quarantined_host_is_cut_off_both_ways_until_it_is_released() {
    passes(|bench| {
        connects_at_last(bench, SERVER, 443)?;
        wait_for("an answer of the client", || Ok(reaches_client(bench)))?;
        let mut tls = connect(&bench.ends, "public.example");

        let done = bench.wire.console(&format!("quarantine {CLIENT} minutes 5"))?;
        assert_eq!(done, format!("{CLIENT} is quarantined for 5 minutes\n"));
        assert!(!connects(bench, true, SERVER, 443), "the host reaches the server");
        assert!(!reaches_client(bench), "the server reaches the host");
        // The session that it had, too.
        write_record(&mut tls, b"GET / HTTP/1.1\r\nHost: public.example\r\n\r\n")?;
        tls.sock.set_read_timeout(Some(Duration::from_secs(1)))?;
        let (answer, end) = read_until(&mut tls, "\r\n\r\n", 1);
        assert!(end.is_err() && answer.is_empty(), "answered: {answer}");

        for command in ["show segments detail", "show virtual-segments all detail"] {
            wait_for("the drops", || {
                Ok(bench.wire.console(command)?.contains("  quarantine dropped: "))
            })?;
        }

        let to = format!("from {CLIENT} to {SERVER}");
        let shown = explained(bench, &to)?;
        assert!(shown.contains("Decided by              quarantine: blocked"), "{shown}");
        let shown = explained(bench, &format!("from {SERVER} to {CLIENT} direction b-to-a"))?;
        assert!(shown.contains(&format!("{CLIENT} is quarantined")), "{shown}");
        let shown = bench.wire.console("show quarantine")?;
        assert_eq!(number(&shown, "Quarantined hosts"), 1);
        assert!(shown.contains(&format!("{:<42}  00:0", CLIENT.to_string())), "{shown}");
        wait_for("the count", || {
            let shown = bench.wire.console("show quarantine")?;
            Ok(number(&shown, "Packets dropped") >= 2)
        })?;

        let done = bench.wire.console(&format!("quarantine release {CLIENT}"))?;
        assert_eq!(done, format!("{CLIENT} is released from quarantine\n"));
        connects_at_last(bench, SERVER, 443)?;
        wait_for("an answer of the client", || Ok(reaches_client(bench)))?;
        // What was sent meanwhile is sent again.
        tls.sock.set_read_timeout(Some(Duration::from_secs(20)))?;
        let (answer, _) = read_until(&mut tls, "\r\n\r\n", 1);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let refused = refusal(bench, &format!("quarantine release {CLIENT}"));
        assert!(refused.contains("is not quarantined"), "{refused}");
        Ok(())
    });
}

#[test]
fn a_quarantine_ends_by_itself() {
    passes(|bench| {
        bench.wire.console(&format!("quarantine {CLIENT} minutes 1"))?;
        assert!(!connects(bench, true, SERVER, 443));
        wait_for("the end of quarantine", || Ok(connects(bench, true, SERVER, 443)))?;
        wait_for("an answer of the client", || Ok(reaches_client(bench)))?;
        let shown = bench.wire.console("show quarantine")?;
        assert_eq!(number(&shown, "Quarantined hosts"), 0);
        bench.wait_for_inspection().map(drop)
    });
}

#[test]
fn quarantine_outlives_agent_and_engine_planned_or_killed() {
    passes(|bench| {
        bench.wire.console(&format!("quarantine {CLIENT}"))?;
        let agent = bench.wire.agent()?;
        kill(agent, Signal::SIGKILL)?;
        wait_for("the agent's answer", || {
            Ok(bench.wire.console("show quarantine").is_ok_and(|shown| {
                number(&shown, "Quarantined hosts") == 1 && shown.contains(&CLIENT.to_string())
            }))
        })?;
        assert!(!connects(bench, true, SERVER, 443), "after the agent's restart");

        let old = bench.wire.engine()?;
        bench.wire.restart_engine()?;
        wait_for("the successor", || Ok(!bench.wire.engines()?.contains(&old)))?;
        assert!(!connects(bench, true, SERVER, 443), "after a planned restart");
        wait_for("the engine's answer", || {
            Ok(bench
                .wire
                .console("show quarantine")
                .is_ok_and(|shown| number(&shown, "Quarantined hosts") == 1))
        })?;

        kill(bench.wire.engine()?, Signal::SIGKILL)?;
        // Without an engine nothing is dropped (SPEC D2); with the next one it is again.
        wait_for("the next engine", || Ok(!connects(bench, true, SERVER, 443)))?;
        wait_for("its answer", || {
            Ok(bench.wire.console(&format!("quarantine release {CLIENT}")).is_ok())
        })?;
        connects_at_last(bench, SERVER, 443)?;
        bench.wait_for_inspection().map(drop)
    });
}

#[test]
fn an_exempt_host_is_not_quarantined_and_one_that_becomes_exempt_is_released() {
    passes(|bench| {
        bench.wire.console(&format!("quarantine {CLIENT}"))?;
        with_rules(bench, &format!("  quarantine: {{exempt: [\"{CLIENT}/32\"], timeout: 7}}\n"))?;
        connects_at_last(bench, SERVER, 443)?;
        let refused = refusal(bench, &format!("quarantine {CLIENT}"));
        assert!(refused.contains("is exempt from quarantine by the configuration"), "{refused}");
        let shown = bench.wire.console("show quarantine")?;
        assert_eq!(number(&shown, "Quarantined hosts"), 0);
        assert!(shown.contains(&format!("Exempt                  {CLIENT}/32")), "{shown}");
        let done = bench.wire.console(&format!("quarantine {OWN_SERVER}"))?;
        assert_eq!(done, format!("{OWN_SERVER} is quarantined for 7 minutes\n"));
        assert!(!connects(bench, true, OWN_SERVER, 443));
        connects_at_last(bench, SERVER, 443)?;
        Ok(())
    });
}
