use super::*;

fn begin() -> Editor {
    let mut editor = Editor::default();
    editor.begin("edge{} ", Entry::Command, 80);
    editor
}

/// Feeds all bytes; the events and what was echoed.
fn feed(editor: &mut Editor, bytes: &[u8]) -> (Vec<Event>, String) {
    let mut output = String::new();
    let events = bytes.iter().filter_map(|byte| editor.feed(*byte, &mut output)).collect();
    (events, output)
}

fn line_of(bytes: &[u8]) -> String {
    match feed(&mut begin(), bytes).0.as_slice() {
        [Event::Line(line)] => line.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn typed_line_is_echoed_quietly_and_given_at_enter() {
    let (events, output) = feed(&mut begin(), b"show version\r\n");
    assert_eq!(events, [Event::Line("show version".into())]);
    assert_eq!(output, "show version\n");
}

#[test]
fn keys_edit_the_line() {
    assert_eq!(line_of(b"shiw\x08\x08ow\r"), "show");
    assert_eq!(line_of(b"how\x01s\r"), "show");
    assert_eq!(line_of(b"sow\x1b[D\x1b[Dh\r"), "show");
    assert_eq!(line_of(b"xshow\x1b[H\x1b[3~\r"), "show");
    assert_eq!(line_of(b"show version\x17health\r"), "show health");
    assert_eq!(line_of(b"show version\x15help\r"), "help");
    assert_eq!(line_of(b"show\x01\x0bhelp \x19\r"), "help show");
    assert_eq!(line_of("b\u{fc}cher\r".as_bytes()), "b\u{fc}cher");
}

#[test]
fn unknown_sequences_and_stray_bytes_are_swallowed() {
    assert_eq!(line_of(b"sh\x1b[15~ow\xff\x00\x1b[200;1zx\x1bOP\r"), "showx");
    assert_eq!(line_of(b"a\xc3b\r"), "ab");
    // A terminal's late answer about its cursor is no key.
    assert_eq!(line_of(b"show\x1b[24;80R\r"), "show");
}

#[test]
fn help_and_completion_see_the_line_up_to_the_cursor() {
    let mut editor = begin();
    assert_eq!(feed(&mut editor, b"show ?").0, [Event::Help("show ".into())]);
    assert_eq!(feed(&mut editor, b"v\t").0, [Event::Complete("show v".into())]);
    let mut output = String::new();
    editor.append("ersion ", &mut output);
    assert_eq!(output, "ersion ");
    assert_eq!(feed(&mut editor, b"\r").0, [Event::Line("show version ".into())]);
}

#[test]
fn history_goes_back_and_forth_and_keeps_what_was_typed() {
    let mut editor = begin();
    feed(&mut editor, b"first\r");
    editor.begin("edge{} ", Entry::Command, 80);
    feed(&mut editor, b"second\r");
    editor.begin("edge{} ", Entry::Command, 80);
    let (events, _) = feed(&mut editor, b"third\x1b[A\x1b[A\x1b[A\r");
    assert_eq!(events, [Event::Line("first".into())]);
    editor.begin("edge{} ", Entry::Command, 80);
    let (events, _) = feed(&mut editor, b"new\x1b[A\x1b[B\r");
    assert_eq!(events, [Event::Line("new".into())]);
}

#[test]
fn history_is_bounded_and_forgotten_with_its_user() {
    let mut editor = begin();
    for number in 0..LINES_REMEMBERED + 5 {
        feed(&mut editor, format!("line {number}\r").as_bytes());
        editor.begin("", Entry::Command, 80);
    }
    assert_eq!(editor.history.len(), LINES_REMEMBERED);
    editor.forget();
    assert_eq!(feed(&mut editor, b"\x1b[A\r").0, [Event::Line(String::new())]);
}

#[test]
fn password_is_neither_echoed_nor_remembered() {
    let mut editor = Editor::default();
    editor.begin("Password: ", Entry::Secret, 80);
    let (events, output) = feed(&mut editor, b"secrex\x7ft?\t\x1b[A\r");
    assert_eq!(events, [Event::Line("secret?".into())]);
    assert_eq!(output, "\n");
    editor.begin("edge{} ", Entry::Command, 80);
    assert_eq!(feed(&mut editor, b"\x1b[A\r").0, [Event::Line(String::new())]);
}

#[test]
fn answers_have_neither_help_nor_history() {
    let mut editor = begin();
    feed(&mut editor, b"reboot\r");
    editor.begin("Sure? ", Entry::Answer, 80);
    assert_eq!(feed(&mut editor, b"\x1b[Aw?\r").0, [Event::Line("w?".into())]);
    editor.begin("edge{} ", Entry::Command, 80);
    assert_eq!(feed(&mut editor, b"\x1b[A\r").0, [Event::Line("reboot".into())]);
}

#[test]
fn long_line_scrolls_inside_the_width() {
    let mut editor = begin();
    let (_, output) = feed(&mut editor, &[b'x'; 200]);
    for drawn in output.split('\r') {
        let columns = drawn.replace("\x1b[K", "").chars().filter(|c| *c != '\u{8}').count();
        assert!(columns <= 80, "{columns}");
    }
    let (_, output) = feed(&mut editor, b"\x01");
    assert!(output.contains(&"\u{8}".repeat(73)));
}

#[test]
fn line_past_its_bound_rings_and_is_cut() {
    let mut editor = begin();
    feed(&mut editor, &[b'x'; LONGEST_LINE]);
    let (events, output) = feed(&mut editor, b"yz\r");
    assert_eq!(output, "\u{7}\u{7}\n");
    assert_eq!(events, [Event::Line("x".repeat(LONGEST_LINE))]);
}

#[test]
fn control_c_drops_the_line_and_control_d_ends_an_empty_one() {
    let mut editor = begin();
    let (events, output) = feed(&mut editor, b"nonsense\x03show\r");
    assert_eq!(events, [Event::Line("show".into())]);
    assert!(output.contains("^C\n"));
    editor.begin("", Entry::Command, 80);
    assert_eq!(feed(&mut editor, b"\x04").0, [Event::EndOfInput]);
}

#[test]
fn nothing_a_terminal_can_send_makes_it_panic() {
    // A small generator, so that every run feeds the same bytes.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut editor = begin();
    for _ in 0..200_000 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let mut output = String::new();
        if let Some(Event::Line(_)) = editor.feed(state.to_le_bytes()[3], &mut output) {
            let entry = [Entry::Command, Entry::Answer, Entry::Secret][(state % 3) as usize];
            editor.begin("edge{} ", entry, 80);
        }
        assert!(editor.cursor <= editor.line.len());
    }
}
