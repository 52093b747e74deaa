//! The value of `content`: `!`, quotes, `|hex|`, escapes.

use super::error::RuleProblem;

/// Longest pattern, in bytes; Suricata's own limit.
const MAX_PATTERN: usize = 255;

/// Parses `"..."` or `!"..."` into whether it is negated and the bytes to search for.
pub(super) fn parse_content(value: &str) -> Result<(bool, Vec<u8>), RuleProblem> {
    let (negated, quoted) = match value.strip_prefix('!') {
        Some(rest) => (true, rest.trim_start()),
        None => (false, value),
    };
    let inner = quoted
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
        .ok_or_else(|| wrong(value, "it stands in double quotes"))?;
    let pattern = parse_pattern(inner)?;
    if pattern.is_empty() {
        return Err(wrong(value, "it is empty"));
    }
    if pattern.len() > MAX_PATTERN {
        return Err(wrong(value, "it is longer than 255 bytes"));
    }
    Ok((negated, pattern))
}

fn parse_pattern(inner: &str) -> Result<Vec<u8>, RuleProblem> {
    let mut pattern = Vec::with_capacity(inner.len());
    let mut bytes = inner.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'|' => parse_hex(inner, &mut bytes, &mut pattern)?,
            b'\\' => match bytes.next() {
                Some(escaped @ (b'"' | b';' | b':' | b'\\')) => pattern.push(escaped),
                _ => return Err(wrong(inner, "only \\\" \\; \\: and \\\\ are escapes")),
            },
            b'"' => return Err(wrong(inner, "a quote in quotes is written \\\"")),
            other => pattern.push(other),
        }
    }
    Ok(pattern)
}

/// Parses up to the closing bar: pairs of hexadecimal digits, spaces between pairs or not.
fn parse_hex(
    inner: &str,
    bytes: &mut impl Iterator<Item = u8>,
    pattern: &mut Vec<u8>,
) -> Result<(), RuleProblem> {
    let mut high: Option<u8> = None;
    for byte in bytes {
        match (byte, high) {
            (b'|', None) => return Ok(()),
            (b'|', Some(_)) => return Err(wrong(inner, "hexadecimal digits come in pairs")),
            (b' ', None) => {}
            _ => {
                let digit = char::from(byte)
                    .to_digit(16)
                    .and_then(|digit| u8::try_from(digit).ok())
                    .ok_or_else(|| {
                        wrong(inner, "between bars stand pairs of hexadecimal digits")
                    })?;
                match high.take() {
                    None => high = Some(digit),
                    Some(high) => pattern.push(high << 4 | digit),
                }
            }
        }
    }
    Err(wrong(inner, "the bar that opens hexadecimal bytes is not closed"))
}

fn wrong(found: &str, wrong: &'static str) -> RuleProblem {
    RuleProblem::Content { found: found.to_owned(), wrong }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_escapes_and_negation_are_read() {
        assert_eq!(parse_content(r#""a|0d 0A|b""#), Ok((false, b"a\r\nb".to_vec())));
        assert_eq!(parse_content(r#"! "\"\;\:\\|7c22|""#), Ok((true, b"\";:\\|\"".to_vec())));
    }

    #[test]
    fn what_suricata_refuses_is_refused() {
        for value in
            [r#""""#, "abc", r#""|0|""#, r#""|0g|""#, r#""|00""#, r#""\n""#, r#""a"b""#, r#""a\""#]
        {
            assert!(parse_content(value).is_err(), "{value}");
        }
        assert!(parse_content(&format!("\"{}\"", "a".repeat(256))).is_err());
    }
}
