//! What rustls tells only through its call-backs, kept for one leg each.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering::Relaxed};

use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, DigitallySignedStruct, Error, PeerMisbehaved, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use webpki::RawPublicKeyEntity;

use crate::certificate::Certificate;
use crate::key::LegKey;
use crate::names;

/// Facts of one leg's handshake.
#[derive(Debug, Default)]
pub(super) struct Observed {
    /// Zero: none yet. There is no signature scheme of that number.
    signature: AtomicU16,
    client_certificate_requested: AtomicBool,
}

impl Observed {
    pub(super) fn signature(&self) -> Option<names::SignatureScheme> {
        let code = self.signature.load(Relaxed);
        (code != 0).then_some(names::SignatureScheme(code))
    }

    pub(super) fn client_certificate_requested(&self) -> bool {
        self.client_certificate_requested.load(Relaxed)
    }
}

/// A server leg's verifier: accepts every certificate, verifies every handshake signature.
#[derive(Debug)]
pub(super) struct Witness {
    provider: Arc<CryptoProvider>,
    observed: Arc<Observed>,
}

impl Witness {
    pub(super) fn new(provider: Arc<CryptoProvider>) -> Self {
        Self { provider, observed: Arc::default() }
    }

    pub(super) fn observed(&self) -> Arc<Observed> {
        self.observed.clone()
    }

    /// Verifies by the raw public key: webpki's certificate parser refuses those of version 1 and
    /// other odd ones, whose keys are as good as any.
    fn verify_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let certificate =
            Certificate::parse(certificate).map_err(|_| CertificateError::BadEncoding)?;
        let info = SubjectPublicKeyInfoDer::from(certificate.subject_public_key_info);
        let key = RawPublicKeyEntity::try_from(&info).map_err(|_| CertificateError::BadEncoding)?;
        let (_, algorithms) = self
            .provider
            .signature_verification_algorithms
            .mapping
            .iter()
            .find(|(scheme, _)| *scheme == signed.scheme)
            .ok_or(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme)?;
        // Of several (TLS 1.2 leaves the curve open) those of another key type fail at once.
        if algorithms
            .iter()
            .any(|algorithm| key.verify_signature(*algorithm, message, signed.signature()).is_ok())
        {
            self.observed.signature.store(signed.scheme.into(), Relaxed);
            Ok(HandshakeSignatureValid::assertion())
        } else {
            Err(CertificateError::BadSignature.into())
        }
    }
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // RFC 8446 section 4.2.3: PKCS #1 v1.5 signs certificates only.
        if matches!(
            signed.scheme,
            SignatureScheme::RSA_PKCS1_SHA256
                | SignatureScheme::RSA_PKCS1_SHA384
                | SignatureScheme::RSA_PKCS1_SHA512
        ) {
            return Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
        }
        self.verify_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ResolvesClientCert for Witness {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.observed.client_certificate_requested.store(true, Relaxed);
        None
    }

    /// True, or rustls would not ask [`Self::resolve`] in every case.
    fn has_certs(&self) -> bool {
        true
    }
}

/// A client leg's certificate: the same for every hello, since the name was judged before.
#[derive(Debug)]
pub(super) struct Presented {
    key: Option<Arc<CertifiedKey>>,
    observed: Arc<Observed>,
}

impl Presented {
    pub(super) fn new(key: &LegKey) -> Self {
        Self { key: Some(key.certified().clone()), observed: Arc::default() }
    }

    /// For the configuration that legs' own are copied from.
    pub(super) fn nothing() -> Self {
        Self { key: None, observed: Arc::default() }
    }

    pub(super) fn observed(&self) -> Arc<Observed> {
        self.observed.clone()
    }
}

impl ResolvesServerCert for Presented {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let key = self.key.clone()?;
        // The handshake will ask the same question and get the same answer.
        if let Some(signer) = key.key.choose_scheme(hello.signature_schemes()) {
            self.observed.signature.store(signer.scheme().into(), Relaxed);
        }
        Some(key)
    }
}
