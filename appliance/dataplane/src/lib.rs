//! The data plane: segments as bridges, eBPF on their ports, and flows that are held, released,
//! blocked or taken over in mid-flight.
//!
//! For: [`segment::create`] once at boot; [`Dataplane`] in the engine, which hands out each
//! [`HeldFlow`] of a flow that policy might want decrypted. Not for: judging flows, TLS. Every failure leaves a flow on the bridge,
//! except that of an engine with taken flows, which are reset at both ends.

pub mod namespace;
pub mod segment;

mod acknowledgement;
mod assembly;
mod checksum;
mod core;
mod dataplane;
mod encapsulation;
mod engine_namespace;
mod explain;
mod frame;
mod gone;
mod held;
mod histogram;
mod inheritance;
mod instance;
mod judged;
mod layout;
mod link;
mod loads;
mod map_of_maps;
mod own_thread;
mod place;
mod programs;
mod quic;
mod recount;
mod refusal;
mod relay;
mod report;
mod ring;
mod rings;
mod segment_of_ours;
mod silence;
mod socket;
mod state;
mod stray;
mod tables;
mod taken;
mod tcp_info;
mod test_run;
mod traffic;
mod walk;

pub use self::core::{FlowCounts, FlowReport};
pub use acknowledgement::Acknowledgement;
pub use dataplane::{Dataplane, FlowsNow, OpenError, Options, TableSizes, Times};
pub use gone::{DYING, Patience, ask_seldom, gone, why_gone};
pub use held::{Held, HeldFlow, HeldFlows, NotHeld, ReleaseError, TakeOverError};
pub use histogram::HistogramReport;
pub use own_thread::settle_runtime_thread;
pub use programs::{Attach, ProgramError};
pub use quic::{QuicJudge, QuicVerdict};
pub use relay::{RelayFault, Relayed};
pub use report::{SegmentReport, counter_meanings};
pub use ring::monotonic_nanoseconds;
pub use tables::{ApplyError, DropReport, FallbackCause, QuarantineError, RuleKind, RuleReport};
pub use taken::{FlowGuard, TakenFlow, set_reset_on_close};
pub use tcp_info::{acknowledged, idle_for};
pub use traffic::{Direction, PortTraffic};
