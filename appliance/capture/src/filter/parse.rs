//! From text to [`Filter`]: words, then one function a rule of the grammar.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{End, Filter, FilterError, LONGEST, Test};
use crate::packet::{ICMP, ICMP6, TCP, UDP, Way};

/// Deepest nesting of parentheses and `not`.
const DEEPEST: usize = 32;

const TESTS: &str = "tcp, udp, icmp, icmp6, ip, ip6, arp, vlan, host, net, port, portrange, src, \
                     dst, inbound, outbound, less, greater, not or (";

pub fn parse(text: &str) -> Result<Filter, FilterError> {
    if text.chars().count() > LONGEST {
        let message = format!("the expression is longer than {LONGEST} characters");
        return Err(FilterError { column: LONGEST + 1, message });
    }
    let mut parser = Parser { words: words(text), next: 0, end: text.chars().count() + 1 };
    if parser.words.is_empty() {
        return Err(parser.wrong("the expression is empty", TESTS));
    }
    let filter = parser.expression(0)?;
    match parser.peek() {
        None => Ok(filter),
        Some(")") => Err(parser.wrong("\")\" closes no parenthesis", "and, or, or the end")),
        Some(word) => {
            let hint = match word.parse::<u16>() {
                Ok(port) => format!("and, or, or the end; another port is \"or port {port}\""),
                Err(_) => "and, or, or the end".into(),
            };
            Err(parser.wrong(&format!("\"{word}\" cannot follow here"), &hint))
        }
    }
}

struct Word<'a> {
    text: &'a str,
    /// From 1.
    column: usize,
}

/// Split at blanks, parentheses and `!`; `&&` and `||` are words of their own.
fn words(text: &str) -> Vec<Word<'_>> {
    let mut words: Vec<Word<'_>> = Vec::new();
    let mut rest = text;
    let mut column = 1;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '(' | ')' | '!' => 1,
            _ if rest.starts_with("&&") || rest.starts_with("||") => 2,
            _ if first.is_whitespace() => first.len_utf8(),
            _ => {
                let ends = |c: char| c.is_whitespace() || matches!(c, '(' | ')' | '!' | '&' | '|');
                // A lone & or | is a word, which nothing knows.
                rest.char_indices().skip(1).find(|(_, c)| ends(*c)).map_or(rest.len(), |(at, _)| at)
            }
        };
        let (word, after) = rest.split_at_checked(length).unwrap_or((rest, ""));
        if !first.is_whitespace() {
            words.push(Word { text: word, column });
        }
        column += word.chars().count();
        rest = after;
    }
    words
}

struct Parser<'a> {
    words: Vec<Word<'a>>,
    next: usize,
    /// Column behind the text.
    end: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<&'a str> {
        self.words.get(self.next).map(|word| word.text)
    }

    /// Whether the next word is one of these; it is then taken.
    fn take(&mut self, any: &[&str]) -> Option<&'a str> {
        let word = self.peek().filter(|word| any.contains(word))?;
        self.next += 1;
        Some(word)
    }

    /// An error at the next word.
    fn wrong(&self, what: &str, right: &str) -> FilterError {
        let column = self.words.get(self.next).map_or(self.end, |word| word.column);
        FilterError { column, message: format!("{what}; right would be: {right}") }
    }

    fn wrong_word(&self, right: &str) -> FilterError {
        match self.peek() {
            Some(word) => self.wrong(&format!("\"{word}\" is not valid here"), right),
            None => self.wrong("the expression ends too early", right),
        }
    }

    fn expression(&mut self, depth: usize) -> Result<Filter, FilterError> {
        let mut left = self.factor(depth)?;
        loop {
            let operator: fn(Box<Filter>, Box<Filter>) -> Filter =
                if self.take(&["and", "&&"]).is_some() {
                    Filter::And
                } else if self.take(&["or", "||"]).is_some() {
                    Filter::Or
                } else {
                    return Ok(left);
                };
            left = operator(Box::new(left), Box::new(self.factor(depth)?));
        }
    }

    fn factor(&mut self, depth: usize) -> Result<Filter, FilterError> {
        if depth > DEEPEST {
            return Err(self.wrong("nested too deeply", "at most 32 levels of ( and not"));
        }
        if self.take(&["not", "!"]).is_some() {
            return Ok(Filter::Not(Box::new(self.factor(depth + 1)?)));
        }
        if self.take(&["("]).is_some() {
            let inner = self.expression(depth + 1)?;
            if self.take(&[")"]).is_none() {
                return Err(self.wrong_word("and, or, or the closing )"));
            }
            return Ok(inner);
        }
        self.test().map(Filter::Test)
    }

    fn test(&mut self) -> Result<Test, FilterError> {
        if let Some(word) = self.take(&["tcp", "udp"]) {
            let protocol = if word == "tcp" { TCP } else { UDP };
            if matches!(self.peek(), Some("src" | "dst" | "port" | "portrange")) {
                let end = self.end_of_packet();
                return self.ports(Some(protocol), end);
            }
            return Ok(Test::Protocol(protocol));
        }
        for (name, test) in [
            ("icmp", Test::Protocol(ICMP)),
            ("icmp6", Test::Protocol(ICMP6)),
            ("ip", Test::EtherType(0x0800)),
            ("ip6", Test::EtherType(0x86dd)),
            ("arp", Test::EtherType(0x0806)),
            ("inbound", Test::Way(Way::In)),
            ("outbound", Test::Way(Way::Out)),
        ] {
            if self.take(&[name]).is_some() {
                return Ok(test);
            }
        }
        if self.take(&["vlan"]).is_some() {
            let is_number = |word: &str| word.starts_with(|c: char| c.is_ascii_digit());
            return if self.peek().is_some_and(is_number) {
                Ok(Test::Vlan(Some(self.number(4095, "a VLAN id from 0 to 4095")?)))
            } else {
                Ok(Test::Vlan(None))
            };
        }
        if let Some(word) = self.take(&["less", "greater"]) {
            let bytes = usize::from(self.number(u16::MAX, "a length in bytes, 0 to 65535")?);
            return Ok(if word == "less" { Test::Less(bytes) } else { Test::Greater(bytes) });
        }
        let end = self.end_of_packet();
        match self.peek() {
            Some("host") => self.host(end),
            Some("net") => self.net(end),
            Some("port" | "portrange") => self.ports(None, end),
            _ if end == End::Either => Err(self.wrong_word(TESTS)),
            _ => Err(self.wrong_word("host, net, port or portrange")),
        }
    }

    fn end_of_packet(&mut self) -> End {
        match self.take(&["src", "dst"]) {
            Some("src") => End::Source,
            Some(_) => End::Destination,
            None => End::Either,
        }
    }

    fn host(&mut self, end: End) -> Result<Test, FilterError> {
        self.next += 1;
        let right = "an address, as 10.0.0.1 or 2001:db8::1 (names are not looked up)";
        let address: IpAddr = self.value(right)?;
        Ok(Test::Network(end, IpNet::from(address)))
    }

    fn net(&mut self, end: End) -> Result<Test, FilterError> {
        self.next += 1;
        let network: IpNet = self.value("a network, as 10.0.0.0/8 or 2001:db8::/32")?;
        Ok(Test::Network(end, network.trunc()))
    }

    fn ports(&mut self, protocol: Option<u8>, end: End) -> Result<Test, FilterError> {
        match self.take(&["port", "portrange"]) {
            Some("port") => {
                let port = self.number(u16::MAX, "a port number from 0 to 65535")?;
                Ok(Test::Ports(protocol, end, port, port))
            }
            Some(_) => {
                let right = "two port numbers, the lower first, as 8000-8080";
                let range = self.peek().and_then(|word| {
                    let (first, last) = word.split_once('-')?;
                    Some((number(first)?, number(last)?)).filter(|(first, last)| first <= last)
                });
                let (first, last) = range.ok_or_else(|| self.wrong_word(right))?;
                self.next += 1;
                Ok(Test::Ports(protocol, end, first, last))
            }
            None => Err(self.wrong_word("port or portrange")),
        }
    }

    fn number(&mut self, most: u16, right: &str) -> Result<u16, FilterError> {
        let found = self.peek().and_then(number).filter(|found| *found <= most);
        let found = found.ok_or_else(|| self.wrong_word(right))?;
        self.next += 1;
        Ok(found)
    }

    fn value<T: std::str::FromStr>(&mut self, right: &str) -> Result<T, FilterError> {
        let found = self.peek().and_then(|word| word.parse().ok());
        let found = found.ok_or_else(|| self.wrong_word(right))?;
        self.next += 1;
        Ok(found)
    }
}

/// Digits only: `+5` parses elsewhere.
fn number(word: &str) -> Option<u16> {
    word.parse().ok().filter(|_| word.bytes().all(|byte| byte.is_ascii_digit()))
}
