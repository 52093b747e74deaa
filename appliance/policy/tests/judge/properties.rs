//! What holds of every policy, broken ones included, and of every flow.

use super::*;

#[test]
fn snapshot_with_a_dangling_reference_is_refused_when_it_is_read() {
    let whole = whole();
    let sound = serde_json::to_string(&whole).unwrap();
    assert_eq!(serde_json::from_str::<Snapshot>(&sound).unwrap(), whole);
    let breakages: [fn(&mut Snapshot); 6] = [
        |snapshot| snapshot.profiles.clear(),
        |snapshot| snapshot.server_proxies.clear(),
        |snapshot| snapshot.client_proxies.clear(),
        |snapshot| snapshot.decryption_policies.clear(),
        |snapshot| snapshot.trust_stores.clear(),
        |snapshot| snapshot.filters.clear(),
    ];
    for breakage in breakages {
        let mut broken = whole.clone();
        breakage(&mut broken);
        let text = serde_json::to_string(&broken).unwrap();
        let error = serde_json::from_str::<Snapshot>(&text).unwrap_err().to_string();
        assert!(error.contains("number 0, of which there are 0"), "{error}");
    }
}

pub fn every_first_bytes() -> [FirstBytes<'static>; 10] {
    [
        FirstBytes::ClientHello {
            server_name: Some("www.bank.example"),
            support: Support::Full,
            encrypted: false,
        },
        FirstBytes::ClientHello { server_name: None, support: Support::NoSuite, encrypted: false },
        FirstBytes::Sslv2Hello,
        FirstBytes::NotTls,
        FirstBytes::Malformed,
        FirstBytes::InvalidServerName,
        FirstBytes::Oversize,
        FirstBytes::Incomplete,
        FirstBytes::ServerSpokeFirst,
        FirstBytes::Ended,
    ]
}

prop_compose! {
    /// Any indices at all, right or wrong.
    fn broken_snapshot()(
        indices in prop::collection::vec(0usize..4, 8),
        kept in prop::collection::vec(any::<bool>(), 6),
        settings in any::<(bool, bool)>(),
    ) -> Snapshot {
        let mut snapshot = whole();
        snapshot.device.client_inspection = settings.0;
        snapshot.device.server_inspection = settings.1;
        snapshot.virtual_segments[0].profile = indices[0];
        let profile = &mut snapshot.profiles[0];
        profile.server_policies[0].server_proxy = indices[1];
        profile.client_policies[0].client_proxy = indices[2];
        profile.client_policies[0].decryption_policy = Some(indices[3]);
        profile.client_policies[0].trust_store = indices[4];
        profile.filters = vec![indices[5]];
        if !kept[0] { snapshot.profiles.clear(); }
        if !kept[1] { snapshot.server_proxies.clear(); }
        if !kept[2] { snapshot.client_proxies.clear(); }
        if !kept[3] { snapshot.decryption_policies.clear(); }
        snapshot
    }
}

prop_compose! {
    fn any_flow()(
        segment in 0u16..3,
        from in prop_oneof![Just(Side::A), Just(Side::B)],
        vlan in prop::option::of(0u16..4),
        client in address(), server in address(),
    ) -> Candidate {
        Candidate { segment: SegmentId(segment), from, vlan, client, server }
    }
}

fn address() -> impl Strategy<Value = SocketAddr> {
    let addresses =
        ["10.9.0.1", "10.1.1.1", "192.0.2.9", "198.51.100.1", "2001:db8::1", "::ffff:192.0.2.9"];
    (prop::sample::select(addresses.to_vec()), prop::sample::select(vec![443u16, 8443, 80]))
        .prop_map(|(address, port)| SocketAddr::new(address.parse().unwrap(), port))
}

proptest! {
    #[test]
    fn judge_is_total_even_over_broken_snapshots(
        snapshot in broken_snapshot(), candidate in any_flow(), first in 0usize..10,
    ) {
        let decision = judge(&snapshot, &candidate, &every_first_bytes()[first]);
        // Whatever is taken over refers to things that exist.
        if let Decision::TakeOver(inspection) = decision {
            let profile = &snapshot.profiles[inspection.profile];
            prop_assert_eq!(snapshot.virtual_segments[inspection.virtual_segment].profile, inspection.profile);
            match inspection.policy {
                PolicyKind::Server(index) => {
                    prop_assert!(snapshot.device.server_inspection);
                    let policy = &profile.server_policies[index];
                    prop_assert!(snapshot.server_proxies.get(policy.server_proxy).is_some());
                }
                PolicyKind::Client(index) => {
                    prop_assert!(snapshot.device.client_inspection);
                    let policy = &profile.client_policies[index];
                    prop_assert!(snapshot.client_proxies.get(policy.client_proxy).is_some());
                }
            }
        }
    }

    #[test]
    fn only_whole_hellos_are_taken_over(candidate in any_flow(), first in 0usize..10) {
        let first = every_first_bytes()[first];
        if let Decision::TakeOver(_) = judge(&whole(), &candidate, &first) {
            let supported = matches!(first, FirstBytes::ClientHello { support: Support::Full, .. });
            prop_assert!(supported);
        }
    }

    #[test]
    fn wildcard_agrees_with_labels(name in "[a-cA-C.]{0,12}", domain in "[a-c]{1,2}(\\.[a-c]{1,2}){0,2}") {
        let lower = name.to_lowercase();
        let lower = lower.strip_suffix('.').unwrap_or(&lower);
        let below = lower.strip_suffix(&format!(".{domain}")).is_some_and(|below| !below.is_empty());
        let wildcard = DomainPattern { domain: domain.clone(), wildcard: true };
        prop_assert_eq!(wildcard.matches(&name), below);
        let exact = DomainPattern { domain: domain.clone(), wildcard: false };
        prop_assert_eq!(exact.matches(&name), lower == domain);
    }
}
