//! A segment: `weir-init segment ID INTERFACE-A INTERFACE-B FALLBACK`, a child of PID 1, because it changes
//! namespaces and waits for the kernel.

use std::path::Path;

use anyhow::{Context, bail};
use weir_api::paths;
use weir_dataplane::Attach;
use weir_dataplane::segment::{self, Names};
use weir_policy::snapshot::SegmentId;

pub fn create(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<()> {
    const USAGE: &str = "usage: weir-init segment ID INTERFACE-A INTERFACE-B permit-all|block-all";
    let mut next = || arguments.next().context(USAGE);
    let id = next()?.parse().context("the segment's number")?;
    let (a, b, fallback) = (next()?, next()?, next()?);
    let (names, id) = (Names::default(), SegmentId(id));
    match fallback.as_str() {
        "permit-all" => segment::create(&names, id, [&a, &b])?,
        "block-all" => {
            let pins = Path::new(paths::PINS);
            segment::create_blocked(&names, id, [&a, &b], pins, Attach::Auto)?;
        }
        other => bail!("{other} is no Layer-2 fallback; {USAGE}"),
    }
    Ok(())
}
