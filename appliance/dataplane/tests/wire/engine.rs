//! An engine for tests: a data plane with a heartbeat and a runtime of its own.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use weir_dataplane::{
    Attach, Dataplane, Held, HeldFlow, HeldFlows, Options, Relayed, TakenFlow, set_reset_on_close,
};
use weir_policy::secret::SecretBytes;
use weir_policy::snapshot::{
    CertifiedKey, ClientPolicy, ClientProxy, Device, Evasion, Health, Layer2Fallback, PortRange,
    Profile, Segment, ServerProxy, Service, VirtualSegment,
};
use weir_policy::{Resets, Snapshot};

use weir_dataplane::segment::Names;
use weir_policy::snapshot::SegmentId;

pub const SEGMENT: SegmentId = SegmentId(1);

/// The port that test policies hold flows of.
pub const PORT: u16 = 4433;

pub struct Engine {
    pub dataplane: Arc<Dataplane>,
    pub stop: Arc<AtomicBool>,
    heart: Option<JoinHandle<()>>,
}

impl Engine {
    pub fn open(names: &Names, pins: &Path, attach: Attach) -> (Self, HeldFlows) {
        Self::open_changed(names, pins, attach, |_| {})
    }

    pub fn open_changed(
        names: &Names,
        pins: &Path,
        attach: Attach,
        change: impl FnOnce(&mut Options),
    ) -> (Self, HeldFlows) {
        let mut options = Options::new(names.clone(), vec![SEGMENT], pins.to_owned());
        options.attach = attach;
        change(&mut options);
        let (engine, mut held) = Self::open_with(options);
        (engine, held.remove(0))
    }

    pub fn open_with(options: Options) -> (Self, Vec<HeldFlows>) {
        let (dataplane, held) = Dataplane::open(options).unwrap();
        dataplane.apply(&snapshot(Layer2Fallback::PermitAll)).unwrap();
        dataplane.heartbeat();
        let dataplane = Arc::new(dataplane);
        let stop = Arc::new(AtomicBool::new(false));
        let heart = std::thread::spawn({
            let (dataplane, stop) = (Arc::clone(&dataplane), Arc::clone(&stop));
            move || {
                while !stop.load(Ordering::Relaxed) {
                    dataplane.heartbeat();
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        });
        (Self { dataplane, stop, heart: Some(heart) }, held)
    }

    pub fn counter(&self, name: &str) -> u64 {
        let report = self.dataplane.counters();
        report[0].counters.iter().find(|(found, _)| *found == name).unwrap().1
    }

    /// Until a counter has a value; panics after half a minute.
    pub fn wait_for(&self, name: &str, value: u64) {
        for _ in 0..3000 {
            if self.counter(name) >= value {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{name} is {} and not {value}: {:?}", self.counter(name), self.dataplane.counters());
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(heart) = self.heart.take() {
            heart.join().unwrap();
        }
    }
}

/// As [`snapshot`], with this done about evasion.
pub fn against(evasion: Evasion) -> Snapshot {
    let mut snapshot = snapshot(Layer2Fallback::PermitAll);
    snapshot.device.evasion = evasion;
    snapshot
}

/// A policy that wants every flow to `PORT`. A busy machine makes no engine of it a stuck one.
pub fn snapshot(fallback: Layer2Fallback) -> Snapshot {
    let key = CertifiedKey { chain: vec![vec![1]], key: SecretBytes::new(vec![1]) };
    Snapshot {
        segments: vec![Segment {
            layer2_fallback: fallback,
            ..Segment::with_defaults(SEGMENT, "test".into())
        }],
        virtual_segments: vec![VirtualSegment {
            name: "all".into(),
            segments: vec![],
            from: None,
            vlans: vec![],
            sources: vec![],
            destinations: vec![],
            profile: 0,
        }],
        profiles: vec![Profile {
            name: "default".into(),
            server_policies: vec![],
            client_policies: vec![ClientPolicy {
                name: "all".into(),
                client_proxy: 0,
                decryption_policy: None,
                trust_store: 0,
                source_exceptions: vec![],
                quic: Default::default(),
            }],
            filters: vec![],
        }],
        client_proxies: vec![ClientProxy {
            name: "all".into(),
            detection_ports: vec![PortRange { first: PORT, last: PORT }],
            service: Service::Other,
            signing_certificate: key,
            block_invalid_certificates: false,
            block_expired_certificates: false,
            reset_client_on_block: false,
            logging: false,
            downgrade_http2: false,
            minimum_rsa_key_length: weir_policy::snapshot::MINIMUM_RSA_KEY_LENGTH,
            allowed: weir_policy::suites::Allowed::default(),
            on_encrypted_client_hello: Default::default(),
            on_client_certificate_request: weir_policy::snapshot::OnRefusal::Block,
            on_pinned_client: weir_policy::snapshot::OnRefusal::Block,
            learnt_bypass_time: weir_policy::snapshot::LEARNT_BYPASS_TIME,
            revocation: Default::default(),
            revocation_unknown: Default::default(),
        }],
        device: Device {
            health: Health { heartbeat_timeout: Duration::from_secs(20), ..Health::default() },
            ..Device::default()
        },
        ..Snapshot::default()
    }
}

/// A server proxy of no destinations and ports; no flow of it is decrypted here.
pub fn server_proxy() -> ServerProxy {
    ServerProxy {
        name: "server".into(),
        destinations: vec![],
        detection_ports: vec![],
        service: Service::Other,
        certificates: vec![CertifiedKey { chain: vec![], key: SecretBytes::new(vec![]) }],
        reset_server_on_block: false,
        logging: false,
        downgrade_http2: false,
        allowed: Default::default(),
        on_client_certificate_request: Default::default(),
        learnt_bypass_time: 600,
    }
}

/// What a test engine does with each flow.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Does {
    TakeOver,
    Release,
    /// When the client has said its first word again.
    ReleaseLate,
    Block(Resets),
    /// Never decides.
    Hold,
}

/// After so long a pause a flow's first payload is judged as far as it came: longer than a busy machine
/// takes from one packet of a test to the next.
const NOTHING_MORE: Duration = Duration::from_secs(3);

/// A client has repeated its first word by then (RFC 6298: Linux waits 200 ms at least).
const REPEATED: Duration = Duration::from_millis(300);

/// Judges every flow once `enough` bytes of it came (or nothing more will), on a runtime of its own.
pub fn judge_all(held: HeldFlows, enough: usize, does: Does) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(tokio::task::LocalSet::new().run_until(async move {
            let mut held = held;
            while let Some(flow) = held.next().await {
                tokio::task::spawn_local(judge(flow, enough, does));
            }
        }));
    })
}

/// Hands flows to the test, for it to decide: a runtime of their own reads the rings as long as it listens.
pub fn flows_of(held: HeldFlows) -> Receiver<HeldFlow> {
    let (send, flows) = channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let mut held = held;
            while let Some(flow) = held.next().await {
                if send.send(flow).is_err() {
                    break;
                }
            }
        });
    });
    flows
}

async fn judge(mut flow: HeldFlow, enough: usize, does: Does) {
    while flow.payload().len() < enough {
        match tokio::time::timeout(NOTHING_MORE, flow.more()).await {
            Ok(Held::More) => {}
            Ok(_) | Err(_) => break,
        }
    }
    match does {
        Does::Hold => std::future::pending().await,
        Does::Release => flow.release().unwrap(),
        Does::ReleaseLate => {
            tokio::time::sleep(REPEATED).await;
            flow.release().unwrap();
        }
        Does::Block(resets) => flow.block(resets).unwrap(),
        Does::TakeOver => match flow.take_over().await {
            Ok(taken) => pass_through(taken).await,
            Err(error) => eprintln!("not taken over: {error}"),
        },
    }
}

/// Moves bytes both ways as the engine does; ends in order where both ends do, else resets.
pub async fn pass_through(mut taken: TakenFlow) {
    if taken.relay(&mut Relayed::default(), None).await.is_ok() {
        set_reset_on_close(&taken.client, false).unwrap();
        set_reset_on_close(&taken.server, false).unwrap();
    }
}
