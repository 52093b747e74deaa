//! The lines of a head or of trailers, followed byte by byte until the empty one.

use super::violation::HttpViolation;

/// Where in its lines a head stands. Every line ends in CR LF; neither stands elsewhere.
#[derive(Debug, Default)]
pub(super) struct LineScan {
    after_cr: bool,
    /// Bytes of the current line, its end not counted.
    length: usize,
    /// Whole lines so far.
    lines: usize,
}

impl LineScan {
    /// Whether no byte was followed yet.
    pub(super) fn is_fresh(&self) -> bool {
        !self.after_cr && self.length == 0 && self.lines == 0
    }

    /// Follows the next bytes; the index right after the empty line, if it is among them.
    ///
    /// # Errors
    /// Lone CR or LF, and a line that begins with white space after the first (obs-fold).
    pub(super) fn end(&mut self, bytes: &[u8]) -> Result<Option<usize>, HttpViolation> {
        for (index, byte) in bytes.iter().enumerate() {
            match (byte, self.after_cr) {
                (b'\n', true) => {
                    if self.length == 0 {
                        return Ok(Some(index + 1));
                    }
                    *self =
                        Self { after_cr: false, length: 0, lines: self.lines.saturating_add(1) };
                }
                (_, true) => return Err(HttpViolation::BareCarriageReturn),
                (b'\n', false) => return Err(HttpViolation::BareLineFeed),
                (b'\r', false) => self.after_cr = true,
                (b' ' | b'\t', false) if self.length == 0 && self.lines > 0 => {
                    return Err(HttpViolation::FoldedField);
                }
                _ => self.length = self.length.saturating_add(1),
            }
        }
        Ok(None)
    }
}
