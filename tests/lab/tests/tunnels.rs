//! The appliance between ends whose VLAN and tunnel interfaces are the kernel's own drivers.
//!
//! Two machines at one time: the appliance from its image, and one of ends beside it. What went over
//! both links is captured and compared.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::net::IpAddr;

use weir_lab::capture::{Around, Layers, layers};
use weir_lab::certificates::Certificates;
use weir_lab::document;
use weir_lab::run::Run;
use weir_lab::tunnels::case::{CASES, Case, Layer, OUTER_TTL, Side, WIRE_MTU};
use weir_lab::tunnels::machine::EndsMachine;
use weir_lab::wire::Wire as _;
use weir_lab::wire::machine::{Firmware, Image, Machine, Ports};
use weir_lab::wire::seed;

const GRE_CHECKSUM: u16 = 0x8000;
const GRE_KEY: u16 = 0x2000;

#[test]
fn real_vlan_and_tunnel_interfaces_are_inspected_and_nothing_of_them_changes() {
    let run = Run::new().unwrap();
    let certificates = Certificates::make(&run.path("certificates")).unwrap();
    let sockets = [run.path("client.link"), run.path("server.link")];
    let mut ends = EndsMachine::boot(&run, &certificates, [&sockets[0], &sockets[1]])
        .unwrap_or_else(|error| panic!("{error:#}"));
    let section = document::weir_section(&certificates).unwrap();
    let user_data = seed::user_data(&section).unwrap();
    let ports = Ports::Links { sockets, mtu: WIRE_MTU };
    let mut appliance = Machine::power_on(&run, Firmware::SeaBios, Image::Own, &user_data, ports)
        .unwrap_or_else(|error| panic!("{error:#}"));
    appliance.log_in().unwrap();
    let mut sessions = wait_for_inspection(&mut appliance, &mut ends);

    let mut wrong = Vec::new();
    for case in chosen() {
        let inspected = case.understood;
        let wanted = format!(
            "public.example {}inspected, bank.example not inspected",
            if inspected { "" } else { "not " }
        );
        match ends.run(case) {
            Ok(got) if got == wanted => println!("tunnels: {case}: {got}"),
            Ok(got) => wrong.push(format!("{case}: {got}; wanted: {wanted}")),
            Err(error) => wrong.push(format!("{case}: {error:#}")),
        }
        sessions += u64::from(inspected);
        let counted = decrypted(&mut appliance, sessions);
        if counted != sessions {
            wrong.push(format!("{case}: {counted} decrypted sessions so far, not {sessions}"));
            sessions = counted;
        }
    }
    let segments = appliance.console("show segments").unwrap();
    drop(ends);
    let [at_client, at_server] =
        ["1a.pcap", "1b.pcap"].map(|name| layers(&run.path(name)).unwrap());
    for case in chosen() {
        if let Err(why) = compare(case, &at_client, &at_server) {
            wrong.push(why);
        }
    }
    assert!(wrong.is_empty(), "{}\n{segments}\n{}", wrong.join("\n"), appliance.state());
    run.succeeded();
}

/// All cases, or those that `WEIR_TUNNELS` names.
fn chosen() -> Vec<&'static Case> {
    let named = std::env::var("WEIR_TUNNELS").unwrap_or_default();
    let is_chosen =
        |case: &&Case| named.is_empty() || named.split(',').any(|name| name == case.name);
    CASES.iter().filter(is_chosen).collect()
}

/// An engine that has only just started may let the first flows pass; how many sessions were
/// decrypted when it does not.
fn wait_for_inspection(appliance: &mut Machine, ends: &mut EndsMachine) -> u64 {
    let plain = Case::named("plain").unwrap();
    for _ in 0..20 {
        let answer = ends.run(plain).unwrap_or_else(|error| format!("{error:#}"));
        if answer.starts_with("public.example inspected") {
            assert_eq!(decrypted(appliance, 1), 1);
            return 1;
        }
        println!("tunnels: not inspecting yet: {answer}");
    }
    panic!("no inspection: {}", appliance.state());
}

/// Sessions that `show tls-inspection` calls decrypted, in all; a session is counted a little after
/// its end, so until there are `wanted`.
fn decrypted(appliance: &mut Machine, wanted: u64) -> u64 {
    let mut counted = 0;
    for _ in 0..30 {
        let text = appliance.console("show tls-inspection").unwrap();
        let outcomes = text.split_once("Sessions by outcome").expect("outcomes on the console").1;
        let counts = outcomes.lines().filter_map(|line| {
            let (count, outcome) = line.trim().split_once("  ")?;
            let counts = outcome.starts_with("decrypted");
            counts.then(|| count.parse::<u64>().ok()).flatten()
        });
        counted = counts.sum();
        if counted >= wanted {
            break;
        }
    }
    counted
}

/// The headers on both links are the same, and they are those the case's interfaces write.
fn compare(
    case: &Case,
    at_client: &BTreeSet<Layers>,
    at_server: &BTreeSet<Layers>,
) -> Result<(), String> {
    let ends: [IpAddr; 2] = [Side::Client, Side::Server].map(|side| case.address(side));
    let of = |seen: &BTreeSet<Layers>| -> BTreeSet<Layers> {
        let of_case = |layers: &&Layers| ends.contains(&layers.source.0);
        seen.iter().filter(of_case).cloned().collect()
    };
    let (at_client, at_server) = (of(at_client), of(at_server));
    if at_client != at_server {
        let only: Vec<_> = at_client.symmetric_difference(&at_server).collect();
        return Err(format!("{case}: not the same headers on both links: {only:#?}"));
    }
    // Two conversations at least, each in two directions.
    if at_client.len() < 4 {
        return Err(format!("{case}: {} kinds of headers were captured", at_client.len()));
    }
    for layers in &at_client {
        let from = if layers.source.0 == ends[0] { Side::Client } else { Side::Server };
        let macs = [layers.source_mac, layers.destination_mac];
        let wanted = [[2, 0, 0, 0, 0xc1, 2], [2, 0, 0, 0, 0x5e, 3]];
        let macs_are_right = match from {
            Side::Client => macs == wanted,
            Side::Server => macs == [wanted[1], wanted[0]],
        };
        if layers.around != around(case, from) || !macs_are_right || layers.ttl != 64 {
            return Err(format!("{case}: wrong headers: {layers:#?}"));
        }
    }
    Ok(())
}

/// What a case's interfaces put around the packets that `from` sends.
fn around(case: &Case, from: Side) -> Vec<Around> {
    let to = if from == Side::Client { Side::Server } else { Side::Client };
    let mut around = Vec::new();
    for (depth, layer) in case.layers.iter().enumerate() {
        let outer = |protocol| Around::Ipv4 {
            source: case.outer(depth, from),
            destination: case.outer(depth, to),
            ttl: OUTER_TTL,
            tos: 0,
            protocol,
        };
        match *layer {
            Layer::Vlan { id, priority } => {
                let control = u16::from(priority) << 13 | id;
                around.push(Around::Tag { protocol: 0x8100, control });
            }
            Layer::Ipip => around.push(outer(4)),
            Layer::Gre { keys, checksums } => {
                let key = keys.map(|[client, server]| match from {
                    Side::Client => client,
                    Side::Server => server,
                });
                let flags = if key.is_some() { GRE_KEY } else { 0 }
                    | if checksums { GRE_CHECKSUM } else { 0 };
                around.extend([outer(47), Around::Gre { flags, key }]);
            }
        }
    }
    around
}
