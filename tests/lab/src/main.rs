//! `weir-lab`: the demo, on either wire, and the measurements.

use std::io::Read as _;
use std::os::fd::IntoRawFd as _;
use std::process::ExitCode;
use std::sync::atomic::{AtomicI32, Ordering};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use weir_lab::bench::{Bench, dataplane, tls};
use weir_lab::crowd::{churn, idle, machine};
use weir_lab::report::Report;
use weir_lab::wire::Wire;
use weir_lab::wire::lab::Lab;
use weir_lab::wire::machine::{Firmware, Image, Machine};
use weir_lab::{checks, process};

/// musl's own allocator has one lock for all threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(name = "weir-lab", about = "Weir between real ends", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The six checks, with the evidence for each.
    Demo {
        /// What is between the ends.
        #[arg(long, value_enum, default_value_t = WireKind::Machine)]
        wire: WireKind,
        #[arg(long, value_enum, default_value_t = FirmwareKind::Seabios)]
        firmware: FirmwareKind,
        /// Leave the appliance running afterwards, this terminal on its serial console; Ctrl-]
        /// stops it.
        #[arg(long)]
        keep: bool,
    },
    /// As the first process of the machine of ends (tests of tunnels); nothing else.
    #[command(hide = true)]
    Ends,
    /// Sessions by the thousand through the lab: what they take of the engine, and leave in it.
    Crowd {
        #[command(subcommand)]
        of: Crowd,
    },
    /// Measurements, each against its bar; whatever they say, the exit code is 0.
    Bench {
        #[command(subcommand)]
        subject: Subject,
    },
}

#[derive(Subcommand)]
enum Subject {
    /// What a packet and a flow cost, as ratios to the plain bridge in the same run.
    Dataplane(dataplane::Settings),
    /// What TLS inspection costs, beside other proxies and beside the bare cryptography.
    Tls(tls::Settings),
    /// One end's process of many open connections.
    #[command(hide = true)]
    Open(dataplane::open::Settings),
}

#[derive(Subcommand)]
enum Crowd {
    /// That idle, then are used, then closed.
    Idle {
        #[command(flatten)]
        settings: idle::Settings,
        /// What is between the ends; the appliance's memory is measured in the lab only.
        #[arg(long, value_enum, default_value_t = WireKind::Lab)]
        wire: WireKind,
    },
    /// One after another, a share of them aborted by either end at any stage.
    Churn(churn::Settings),
    /// The servers' process of a crowd through the image.
    #[command(hide = true)]
    Servers(machine::Servers),
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum WireKind {
    /// Weir's processes on this machine's kernel.
    Lab,
    /// The appliance, booted from its image under QEMU.
    Machine,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FirmwareKind {
    Seabios,
    Ovmf,
}

fn main() -> ExitCode {
    if let Err(error) = end_cleanly_by_signal() {
        eprintln!("weir-lab: {error:#}");
        return ExitCode::FAILURE;
    }
    let (wire, firmware, keep) = match Arguments::parse().command {
        Command::Demo { wire, firmware, keep } => (wire, firmware, keep),
        Command::Ends => {
            let ended = weir_lab::tunnels::inside::run();
            return if ended.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
        Command::Crowd { of } => {
            return match crowd(&of) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    eprintln!("crowd: {error:#}");
                    ExitCode::FAILURE
                }
            };
        }
        Command::Bench { subject } => {
            let done = match subject {
                Subject::Dataplane(settings) => dataplane::run(&settings),
                Subject::Tls(settings) => tls::run(&settings),
                Subject::Open(settings) => dataplane::open::run(&settings),
            };
            return match done {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    eprintln!("bench: {error:#}");
                    ExitCode::FAILURE
                }
            };
        }
    };
    let firmware = match firmware {
        FirmwareKind::Seabios => Firmware::SeaBios,
        FirmwareKind::Ovmf => Firmware::Ovmf,
    };
    match demo(wire, firmware, keep) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn crowd(of: &Crowd) -> Result<()> {
    match of {
        Crowd::Idle { settings, wire: WireKind::Machine } => {
            let program = std::env::current_exe()?;
            println!("{}", machine::run(&program, settings.sessions, settings.idle())?);
        }
        Crowd::Idle { settings, wire: WireKind::Lab } => {
            let mut bench = Bench::start(Lab::start)?;
            let report = idle::run(&mut bench, settings)?;
            println!("{:.1} KiB a session (bar: {})\n{report:#?}", report.kib(), idle::BAR_KIB);
            bench.run.succeeded();
        }
        Crowd::Churn(settings) => {
            let mut bench = Bench::start(Lab::start)?;
            println!("{:#?}", churn::run(&mut bench, settings)?);
            bench.run.succeeded();
        }
        Crowd::Servers(servers) => servers.run()?,
    }
    Ok(())
}

fn demo(wire: WireKind, firmware: Firmware, keep: bool) -> Result<bool> {
    let report = Report::new("demo");
    match wire {
        WireKind::Lab => {
            report.progress("starting curl's and nginx's namespaces, agent and engine");
            run(Bench::start(Lab::start)?, report, keep)
        }
        WireKind::Machine => {
            report.progress("booting the appliance under QEMU, curl on port 1A, nginx on port 1B");
            let bench = Bench::start(|ends| Machine::start(ends, firmware, Image::Own))?;
            report.progress(&format!("it was up after {} s", bench.wire.boot_time.as_secs()));
            run(bench, report, keep)
        }
    }
}

fn run<W: Wire>(mut bench: Bench<W>, mut report: Report, keep: bool) -> Result<bool> {
    report.progress("it inspects");
    println!(
        "     files of this run: {} (there while it runs; --keep keeps it running)",
        bench.run.directory().display()
    );
    checks::all(&mut bench, &mut report);
    let passed = report.conclude();
    if keep {
        stay(&mut bench)?;
    }
    if passed {
        bench.run.succeeded();
    }
    Ok(passed)
}

/// `--keep`: until the user has enough.
fn stay<W: Wire>(bench: &mut Bench<W>) -> Result<()> {
    println!("\nThe ends are namespaces of this machine; for instance, in another terminal:");
    println!(
        "  ip netns exec {} curl --cacert {} --resolve public.example:443:10.66.0.2 \
         https://public.example/",
        bench.ends.client.name(),
        bench.ends.certificates.client_trust.display()
    );
    bench.wire.attach().context("attaching this terminal")
}

/// SIGINT and SIGTERM end this program's processes and namespaces too. By a handler, not by a
/// blocked mask: children would inherit that.
fn end_cleanly_by_signal() -> Result<()> {
    let (reader, writer) = nix::unistd::pipe()?;
    SIGNALLED.store(writer.into_raw_fd(), Ordering::Relaxed);
    let action =
        SigAction::new(SigHandler::Handler(on_signal), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler only loads an atomic and calls write(2), both async-signal-safe.
        unsafe { sigaction(signal, &action) }?;
    }
    std::thread::spawn(move || {
        let mut signal = [0];
        if std::fs::File::from(reader).read_exact(&mut signal).is_ok() {
            process::end_all();
            weir_lab::run::remove_own();
            std::process::exit(128 + i32::from(signal[0]));
        }
    });
    Ok(())
}

/// The writing end of the pipe that [`on_signal`] writes to; open for the program's life.
static SIGNALLED: AtomicI32 = AtomicI32::new(-1);

extern "C" fn on_signal(signal: i32) {
    let number = [u8::try_from(signal).unwrap_or(0)];
    // SAFETY: the descriptor is never closed; write(2) reads one byte of a live array.
    unsafe { libc::write(SIGNALLED.load(Ordering::Relaxed), number.as_ptr().cast(), 1) };
}
