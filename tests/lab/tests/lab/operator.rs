//! What the operator of a running appliance changes and is shown.

use super::*;

#[test]
fn the_flow_table_has_the_size_that_the_engine_was_started_with() {
    passes(|bench, _| {
        let log = bench.wire.log()?;
        let told = log.lines().find(|line| line.contains("engine started")).unwrap();
        assert!(told.contains(&FLOW_TABLE.to_string()), "{told}");
        Ok(())
    });
}

#[test]
fn a_bad_configuration_is_refused_and_a_good_one_taken_while_traffic_goes_on() {
    passes(|bench, _| {
        let good = document::weir_section(&bench.ends.certificates)?;
        bench
            .wire
            .configure(&good.replace("detection-ports: [\"443\"]", "detection-ports: [\"44x\"]"))?;
        let deadline = Instant::now() + Duration::from_secs(20);
        while !bench.wire.log()?.contains("44x") {
            assert!(Instant::now() < deadline, "the agent does not name the bad port");
            std::thread::sleep(Duration::from_millis(100));
        }
        let fetched = Fetch::new("public.example", "/").run(&bench.ends)?;
        fetched.succeeded()?;
        checks::ensure_signed_by_weir(&fetched)?;

        bench
            .wire
            .configure(&good.replace("\"bank.example\"", "\"bank.example\", \"public.example\""))?;
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let fetched = Fetch::new("public.example", "/").run(&bench.ends)?;
            fetched.succeeded()?;
            if checks::is_own(&bench.ends.certificates, &fetched.certificate()?)? {
                return Ok(());
            }
            assert!(Instant::now() < deadline, "the new exception is not in force");
        }
    });
}

#[test]
fn a_virtual_segment_tells_of_its_own_holds_and_takeovers() {
    passes(|bench, _| {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let told = bench.wire.console("show virtual-segments all json")?;
            let views: Vec<VirtualSegmentView> = serde_json::from_str(&told)?;
            let counted = &views[0].counted;
            let taken = counted.counters.iter().find(|(name, _)| name == "flow_taken_over");
            let times = [&counted.hold_time, &counted.take_over_time].map(Histogram::count);
            if taken.is_some_and(|(_, count)| *count > 0) && times.iter().all(|flows| *flows > 0) {
                return Ok(());
            }
            assert!(Instant::now() < deadline, "{told}");
            std::thread::sleep(Duration::from_millis(100));
        }
    });
}

#[test]
fn every_show_command_fits_eighty_columns_and_tells_no_key() {
    passes(|bench, _| {
        Fetch::new("public.example", "/").run(&bench.ends)?.succeeded()?;
        Fetch::new("public.example", "/?f=/etc/passwd").run(&bench.ends)?;
        let what = [
            "version",
            "health",
            "segments",
            "tls-inspection",
            "tls-inspection log",
            "sessions",
            "sessions detail",
            "events",
            "configuration",
            "high-availability",
            "virtual-segments",
            "virtual-segments all detail",
            "captures",
            "quarantine",
            "traffic-filters",
            "inspection-bypass",
            "reputation",
            "reputation 10.66.0.2",
        ];
        for what in what {
            let text = bench.wire.console(&format!("show {what}"))?;
            assert!(!text.trim().is_empty(), "show {what}");
            assert!(!text.contains("PRIVATE KEY"), "show {what}");
            for line in text.lines() {
                assert!(line.chars().count() <= 80, "show {what}: {line}");
            }
        }
        for what in ["npSslInspStats", "npSslInspProtocolStats", "npTcpProxyStats"] {
            let text = bench.wire.console(&format!("debug np stats show {what}"))?;
            assert!(!text.trim().is_empty(), "{what}");
            assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        }
        assert!(bench.wire.console("show configuration")?.contains("bank.example"));
        let wrong = bench.wire.console("show nothing").unwrap_err().to_string();
        assert!(wrong.contains("sessions"), "{wrong}");
        Ok(())
    });
}
