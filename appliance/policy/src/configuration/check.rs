//! The walk over a document that collects what is wrong with its meaning.

use std::collections::HashMap;
use std::path::Path as FilePath;

use zeroize::Zeroizing;

use super::{Configuration, DEFAULT_TRUST_STORE, MAX_DOMAINS};
use crate::document::{DecryptionPolicySection, Document, FilterSection, Text, TrustStoreSection};
use crate::error::{LocatedError, shown, suggestion};
use crate::layers::{MAX_ERRORS, Path, Places, child};
use crate::located::MAX_TEXT;
use crate::material::Material;
use crate::precedence::tables::{Compiled, DIFFERENT_POLICIES};
use crate::snapshot::{DecryptionPolicy, FilterSet, Snapshot, TrustStore};

pub(super) struct Check<'a> {
    places: &'a Places,
    pub(super) material: Material<'a>,
    errors: Vec<LocatedError>,
    /// At most [`MAX_ERRORS`].
    warnings: Vec<LocatedError>,
}

/// Names of one kind of thing, to their place in the list.
pub(super) struct Names<'a> {
    /// `server proxy`.
    kind: &'static str,
    /// In the order of the list.
    known: Vec<&'a str>,
    indices: HashMap<&'a str, usize>,
}

impl<'a> Check<'a> {
    pub(super) fn new(places: &'a Places, material: Material<'a>) -> Self {
        Self { places, material, errors: Vec::new(), warnings: Vec::new() }
    }

    pub(super) fn finish(
        self,
        mut configuration: Configuration,
    ) -> Result<Configuration, Vec<LocatedError>> {
        configuration.warnings = self.warnings;
        if self.errors.is_empty() { Ok(configuration) } else { Err(self.errors) }
    }

    /// Meaningless where an error was found on the way.
    pub(super) fn configuration(&mut self, document: &Document) -> Configuration {
        let names = References {
            server_proxies: self.names(
                "server proxy",
                "server-proxies",
                document.server_proxies.iter().map(|proxy| proxy.name.0.as_str()),
            ),
            client_proxies: self.names(
                "client proxy",
                "client-proxies",
                document.client_proxies.iter().map(|proxy| proxy.name.0.as_str()),
            ),
            decryption_policies: self.names(
                "decryption policy",
                "decryption-policies",
                document.decryption_policies.iter().map(|policy| policy.name.0.as_str()),
            ),
            trust_stores: self.names(
                "trust store",
                "trust-stores",
                document.trust_stores.iter().map(|store| store.name.0.as_str()),
            ),
            filters: self.names(
                "filter set",
                "filters",
                document.filters.iter().map(|filters| filters.name.0.as_str()),
            ),
        };
        let (server_proxies, server_certificates) = self.server_proxies(&document.server_proxies);
        let (client_proxies, signing_certificates) = self.client_proxies(&document.client_proxies);
        let segments = self.segments(document);
        let snapshot = Snapshot {
            generation: 0,
            device: self.device(document),
            virtual_segments: self.virtual_segments(document, &segments),
            precedence: self.precedence(document, &segments),
            segments,
            profiles: self.profiles(document, &names),
            server_proxies,
            client_proxies,
            decryption_policies: self.decryption_policies(&document.decryption_policies),
            trust_stores: self.trust_stores(&document.trust_stores),
            filters: self.filters(&document.filters),
            untrusted_authority: None,
        };
        if self.errors.is_empty()
            && let Err(error) = Compiled::of(&snapshot)
        {
            let place =
                if error.what == DIFFERENT_POLICIES { "profiles" } else { "virtual-segments" };
            self.error(&[place.to_owned()], format!("{error}"));
        }
        Configuration { snapshot, server_certificates, signing_certificates, warnings: Vec::new() }
    }

    pub(super) fn error(&mut self, path: &[String], message: impl Into<String>) {
        if self.errors.len() < MAX_ERRORS {
            self.errors.push(self.places.error(path, message.into()));
        }
    }

    /// Errors found until now.
    pub(super) fn error_count(&self) -> usize {
        self.errors.len()
    }

    /// At a line of a file that the document names.
    pub(super) fn error_in_file(&mut self, at: &[String], file: &str, line: u32, message: String) {
        if self.errors.len() < MAX_ERRORS {
            let mut error = self.places.error(at, message);
            error.file = file.to_owned();
            error.line = Some(line);
            self.errors.push(error);
        }
    }

    /// Something was ignored; the rest is in force (SPEC P9).
    pub(super) fn warning(&mut self, path: &[String], message: impl Into<String>) {
        if self.warnings.len() < MAX_ERRORS {
            self.warnings.push(self.places.error(path, message.into()));
        }
    }

    /// The names of a top-level list; a name that is given twice is an error.
    pub(super) fn names<'n>(
        &mut self,
        kind: &'static str,
        list: &str,
        names: impl Iterator<Item = &'n str>,
    ) -> Names<'n> {
        self.names_at(kind, names.enumerate().map(|(index, name)| (path([list], index), name)))
    }

    /// The names of items at the given paths.
    pub(super) fn names_at<'n>(
        &mut self,
        kind: &'static str,
        items: impl Iterator<Item = (Path, &'n str)>,
    ) -> Names<'n> {
        let mut names = Names { kind, known: Vec::new(), indices: HashMap::new() };
        for (index, (path, name)) in items.enumerate() {
            names.known.push(name);
            if let Some(first) = names.indices.insert(name, index) {
                names.indices.insert(name, first);
                let message = format!(
                    "is {name:?}, the name of another {kind} as well; names are unique, choose \
                     another"
                );
                self.error(&child(&path, "name"), message);
            }
        }
        names
    }

    /// The index of a name that is referred to; 0 after an error.
    pub(super) fn refer(&mut self, path: &[String], written: &Text, names: &Names<'_>) -> usize {
        let written = written.as_str();
        if let Some(index) = names.indices.get(written) {
            return *index;
        }
        let kind = names.kind;
        let known = match names.known.as_slice() {
            [] => format!("no {kind} is configured"),
            known => format!("configured: {}", listed(known)),
        };
        let suggestion = suggestion(written, names.known.iter().copied());
        self.error(path, format!("there is no {kind} {} ({known}){suggestion}", shown(written)));
        0
    }

    /// PEM as it stands inline, or out of the file that the text names; the file named, if any.
    pub(super) fn pem(&mut self, path: &[String], text: &Text) -> Option<Zeroizing<Vec<u8>>> {
        let text = text.as_str();
        if text.contains("-----BEGIN ") {
            return Some(Zeroizing::new(text.as_bytes().to_vec()));
        }
        if text.contains('\n') || text.trim().is_empty() {
            self.error(path, "is neither PEM (-----BEGIN ...) nor the path of a file");
            return None;
        }
        self.file(path, text)
    }

    fn file(&mut self, path: &[String], name: &str) -> Option<Zeroizing<Vec<u8>>> {
        self.file_up_to(path, name, MAX_TEXT)
    }

    /// The file that a key names, of at most `bound` bytes.
    pub(super) fn file_up_to(
        &mut self,
        path: &[String],
        name: &str,
        bound: usize,
    ) -> Option<Zeroizing<Vec<u8>>> {
        if !name.starts_with('/') {
            let message =
                format!("is {}, which is not an absolute path like /etc/weir/x.pem", shown(name));
            self.error(path, message);
            return None;
        }
        match self.material.files.read(FilePath::new(name), bound) {
            Ok(bytes) => Some(Zeroizing::new(bytes)),
            Err(error) => {
                self.error(path, format!("the file {name} cannot be read: {error}"));
                None
            }
        }
    }

    fn decryption_policies(
        &mut self,
        sections: &[DecryptionPolicySection],
    ) -> Vec<DecryptionPolicy> {
        let mut policies = Vec::new();
        for (index, section) in sections.iter().enumerate() {
            let domains = &section.domains_not_to_decrypt;
            if domains.len() > MAX_DOMAINS {
                let at = child(&path(["decryption-policies"], index), "domains-not-to-decrypt");
                let message = format!("has {}; at most {MAX_DOMAINS} are allowed", domains.len());
                self.error(&at, message);
            }
            policies.push(DecryptionPolicy {
                name: section.name.0.clone(),
                domains_not_to_decrypt: domains.iter().map(|domain| domain.0.clone()).collect(),
                decided_by: section.decided_by,
            });
        }
        policies
    }

    /// The configured ones, and last the one of client policies that name none.
    fn trust_stores(&mut self, sections: &[TrustStoreSection]) -> Vec<TrustStore> {
        let mut stores = Vec::new();
        for (index, section) in sections.iter().enumerate() {
            let at = path(["trust-stores"], index);
            if section.name.0 == DEFAULT_TRUST_STORE {
                let message = format!(
                    "is {DEFAULT_TRUST_STORE:?}, which is built in; leave it out, or choose \
                     another name"
                );
                self.error(&child(&at, "name"), message);
            }
            if section.certificates.is_empty() && !section.default_ca_package {
                let message = "trusts nobody; list certificates, or set default-ca-package: true";
                self.error(&at, message);
            }
            let mut authorities = Vec::new();
            for (index, text) in section.certificates.iter().enumerate() {
                let at = child(&child(&at, "certificates"), index);
                let Some(pem) = self.pem(&at, text) else { continue };
                match self.material.certificates.authorities(&pem) {
                    Ok(found) => authorities.extend(found),
                    Err(message) => self.error(&at, message),
                }
            }
            stores.push(TrustStore {
                name: section.name.0.clone(),
                authorities,
                default_ca_package: section.default_ca_package,
            });
        }
        stores.push(TrustStore {
            name: DEFAULT_TRUST_STORE.to_owned(),
            authorities: Vec::new(),
            default_ca_package: true,
        });
        stores
    }

    fn filters(&mut self, sections: &[FilterSection]) -> Vec<FilterSet> {
        let mut sets = Vec::new();
        for (index, section) in sections.iter().enumerate() {
            let at = path(["filters"], index);
            let (origin, rules) = match (&section.rules, &section.file) {
                (Some(rules), None) => {
                    let at = child(&at, "rules");
                    let (file, line) = self.places.text(&at);
                    (format!("{file}:{line}"), rules.as_str().to_owned())
                }
                (None, Some(file)) => {
                    let at = child(&at, "file");
                    let Some(bytes) = self.file(&at, file.as_str()) else { continue };
                    let Ok(rules) = String::from_utf8(bytes.to_vec()) else {
                        let message = format!("the file {} is not UTF-8 text", file.as_str());
                        self.error(&at, message);
                        continue;
                    };
                    (file.as_str().to_owned(), rules)
                }
                (Some(_), Some(_)) => {
                    self.error(&at, "has both rules and file; keep one of them");
                    continue;
                }
                (None, None) => {
                    self.error(&at, "has neither rules (a line each) nor file (a path)");
                    continue;
                }
            };
            self.rules(&at, section.file.as_ref(), &rules);
            sets.push(FilterSet { name: section.name.0.clone(), origin, rules });
        }
        sets
    }

    /// Errors in rules, at the line they stand on: in the file, or in the document.
    fn rules(&mut self, at: &[String], file: Option<&Text>, rules: &str) {
        for (line, message) in self.material.rules.check(rules) {
            if self.errors.len() >= MAX_ERRORS {
                return;
            }
            let step = if file.is_some() { "file" } else { "rules" };
            let mut error = self.places.error(&child(at, step), message);
            match file {
                Some(file) => {
                    error.file = file.as_str().to_owned();
                    error.line = Some(line);
                }
                None => {
                    let (_, first) = self.places.text(&child(at, step));
                    error.line = Some(first.saturating_add(line).saturating_sub(1));
                }
            }
            self.errors.push(error);
        }
    }
}

/// What profiles refer to.
pub(super) struct References<'a> {
    pub(super) server_proxies: Names<'a>,
    pub(super) client_proxies: Names<'a>,
    pub(super) decryption_policies: Names<'a>,
    pub(super) trust_stores: Names<'a>,
    pub(super) filters: Names<'a>,
}

/// `list[index]`.
pub(super) fn path<const N: usize>(lists: [&str; N], index: usize) -> Path {
    lists.into_iter().map(str::to_owned).chain([index.to_string()]).collect()
}

pub(super) fn path2(section: &str, key: &str) -> Path {
    vec![section.to_owned(), key.to_owned()]
}

/// The first few names.
fn listed(names: &[&str]) -> String {
    const SHOWN: usize = 8;
    let mut text = names.iter().take(SHOWN).map(|name| format!("{name:?}")).collect::<Vec<_>>();
    if names.len() > SHOWN {
        text.push("...".to_owned());
    }
    text.join(", ")
}
