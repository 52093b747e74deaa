//! What rustls tells only through its call-backs, kept for one leg each.
//!
//! Server legs of one stack share one verifier, since rustls resumes a session only under the very
//! verifier it was made under. Which leg a call-back is about is told by the thread: rustls makes
//! them inside [`observing`], which names the leg.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, DigitallySignedStruct, Error, PeerMisbehaved, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use webpki::RawPublicKeyEntity;

use super::protection::Protection;
use super::resumption::LONGEST_CHAIN;
use crate::certificate::Certificate;
use crate::key::LegKey;
use crate::names;
use crate::verify::{KEPT_STAPLE_BOUND, STAPLE_BOUND, resumed_for, says_revoked};

/// Facts of one leg's handshake.
#[derive(Debug, Default)]
pub(super) struct Observed {
    /// Zero: none yet. There is no signature scheme of that number.
    signature: AtomicU16,
    client_certificate_requested: AtomicBool,
    /// Bytes of the certificates that the server sent; 0 where it resumed.
    chain: AtomicUsize,
    /// What the server stapled says that its certificate is revoked.
    revoked: AtomicBool,
    /// Of the session that is offered to the server, then of the one that the handshake came to.
    beginning: Mutex<Option<Beginning>>,
    keys: Mutex<Keys>,
}

/// What the full handshake that a session began with has shown, and how long that is good for.
#[derive(Clone, Debug)]
pub(super) struct Beginning {
    /// The session is not resumed after it.
    pub(super) until: Instant,
    /// At most [`STAPLE_BOUND`]; of sessions that are kept [`KEPT_STAPLE_BOUND`].
    staple: Option<Arc<[u8]>>,
}

/// The newest keys of each direction.
#[derive(Clone, Debug, Default)]
pub(super) struct Keys {
    pub(super) sealing: Option<Arc<Protection>>,
    pub(super) opening: Option<Arc<Protection>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Out,
    In,
}

/// rustls has made a key, which it uses from now on.
pub(super) fn note_keys(way: Way, key: Option<Arc<Protection>>) {
    note(|observed| {
        let mut keys = observed.keys.lock().unwrap_or_else(PoisonError::into_inner);
        match way {
            Way::Out => keys.sealing = key,
            Way::In => keys.opening = key,
        }
    });
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<Observed>>> = const { RefCell::new(None) };
}

/// Runs `act`, in which rustls may call back about the leg of `observed`.
pub(super) fn observing<T>(observed: &Arc<Observed>, act: impl FnOnce() -> T) -> T {
    let outer = CURRENT.replace(Some(observed.clone()));
    let done = act();
    CURRENT.set(outer);
    done
}

fn note(act: impl FnOnce(&Observed)) {
    CURRENT.with_borrow(|current| current.as_deref().map(act));
}

impl Observed {
    /// Sessions are not kept of a server that wants to see a client certificate, nor of one that
    /// shows that its certificate is revoked (a resumed session would not tell), nor of one whose
    /// chain or staple is too long to be kept. What is kept with a session.
    pub(super) fn kept(&self) -> Option<Beginning> {
        let beginning = self.beginning().clone()?;
        let staple = beginning.staple.as_ref().map_or(0, |staple| staple.len());
        let may_be_kept = !self.client_certificate_requested()
            && !self.revoked.load(Relaxed)
            && self.chain.load(Relaxed) <= LONGEST_CHAIN
            && staple <= KEPT_STAPLE_BOUND;
        may_be_kept.then_some(beginning)
    }

    /// A session is offered to the server: where it takes it, nothing else is shown.
    pub(super) fn resumes(&self, beginning: Beginning) {
        *self.beginning() = Some(beginning);
    }

    fn beginning(&self) -> MutexGuard<'_, Option<Beginning>> {
        self.beginning.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn signature(&self) -> Option<names::SignatureScheme> {
        let code = self.signature.load(Relaxed);
        (code != 0).then_some(names::SignatureScheme(code))
    }

    pub(super) fn staple(&self) -> Option<Vec<u8>> {
        let mut beginning = self.beginning();
        let told = beginning.as_ref()?.staple.as_ref().map(|staple| staple.to_vec());
        if told.as_ref().is_some_and(|staple| staple.len() > KEPT_STAPLE_BOUND) {
            // No session is kept with it, nor without it: tickets may come later.
            *beginning = None;
        }
        told
    }

    pub(super) fn keys(&self) -> Keys {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn client_certificate_requested(&self) -> bool {
        self.client_certificate_requested.load(Relaxed)
    }
}

/// Server legs' verifier: accepts every certificate, verifies every handshake signature.
#[derive(Debug)]
pub(super) struct Witness {
    provider: Arc<CryptoProvider>,
}

impl Witness {
    pub(super) fn new(provider: Arc<CryptoProvider>) -> Self {
        Self { provider }
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
            note(|observed| observed.signature.store(signed.scheme.into(), Relaxed));
            Ok(HandshakeSignatureValid::assertion())
        } else {
            Err(CertificateError::BadSignature.into())
        }
    }
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        staple: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let staple = Some(staple).filter(|one| !one.is_empty() && one.len() <= STAPLE_BOUND);
        let length = others.iter().fold(leaf.len(), |sum, der| sum.saturating_add(der.len()));
        note(|observed| {
            observed.chain.store(length, Relaxed);
            let revoked = staple.is_some_and(|staple| says_revoked(leaf, staple));
            observed.revoked.store(revoked, Relaxed);
            let until = super::resumption::now().checked_add(resumed_for(leaf, staple, now));
            let staple = staple.map(Arc::from);
            *observed.beginning() = until.map(|until| Beginning { until, staple });
        });
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
        note(|observed| observed.client_certificate_requested.store(true, Relaxed));
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
