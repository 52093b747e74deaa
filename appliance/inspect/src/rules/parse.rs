//! One rule: header, keywords, and what keywords mean together.

use super::{content::parse_content, error::RuleProblem, set::Action};

/// A rule that can be honoured.
#[derive(Debug)]
pub(super) struct ParsedRule {
    pub(super) action: Action,
    pub(super) sid: u32,
    /// Where the `sid` stands in the rule's text.
    pub(super) sid_offset: usize,
    pub(super) rev: u32,
    pub(super) message: String,
    pub(super) to_server: bool,
    pub(super) to_client: bool,
    /// At least one.
    pub(super) contents: Vec<Content>,
}

#[derive(Debug)]
pub(super) struct Content {
    pub(super) buffer: Buffer,
    pub(super) pattern: Vec<u8>,
    pub(super) nocase: bool,
    pub(super) negated: bool,
}

/// What a content is searched in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Buffer {
    /// A direction's raw stream (`tcp` rules).
    Stream,
    /// A message's head and body (`http` rules).
    Message,
    Uri,
    Method,
    Host,
}

/// What is wrong and its offset in the rule's text.
type Located = (usize, RuleProblem);

pub(super) fn parse_rule(text: &str) -> Result<ParsedRule, Vec<Located>> {
    let Some((header, options)) = text.split_once('(') else {
        return Err(vec![(0, RuleProblem::Parentheses)]);
    };
    let mut problems = Vec::new();
    let (action, protocol) = parse_header(header, &mut problems);
    let Some(options) = options.trim_end().strip_suffix(')') else {
        problems.push((text.len(), RuleProblem::Parentheses));
        return Err(problems);
    };
    let mut draft = Draft::new(protocol.unwrap_or(Protocol::Http));
    for option in split_options(options, header.len() + 1, &mut problems) {
        if let Err(problem) = draft.apply(&option) {
            problems.push((option.offset, problem));
        }
    }
    draft.finish(action.unwrap_or(Action::Alert), problems)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Tcp,
    Http,
}

/// What cannot be read is reported and `None`.
fn parse_header(header: &str, problems: &mut Vec<Located>) -> (Option<Action>, Option<Protocol>) {
    let words: Vec<&str> = header.split_whitespace().collect();
    let &[action, protocol, source, source_port, arrow, destination, destination_port] =
        words.as_slice()
    else {
        problems.push((0, RuleProblem::Header(words.len())));
        return (None, None);
    };
    let action = match action {
        "alert" => Some(Action::Alert),
        "drop" => Some(Action::Drop),
        _ => {
            problems.push((0, RuleProblem::Action(action.to_owned())));
            None
        }
    };
    let protocol = match protocol {
        "tcp" => Some(Protocol::Tcp),
        "http" => Some(Protocol::Http),
        _ => {
            problems.push((0, RuleProblem::Protocol(protocol.to_owned())));
            None
        }
    };
    if arrow != "->" {
        problems.push((0, RuleProblem::Direction(arrow.to_owned())));
    }
    for (place, found) in [
        ("source address", source),
        ("source port", source_port),
        ("destination address", destination),
        ("destination port", destination_port),
    ] {
        if found != "any" {
            problems.push((0, RuleProblem::Endpoint { place, found: found.to_owned() }));
        }
    }
    (action, protocol)
}

/// A keyword, its value where it has one, and where it stands in the rule's text.
#[derive(Debug)]
struct RuleOption<'a> {
    offset: usize,
    name: &'a str,
    value: Option<&'a str>,
}

/// Splits what stands in the parentheses at each `;`. `base` is its offset in the rule's text.
fn split_options<'a>(
    text: &'a str,
    base: usize,
    problems: &mut Vec<Located>,
) -> Vec<RuleOption<'a>> {
    let mut options = Vec::new();
    let (mut start, mut escaped, mut quoted, mut semicolon) = (0, false, false, false);
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => quoted = !quoted,
            b';' if quoted => semicolon = true,
            b';' => {
                let option = read_option(text, start, index, base);
                if semicolon {
                    let problem = RuleProblem::Semicolon(option.name.to_owned());
                    problems.push((option.offset, problem));
                }
                options.push(option);
                (start, semicolon) = (index + 1, false);
            }
            _ => {}
        }
    }
    let rest = read_option(text, start, text.len(), base);
    let name = rest.name.to_owned();
    if quoted {
        problems.push((rest.offset, RuleProblem::Quote(name)));
    } else if !name.is_empty() || rest.value.is_some() {
        problems.push((rest.offset, RuleProblem::Unended(name)));
    }
    options
}

fn read_option(text: &str, start: usize, end: usize, base: usize) -> RuleOption<'_> {
    let whole = text.get(start..end).unwrap_or_default();
    let trimmed = whole.trim_start();
    let offset = base + start + (whole.len() - trimmed.len());
    match trimmed.split_once(':') {
        Some((name, value)) => RuleOption { offset, name: name.trim(), value: Some(value.trim()) },
        None => RuleOption { offset, name: trimmed.trim(), value: None },
    }
}

/// A rule being read.
#[derive(Debug)]
struct Draft {
    protocol: Protocol,
    /// The buffer of the contents to come, and its keyword where it is a sticky one.
    buffer: Buffer,
    sticky: Option<Sticky>,
    /// The first sticky buffer: the rule looks at requests.
    of_request: Option<Sticky>,
    contents: Vec<Content>,
    /// Whether the keyword before was a content, so that `nocase` may follow.
    after_content: bool,
    message: Option<String>,
    sid: Option<(u32, usize)>,
    rev: Option<u32>,
    /// `Some` once there was a `flow`.
    flow: Option<Flow>,
    /// Contents whose problem depends on a `nocase` that may follow.
    upper_case_hosts: Vec<(usize, usize)>,
}

#[derive(Clone, Copy, Debug)]
struct Sticky {
    keyword: &'static str,
    offset: usize,
    used: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Flow {
    to_server: bool,
    to_client: bool,
}

impl Draft {
    fn new(protocol: Protocol) -> Self {
        Self {
            protocol,
            buffer: match protocol {
                Protocol::Tcp => Buffer::Stream,
                Protocol::Http => Buffer::Message,
            },
            sticky: None,
            of_request: None,
            contents: Vec::new(),
            after_content: false,
            message: None,
            sid: None,
            rev: None,
            flow: None,
            upper_case_hosts: Vec::new(),
        }
    }

    fn apply(&mut self, option: &RuleOption<'_>) -> Result<(), RuleProblem> {
        let after_content = std::mem::take(&mut self.after_content);
        match (option.name, option.value) {
            ("content", Some(value)) => self.content(value, option.offset),
            ("nocase", None) => {
                let content = self.contents.last_mut().filter(|_| after_content);
                content.ok_or(RuleProblem::NocaseAlone)?.nocase = true;
                Ok(())
            }
            ("http.uri", None) => self.sticky("http.uri", Buffer::Uri, option.offset),
            ("http.method", None) => self.sticky("http.method", Buffer::Method, option.offset),
            ("http.host", None) => self.sticky("http.host", Buffer::Host, option.offset),
            ("flow", Some(value)) => once("flow", &mut self.flow, parse_flow(value)?),
            ("msg", Some(value)) => once("msg", &mut self.message, parse_message(value)?),
            ("sid", Some(value)) => {
                let sid = parse_number("sid", value, 1)?;
                once("sid", &mut self.sid, (sid, option.offset))
            }
            ("rev", Some(value)) => once("rev", &mut self.rev, parse_number("rev", value, 0)?),
            ("content", None) => Err(value("content", "", "a string in quotes")),
            ("flow", None) => Err(value("flow", "", FLOW)),
            ("msg", None) => Err(value("msg", "", "a string in quotes")),
            ("sid", None) => Err(value("sid", "", "a number")),
            ("rev", None) => Err(value("rev", "", "a number")),
            ("nocase", Some(found)) => Err(value("nocase", found, "without a value")),
            ("http.uri", Some(found)) => Err(value("http.uri", found, "without a value")),
            ("http.method", Some(found)) => Err(value("http.method", found, "without a value")),
            ("http.host", Some(found)) => Err(value("http.host", found, "without a value")),
            (name, _) => Err(RuleProblem::Keyword(name.to_owned())),
        }
    }

    fn content(&mut self, value: &str, offset: usize) -> Result<(), RuleProblem> {
        let parsed = parse_content(value);
        // A content that is wrong takes its place all the same: one mistake, one error.
        let (negated, pattern) = parsed.clone().unwrap_or_default();
        if let Some(sticky) = &mut self.sticky {
            sticky.used = true;
        }
        if self.buffer == Buffer::Host && pattern.iter().any(u8::is_ascii_uppercase) {
            self.upper_case_hosts.push((self.contents.len(), offset));
        }
        self.contents.push(Content { buffer: self.buffer, pattern, nocase: false, negated });
        self.after_content = true;
        if negated && matches!(self.buffer, Buffer::Stream | Buffer::Message) {
            return Err(RuleProblem::NegatedInStream);
        }
        parsed.map(drop)
    }

    fn sticky(
        &mut self,
        keyword: &'static str,
        buffer: Buffer,
        offset: usize,
    ) -> Result<(), RuleProblem> {
        let unused = self.sticky.filter(|before| !before.used);
        let sticky = Sticky { keyword, offset, used: false };
        self.buffer = buffer;
        self.sticky = Some(sticky);
        self.of_request = self.of_request.or(Some(sticky));
        match (self.protocol, unused) {
            (Protocol::Tcp, _) => Err(RuleProblem::BufferOnTcp(keyword)),
            (_, Some(before)) => Err(RuleProblem::EmptyBuffer(before.keyword)),
            _ => Ok(()),
        }
    }

    /// Judges what only the whole rule shows.
    fn finish(
        self,
        action: Action,
        mut problems: Vec<Located>,
    ) -> Result<ParsedRule, Vec<Located>> {
        if let Some(sticky) = self.sticky.filter(|sticky| !sticky.used) {
            problems.push((sticky.offset, RuleProblem::EmptyBuffer(sticky.keyword)));
        }
        for (index, offset) in &self.upper_case_hosts {
            if let Some(content) = self.contents.get(*index).filter(|content| !content.nocase) {
                let pattern = String::from_utf8_lossy(&content.pattern).into_owned();
                problems.push((*offset, RuleProblem::UpperCaseHost(pattern)));
            }
        }
        let flow = self.flow.unwrap_or_default();
        let either = flow.to_server == flow.to_client;
        if let Some(sticky) = self.of_request.filter(|_| flow.to_client) {
            problems.push((sticky.offset, RuleProblem::BufferToClient(sticky.keyword)));
        }
        // What could not be read is not missing.
        let unread = problems.iter().any(|(_, problem)| {
            matches!(
                problem,
                RuleProblem::Value { .. } | RuleProblem::Quote(_) | RuleProblem::Unended(_)
            )
        });
        if self.contents.is_empty() && self.sticky.is_none() && !unread {
            problems.push((0, RuleProblem::NoContent));
        }
        let Some((sid, sid_offset)) = self.sid else {
            if !unread {
                problems.push((0, RuleProblem::NoSid));
            }
            return Err(problems);
        };
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(ParsedRule {
            action,
            sid,
            sid_offset,
            rev: self.rev.unwrap_or(0),
            message: self.message.unwrap_or_default(),
            to_server: either || flow.to_server,
            to_client: (either || flow.to_client) && self.of_request.is_none(),
            contents: self.contents,
        })
    }
}

fn once<T>(keyword: &'static str, slot: &mut Option<T>, value: T) -> Result<(), RuleProblem> {
    match slot {
        Some(_) => Err(RuleProblem::Repeated(keyword)),
        None => {
            *slot = Some(value);
            Ok(())
        }
    }
}

fn value(keyword: &'static str, found: &str, wanted: &'static str) -> RuleProblem {
    RuleProblem::Value { keyword, found: found.to_owned(), wanted }
}

const FLOW: &str = "of: established, to_server, to_client, from_client, from_server, with commas between, one \
     direction at most";

fn parse_flow(text: &str) -> Result<Flow, RuleProblem> {
    let mut flow = Flow::default();
    let mut established = false;
    for word in text.split(',') {
        let slot = match word.trim() {
            "established" => &mut established,
            "to_server" | "from_client" => &mut flow.to_server,
            "to_client" | "from_server" => &mut flow.to_client,
            _ => return Err(value("flow", text, FLOW)),
        };
        if std::mem::replace(slot, true) {
            return Err(value("flow", text, FLOW));
        }
    }
    if flow.to_server && flow.to_client { Err(value("flow", text, FLOW)) } else { Ok(flow) }
}

fn parse_message(text: &str) -> Result<String, RuleProblem> {
    let wrong = || value("msg", text, "a string in quotes, with \\\" \\; \\: and \\\\ as escapes");
    let inner = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).ok_or_else(wrong)?;
    let mut message = String::with_capacity(inner.len());
    let mut characters = inner.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next() {
                Some(escaped @ ('"' | ';' | ':' | '\\')) => message.push(escaped),
                _ => return Err(wrong()),
            },
            '"' => return Err(wrong()),
            other => message.push(other),
        }
    }
    Ok(message)
}

fn parse_number(keyword: &'static str, text: &str, least: u32) -> Result<u32, RuleProblem> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse::<u32>()
        .ok()
        .filter(|number| digits && *number >= least)
        .ok_or_else(|| value(keyword, text, "a number of at most 4294967295, a sid from 1"))
}
