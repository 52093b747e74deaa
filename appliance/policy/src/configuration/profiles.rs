//! Profiles with their policies, and the virtual segments that carry them (SPEC D3, P7, P8).

use super::MAX_SEGMENTS;
use super::check::{Check, References, path};
use crate::document::{
    ClientPolicySection, Document, ProfileSection, VirtualSegmentSection, networks,
};
use crate::layers::child;
use crate::precedence::MAX_VIRTUAL_SEGMENTS;
use crate::snapshot::{
    ClientPolicy, PortRange, Profile, Segment, SegmentId, ServerPolicy, VirtualSegment,
};

impl Check<'_> {
    pub(super) fn profiles(&mut self, document: &Document, names: &References<'_>) -> Vec<Profile> {
        let sections = document.profiles.iter().enumerate();
        sections
            .map(|(index, section)| {
                let at = path(["profiles"], index);
                self.policy_names(&at, section);
                self.overlapping_ports(&at, section, document);
                Profile {
                    name: section.name.0.clone(),
                    server_policies: self.server_policies(&at, section, names),
                    client_policies: self.client_policies(&at, section, names, document),
                    filters: section
                        .filters
                        .iter()
                        .enumerate()
                        .map(|(index, name)| {
                            self.refer(&child(&child(&at, "filters"), index), name, &names.filters)
                        })
                        .collect(),
                }
            })
            .collect()
    }

    /// Unique across server and client policies of the profile (SPEC P7).
    fn policy_names(&mut self, at: &[String], section: &ProfileSection) {
        let server = section.server_policies.iter().map(|policy| &policy.name).enumerate();
        let client = section.client_policies.iter().map(|policy| &policy.name).enumerate();
        let (server_at, client_at) = (child(at, "server-policies"), child(at, "client-policies"));
        let items = server
            .map(|(index, name)| (child(&server_at, index), name.0.as_str()))
            .chain(client.map(|(index, name)| (child(&client_at, index), name.0.as_str())));
        self.names_at("policy of the profile", items);
    }

    fn server_policies(
        &mut self,
        at: &[String],
        section: &ProfileSection,
        names: &References<'_>,
    ) -> Vec<ServerPolicy> {
        let at = child(at, "server-policies");
        let policies = section.server_policies.iter().enumerate();
        policies
            .map(|(index, policy)| {
                let at = child(&child(&at, index), "server-proxy");
                ServerPolicy {
                    name: policy.name.0.clone(),
                    server_proxy: self.refer(&at, &policy.server_proxy, &names.server_proxies),
                    source_exceptions: networks(&policy.source_exceptions),
                }
            })
            .collect()
    }

    fn client_policies(
        &mut self,
        at: &[String],
        section: &ProfileSection,
        names: &References<'_>,
        document: &Document,
    ) -> Vec<ClientPolicy> {
        let at = child(at, "client-policies");
        let policies = section.client_policies.iter().enumerate();
        policies
            .map(|(index, policy)| {
                let at = child(&at, index);
                let proxy = (child(&at, "client-proxy"), &policy.client_proxy);
                let decryption = policy.decryption_policy.as_ref().map(|name| {
                    let at = child(&at, "decryption-policy");
                    self.refer(&at, name, &names.decryption_policies)
                });
                let trust_store = match &policy.trust_store {
                    Some(name) => self.refer(&child(&at, "trust-store"), name, &names.trust_stores),
                    // The built-in one is the last.
                    None => document.trust_stores.len(),
                };
                ClientPolicy {
                    name: policy.name.0.clone(),
                    client_proxy: self.refer(&proxy.0, proxy.1, &names.client_proxies),
                    decryption_policy: decryption,
                    trust_store,
                    source_exceptions: networks(&policy.source_exceptions),
                    quic: policy.quic,
                }
            })
            .collect()
    }

    /// Two client policies of one profile must not claim the same port (SPEC P7).
    fn overlapping_ports(&mut self, at: &[String], section: &ProfileSection, document: &Document) {
        let ports =
            |policy: &ClientPolicySection| {
                let name = policy.client_proxy.as_str();
                document.client_proxies.iter().find(|proxy| proxy.name.0 == name).map(|proxy| {
                    proxy.detection_ports.iter().map(|ports| ports.0).collect::<Vec<_>>()
                })
            };
        for (index, policy) in section.client_policies.iter().enumerate() {
            let Some(own) = ports(policy) else { continue };
            for earlier in section.client_policies.iter().take(index) {
                let others = ports(earlier).unwrap_or_default();
                let Some(port) = common_port(&own, &others) else { continue };
                let at = child(&child(&child(at, "client-policies"), index), "client-proxy");
                let message = format!(
                    "detects on port {port}, as does the client policy {:?} of this profile; two \
                     client policies of a profile must not overlap, change the detection-ports \
                     of one client proxy",
                    earlier.name.0
                );
                self.error(&at, message);
            }
        }
    }

    /// In their order. Without any, one profile carries all traffic; several need to be told which.
    pub(super) fn virtual_segments(
        &mut self,
        document: &Document,
        segments: &[Segment],
    ) -> Vec<VirtualSegment> {
        let profiles = document.profiles.iter().map(|profile| profile.name.0.as_str());
        let profiles = self.names("profile", "profiles", profiles);
        let sections = document.virtual_segments.as_slice();
        self.names(
            "virtual segment",
            "virtual-segments",
            sections.iter().map(|section| section.name.0.as_str()),
        );
        if sections.is_empty() {
            return match document.profiles.as_slice() {
                [] => Vec::new(),
                [profile] => vec![everything(&profile.name.0)],
                _ => {
                    let message = "are several, and no virtual-segments say which traffic each is \
                                   for; add virtual-segments";
                    self.error(&["profiles".to_owned()], message);
                    Vec::new()
                }
            };
        }
        self.at_most("virtual-segments", sections.len(), MAX_VIRTUAL_SEGMENTS);
        self.same_order(sections);
        let mut ordered = Vec::new();
        for (index, section) in sections.iter().enumerate() {
            let at = path(["virtual-segments"], index);
            for (place, id) in section.segments.iter().enumerate() {
                let at = child(&child(&at, "segments"), place);
                self.segment_exists(&at, *id, segments);
            }
            let profile = self.refer(&child(&at, "profile"), &section.profile, &profiles);
            ordered.push((
                order(index, section),
                VirtualSegment {
                    name: section.name.0.clone(),
                    segments: section.segments.iter().map(|id| SegmentId(*id)).collect(),
                    from: section.from,
                    vlans: section.vlans.iter().map(|vlan| vlan.0).collect(),
                    sources: networks(&section.sources),
                    destinations: networks(&section.destinations),
                    profile,
                },
            ));
        }
        ordered.sort_by_key(|(order, _)| *order);
        ordered.into_iter().map(|(_, segment)| segment).collect()
    }

    /// Overlapping VLANs on one segment at the same order are refused, naming both (SPEC D3).
    fn same_order(&mut self, sections: &[VirtualSegmentSection]) {
        for (index, section) in sections.iter().enumerate() {
            let order_of = order(index, section);
            let clash =
                sections.iter().enumerate().take(index).find(|(place, other)| {
                    order(*place, other) == order_of && overlap(section, other)
                });
            if let Some((_, other)) = clash {
                let message = format!(
                    "the virtual segments {:?} and {:?} have the same order {order_of} and overlap \
                     in segment, direction and VLANs; give one of them another order",
                    other.name.0, section.name.0
                );
                self.error(&child(&path(["virtual-segments"], index), "order"), message);
            }
        }
    }

    pub(super) fn segment_exists(&mut self, at: &[String], id: u16, segments: &[Segment]) {
        if segments.is_empty() {
            if !(1..=MAX_SEGMENTS).contains(&id) {
                self.error(at, format!("is {id}; 1 to {MAX_SEGMENTS} is expected"));
            }
        } else if !segments.iter().any(|segment| segment.id.0 == id) {
            let known = segments.iter().map(|segment| segment.id.0.to_string()).collect::<Vec<_>>();
            self.error(at, format!("there is no segment {id} (configured: {})", known.join(", ")));
        }
    }
}

/// The order in which virtual segments are tried: as given, else the place in the list from 1.
fn order(index: usize, section: &VirtualSegmentSection) -> u64 {
    section.order.map_or(index as u64 + 1, u64::from)
}

fn overlap(one: &VirtualSegmentSection, other: &VirtualSegmentSection) -> bool {
    fn meet<T>(one: &[T], other: &[T], same: impl Fn(&T, &T) -> bool) -> bool {
        one.is_empty()
            || other.is_empty()
            || one.iter().any(|left| other.iter().any(|right| same(left, right)))
    }
    meet(&one.segments, &other.segments, |left, right| left == right)
        && meet(&one.vlans, &other.vlans, |left, right| left.0 == right.0)
        && (one.from.is_none() || other.from.is_none() || one.from == other.from)
}

fn common_port(one: &[PortRange], other: &[PortRange]) -> Option<u16> {
    one.iter().find_map(|left| {
        other.iter().find_map(|right| {
            let first = left.first.max(right.first);
            (first <= left.last.min(right.last)).then_some(first)
        })
    })
}

fn everything(profile: &str) -> VirtualSegment {
    VirtualSegment {
        name: profile.to_owned(),
        segments: Vec::new(),
        from: None,
        vlans: Vec::new(),
        sources: Vec::new(),
        destinations: Vec::new(),
        profile: 0,
    }
}
