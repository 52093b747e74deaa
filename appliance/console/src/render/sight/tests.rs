use weir_api::console::InspectionOff;
use weir_api::sight::{Direction, VirtualSegmentCounters};

use super::*;
use crate::text::WIDTH;

fn fits(text: &str) {
    for line in text.lines() {
        assert!(line.chars().count() <= WIDTH, "too long: {line}");
        assert!(!line.contains(|c: char| c.is_control()), "not printable: {line:?}");
    }
}

fn example() -> SegmentView {
    let mut buckets = vec![0; 32];
    (buckets[6], buckets[10]) = (9, 1);
    SegmentView {
        name: "dmz".into(),
        ports: ["1A".into(), "1B".into()],
        layer2_fallback: "permit-all".into(),
        state: "inspecting".into(),
        inspection_off: None,
        counters: vec![
            ("flow_held".into(), 10),
            ("blocked_dropped".into(), 4),
            ("contested_dropped".into(), 0),
            ("flow_released".into(), 9),
        ],
        meanings: [
            ("flow_held".to_owned(), "flow held at its first payload".to_owned()),
            ("blocked_dropped".to_owned(), "packet of a blocked flow".to_owned()),
            ("flow_released".to_owned(), "flow given back; by this engine".to_owned()),
        ]
        .into(),
        traffic: [
            Some(PortTraffic {
                received: Direction { packets: 12, bytes: 1200, dropped: 1, errors: 2 },
                sent: Direction { packets: 7, bytes: 2_000_000, ..Direction::default() },
            }),
            None,
        ],
        held_now: 1,
        hold_time: Histogram { buckets, maximum: 900 },
        take_over_time: Histogram::default(),
        outcomes: vec![OutcomeCount {
            outcome: "bypassed".into(),
            reason: Some("not TLS".into()),
            flows: 9,
        }],
    }
}

#[test]
fn a_segment_shows_state_traffic_flows_and_drops() {
    let expected = "\
Segment dmz (ports 1A and 1B)
  State                 inspecting
  Layer-2 fallback      permit-all
  Port      packets in    bytes in   packets out   bytes out     dropped
  1A                12      1.2 KB             7      2.0 MB           3
  Flows held now        1
  Flows                 10 held since the boot; by this engine 9 released, 0
                        taken over, 0 blocked
  Flows by outcome
                     9  bypassed (not TLS)
  Packets dropped       4
";
    assert_eq!(segments(&[example()], false), expected);
    assert_eq!(segments(&[], false), "No segments.\n");
}

#[test]
fn a_segment_in_fallback_shows_since_when_and_what_crosses() {
    let off = InspectionOff { since: 1_700_000_000_000, crosses: "nothing crosses".into() };
    let segment = SegmentView {
        state: "Layer-2 fallback (engine down)".into(),
        inspection_off: Some(off),
        ..example()
    };
    let expected = "\
  State                 Layer-2 fallback (engine down)
  Inspection off        since 2023-11-14 22:13:20: nothing crosses
";
    assert!(segments(&[segment], false).contains(expected));
}

#[test]
fn detail_shows_times_and_every_counter_that_counted_with_its_meaning() {
    let shown = segments(&[example()], true);
    let expected = "\
  Hold time             p50 <= 64 us, p90 <= 64 us, p99 <= 900 us, max 900 us;
                        10 flows
                     9  32 us to 64 us
                     1  512 us to 1024 us
  Takeover time         none yet
  Drops by reason, since the boot
                     4  blocked dropped: packet of a blocked flow
  Counters, since the boot
                    10  flow held: flow held at its first payload
                     9  flow released: flow given back; by this engine
";
    assert!(shown.ends_with(expected), "{shown}");
}

#[test]
fn a_segment_is_chosen_by_name_number_or_port() {
    for name in ["dmz", "1", "1A", "1B"] {
        assert_eq!(chosen_segments(vec![example()], Some(name)).unwrap().len(), 1, "{name}");
    }
    assert_eq!(chosen_segments(vec![example()], None).unwrap().len(), 1);
    let error = chosen_segments(vec![example()], Some("lan")).unwrap_err();
    assert_eq!(error, "no segment is called \"lan\"; known: dmz");
    let error = chosen_virtual_segments(vec![], Some("lan")).unwrap_err();
    assert_eq!(error, "no virtual segment is called \"lan\"; known: there are none");
}

#[test]
fn json_is_one_line_of_ascii_that_reads_back() {
    let name = "b\u{fc}ro \u{9b}\u{1f600}\x1b\x7f";
    let text = json(&vec![SegmentView { name: name.into(), ..example() }]);
    assert!(text.trim_end().chars().all(|c| (' '..='~').contains(&c)), "{text}");
    let back: Vec<SegmentView> = serde_json::from_str(&text).unwrap();
    assert_eq!((back[0].name.as_str(), back[0].held_now), (name, 1));
}

#[test]
fn a_virtual_segment_shows_what_it_matches_and_what_it_matched() {
    let view = VirtualSegmentView {
        order: 2,
        segments: vec!["dmz".into()],
        from: Some("A".into()),
        vlans: vec![7],
        profile: "staff".into(),
        counted: VirtualSegmentCounters {
            name: "guests".into(),
            packets: Some(5),
            bytes: Some(700),
            outcomes: example().outcomes,
            counters: vec![
                ("flow_released".into(), 8),
                ("flow_taken_over".into(), 2),
                ("held_conflicting_dropped".into(), 3),
            ],
            hold_time: example().hold_time,
            take_over_time: Histogram::default(),
        },
        meanings: [("flow_released".to_owned(), "held flow given back".to_owned())].into(),
        ..VirtualSegmentView::default()
    };
    let expected = "\
2. Virtual segment guests
  Segments              dmz
  Clients on side       A
  VLANs                 7
  Sources               any
  Destinations          any
  Profile               staff
  Traffic               5 packets, 700 B, since the boot
  Flows                 by this engine 10 held, 8 released, 2 taken over, 0
                        blocked
  Flows by outcome
                     9  bypassed (not TLS)
";
    let short = virtual_segments(std::slice::from_ref(&view), false);
    assert_eq!(short, format!("{expected}  Packets dropped       3\n"));
    let detail = "  Hold time             p50 <= 64 us, p90 <= 64 us, p99 <= 900 us, max 900 us;
                        10 flows
                     9  32 us to 64 us
                     1  512 us to 1024 us
  Takeover time         none yet
  Drops by reason, by this engine
                     3  held conflicting dropped
  Counters, by this engine
                     8  flow released: held flow given back
                     2  flow taken over
";
    assert_eq!(virtual_segments(&[view], true), format!("{expected}{detail}"));
    assert_eq!(virtual_segments(&[], false), "No virtual segments.\n");
}

#[test]
fn every_view_fits_with_the_longest_values() {
    let long = "\x1b[31m".repeat(40);
    let most = Direction { packets: u64::MAX, bytes: u64::MAX, dropped: u64::MAX, errors: 1 };
    let outcomes =
        vec![OutcomeCount { outcome: long.clone(), reason: Some(long.clone()), flows: u64::MAX }];
    let view = SegmentView {
        name: long.clone(),
        ports: [long.clone(), long.clone()],
        layer2_fallback: long.clone(),
        state: long.clone(),
        inspection_off: Some(InspectionOff { since: u64::MAX, crosses: long.clone() }),
        counters: vec![(long.clone(), u64::MAX), ("x_dropped".into(), u64::MAX)],
        meanings: [(long.clone(), long.clone())].into(),
        traffic: [Some(PortTraffic { received: most, sent: most }); 2],
        held_now: u64::MAX,
        hold_time: Histogram { buckets: vec![u64::MAX / 40; 32], maximum: u64::MAX },
        take_over_time: Histogram { buckets: vec![1], maximum: u64::MAX },
        outcomes: outcomes.clone(),
    };
    fits(&segments(std::slice::from_ref(&view), false));
    fits(&segments(std::slice::from_ref(&view), true));
    let virtual_segment = VirtualSegmentView {
        order: usize::MAX,
        segments: vec![long.clone(); 3],
        from: Some(long.clone()),
        vlans: vec![4095; 64],
        sources: vec![long.clone(); 3],
        destinations: vec![long.clone(); 3],
        profile: long.clone(),
        counted: VirtualSegmentCounters {
            name: long,
            packets: Some(u64::MAX),
            bytes: Some(u64::MAX),
            outcomes,
            counters: view.counters,
            hold_time: view.hold_time,
            take_over_time: view.take_over_time,
        },
        meanings: view.meanings,
    };
    fits(&virtual_segments(std::slice::from_ref(&virtual_segment), false));
    fits(&virtual_segments(&[virtual_segment], true));
}
