//! Lines as an operator types them: read, completed, helped with, and refused with their place.

use super::*;

fn command(line: &str) -> Command {
    parse(line).unwrap().unwrap().command
}

#[test]
fn whole_and_abbreviated_lines_mean_the_same() {
    assert_eq!(command("show version"), Command::ShowVersion);
    assert_eq!(command("  sho   ver "), Command::ShowVersion);
    assert_eq!(command("hi fo fa"), Command::ForceFallback);
    assert_eq!(command("high-availability force normal"), Command::ForceNormal);
    assert_eq!(command("show sessions d"), Command::ShowSessionsDetail);
    assert_eq!(parse("   "), Ok(None));
}

#[test]
fn counts_are_read_within_their_bounds() {
    assert_eq!(parse("show log 5").unwrap().unwrap().count, Some(5));
    assert_eq!(parse("show sessions detail 7").unwrap().unwrap().count, Some(7));
    assert_eq!(parse("show sessions").unwrap().unwrap().count, None);
    for wrong in ["show log 0", "show log 1001", "show log -1", "show log x"] {
        assert_eq!(parse(wrong).unwrap_err().column, 9, "{wrong}");
    }
}

#[test]
fn a_number_that_is_out_of_its_bounds_is_told_them() {
    let told = |line| parse(line).unwrap_err().message;
    assert_eq!(told("show sessions 99999"), "99999 is out of bounds here: 1 to 1000");
    assert_eq!(told("show log -1"), "-1 is out of bounds here: 1 to 1000");
    assert_eq!(told("show log x"), "\"x\" is not valid here: a number from 1 to 1000 is");
    assert_eq!(told("show sessions x"), "\"x\" is not valid here");
}

#[test]
fn keywords_are_read_in_capitals_too() {
    let line = parse("SHOW segments DETAIL").unwrap().unwrap();
    assert!(line.has("detail") && line.argument("segments").is_none());
    assert_eq!(complete("show VERS"), Completion::Append("ion ".into()));
    let quoted = parse("show segments \"DETAIL\"").unwrap().unwrap();
    assert_eq!(quoted.argument("segments"), Some("DETAIL"));
}

#[test]
fn the_example_of_the_help_works() {
    let help = crate::render::help();
    let (_, rest) = help.split_once("abbreviated: ").unwrap();
    assert_eq!(command(rest.split_once('.').unwrap().0), Command::ShowVersion);
}

#[test]
fn a_segments_number_stands_before_what_is_to_be_done() {
    let line = parse("segment 2 restart").unwrap().unwrap();
    assert_eq!((line.command, line.count), (Command::RestartPorts, Some(2)));
    for wrong in ["segment restart", "segment 0 restart", "segment 64 restart", "segment 2"] {
        assert!(parse(wrong).is_err(), "{wrong}");
    }
    assert_eq!(help("segment 2 ").unwrap()[0].0, "restart");
}

#[test]
fn names_stand_where_no_keyword_does_and_quotes_make_any_text_one() {
    let line = |text| parse(text).unwrap().unwrap();
    let one = line("show segments dmz det json");
    assert_eq!(one.command, Command::ShowSegments);
    assert_eq!(one.argument("segments"), Some("dmz"));
    assert!(one.has("detail") && one.has("json"));
    assert_eq!(line("show segments detail").argument("segments"), None);
    let quoted = line("show segments \"detail of it\" detail");
    assert_eq!(quoted.argument("segments"), Some("detail of it"));
    assert!(quoted.has("detail") && !quoted.has("json"));
    assert_eq!(line("show segments \"detail").argument("segments"), Some("detail"));
    assert_eq!(parse("show \"segments\"").unwrap_err().column, 5);
    assert_eq!(parse("show segments a b").unwrap_err().column, 16);
}

#[test]
fn options_come_in_any_order_each_once() {
    let line = parse("capture 1A print filter \"tcp port 443\" count 5 both").unwrap().unwrap();
    assert_eq!(line.command, Command::Capture);
    assert_eq!(line.argument("capture"), Some("1A"));
    assert_eq!(line.argument("filter"), Some("tcp port 443"));
    assert_eq!(line.argument("count"), Some("5"));
    assert!(line.has("print") && line.has("both"));
    assert_eq!(parse("capture 1A count 5 count 6").unwrap_err().column, 19);
    assert_eq!(parse("capture 1A count 1000001").unwrap_err().column, 17);
    let words: Vec<_> = help("capture 1A count 5 both ").unwrap();
    assert!(!words.iter().any(|(word, _)| ["count", "both"].contains(word)), "{words:?}");
    assert_eq!(parse("capture stop 1A").unwrap().unwrap().command, Command::CaptureStop);
    let mistake = parse("capture 1A filter tcp port 443").unwrap_err();
    assert_eq!((mistake.column, mistake.message.contains("\"port\"")), (22, true));
}

#[test]
fn wrong_word_is_named_with_its_place_and_what_is_valid_there() {
    let mistake = parse("show  sesions").unwrap_err();
    assert_eq!(mistake.column, 6);
    assert!(mistake.message.contains("\"sesions\" is not valid here"));
    assert!(mistake.valid.iter().any(|(word, _)| *word == "sessions"));
    let shown = mistake.show(7);
    assert!(shown.starts_with(&format!("{}^\n", " ".repeat(13))));
    assert!(shown.contains("Valid entries at this position are:\n  captures "));
}

#[test]
fn ambiguous_word_lists_only_what_it_could_mean() {
    let mistake = parse("sh").unwrap_err();
    assert_eq!(mistake.message, "\"sh\" is ambiguous here");
    let words: Vec<_> = mistake.valid.iter().map(|(word, _)| *word).collect();
    assert_eq!(words, ["show", "shutdown"]);
}

#[test]
fn incomplete_line_says_what_may_follow() {
    let mistake = parse("high-availability force").unwrap_err();
    assert_eq!(mistake.message, "the command is incomplete");
    let words: Vec<_> = mistake.valid.iter().map(|(word, _)| *word).collect();
    assert_eq!(words, ["fallback", "normal"]);
}

#[test]
fn too_many_words_are_refused() {
    let mistake = parse("show version now").unwrap_err();
    assert!(mistake.message.contains("\"now\" is too much"));
    assert_eq!(mistake.valid, [("<Enter>", "Run the command")]);
}

#[test]
fn help_depends_on_the_position() {
    let words = |line| help(line).unwrap().iter().map(|(word, _)| *word).collect::<Vec<_>>();
    assert!(words("").contains(&"high-availability"));
    assert_eq!(words("show s"), ["segments", "sessions"]);
    assert_eq!(words("show sessions "), ["detail", "live", "<count>", "<Enter>"]);
    assert_eq!(words("show version "), ["<Enter>"]);
    assert_eq!(words("show segments "), ["<name>", "detail", "json", "<Enter>"]);
    assert_eq!(words("show segments d"), ["detail"]);
    assert_eq!(words("show segments x"), ["<name>"]);
    assert!(help("shw ").is_err());
}

#[test]
fn completion_appends_what_is_certain_and_shows_the_rest() {
    assert_eq!(complete("show ver"), Completion::Append("sion ".into()));
    assert_eq!(complete("sh"), Completion::Several(help("sh").unwrap()));
    assert_eq!(complete("show s"), Completion::Append("e".into()));
    assert_eq!(complete("show version"), Completion::Append(" ".into()));
    assert_eq!(complete("nonsense"), Completion::Nothing);
    assert_eq!(complete("show version "), Completion::Nothing);
}

#[test]
fn addresses_are_read_and_what_is_none_is_named_with_its_place() {
    let line = |text| parse(text).unwrap().unwrap();
    let one = line("quarantine 192.0.2.7 minutes 5");
    assert_eq!((one.command, one.argument("quarantine")), (Command::Quarantine, Some("192.0.2.7")));
    assert_eq!(one.argument("minutes"), Some("5"));
    let other = line("quar rel 2001:db8::1");
    assert_eq!(
        (other.command, other.argument("release")),
        (Command::ReleaseHost, Some("2001:db8::1"))
    );
    let mistake = parse("quarantine 192.0.2.700").unwrap_err();
    assert_eq!(mistake.column, 11);
    assert_eq!(
        mistake.message,
        "\"192.0.2.700\" is no IP address; one is like 192.0.2.1 or 2001:db8::1"
    );
    assert_eq!(parse("quarantine host").unwrap_err().valid[0].0, "<address>");
    assert_eq!(parse("quarantine 192.0.2.7 minutes 525601").unwrap_err().column, 29);
    assert_eq!(help("quarantine 192.0").unwrap()[0].0, "<address>");
    let words: Vec<_> = help("quarantine ").unwrap().iter().map(|(word, _)| *word).collect();
    assert_eq!(words, ["<address>", "release"]);
}

#[test]
fn a_packet_is_told_by_options_in_any_order_each_once() {
    let text = "debug explain segment 1 from 10.0.0.1 to 10.0.0.2";
    let line = |more: &str| parse(&format!("{text}{more}"));
    assert_eq!(line("").unwrap().unwrap().command, Command::Explain);
    let whole = line(" vlan 7 protocol udp port 53 direction b-to-a").unwrap().unwrap();
    assert_eq!((whole.argument("to"), whole.argument("vlan")), (Some("10.0.0.2"), Some("7")));
    assert!(whole.has("udp") && whole.has("b-to-a") && !whole.has("tcp"));
    assert_eq!(line(" protocol 89").unwrap().unwrap().argument("protocol"), Some("89"));
    assert!(line(" port 53 port 54").unwrap_err().message.contains("\"port\" is not valid"));
    assert!(line(" vlan 4095").is_err());
    assert_eq!(complete(&format!("{text} vl")), Completion::Append("an ".into()));
}

#[test]
fn every_description_fits_its_line() {
    fn check(nodes: &'static [Node], seen: &mut Vec<*const Node>) {
        // Options lead to each other.
        if nodes.is_empty() || seen.contains(&nodes.as_ptr()) {
            return;
        }
        seen.push(nodes.as_ptr());
        for node in nodes {
            let (word, description) = entry(node);
            assert!(word.len() < 24, "{word}");
            assert!(25 + description.len() <= WIDTH, "{description}");
            assert!(node.command.is_some() || !node.next.is_empty(), "{word} leads nowhere");
            check(node.next, seen);
        }
    }
    check(ROOT, &mut Vec::new());
}
