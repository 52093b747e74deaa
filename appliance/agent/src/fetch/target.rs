//! From which addresses is fetched: public ones on port 80, those of networks that the configuration
//! names on any port, and never loopback, the link, or the appliance itself.
//!
//! For: an address that is about to be connected to, whatever name led there. Not for: addresses of the
//! appliance that others translate to (NAT) without its knowing. Fails by [`Refused`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use nix::ifaddrs::getifaddrs;
use weir_api::fetch::Refused;
use weir_policy::snapshot::{host_of, is_never_fetched_from};

/// `private`: the configuration's networks.
pub fn admit(address: SocketAddr, private: &[IpNet]) -> Result<(), Refused> {
    permitted(address, private)?;
    let ip = address.ip().to_canonical();
    if is_own(ip) || is_own(host_of(ip)) { Err(Refused::Own) } else { Ok(()) }
}

/// Whatever addresses the appliance has.
fn permitted(address: SocketAddr, private: &[IpNet]) -> Result<(), Refused> {
    let (ip, port) = (address.ip().to_canonical(), address.port());
    if is_never_fetched_from(ip) {
        return Err(Refused::Never);
    }
    if private.iter().any(|network| network.contains(&ip)) {
        return Ok(());
    }
    if !is_public(ip) {
        return Err(Refused::NotPublic);
    }
    if port == 80 { Ok(()) } else { Err(Refused::Port) }
}

/// Whether an interface has it. Asked anew each time, since the management port's address may change;
/// where that cannot be told, it might be.
fn is_own(address: IpAddr) -> bool {
    let Ok(mut interfaces) = getifaddrs() else { return true };
    interfaces.any(|interface| {
        let Some(own) = interface.address else { return false };
        match address {
            IpAddr::V4(address) => own.as_sockaddr_in().is_some_and(|own| own.ip() == address),
            IpAddr::V6(address) => own.as_sockaddr_in6().is_some_and(|own| own.ip() == address),
        }
    })
}

const fn v4(a: u8, b: u8, c: u8, d: u8, length: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length)
}

/// IANA's special-purpose addresses that are not globally reachable.
const NOT_PUBLIC_V4: [Ipv4Net; 11] = [
    v4(10, 0, 0, 0, 8),
    v4(100, 64, 0, 0, 10),
    v4(172, 16, 0, 0, 12),
    v4(192, 0, 0, 0, 24),
    v4(192, 0, 2, 0, 24),
    v4(192, 88, 99, 0, 24),
    v4(192, 168, 0, 0, 16),
    v4(198, 18, 0, 0, 15),
    v4(198, 51, 100, 0, 24),
    v4(203, 0, 113, 0, 24),
    v4(240, 0, 0, 0, 4),
];

/// All that is assigned as global unicast; the rest (ULA, NAT64's prefixes, documentation) is not.
const GLOBAL_UNICAST: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);
/// Of it, Teredo and others for protocols, documentation, 6to4: an IPv4 address is inside of some.
const NOT_PUBLIC_V6: [Ipv6Net; 4] = [
    Ipv6Net::new_assert(Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    Ipv6Net::new_assert(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    Ipv6Net::new_assert(Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
    Ipv6Net::new_assert(Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
];

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !NOT_PUBLIC_V4.iter().any(|network| network.contains(&address)),
        IpAddr::V6(address) => {
            GLOBAL_UNICAST.contains(&address)
                && !NOT_PUBLIC_V6.iter().any(|network| network.contains(&address))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(address: &str, private: &[&str]) -> Result<(), Refused> {
        let private: Vec<IpNet> = private.iter().map(|one| one.parse().unwrap()).collect();
        permitted(address.parse().unwrap(), &private)
    }

    #[test]
    fn public_addresses_are_asked_on_port_80_only() {
        for address in ["8.8.8.8:80", "172.32.0.1:80", "[2606:4700::1]:80", "[::ffff:8.8.8.8]:80"] {
            assert_eq!(of(address, &[]), Ok(()), "{address}");
        }
        for address in ["8.8.8.8:22", "[2606:4700::1]:6379"] {
            assert_eq!(of(address, &[]), Err(Refused::Port), "{address}");
        }
    }

    #[test]
    fn loopback_and_the_link_are_never_asked() {
        let everything = ["0.0.0.0/0", "::/0"];
        for address in [
            "127.0.0.1:80",
            "127.9.9.9:80",
            "0.0.0.0:80",
            "169.254.169.254:80",
            "224.0.0.1:80",
            "255.255.255.255:80",
            "[::1]:80",
            "[::]:80",
            "[::ffff:127.0.0.1]:80",
            "[::ffff:169.254.169.254]:80",
            "[::127.0.0.1]:80",
            "[64:ff9b::127.0.0.1]:80",
            "[64:ff9b::169.254.169.254]:80",
            "[64:ff9b:1::127.0.0.1]:80",
            "[fe80::1]:80",
            "[ff02::1]:80",
        ] {
            assert_eq!(of(address, &[]), Err(Refused::Never), "{address}");
            assert_eq!(of(address, &everything), Err(Refused::Never), "{address}");
        }
    }

    /// The machine's others come and go: the lab's tests have one.
    #[test]
    fn an_address_is_our_own_where_an_interface_has_it() {
        assert!(is_own("127.0.0.1".parse().unwrap()));
        for other in ["192.0.2.1", "240.0.0.1", "255.255.255.255", "2001:db8::1", "fe80::1:1"] {
            assert!(!is_own(other.parse().unwrap()), "{other}");
        }
    }

    #[test]
    fn private_networks_are_asked_where_the_configuration_names_them_and_on_any_port() {
        for address in [
            "10.1.2.3:8080",
            "172.16.0.1:80",
            "192.168.0.1:80",
            "100.64.0.1:80",
            "192.0.2.1:80",
            "[fd00::1]:80",
            "[64:ff9b::a00:1]:80",
            "[64:ff9b:1::a00:1]:80",
            "[2002:a00:1::]:80",
            "[2001:0:1::]:80",
            "[::ffff:10.1.2.3]:80",
        ] {
            assert_eq!(of(address, &[]), Err(Refused::NotPublic), "{address}");
            assert_eq!(of(address, &["10.1.3.0/24"]), Err(Refused::NotPublic), "{address}");
            assert_eq!(of(address, &["0.0.0.0/0", "::/0"]), Ok(()), "{address}");
        }
    }
}
