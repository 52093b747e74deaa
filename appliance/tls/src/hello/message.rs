//! The ClientHello itself (RFC 8446 section 4.1.2) and what Weir reads in it.

use thiserror::Error;

use super::server_name::SentName;
use crate::names::{Group, SignatureScheme, Suite, Version};

/// A well-formed ClientHello. GREASE values (RFC 8701) are left out of every list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHello {
    pub legacy_version: Version,
    /// From `supported_versions`, in the client's order; without it the one in `legacy_version`,
    /// which is the highest the client speaks.
    pub versions: Vec<Version>,
    pub cipher_suites: Vec<Suite>,
    /// The null method is among the compression methods, as everyone must offer.
    pub null_compression: bool,
    /// As sent: any case, perhaps with a trailing dot or an address literal. Names a host, or could by all but
    /// the letter ([`super::server_name`]).
    pub server_name: Option<String>,
    /// One was sent that names no host and no address, as a log has it.
    pub invalid_server_name: Option<String>,
    /// Empty: the extension is missing.
    pub alpn: Vec<Vec<u8>>,
    pub groups: Vec<Group>,
    pub signature_schemes: Vec<SignatureScheme>,
    /// An `encrypted_client_hello` extension, GREASE or not: they cannot be told apart.
    pub encrypted_client_hello: bool,
    /// A session ticket of TLS 1.2 (RFC 5077) is presented.
    pub session_ticket: bool,
    /// A non-empty legacy session ID; in TLS 1.3 it means nothing.
    pub session_id: bool,
    /// A `pre_shared_key` extension: resumption, or an external key.
    pub pre_shared_key: bool,
    pub early_data: bool,
    pub encrypt_then_mac: bool,
    /// Extension types in the client's order.
    pub extensions: Vec<u16>,
    /// Bytes on the wire, record headers included.
    pub wire_length: usize,
}

/// What is wrong with bytes that began as a TLS handshake record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum HelloError {
    /// RFC 8446 section 4.2: at most one extension of a type.
    #[error("extension {0} twice")]
    DuplicateExtension(u16),
    #[error("record of type {0} inside the hello")]
    InterruptedByRecord(u8),
    /// A list's length is wrong for its items, or it is empty where it may not be.
    #[error("bad length of {0}")]
    Length(Field),
    #[error("legacy version {0}")]
    LegacyVersion(Version),
    #[error("handshake message other than ClientHello")]
    NotClientHello,
    #[error("record of {0} bytes, at most 16384 are allowed")]
    OversizedRecord(usize),
    /// RFC 8446 section 4.2.11.
    #[error("pre_shared_key is not the last extension")]
    PreSharedKeyNotLast,
    #[error("record of a version from 0x1000 on")]
    RecordVersion,
    /// RFC 6066 section 3: at most one name of a type.
    #[error("more than one host name")]
    SeveralServerNames,
    #[error("bytes after the hello in its last record")]
    TrailingHandshake,
    #[error("hello ends within {0}")]
    Truncated(Field),
}

/// Where in the hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Field {
    Alpn,
    CipherSuites,
    CompressionMethods,
    Extensions,
    Groups,
    Random,
    ServerName,
    SessionId,
    SignatureSchemes,
    Version,
    Versions,
}

impl ClientHello {
    /// Parses a hello's body. Bytes after the extensions are an error, as everywhere.
    pub(crate) fn parse(body: &[u8], wire_length: usize) -> Result<Self, HelloError> {
        let mut body = Reader(body);
        let legacy_version = Version(body.u16(Field::Version)?);
        if legacy_version.0 >> 8 != 3 {
            return Err(HelloError::LegacyVersion(legacy_version));
        }
        body.take(32, Field::Random)?;
        let session_id = body.vector8(Field::SessionId)?;
        if session_id.0.len() > 32 {
            return Err(HelloError::Length(Field::SessionId));
        }
        let suites = body.vector16(Field::CipherSuites)?.codes(Field::CipherSuites)?;
        let compression = body.vector8(Field::CompressionMethods)?;
        if compression.0.is_empty() {
            return Err(HelloError::Length(Field::CompressionMethods));
        }
        let mut hello = Self {
            legacy_version,
            versions: Vec::new(),
            cipher_suites: suites.map(Suite).collect(),
            null_compression: compression.0.contains(&0),
            server_name: None,
            invalid_server_name: None,
            alpn: Vec::new(),
            groups: Vec::new(),
            signature_schemes: Vec::new(),
            encrypted_client_hello: false,
            session_ticket: false,
            session_id: !session_id.0.is_empty(),
            pre_shared_key: false,
            early_data: false,
            encrypt_then_mac: false,
            extensions: Vec::new(),
            wire_length,
        };
        // Before TLS 1.2 a hello may end here (RFC 5246 section 7.4.1.2).
        if !body.0.is_empty() {
            let extensions = body.vector16(Field::Extensions)?;
            if !body.0.is_empty() {
                return Err(HelloError::Length(Field::Extensions));
            }
            hello.read_extensions(extensions)?;
        }
        if !hello.extensions.contains(&extension::SUPPORTED_VERSIONS) {
            hello.versions.push(Version(legacy_version.0.min(Version::TLS12.0)));
        }
        Ok(hello)
    }

    fn read_extensions(&mut self, mut list: Reader<'_>) -> Result<(), HelloError> {
        // GREASE too must not repeat, so duplicates are looked for before it is left out. At most
        // a quarter of MAX_HELLO items.
        let mut seen = Vec::new();
        while !list.0.is_empty() {
            if self.pre_shared_key {
                return Err(HelloError::PreSharedKeyNotLast);
            }
            let kind = list.u16(Field::Extensions)?;
            let data = list.vector16(Field::Extensions)?;
            seen.push(kind);
            self.read_extension(kind, data)?;
        }
        self.extensions = seen.iter().copied().filter(|kind| !is_grease(*kind)).collect();
        seen.sort_unstable();
        match seen.windows(2).find(|pair| pair.first() == pair.last()) {
            Some([kind, ..]) => Err(HelloError::DuplicateExtension(*kind)),
            _ => Ok(()),
        }
    }

    fn read_extension(&mut self, kind: u16, mut data: Reader<'_>) -> Result<(), HelloError> {
        match kind {
            extension::SERVER_NAME => match server_name(data)? {
                Some(SentName::Host(name)) => self.server_name = Some(name),
                Some(SentName::Invalid(text)) => self.invalid_server_name = Some(text),
                None => {}
            },
            extension::SUPPORTED_GROUPS => {
                let groups = data.only_vector16(Field::Groups)?.codes(Field::Groups)?;
                self.groups = groups.map(Group).collect();
            }
            extension::SIGNATURE_ALGORITHMS => {
                let list = data.only_vector16(Field::SignatureSchemes)?;
                self.signature_schemes =
                    list.codes(Field::SignatureSchemes)?.map(SignatureScheme).collect();
            }
            extension::ALPN => self.alpn = alpn(data)?,
            extension::SUPPORTED_VERSIONS => {
                let list = data.vector8(Field::Versions)?;
                data.end(Field::Versions)?;
                self.versions = list.codes(Field::Versions)?.map(Version).collect();
            }
            extension::SESSION_TICKET => self.session_ticket = !data.0.is_empty(),
            extension::ENCRYPT_THEN_MAC => self.encrypt_then_mac = true,
            extension::PRE_SHARED_KEY => self.pre_shared_key = true,
            extension::EARLY_DATA => self.early_data = true,
            extension::ENCRYPTED_CLIENT_HELLO => self.encrypted_client_hello = true,
            _ => {}
        }
        Ok(())
    }
}

/// IANA's "TLS ExtensionType Values".
pub(super) mod extension {
    pub(in crate::hello) const SERVER_NAME: u16 = 0;
    pub(in crate::hello) const SUPPORTED_GROUPS: u16 = 10;
    pub(in crate::hello) const SIGNATURE_ALGORITHMS: u16 = 13;
    pub(in crate::hello) const ALPN: u16 = 16;
    pub(in crate::hello) const ENCRYPT_THEN_MAC: u16 = 22;
    pub(in crate::hello) const SESSION_TICKET: u16 = 35;
    pub(in crate::hello) const PRE_SHARED_KEY: u16 = 41;
    pub(in crate::hello) const EARLY_DATA: u16 = 42;
    pub(in crate::hello) const SUPPORTED_VERSIONS: u16 = 43;
    pub(in crate::hello) const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;
}

/// RFC 6066 section 3. Names of other types than host_name are passed over.
fn server_name(mut data: Reader<'_>) -> Result<Option<SentName>, HelloError> {
    const HOST_NAME: u8 = 0;
    let mut list = data.only_vector16(Field::ServerName)?;
    let mut found = None;
    while !list.0.is_empty() {
        let kind = list.u8(Field::ServerName)?;
        let name = list.vector16(Field::ServerName)?.0;
        if kind != HOST_NAME {
            continue;
        }
        if found.is_some() {
            return Err(HelloError::SeveralServerNames);
        }
        found = Some(SentName::of(name));
    }
    Ok(found)
}

/// RFC 7301 section 3.1.
fn alpn(mut data: Reader<'_>) -> Result<Vec<Vec<u8>>, HelloError> {
    let mut list = data.only_vector16(Field::Alpn)?;
    let mut protocols = Vec::new();
    while !list.0.is_empty() {
        let name = list.vector8(Field::Alpn)?.0;
        match *name {
            [] => return Err(HelloError::Length(Field::Alpn)),
            [high, low] if is_grease(u16::from_be_bytes([high, low])) => {}
            _ => protocols.push(name.to_vec()),
        }
    }
    Ok(protocols)
}

/// RFC 8701 section 2: 0x0a0a, 0x1a1a, ... 0xfafa.
fn is_grease(code: u16) -> bool {
    let [high, low] = code.to_be_bytes();
    high == low && low & 0x0f == 0x0a
}

/// What is left to read.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, length: usize, field: Field) -> Result<&'a [u8], HelloError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(HelloError::Truncated(field))?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn u8(&mut self, field: Field) -> Result<u8, HelloError> {
        let (byte, rest) = self.0.split_first().ok_or(HelloError::Truncated(field))?;
        self.0 = rest;
        Ok(*byte)
    }

    pub(super) fn u16(&mut self, field: Field) -> Result<u16, HelloError> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(HelloError::Truncated(field))?;
        self.0 = rest;
        Ok(u16::from_be_bytes(*bytes))
    }

    pub(super) fn vector8(&mut self, field: Field) -> Result<Self, HelloError> {
        let length = self.u8(field)?;
        self.take(length.into(), field).map(Self)
    }

    pub(super) fn vector16(&mut self, field: Field) -> Result<Self, HelloError> {
        let length = self.u16(field)?;
        self.take(length.into(), field).map(Self)
    }

    /// A vector that is all there is, and not empty.
    fn only_vector16(&mut self, field: Field) -> Result<Self, HelloError> {
        let vector = self.vector16(field)?;
        self.end(field)?;
        if vector.0.is_empty() { Err(HelloError::Length(field)) } else { Ok(vector) }
    }

    fn end(&self, field: Field) -> Result<(), HelloError> {
        if self.0.is_empty() { Ok(()) } else { Err(HelloError::Length(field)) }
    }

    /// At least one 16-bit code; GREASE is left out.
    fn codes(self, field: Field) -> Result<impl Iterator<Item = u16> + use<'a>, HelloError> {
        if self.0.is_empty() || !self.0.len().is_multiple_of(2) {
            return Err(HelloError::Length(field));
        }
        let codes = self.0.chunks_exact(2).filter_map(|pair| match pair {
            [high, low] => Some(u16::from_be_bytes([*high, *low])),
            _ => None,
        });
        Ok(codes.filter(|code| !is_grease(*code)))
    }
}

impl std::fmt::Display for Field {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Alpn => "application_layer_protocol_negotiation",
            Self::CipherSuites => "cipher_suites",
            Self::CompressionMethods => "legacy_compression_methods",
            Self::Extensions => "extensions",
            Self::Groups => "supported_groups",
            Self::Random => "random",
            Self::ServerName => "server_name",
            Self::SessionId => "legacy_session_id",
            Self::SignatureSchemes => "signature_algorithms",
            Self::Version => "legacy_version",
            Self::Versions => "supported_versions",
        })
    }
}
