//! From a parsed line to the agent's answer, shown.
//!
//! Not for: reading lines (see [`crate::grammar`]) and not for what answers look like (see
//! [`crate::render`]). Fails by words for the operator.

mod rules;

use std::io::Write as _;
use std::path::Path;

use anyhow::{anyhow, bail};
use weir_api::capture::{CaptureOptions, ToCapture};
use weir_api::console::{Request, Response};
use weir_policy::snapshot::SegmentId;

use crate::agent::{Agent, Away};
use crate::capture::{self, Pause};
use crate::grammar::{self, Command, Line};
use crate::render::{self, sight};

/// Shown where the line names no count: a screen or two.
const RECORDS: usize = 20;
const LOG_LINES: usize = 50;

/// What a line leads to.
pub enum Step {
    /// Ask the agent.
    Ask(Request),
    /// Ask the operator first: the question.
    Confirm(&'static str, Request),
    /// A capture, followed to its end.
    Capture(CaptureOptions),
    Help,
    Leave,
}

pub fn step(line: &Line) -> Step {
    let records = line.count.unwrap_or(RECORDS);
    match line.command {
        Command::ShowVersion => Step::Ask(Request::Version),
        Command::ShowHealth => Step::Ask(Request::Health),
        Command::ShowSegments => Step::Ask(Request::Segments),
        Command::Capture => Step::Capture(capture::options(line)),
        Command::CaptureStop => Step::Ask(Request::Capture(ToCapture::Stop(name(line, "stop")))),
        Command::CaptureDelete => {
            Step::Ask(Request::Capture(ToCapture::Delete(name(line, "delete"))))
        }
        Command::ShowCaptures => Step::Ask(Request::Capture(ToCapture::List)),
        Command::ShowVirtualSegments => Step::Ask(Request::VirtualSegments),
        Command::ShowTlsInspection => Step::Ask(Request::TlsInspection),
        Command::ForgetLearnt => Step::Ask(match line.argument("learnt-bypasses") {
            Some(name) => Request::ForgetLearntOf(name.to_owned()),
            None => Request::ForgetLearnt,
        }),
        Command::ShowLearnt => Step::Ask(Request::ShowLearnt),
        Command::ShowSessionsLive => Step::Ask(Request::LiveSessions { limit: records }),
        Command::ShowCiphers => Step::Ask(Request::Ciphers),
        Command::ShowSessions | Command::ShowSessionsDetail => {
            Step::Ask(Request::Sessions { limit: records })
        }
        Command::ShowTlsInspectionLog => Step::Ask(Request::TlsInspectionLog { limit: records }),
        Command::DebugInspectionStats
        | Command::DebugProtocolStats
        | Command::DebugTcpProxyStats => Step::Ask(Request::TlsInspection),
        Command::ShowEvents => Step::Ask(Request::Events { limit: records }),
        Command::ShowLog => Step::Ask(Request::Log { limit: line.count.unwrap_or(LOG_LINES) }),
        Command::ShowConfiguration => Step::Ask(Request::Configuration),
        Command::ForceFallback => Step::Ask(Request::ForceFallback(true)),
        Command::ForceNormal => Step::Ask(Request::ForceFallback(false)),
        Command::ShowHighAvailability => Step::Ask(Request::HighAvailability),
        Command::RestartPorts => {
            let segment = line.count.and_then(|number| u16::try_from(number).ok());
            Step::Ask(Request::RestartPorts(SegmentId(segment.unwrap_or_default())))
        }
        Command::Quarantine
        | Command::ReleaseHost
        | Command::ShowQuarantine
        | Command::ShowRules
        | Command::ShowReputation
        | Command::Explain => rules::request(line).map_or(Step::Help, Step::Ask),
        Command::DebugEngineRestart => Step::Ask(Request::RestartEngine),
        Command::DebugClearSessions => Step::Ask(Request::ClearSessions),
        Command::DebugEngineKill => Step::Ask(Request::KillEngine),
        Command::Reboot => Step::Confirm("Restart the appliance?", Request::Reboot),
        Command::RebootUnasked => Step::Ask(Request::Reboot),
        Command::Shutdown => Step::Confirm("Shut the appliance down?", Request::PowerOff),
        Command::ShutdownUnasked => Step::Ask(Request::PowerOff),
        Command::Help => Step::Help,
        Command::Exit => Step::Leave,
    }
}

fn name(line: &Line, keyword: &str) -> String {
    line.argument(keyword).unwrap_or_default().to_owned()
}

/// Asks and shows. `Ok(Err(..))`: the agent refused, in its words.
pub fn ask(
    agent: &mut Agent,
    line: &Line,
    request: &Request,
) -> Result<Result<String, String>, Away> {
    Ok(match (line.command, agent.ask(request)?) {
        (_, Response::Refused(reason)) => Err(reason),
        (
            Command::ShowSessionsDetail | Command::ShowTlsInspectionLog,
            Response::Sessions(sessions),
        ) => Ok(render::sessions_detail(&sessions)),
        (
            command @ (Command::DebugInspectionStats
            | Command::DebugProtocolStats
            | Command::DebugTcpProxyStats),
            Response::TlsInspection(view),
        ) => match view.counters {
            Some(counted) => Ok(render::counters(match command {
                Command::DebugInspectionStats => &counted.tls_inspection,
                Command::DebugProtocolStats => &counted.tls_protocols,
                _ => &counted.tcp_proxy,
            })),
            None => Err("no engine is connected".into()),
        },
        (Command::ShowSegments, Response::Segments(segments)) => {
            sight::chosen_segments(segments, line.argument("segments")).map(|chosen| {
                match (line.has("json"), line.has("detail")) {
                    (true, _) => sight::json(&chosen),
                    (false, detail) => sight::segments(&chosen, detail),
                }
            })
        }
        (Command::ShowVirtualSegments, Response::VirtualSegments(views)) => {
            sight::chosen_virtual_segments(views, line.argument("virtual-segments")).map(|chosen| {
                match (line.has("json"), line.has("detail")) {
                    (true, _) => sight::json(&chosen),
                    (false, detail) => sight::virtual_segments(&chosen, detail),
                }
            })
        }
        (
            Command::ShowRules,
            Response::TrafficFilters(views) | Response::InspectionBypass(views),
        ) if line.has("json") => Ok(sight::json(&views)),
        (_, response) => Ok(render::response(&response)),
    })
}

/// `weir -c COMMAND`: prints the answer; an error where the line is wrong, the agent is away or
/// refuses.
pub fn run_one(socket: &Path, line: &str) -> anyhow::Result<()> {
    let parsed = match grammar::parse(line) {
        Ok(Some(parsed)) => parsed,
        Ok(None) => bail!("the command is empty\n{}", grammar::list(&valid_at_start())),
        Err(mistake) => bail!("{line}\n{}", mistake.show(0).trim_end()),
    };
    let step = step(&parsed);
    let request = match step {
        Step::Ask(request) | Step::Confirm(_, request) => Ok(request),
        Step::Capture(options) => Err(options),
        Step::Help => {
            print!("{}", render::help());
            return Ok(());
        }
        Step::Leave => return Ok(()),
    };
    let mut agent = Agent::connect(socket)
        .map_err(|error| anyhow!("the agent does not answer at {}: {error}", socket.display()))?;
    let answer = match request {
        Ok(request) => ask(&mut agent, &parsed, &request),
        Err(options) => {
            let pause = |agent: &mut Agent, time| {
                if agent.interrupted_within(time) { Pause::Stop } else { Pause::Over }
            };
            // Where nobody reads any more the capture goes on to its bounds.
            let print = |text: &str| drop(std::io::stdout().write_all(text.as_bytes()));
            let done = capture::run(&mut agent, options, print, pause);
            done.map(|done| done.map(|()| String::new()))
        }
    };
    match answer {
        Ok(Ok(shown)) => print!("{shown}"),
        Ok(Err(refused)) => bail!("refused: {refused}"),
        Err(Away(why)) => bail!("the agent went away: {why}"),
    }
    Ok(())
}

fn valid_at_start() -> Vec<(&'static str, &'static str)> {
    grammar::help("").unwrap_or_default()
}
