//! `weir-agent provision`: once at boot, as root. Finds the datasource, parses it whole, and
//! leaves the boot plan for init and the rest for the agent: all of it or none.
//!
//! Not for: applying the plan (init does). Fails with status 1 and a line for each error, on
//! standard error and on the console; no datasource at all is no failure.

use std::fs::{self, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use nix::unistd::{User, chown};
use serde::Serialize;
use weir_api::init::{BootPlan, Management, PlannedSegment};
use weir_policy::Configuration;
use weir_provisioning::Provisioned;
use zeroize::Zeroizing;

use crate::configuration::Sources;

#[derive(Args)]
pub struct Options {
    /// Reads this directory instead of looking for a file system labelled `cidata`.
    #[arg(long, value_name = "DIR")]
    seed: Option<PathBuf>,
    /// The image's configuration, below what is provisioned.
    #[arg(long, value_name = "FILE")]
    configuration: Vec<PathBuf>,
    /// Where plan and errors are left.
    #[arg(long, value_name = "DIR", default_value = "/run/weir")]
    run_directory: PathBuf,
    /// Messages are printed here as well.
    #[arg(long, value_name = "PATH", default_value = "/dev/console")]
    console: PathBuf,
}

/// What went wrong; a line each.
struct Refused(Vec<String>);

impl From<anyhow::Error> for Refused {
    fn from(error: anyhow::Error) -> Self {
        Self(vec![format!("{error:#}")])
    }
}

pub fn provision(options: &Options) -> ExitCode {
    let places = Places::below(&options.run_directory);
    let result = places.prepare().and_then(|()| apply(options, &places));
    match result {
        Ok(messages) => {
            for message in &messages {
                say(&options.console, message);
            }
            ExitCode::SUCCESS
        }
        Err(Refused(errors)) => {
            for error in &errors {
                say(&options.console, error);
            }
            say(&options.console, "provisioning failed: nothing of it was applied");
            // The console's greeting shows them; the lines above told the same.
            let _ = places.leave_errors(&errors);
            ExitCode::FAILURE
        }
    }
}

/// The messages of a success.
fn apply(options: &Options, places: &Places) -> Result<Vec<String>, Refused> {
    let seed = weir_provisioning::find_seed(options.seed.as_deref())
        .map_err(|error| Refused(vec![format!("datasource: {error}")]))?;
    let Some(seed) = seed else {
        return Ok(vec!["no NoCloud datasource (label cidata): built-in settings hold".into()]);
    };
    let provisioned = weir_provisioning::parse(&seed)
        .map_err(|errors| Refused(errors.iter().map(ToString::to_string).collect()))?;
    let sources = Sources::new(&options.configuration, Path::new(""));
    let configuration = sources
        .at_boot(&provisioned)
        .map_err(|errors| Refused(errors.iter().map(ToString::to_string).collect()))?;
    places.leave(&boot_plan(&provisioned, &configuration), &provisioned)?;
    let mut messages: Vec<String> =
        provisioned.warnings.iter().map(|warning| format!("warning: {warning}")).collect();
    messages.push(format!("provisioned from {}", seed.origin));
    Ok(messages)
}

fn boot_plan(provisioned: &Provisioned, configuration: &Configuration) -> BootPlan {
    BootPlan {
        hostname: provisioned.hostname.clone(),
        management: provisioned.management.as_ref().map(|management| Management {
            addresses: management.addresses.iter().map(ToString::to_string).collect(),
            gateway: management.gateway,
            name_servers: management.name_servers.clone(),
        }),
        flow_table: Some(configuration.boot_flow_table()),
        segments: configuration
            .boot_segments()
            .iter()
            .map(|segment| PlannedSegment {
                id: segment.id,
                name: segment.name.clone(),
                layer2_fallback: segment.layer2_fallback,
                link_down_synchronisation: segment.link_down_synchronisation,
                wait_time: segment.wait_time,
                mtu: segment.mtu,
            })
            .collect(),
    }
}

/// Where the results are left.
struct Places {
    boot_plan: PathBuf,
    agent: PathBuf,
    provisioned: PathBuf,
    errors: PathBuf,
}

impl Places {
    /// The names of [`weir_api::paths`] below a directory of choice.
    fn below(run: &Path) -> Self {
        let agent = run.join("agent");
        Self {
            boot_plan: run.join("boot-plan.json"),
            provisioned: agent.join("provisioned.json"),
            errors: agent.join("provisioning-errors"),
            agent,
        }
    }

    /// Makes the directories, and removes what an earlier run left.
    fn prepare(&self) -> Result<(), Refused> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o750).create(&self.agent);
        made.and_then(|()| give_to_agent(&self.agent)).map_err(|error| at(&self.agent, &error))?;
        for file in [&self.boot_plan, &self.provisioned, &self.errors] {
            match fs::remove_file(file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(at(file, &error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Both or none: init looks at the plan, which comes last.
    fn leave(&self, plan: &BootPlan, provisioned: &Provisioned) -> Result<(), Refused> {
        let left = write(&self.provisioned, provisioned)
            .and_then(|()| give_to_agent(&self.provisioned))
            .map_err(|error| at(&self.provisioned, &error));
        let left = left.and_then(|()| {
            write(&self.boot_plan, plan).map_err(|error| at(&self.boot_plan, &error))
        });
        if left.is_err() {
            let _ = fs::remove_file(&self.provisioned);
            let _ = fs::remove_file(&self.boot_plan);
        }
        left
    }

    fn leave_errors(&self, errors: &[String]) -> io::Result<()> {
        fs::write(&self.errors, errors.join("\n") + "\n")?;
        give_to_agent(&self.errors)
    }
}

fn at(path: &Path, error: &io::Error) -> Refused {
    Refused(vec![format!("{}: {error}", path.display())])
}

/// Readable by its owner only, whole or not at all.
fn write<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let text = Zeroizing::new(serde_json::to_vec(value)?);
    let new = path.with_extension("new");
    let _ = fs::remove_file(&new);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(&text)?;
    fs::rename(&new, path)
}

/// The agent runs as its own user in the appliance; elsewhere that user is missing, and the file
/// stays with who made it.
fn give_to_agent(path: &Path) -> io::Result<()> {
    match User::from_name("weir-agent")? {
        Some(user) => Ok(chown(path, Some(user.uid), Some(user.gid))?),
        None => Ok(()),
    }
}

/// On standard error, and on the console where that is something else.
fn say(console: &Path, message: &str) {
    let line = format!("weir: {message}\n");
    let _ = io::stderr().write_all(line.as_bytes());
    if io::stderr().is_terminal() {
        return;
    }
    if let Ok(mut console) = OpenOptions::new().append(true).open(console) {
        let _ = console.write_all(line.as_bytes());
    }
}
