//! Where the processes meet, in the appliance. The lab passes its own paths by option.

/// The agent listens; the engine connects (see [`crate::engine`]).
pub const ENGINE_SOCKET: &str = "/run/weir/engine.sock";
/// The agent listens; consoles connect (see [`crate::console`]).
pub const CONSOLE_SOCKET: &str = "/run/weir/console.sock";
/// The capture helper listens; the agent connects (see [`crate::capture`]).
pub const CAPTURE_SOCKET: &str = "/run/weir/capture/capture.sock";
/// init listens; the agent connects (see [`crate::init`]).
pub const INIT_SOCKET: &str = "/run/weir/init.sock";
/// What `weir-agent provision` leaves for init (see [`crate::init::BootPlan`]).
pub const BOOT_PLAN: &str = "/run/weir/boot-plan.json";
/// What `weir-agent provision` leaves for the agent: `weir_provisioning::Provisioned` as JSON.
pub const PROVISIONED: &str = "/run/weir/agent/provisioned.json";
/// What went wrong at provisioning, a line each, for the console's greeting.
pub const PROVISIONING_ERRORS: &str = "/run/weir/agent/provisioning-errors";
/// The image's own configuration document.
pub const IMAGE_CONFIGURATION: &str = "/etc/weir/weir.toml";
/// Where named network namespaces live, as iproute2 has them.
pub const NETNS: &str = "/run/netns";
/// The network namespace that holds the ports and bridges of all segments.
pub const WIRE_NAMESPACE: &str = "wire";
/// Where the data plane's programs and tables are pinned; the engine's user owns it.
pub const PINS: &str = "/sys/fs/bpf/weir";
/// Link-down synchronisation listens; the agent connects (see [`crate::links`]).
pub const LINKS_SOCKET: &str = "/run/weir/links.sock";
