//! The management port: `weir-init management PLAN RESOLV_CONF [INTERFACE]`, a child of PID 1, so
//! that a runtime and a slow kernel are not PID 1's.
//!
//! For: loopback up, the first NIC renamed `mgmt` and up, static addresses, default gateway, name
//! servers, all from the boot plan. Not for: DHCP. Fails with the first step that failed; the steps
//! before it stay.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Context;
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};
use weir_api::init::{BootPlan, Management};

use super::ports::MANAGEMENT;

/// A plan that is missing is an empty one: the port comes up without an address.
pub fn configure(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<()> {
    let mut next =
        || arguments.next().context("usage: weir-init management PLAN RESOLV_CONF [INTERFACE]");
    let (plan, resolv) = (next()?, next()?);
    let interface = arguments.next();
    let plan: BootPlan = match std::fs::read(&plan) {
        Ok(bytes) => serde_json::from_slice(&bytes).context(plan)?,
        Err(_) => BootPlan::default(),
    };
    if let Some(management) = &plan.management {
        std::fs::write(&resolv, resolv_conf(&management.name_servers)).context(resolv)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        bring_up(&handle, index("lo")?, None).await.context("lo")?;
        let Some(interface) = interface else { return Ok(()) };
        let index = index(&interface)?;
        bring_up(&handle, index, Some(MANAGEMENT)).await.context(MANAGEMENT)?;
        match plan.management {
            Some(management) => address(&handle, index, &management).await,
            None => Ok(()),
        }
    })
}

fn index(interface: &str) -> anyhow::Result<u32> {
    nix::net::if_::if_nametoindex(interface).with_context(|| interface.to_owned())
}

/// A name changes before the interface is up.
async fn bring_up(handle: &Handle, index: u32, name: Option<&str>) -> anyhow::Result<()> {
    let link = || LinkUnspec::new_with_index(index);
    if let Some(name) = name {
        handle.link().set(link().name(name.to_owned()).build()).execute().await?;
    }
    handle.link().set(link().up().build()).execute().await?;
    Ok(())
}

async fn address(handle: &Handle, index: u32, management: &Management) -> anyhow::Result<()> {
    for text in &management.addresses {
        let (address, prefix) = parse_address(text)?;
        handle
            .address()
            .add(index, address, prefix)
            .execute()
            .await
            .with_context(|| format!("address {text}"))?;
    }
    if let Some(gateway) = management.gateway {
        let route = match gateway {
            IpAddr::V4(gateway) => RouteMessageBuilder::<Ipv4Addr>::new()
                .gateway(gateway)
                .output_interface(index)
                .build(),
            IpAddr::V6(gateway) => RouteMessageBuilder::<Ipv6Addr>::new()
                .gateway(gateway)
                .output_interface(index)
                .build(),
        };
        handle.route().add(route).execute().await.with_context(|| format!("gateway {gateway}"))?;
    }
    Ok(())
}

/// `192.0.2.10/24`.
fn parse_address(text: &str) -> anyhow::Result<(IpAddr, u8)> {
    let wrong = || format!("{text:?} is no address with a prefix, such as 192.0.2.10/24");
    let (address, prefix) = text.split_once('/').with_context(wrong)?;
    let address: IpAddr = address.parse().with_context(wrong)?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let prefix = prefix.parse().ok().filter(|prefix| *prefix <= longest).with_context(wrong)?;
    Ok((address, prefix))
}

fn resolv_conf(servers: &[IpAddr]) -> String {
    servers.iter().fold(String::new(), |mut text, server| {
        // Writing into a string does not fail.
        let _ = writeln!(text, "nameserver {server}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_need_a_prefix_that_fits() {
        assert_eq!(parse_address("192.0.2.1/24").unwrap(), ("192.0.2.1".parse().unwrap(), 24));
        assert_eq!(parse_address("2001:db8::1/64").unwrap(), ("2001:db8::1".parse().unwrap(), 64));
        for wrong in ["192.0.2.1", "192.0.2.1/33", "x/1", "192.0.2.1/-1", ""] {
            assert!(parse_address(wrong).unwrap_err().to_string().contains("such as"), "{wrong}");
        }
    }

    #[test]
    fn each_name_server_has_a_line() {
        let servers = ["192.0.2.53".parse().unwrap(), "2001:db8::53".parse().unwrap()];
        assert_eq!(resolv_conf(&servers), "nameserver 192.0.2.53\nnameserver 2001:db8::53\n");
    }
}
