//! Certificates as authorities serve them: one in DER, or several in a CMS message that has nothing else
//! (RFC 5280 section 4.2.2.1); and either of them in PEM (RFC 7468), as some do.
//!
//! For: [`certificates`]. Not for: believing them, and BER of indefinite length. Cannot fail: what is none
//! of these has no certificates.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::certificate::Certificate;
use crate::der::{self, DerError, Reader};

/// Certificates that are read; what comes after is ignored.
pub const BUNDLE_BOUND: usize = 8;

/// id-signedData (RFC 5652 section 5.1).
const SIGNED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02];

/// Those in it, in its order, [`BUNDLE_BOUND`] at most.
pub(super) fn certificates(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    if bytes.first() == Some(&der::SEQUENCE) {
        add(bytes, &mut found);
    } else if let Ok(text) = std::str::from_utf8(bytes) {
        for block in blocks(text) {
            add(&block, &mut found);
        }
    }
    found
}

/// Of one file in DER.
fn add(file: &[u8], found: &mut Vec<Vec<u8>>) {
    if Certificate::parse(file).is_ok() {
        push(file, found);
    } else {
        // What stands before what is malformed counts.
        let _ = read_message(file, found);
    }
}

fn push(certificate: &[u8], found: &mut Vec<Vec<u8>>) {
    if found.len() < BUNDLE_BOUND {
        found.push(certificate.to_vec());
    }
}

/// A ContentInfo of SignedData.
fn read_message(file: &[u8], found: &mut Vec<Vec<u8>>) -> Result<(), DerError> {
    let mut outer = Reader(file);
    let mut content = Reader(outer.expect(der::SEQUENCE)?.contents);
    if content.expect(der::OBJECT_IDENTIFIER)?.contents != SIGNED_DATA {
        return Err(DerError::Value);
    }
    let mut content = Reader(content.expect(der::context_constructed(0))?.contents);
    let mut fields = Reader(content.expect(der::SEQUENCE)?.contents);
    fields.expect(der::INTEGER)?;
    fields.expect(der::SET)?;
    fields.expect(der::SEQUENCE)?;
    let Some(set) = fields.optional(der::context_constructed(0))? else { return Ok(()) };
    let mut choices = Reader(set.contents);
    while !choices.is_empty() {
        let choice = choices.any()?;
        // All others are of kinds that nobody has any more.
        if choice.tag == der::SEQUENCE && Certificate::parse(choice.raw).is_ok() {
            push(choice.raw, found);
        }
    }
    Ok(())
}

/// What is in the blocks of a PEM file, whatever they call it; those that are not base64 are left out.
fn blocks(text: &str) -> impl Iterator<Item = Vec<u8>> {
    text.split("-----BEGIN ").skip(1).filter_map(|rest| {
        let (_label, rest) = rest.split_once("-----")?;
        let (encoded, _) = rest.split_once("-----END ")?;
        let encoded: String = encoded.split_ascii_whitespace().collect();
        STANDARD.decode(encoded).ok()
    })
}
