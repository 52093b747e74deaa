//! `capture`: starts one, shows how far it is until it ends, and stops it at Ctrl-C.
//!
//! Not for: capturing (the capture helper does). Fails where the agent is away or refuses; a capture
//! that was begun then ends by its own bounds.

use std::time::Duration;

use weir_api::capture::{CaptureOptions, CaptureProgress, FromCapture, ToCapture};
use weir_api::console::{Request, Response};

use crate::agent::{Agent, Away};
use crate::grammar::Line;
use crate::text::{bytes, fold};

/// Between two looks at a capture that runs.
const LOOK: Duration = Duration::from_millis(250);

/// What a pause came to.
pub enum Pause {
    Over,
    /// Ctrl-C, or the terminal is gone.
    Stop,
}

/// What the line asks for. The helper checks it.
pub fn options(line: &Line) -> CaptureOptions {
    let text = |keyword| line.argument(keyword).map(ToOwned::to_owned);
    CaptureOptions {
        port: text("capture").unwrap_or_default(),
        both: line.has("both"),
        count: line.argument("count").and_then(|count| count.parse().ok()),
        duration: line.argument("duration").and_then(|seconds| seconds.parse().ok()),
        snaplen: line.argument("snaplen").and_then(|bytes| bytes.parse().ok()),
        filter: text("filter"),
        file: text("file"),
        print: line.has("print"),
    }
}

/// Starts a capture and follows it to its end. `Ok(Err(..))`: refused, in the helper's words.
/// `pause` waits for as long as it is told, or until the operator has enough.
pub fn run(
    agent: &mut Agent,
    options: CaptureOptions,
    mut print: impl FnMut(&str),
    mut pause: impl FnMut(&mut Agent, Duration) -> Pause,
) -> Result<Result<(), String>, Away> {
    let name = match ask(agent, ToCapture::Start(options))? {
        Ok(FromCapture::Started(name)) => name,
        Ok(_) => return Err(unexpected()),
        Err(refused) => return Ok(Err(refused)),
    };
    print(&fold("", &format!("Capture {name} runs; Ctrl-C stops it.")));
    let mut from = 0;
    loop {
        let stop = matches!(pause(agent, LOOK), Pause::Stop);
        if stop && let Err(refused) = ask(agent, ToCapture::Stop(name.clone()))? {
            print(&fold("", &refused)); // it ended by itself meanwhile
        }
        let progress = match ask(agent, ToCapture::Progress { name: name.clone(), from })? {
            Ok(FromCapture::Progress(progress)) => progress,
            Ok(_) => return Err(unexpected()),
            Err(refused) => return Ok(Err(refused)),
        };
        print(&lines(&progress, from));
        from = progress.next_line;
        if let Some(why) = &progress.ended {
            print(&end(&progress, why));
            return Ok(Ok(()));
        }
    }
}

fn ask(agent: &mut Agent, request: ToCapture) -> Result<Result<FromCapture, String>, Away> {
    match agent.ask(&Request::Capture(request))? {
        Response::Capture(answer) => Ok(Ok(answer)),
        Response::Refused(reason) => Ok(Err(reason)),
        _ => Err(unexpected()),
    }
}

fn unexpected() -> Away {
    Away("the agent answered something else than was asked".into())
}

/// One a packet, folded; and how many came too fast to be kept.
fn lines(progress: &CaptureProgress, from: u64) -> String {
    let missed = progress.next_line.saturating_sub(from + progress.lines.len() as u64);
    let mut text = String::new();
    if missed > 0 {
        text += &format!("({missed} packets not shown)\n");
    }
    for line in &progress.lines {
        text += &fold("", line);
    }
    text
}

fn end(progress: &CaptureProgress, why: &str) -> String {
    let CaptureProgress { name, packets, lost, .. } = progress;
    let size = bytes(progress.bytes);
    fold("", &format!("Capture {name} ended: {why}. {packets} packets, {size}; {lost} lost."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grammar;

    #[test]
    fn a_line_becomes_options() {
        let line = "capture 1A count 100 filter \"tcp port 443\" snaplen 96 file x both";
        let line = grammar::parse(line).unwrap().unwrap();
        let expected = CaptureOptions {
            port: "1A".into(),
            both: true,
            count: Some(100),
            duration: None,
            snaplen: Some(96),
            filter: Some("tcp port 443".into()),
            file: Some("x".into()),
            print: false,
        };
        assert_eq!(options(&line), expected);
    }

    #[test]
    fn lines_that_came_too_fast_are_counted_and_the_end_tells_all() {
        let progress = CaptureProgress {
            name: "x".into(),
            packets: 12,
            bytes: 1200,
            lost: 1,
            ended: None,
            lines: vec!["one\x1b[2J".into(), "two".into()],
            next_line: 10,
        };
        assert_eq!(lines(&progress, 5), "(3 packets not shown)\none\\u{1b}[2J\ntwo\n");
        assert_eq!(lines(&progress, 8), "one\\u{1b}[2J\ntwo\n");
        let expected = "Capture x ended: stopped. 12 packets, 1.2 KB; 1 lost.\n";
        assert_eq!(end(&progress, "stopped"), expected);
    }
}
