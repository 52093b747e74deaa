//! `weir-agent run` end to end: a fake engine, a fake init and consoles on its real sockets.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod consoles;
mod engines;
mod machine;
mod policy;
#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::io::Write;
use std::time::Duration;

use support::{Agent, PATIENCE, Peer, fake_capture, fake_init, fake_links};
use weir_api::capture::{CaptureOptions, ToCapture};
use weir_api::console::{Request, Response, Role};
use weir_api::engine::{
    Counters, FallbackReason, FilterAction, FilterEvent, FromEngine, LiveSession, LiveSessions,
    SegmentCounters, SessionRecord, ToEngine,
};
use weir_api::fetch::{Fetch, FetchFailure};
use weir_api::init::{MachineStatus, Mode, ToInit};
use weir_api::links::{LinkSettings, LinkStatus, ToLinks};
use weir_api::rules::{Answer, QuarantinedHosts, Question};
use weir_policy::outcome::Blocked;
use weir_policy::snapshot::{LinkDownSynchronisation, SegmentId, Side, Snapshot};
use weir_policy::{Outcome, SecretBytes};

const CONFIGURATION: &str = r#"
weir:
  segments: [ { id: 1, name: dmz } ]
  filters:
    - name: web
      rules: 'drop http any any -> any any (msg:"attack"; content:"evil"; sid:7; rev:1;)'
  profiles: [ { name: default, filters: [web] } ]
"#;

/// The next one; with the first comes that fallback is not forced.
fn snapshot(engine: &mut Peer) -> Snapshot {
    loop {
        match engine.hear() {
            ToEngine::Snapshot(snapshot) => return *snapshot,
            ToEngine::ForceFallback(false) => {}
            other => panic!("{other:?}"),
        }
    }
}
