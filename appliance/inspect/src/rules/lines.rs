//! Lines of a rule text: continued lines joined, comments and blank lines left out.

/// A rule's text, with the physical lines it came from.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LogicalLine {
    pub(super) text: String,
    /// Offset in `text` at which each physical line begins, and its number; never empty.
    starts: Vec<(usize, usize)>,
}

impl LogicalLine {
    /// The number of the physical line, from 1, of an offset in `text`.
    pub(super) fn line_at(&self, offset: usize) -> usize {
        self.starts.iter().rev().find(|(start, _)| *start <= offset).map_or(1, |(_, line)| *line)
    }
}

/// The rules of a text. A backslash right before the line's end joins the next line, also to a
/// comment: as Suricata reads files.
pub(super) fn logical_lines(text: &str) -> Vec<LogicalLine> {
    let mut rules = Vec::new();
    let mut current: Option<LogicalLine> = None;
    for (index, line) in text.lines().enumerate() {
        let rule =
            current.get_or_insert_with(|| LogicalLine { text: String::new(), starts: Vec::new() });
        rule.starts.push((rule.text.len(), index + 1));
        match line.strip_suffix('\\') {
            Some(continued) => rule.text.push_str(continued),
            None => {
                rule.text.push_str(line);
                rules.extend(current.take());
            }
        }
    }
    rules.extend(current);
    rules.retain(|rule| {
        let text = rule.text.trim_start();
        !text.is_empty() && !text.starts_with('#')
    });
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn continued_rule_knows_the_line_of_each_keyword() {
        let rules = logical_lines("# one\r\n\r\ndrop x \\\r\n  y\nalert z");
        assert_eq!(rules.len(), 2);
        assert_eq!(rules[0].text, "drop x   y");
        assert_eq!(rules[0].line_at(0), 3);
        assert_eq!(rules[0].line_at(9), 4);
        assert_eq!(rules[1].line_at(3), 5);
    }

    #[test]
    fn comment_continues_as_in_suricata() {
        assert_eq!(logical_lines("# off \\\ndrop x\n"), []);
    }
}
