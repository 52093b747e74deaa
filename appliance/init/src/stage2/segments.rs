//! A segment: `weir-init segment ID INTERFACE-A INTERFACE-B FALLBACK [MTU]`, a child of PID 1, because it
//! changes namespaces and waits for the kernel.

use std::path::Path;

use anyhow::{Context, bail};
use weir_api::paths;
use weir_dataplane::Attach;
use weir_dataplane::segment::{self, Making, Names};
use weir_policy::snapshot::SegmentId;

use crate::operator;

pub fn create(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<()> {
    const USAGE: &str =
        "usage: weir-init segment ID INTERFACE-A INTERFACE-B permit-all|block-all [MTU]";
    let mut next = || arguments.next().context(USAGE);
    let id = next()?.parse().context("the segment's number")?;
    let (a, b, fallback) = (next()?, next()?, next()?);
    let mtu = arguments.next().map(|mtu| mtu.parse().context("the segment's MTU")).transpose()?;
    let blocked = match fallback.as_str() {
        "permit-all" => None,
        "block-all" => Some((Path::new(paths::PINS), Attach::Auto)),
        other => bail!("{other} is no Layer-2 fallback; {USAGE}"),
    };
    let (names, making) = (Names::default(), Making { mtu, blocked });
    for refused in segment::create_as(&names, SegmentId(id), [&a, &b], &making)? {
        operator::warn(&refused.to_string());
    }
    Ok(())
}
