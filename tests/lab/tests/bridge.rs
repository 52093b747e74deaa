//! A segment without any Weir process: a wire.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use weir_lab::capture::{self, Capture};
use weir_lab::ends::{Ends, sha256};
use weir_lab::fetch::Fetch;
use weir_lab::run::Run;
use weir_lab::wire::lab::lay_segment;

#[test]
fn without_any_engine_a_segment_bridges() {
    let run = Run::new().unwrap();
    let mut ends = Ends::new(&run).unwrap();
    lay_segment(&ends).unwrap();
    ends.connect().unwrap();

    let at_client = Capture::start(&run, &ends.client, "client").unwrap();
    let at_server = Capture::start(&run, &ends.server, "server").unwrap();
    let fetched = Fetch::new("public.example", "/random.bin").run(&ends).unwrap();
    fetched.succeeded().unwrap();
    assert_eq!(sha256(&fetched.body).unwrap(), sha256(&ends.served("random.bin")).unwrap());
    let shown = fetched.certificate().unwrap();
    assert!(weir_lab::checks::is_own(&ends.certificates, &shown).unwrap());

    let (client, frames) = capture::connection(&at_client.stop().unwrap(), fetched.port).unwrap();
    let (server, _) = capture::connection(&at_server.stop().unwrap(), fetched.port).unwrap();
    assert!(frames > 10);
    assert_eq!(client.len(), 2);
    assert_eq!(client, server);
    assert!(ends.access_log().unwrap().contains("GET /random.bin"));
    run.succeeded();
}
