//! What sessions of the legacy stack are bound to, so that the worker, which keeps them, resumes
//! none elsewhere (SPEC T12).
//!
//! For: one scope for each proxy of each policy generation; with it end its sessions, since no other
//! scope asks for them. Not for: keeping sessions. Fails, when made, where there are no random bytes.

use aws_lc_rs::digest::{Context, SHA256};
use aws_lc_rs::rand;
use weir_api::legacy::BINDING;
use weir_policy::ServerAt;
use weir_policy::suites::Protocol;
use weir_tls::{LegKey, Verdict};

/// Sessions of one proxy of one policy generation.
pub struct SessionScope([u8; BINDING]);

impl SessionScope {
    pub fn new() -> anyhow::Result<Self> {
        let mut scope = [0; BINDING];
        rand::fill(&mut scope).map_err(|_| anyhow::anyhow!("no random bytes"))?;
        Ok(Self(scope))
    }

    /// With the server there, at this address and port, asked for under this name, for clients that go up to
    /// this version and so bound what it is offered.
    pub fn with_server(
        &self,
        server: ServerAt,
        name: Option<&str>,
        client: Protocol,
    ) -> [u8; BINDING] {
        let name = name.map(str::to_ascii_lowercase);
        self.binding(
            &[
                b"server",
                format!("{:?}", server.place).as_bytes(),
                server.address.to_string().as_bytes(),
                &client.code().to_be_bytes(),
            ],
            name.as_ref().map(String::as_bytes),
        )
    }

    /// With a client that is shown this certificate, after this verdict on the server's.
    pub fn with_client(&self, key: &LegKey, verdict: Verdict) -> [u8; BINDING] {
        let leaf = key.chain().first().map(|leaf| leaf.as_ref());
        self.binding(&[b"client", &verdict.bits().to_be_bytes()], leaf)
    }

    /// Over the scope and these, each with its length before it.
    fn binding(&self, parts: &[&[u8]], last: Option<&[u8]>) -> [u8; BINDING] {
        let mut context = Context::new(&SHA256);
        context.update(&self.0);
        for part in parts.iter().copied().chain(last) {
            context.update(&part.len().to_be_bytes());
            context.update(part);
        }
        let mut binding = [0; BINDING];
        binding.copy_from_slice(context.finish().as_ref());
        binding
    }
}

#[cfg(test)]
mod tests {
    use weir_policy::Place;
    use weir_policy::snapshot::SegmentId;

    use super::*;

    #[test]
    fn sessions_are_apart_by_scope_place_address_port_name_and_clients_version() {
        let scope = SessionScope::new().unwrap();
        let place = Place::new(SegmentId(1), Some(7));
        let at = |text: &str| place.server(text.parse().unwrap());
        let elsewhere = Place::new(SegmentId(1), None).server(at("192.0.2.1:443").address);
        let known = scope.with_server(at("192.0.2.1:443"), Some("a.example"), Protocol::Tls12);
        assert_eq!(
            known,
            scope.with_server(at("192.0.2.1:443"), Some("A.example"), Protocol::Tls12)
        );
        for other in [
            scope.with_server(elsewhere, Some("a.example"), Protocol::Tls12),
            scope.with_server(at("192.0.2.1:444"), Some("a.example"), Protocol::Tls12),
            scope.with_server(at("192.0.2.2:443"), Some("a.example"), Protocol::Tls12),
            scope.with_server(at("192.0.2.1:443"), Some("b.example"), Protocol::Tls12),
            scope.with_server(at("192.0.2.1:443"), Some(""), Protocol::Tls12),
            scope.with_server(at("192.0.2.1:443"), None, Protocol::Tls12),
            SessionScope::new().unwrap().with_server(
                at("192.0.2.1:443"),
                Some("a.example"),
                Protocol::Tls12,
            ),
            scope.with_server(at("192.0.2.1:443"), Some("a.example"), Protocol::Tls10),
        ] {
            assert_ne!(known, other);
        }
    }
}
