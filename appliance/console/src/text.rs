//! Text that fits the screen: folding, columns, and making foreign text safe to print.
//!
//! Server names, rule messages and log lines come from outside: nothing of them reaches the
//! terminal as a control sequence.

/// What every output fits into.
pub const WIDTH: usize = 80;

/// Foreign text made printable: ASCII as it is, everything else (control characters, which a
/// terminal would obey, and characters of unknown width) as an escape.
pub fn printable(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            ' '..='~' => safe.push(character),
            '\t' => safe.push(' '),
            _ => safe.extend(character.escape_default()),
        }
    }
    safe
}

/// Folds `text` at spaces to lines of at most [`WIDTH`], the first indented by `first`, the others
/// by as many spaces as `first` is long. A word too long for a line is cut.
pub fn fold(first: &str, text: &str) -> String {
    let indent = first.chars().count();
    let room = WIDTH.saturating_sub(indent).max(1);
    let mut lines: Vec<String> = Vec::new();
    let mut line = String::new();
    for word in printable(text).split(' ') {
        let mut word = word;
        loop {
            let space = usize::from(!line.is_empty());
            if line.len() + space + word.len() <= room {
                if space == 1 {
                    line.push(' ');
                }
                line.push_str(word);
                break;
            }
            if !line.is_empty() {
                lines.push(std::mem::take(&mut line));
                continue;
            }
            // ASCII after `printable`: any byte is a boundary.
            let (head, tail) = word.split_at(room);
            lines.push(head.to_owned());
            word = tail;
        }
    }
    if !line.is_empty() || lines.is_empty() {
        lines.push(line);
    }
    let mut folded = String::new();
    for (number, line) in lines.iter().enumerate() {
        let margin = if number == 0 { first.to_owned() } else { " ".repeat(indent) };
        folded.push_str(format!("{margin}{line}").trim_end());
        folded.push('\n');
    }
    folded
}

/// A line of `label  value`, the value folded beside its label.
pub fn field(label: &str, value: &str) -> String {
    fold(&format!("{label:<24}"), value)
}

/// A number with its unit prefix: `999 B`, `1.2 KB`, `20.0 MB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KB", "MB", "GB", "TB"];
    if count < 1000 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1000.0;
    let mut unit = UNITS[0];
    for next in &UNITS[1..] {
        if value < 999.95 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

/// Seconds as `3 d 04:05:06`.
pub fn duration(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let clock = format!("{:02}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60);
    if days == 0 { clock } else { format!("{days} d {clock}") }
}

/// Milliseconds since the Unix epoch as `2026-01-31 12:34:56` UTC.
pub fn moment(milliseconds: u64) -> String {
    let seconds = i64::try_from(milliseconds / 1000).unwrap_or(i64::MAX);
    let Ok(moment) = time::OffsetDateTime::from_unix_timestamp(seconds) else {
        return "(no time)".into();
    };
    let (year, month, day) = moment.to_calendar_date();
    let (hour, minute, second) = moment.to_hms();
    format!("{year:04}-{:02}-{day:02} {hour:02}:{minute:02}:{second:02}", u8::from(month))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_cannot_command_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\u{9b}c\r\n"), "a\\u{1b}[2Jb\\u{9b}c\\r\\n");
        assert_eq!(printable("bücher.example"), "b\\u{fc}cher.example");
    }

    #[test]
    fn folded_text_fits_and_loses_nothing() {
        let text = format!("one two {} three", "x".repeat(200));
        let folded = fold("label: ", &text);
        assert!(folded.lines().all(|line| line.len() <= WIDTH), "{folded}");
        let joined: String = folded.split_whitespace().skip(1).collect();
        assert_eq!(joined, text.split_whitespace().collect::<String>());
        assert_eq!(fold("label: ", ""), "label:\n");
    }

    #[test]
    fn quantities_are_read_at_a_glance() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(20_000_000), "20.0 MB");
        assert_eq!(bytes(999_999), "1.0 MB");
        assert_eq!(bytes(u64::MAX), "18446744.1 TB");
        assert_eq!(duration(273_906), "3 d 04:05:06");
        assert_eq!(moment(1_767_225_600_000), "2026-01-01 00:00:00");
        assert_eq!(moment(u64::MAX), "(no time)");
    }
}
