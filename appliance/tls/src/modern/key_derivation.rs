//! HKDF (RFC 5869) for the key schedule of TLS 1.3 (RFC 8446 section 7.1), on aws-lc's HMAC.
//!
//! For: secrets of which several others are derived. Each is extracted once, and made an HMAC key once;
//! rustls' own for aws-lc does both again for everything that is derived of it, which is some 5 % of a
//! session's two handshakes. Not for: what is derived of what, which rustls says. Secrets are wiped where
//! they are kept; copies that moves of aws-lc's types leave on the stack are not, as with rustls' own. Fails
//! where more is asked for than one secret may give.

use std::sync::OnceLock;

use aws_lc_rs::hmac::{self, Context};
use rustls::crypto::hmac::Tag;
use rustls::crypto::tls13::{Hkdf, HkdfExpander, OkmBlock, OutputLengthError};

pub(super) static HKDF_SHA256: HkdfByHmac = HkdfByHmac::with(&hmac::HMAC_SHA256);
pub(super) static HKDF_SHA384: HkdfByHmac = HkdfByHmac::with(&hmac::HMAC_SHA384);

/// RFC 5869 section 2.3.
const MOST_BLOCKS: usize = 255;

pub(super) struct HkdfByHmac {
    algorithm: &'static hmac::Algorithm,
    /// What every session without a secret from before begins with: no secret at all, but a constant.
    of_nothing: OnceLock<hmac::Key>,
}

impl HkdfByHmac {
    const fn with(algorithm: &'static hmac::Algorithm) -> Self {
        Self { algorithm, of_nothing: OnceLock::new() }
    }

    fn key(&self, secret: &[u8]) -> hmac::Key {
        hmac::Key::new(*self.algorithm, secret)
    }

    /// RFC 5869 section 2.2. A salt, or a secret, that is not there is as many zeros as the hash is long,
    /// which as an HMAC key is the empty one (RFC 2104).
    fn extract(&self, salt: Option<&[u8]>, secret: &[u8]) -> hmac::Key {
        self.key(sign(&self.key(salt.unwrap_or_default()), [secret]).as_ref())
    }

    fn extract_from_zeros(&self, salt: Option<&[u8]>) -> hmac::Key {
        let zeros = [0; OkmBlock::MAX_LEN];
        let length = self.algorithm.digest_algorithm().output_len();
        self.extract(salt, zeros.get(..length).unwrap_or(&zeros))
    }
}

impl Hkdf for HkdfByHmac {
    fn extract_from_zero_ikm(&self, salt: Option<&[u8]>) -> Box<dyn HkdfExpander> {
        Box::new(Secret(match salt {
            Some(_) => self.extract_from_zeros(salt),
            None => self.of_nothing.get_or_init(|| self.extract_from_zeros(None)).clone(),
        }))
    }

    fn extract_from_secret(&self, salt: Option<&[u8]>, secret: &[u8]) -> Box<dyn HkdfExpander> {
        Box::new(Secret(self.extract(salt, secret)))
    }

    fn expander_for_okm(&self, secret: &OkmBlock) -> Box<dyn HkdfExpander> {
        Box::new(Secret(self.key(secret.as_ref())))
    }

    fn hmac_sign(&self, key: &OkmBlock, message: &[u8]) -> Tag {
        sign(&self.key(key.as_ref()), [message])
    }
}

/// One of which others are derived.
struct Secret(hmac::Key);

impl Secret {
    /// The block of this number, after the one before, if any.
    fn block(&self, before: Option<&Tag>, info: &[&[u8]], number: u8) -> Tag {
        let (before, info) = (before.map(Tag::as_ref), info.iter().copied());
        sign(&self.0, before.into_iter().chain(info).chain([[number].as_slice()]))
    }
}

impl HkdfExpander for Secret {
    fn expand_slice(&self, info: &[&[u8]], output: &mut [u8]) -> Result<(), OutputLengthError> {
        let blocks = output.chunks_mut(self.hash_len());
        if blocks.len() > MOST_BLOCKS {
            return Err(OutputLengthError);
        }
        let mut last = None;
        for (number, block) in (1..=u8::MAX).zip(blocks) {
            let next = self.block(last.as_ref(), info, number);
            block.iter_mut().zip(next.as_ref()).for_each(|(byte, of)| *byte = *of);
            last = Some(next);
        }
        Ok(())
    }

    fn expand_block(&self, info: &[&[u8]]) -> OkmBlock {
        OkmBlock::new(self.block(None, info, 1).as_ref())
    }

    fn hash_len(&self) -> usize {
        self.0.algorithm().digest_algorithm().output_len()
    }
}

fn sign<'a>(key: &hmac::Key, parts: impl IntoIterator<Item = &'a [u8]>) -> Tag {
    let mut context = Context::with_key(key);
    parts.into_iter().for_each(|part| context.update(part));
    Tag::new(context.sign().as_ref())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rustls::SupportedCipherSuite;
    use rustls::crypto::aws_lc_rs::cipher_suite::{
        TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384,
    };

    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.chars().map(|one| one.to_digit(16).unwrap() as u8).collect();
        digits.chunks(2).map(|two| two[0] << 4 | two[1]).collect()
    }

    /// RFC 5869 appendices A.1 and A.3.
    #[test]
    fn rfc_5869_s_own_examples_come_out() {
        let secret = [0x0b; 22];
        let salt: Vec<u8> = (0..=0x0c).collect();
        let info: Vec<u8> = (0xf0..=0xf9).collect();
        let mut output = [0; 42];
        let extracted = HKDF_SHA256.extract_from_secret(Some(&salt), &secret);
        extracted.expand_slice(&[&info[..4], &info[4..]], &mut output).unwrap();
        let expected =
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865";
        assert_eq!(output.as_slice(), hex(expected));
        let extracted = HKDF_SHA256.extract_from_secret(None, &secret);
        extracted.expand_slice(&[], &mut output).unwrap();
        let expected =
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8";
        assert_eq!(output.as_slice(), hex(expected));
    }

    /// Whatever rustls asks for, and each way twice: what is kept between two is not changed by use.
    #[test]
    fn all_is_as_with_rustls_own() {
        let suites =
            [(TLS13_AES_128_GCM_SHA256, &HKDF_SHA256), (TLS13_AES_256_GCM_SHA384, &HKDF_SHA384)];
        for (suite, ours) in suites {
            let SupportedCipherSuite::Tls13(suite) = suite else { panic!("not of TLS 1.3") };
            let theirs = suite.hkdf_provider;
            let same = |ours: Box<dyn HkdfExpander>, theirs: Box<dyn HkdfExpander>| {
                assert_eq!(ours.hash_len(), theirs.hash_len());
                let infos: [&[&[u8]]; 3] = [&[], &[b"tls13 key"], &[b"a", b"", &[7; 300]]];
                for info in infos {
                    let (mine, their) = (ours.expand_block(info), theirs.expand_block(info));
                    assert_eq!(mine.as_ref(), their.as_ref());
                    for length in [0, 1, 12, 32, 48, 49, 200] {
                        let mut outputs = [vec![0; length], vec![1; length]];
                        ours.expand_slice(info, &mut outputs[0]).unwrap();
                        theirs.expand_slice(info, &mut outputs[1]).unwrap();
                        assert_eq!(outputs[0], outputs[1]);
                    }
                }
                let most = ours.hash_len() * MOST_BLOCKS;
                assert!(ours.expand_slice(&[], &mut vec![0; most]).is_ok());
                assert!(ours.expand_slice(&[], &mut vec![0; most + 1]).is_err());
            };
            let block = OkmBlock::new(&[9; 32]);
            for _ in 0..2 {
                for salt in [None, Some(&[5; 32][..])] {
                    same(ours.extract_from_zero_ikm(salt), theirs.extract_from_zero_ikm(salt));
                    let extracted = theirs.extract_from_secret(salt, b"secret");
                    same(ours.extract_from_secret(salt, b"secret"), extracted);
                }
                same(ours.expander_for_okm(&block), theirs.expander_for_okm(&block));
                let signed = [ours.hmac_sign(&block, b"said"), theirs.hmac_sign(&block, b"said")];
                assert_eq!(signed[0].as_ref(), signed[1].as_ref());
            }
        }
    }
}
