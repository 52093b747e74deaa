//! A segment: `weir-init segment ID INTERFACE-A INTERFACE-B`, a child of PID 1, because it changes
//! namespaces and waits for the kernel.

use anyhow::Context;
use weir_dataplane::segment::{self, Names};
use weir_policy::snapshot::SegmentId;

pub fn create(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<()> {
    let mut next =
        || arguments.next().context("usage: weir-init segment ID INTERFACE-A INTERFACE-B");
    let id = next()?.parse().context("the segment's number")?;
    let (a, b) = (next()?, next()?);
    segment::create(&Names::default(), SegmentId(id), [&a, &b])?;
    Ok(())
}
