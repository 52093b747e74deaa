//! Whom a certificate says can be asked.

use super::*;

/// The DER of an element.
fn element(tag: u8, contents: &[u8]) -> Vec<u8> {
    let length = u16::try_from(contents.len()).unwrap().to_be_bytes();
    [&[tag, 0x82], &length[..], contents].concat()
}

pub fn access(method: u8, url: &str) -> Vec<u8> {
    let method = [0x06, 8, 0x2b, 6, 1, 5, 5, 7, 0x30, method];
    let url = [&[0x86, u8::try_from(url.len()).unwrap()], url.as_bytes()].concat();
    short(0x30, &[&method[..], &url].concat())
}

#[test]
fn what_a_certificate_names_to_ask_is_bounded_and_by_http() {
    let world = World::new();
    let urls = ["ldap://a/", "http://one.example/", "HTTP://two.example/", "http://three/"];
    let wrong = ["https://a/", "http://a/\r\nb", "http://b /"];
    let all = wrong
        .iter()
        .chain(&urls)
        .flat_map(|url| [access(1, url), access(2, url), access(3, url)].concat());
    let access = element(0x30, &all.collect::<Vec<_>>());
    let url = [&[0x86, 19][..], b"http://list.example"].concat();
    let name = short(0xa0, &short(0xa0, &url));
    let points = [
        short(0x30, &name),
        // For some reasons only; and by another issuer.
        short(0x30, &[&name[..], &[0x81, 2, 1, 0x40]].concat()),
        short(0x30, &[&name[..], &[0xa2, 2, 0x81, 0]].concat()),
    ];
    let points = short(0x30, &points.concat());
    let server = leaf_with(&world.middle, &["a.example"], &PKCS_ECDSA_P256_SHA256, |params| {
        let of = CustomExtension::from_oid_content;
        params.custom_extensions = vec![
            of(&[1, 3, 6, 1, 5, 5, 7, 1, 1], access.clone()),
            of(&[2, 5, 29, 31], points.clone()),
        ];
    });
    let sources = Sources::of(&server.chain[0]);
    let expected = ["http://one.example/", "HTTP://two.example/"];
    assert_eq!(SOURCES_BOUND, expected.len());
    assert_eq!(
        (&sources.responders[..], &sources.issuers[..]),
        (&expected.map(str::to_owned)[..], &expected.map(str::to_owned)[..])
    );
    assert_eq!(sources.lists, ["http://list.example"]);
    assert_eq!(Sources::of(world.leaf()), Sources::default());
    assert_eq!(Sources::of(b"no certificate"), Sources::default());
}
