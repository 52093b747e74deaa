//! `show quarantine`, `show traffic-filters`, `show inspection-bypass`, `show reputation` and
//! `debug explain`.
//!
//! Not for: asking. Cannot fail.

use weir_api::rules::{Explanation, PacketCount, QuarantineView, ReputationView, RuleView};

use crate::text::{bytes, duration, field, fold};

pub fn quarantine(view: &QuarantineView) -> String {
    let hosts = &view.hosts;
    let mut text = field("Quarantined hosts", &hosts.count.to_string());
    text += &field("Packets dropped", &counted(view.dropped));
    text += &field("Time without minutes", &format!("{} minutes", view.timeout));
    let exempt = if view.exempt.is_empty() { "none".into() } else { view.exempt.join(", ") };
    text += &field("Exempt", &exempt);
    if !hosts.hosts.is_empty() {
        text += "Host                                        Time left\n";
    }
    for host in &hosts.hosts {
        text += &fold("", &format!("{:<42}  {}", host.host.to_string(), duration(host.seconds)));
    }
    match hosts.count.saturating_sub(hosts.hosts.len()) {
        0 => text,
        more => text + &format!("and {more} more\n"),
    }
}

fn counted(packets: Option<u64>) -> String {
    packets.map_or_else(|| "not known: no engine is connected".into(), |count| count.to_string())
}

/// In their order; `none`: what is said where there are none.
pub fn rules(views: &[RuleView], none: &str) -> String {
    if views.is_empty() {
        return format!("{none}\n");
    }
    views.iter().map(rule).collect()
}

fn rule(view: &RuleView) -> String {
    let mut text = fold("", &format!("{}. {}", view.order, view.name));
    if let Some(action) = &view.action {
        text += &field("  Action", action);
    }
    if view.matching.is_empty() {
        text += &field("  Matches", "everything");
    }
    for (key, values) in &view.matching {
        text += &field(&format!("  {key}"), values);
    }
    text + &field("  Traffic", &traffic(view.counted))
}

fn traffic(counted: Option<PacketCount>) -> String {
    match counted {
        Some(count) => format!("{} packets, {}", count.packets, bytes(count.bytes)),
        None => "not known: no engine told".into(),
    }
}

pub fn reputation(view: &ReputationView) -> String {
    if let Some(address) = view.address {
        return match view.entries.first() {
            Some((network, standing)) => {
                field("Address", &address.to_string())
                    + &field("Standing", standing)
                    + &field("By the entry", network)
            }
            None => field("Address", &address.to_string()) + &field("Standing", "no entry"),
        };
    }
    let mut text = field("Entries", &format!("{} block, {} permit", view.blocked, view.permitted));
    text += &field("Packets dropped", &counted(view.dropped));
    for (network, standing) in &view.entries {
        text += &field(&format!("  {standing}"), network);
    }
    match (view.blocked + view.permitted).saturating_sub(view.entries.len()) {
        0 => text,
        more => text + &format!("and {more} more: show reputation <address> tells of one\n"),
    }
}

pub fn explanation(explanation: &Explanation) -> String {
    let mut text = field("Packet", &explanation.packet);
    text += &field("Policy generation", &explanation.generation.to_string());
    text += &field("Virtual segment", explanation.virtual_segment.as_deref().unwrap_or("none"));
    for (asked, said) in &explanation.steps {
        text += &field(asked, said);
    }
    text += &field("Decided by", &explanation.decision);
    text += &field("TLS policy", explanation.tls.as_deref().unwrap_or("not asked"));
    for note in &explanation.notes {
        text += &fold("Note: ", note);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use weir_api::rules::{QuarantinedHost, QuarantinedHosts};

    use super::*;
    use crate::text::WIDTH;

    fn fits(text: &str) {
        for line in text.lines() {
            assert!(line.chars().count() <= WIDTH, "too long: {line}");
            assert!(!line.contains(|c: char| c.is_control()), "not printable: {line:?}");
        }
    }

    #[test]
    fn quarantined_hosts_are_shown_with_the_time_that_is_left() {
        let view = QuarantineView {
            timeout: 60,
            exempt: vec!["10.0.0.0/8".into()],
            hosts: QuarantinedHosts {
                hosts: vec![
                    QuarantinedHost { host: [192, 0, 2, 1].into(), seconds: 59 },
                    QuarantinedHost { host: "2001:db8::1".parse().unwrap(), seconds: 90_000 },
                ],
                count: 3,
            },
            dropped: Some(7),
        };
        let expected = "\
Quarantined hosts       3
Packets dropped         7
Time without minutes    60 minutes
Exempt                  10.0.0.0/8
Host                                        Time left
192.0.2.1                                   00:00:59
2001:db8::1                                 1 d 01:00:00
and 1 more
";
        assert_eq!(quarantine(&view), expected);
    }

    #[test]
    fn a_rule_is_shown_with_what_it_does_matches_and_counted() {
        let view = RuleView {
            order: 1,
            name: "no telnet".into(),
            action: Some("block".into()),
            matching: vec![
                ("protocols".into(), "tcp".into()),
                ("destination-ports".into(), "23".into()),
            ],
            counted: Some(PacketCount { packets: 3, bytes: 180 }),
        };
        let bypass = RuleView { order: 2, name: "all".into(), ..RuleView::default() };
        let expected = "\
1. no telnet
  Action                block
  protocols             tcp
  destination-ports     23
  Traffic               3 packets, 180 B
2. all
  Matches               everything
  Traffic               not known: no engine told
";
        assert_eq!(rules(&[view, bypass], ""), expected);
        assert_eq!(rules(&[], "No traffic filters."), "No traffic filters.\n");
    }

    #[test]
    fn reputation_is_summed_up_and_told_of_one_address() {
        let entries = vec![("192.0.2.0/24".to_owned(), "block".to_owned())];
        let all = ReputationView { blocked: 2, entries, ..ReputationView::default() };
        let expected = "\
Entries                 2 block, 0 permit
Packets dropped         not known: no engine is connected
  block                 192.0.2.0/24
and 1 more: show reputation <address> tells of one
";
        assert_eq!(reputation(&all), expected);
        let one = ReputationView { address: Some(IpAddr::from([192, 0, 2, 9])), ..all };
        let expected = "\
Address                 192.0.2.9
Standing                block
By the entry            192.0.2.0/24
";
        assert_eq!(reputation(&one), expected);
    }

    #[test]
    fn every_view_fits_with_the_longest_values() {
        let long = "\x1b[31m".repeat(40);
        let host = QuarantinedHost { host: [0xffff_u16; 8].into(), seconds: u64::MAX };
        fits(&quarantine(&QuarantineView {
            timeout: u32::MAX,
            exempt: vec![long.clone(); 3],
            hosts: QuarantinedHosts { hosts: vec![host], count: usize::MAX },
            dropped: Some(u64::MAX),
        }));
        let count = PacketCount { packets: u64::MAX, bytes: u64::MAX };
        let view = RuleView {
            order: usize::MAX,
            name: long.clone(),
            action: Some(long.clone()),
            matching: vec![("destination-ports".into(), long.clone())],
            counted: Some(count),
        };
        fits(&rules(&[view], ""));
        fits(&reputation(&ReputationView {
            blocked: usize::MAX / 2,
            permitted: usize::MAX / 2,
            entries: vec![(long.clone(), "permit".into())],
            address: None,
            dropped: Some(u64::MAX),
        }));
        fits(&explanation(&Explanation {
            generation: u64::MAX,
            packet: long.clone(),
            virtual_segment: Some(long.clone()),
            steps: vec![("Inspection bypass".into(), long.clone())],
            decision: long.clone(),
            tls: Some(long.clone()),
            notes: vec![long],
        }));
    }
}
