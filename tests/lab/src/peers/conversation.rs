//! Programs that are talked to over their standard input and output.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, ensure};

/// A program that stays, and answers each line with one. Killed when dropped.
pub struct Conversation {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Conversation {
    /// Its errors go to `log`.
    pub fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let log = std::fs::File::create(log).context("its log")?;
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).spawn()?;
        let input = child.stdin.take().context("its standard input")?;
        let output = BufReader::new(child.stdout.take().context("its standard output")?);
        Ok(Self { child, input, output })
    }

    pub fn say(&mut self, words: &str) -> Result<()> {
        Ok(self.input.write_all(words.as_bytes())?)
    }

    pub fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        ensure!(!line.is_empty(), "it ended");
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a program, says one line to it, waits until the line comes back, closes its standard input,
/// and waits for its end. All that it printed.
pub fn echoed(command: &mut Command, line: &str) -> Result<String> {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut input = child.stdin.take().context("its standard input")?;
    let mut output = BufReader::new(child.stdout.take().context("its standard output")?);
    // A program that failed has closed its input: its output tells why.
    let _ = input.write_all(format!("{line}\n").as_bytes());
    let mut printed = String::new();
    let mut came_back = false;
    while !came_back {
        let from = printed.len();
        if output.read_line(&mut printed)? == 0 {
            break;
        }
        came_back = printed.get(from..).unwrap_or_default().trim_end() == line;
    }
    drop(input);
    output.read_to_string(&mut printed)?;
    let rest = child.wait_with_output()?;
    let errors = String::from_utf8_lossy(&rest.stderr).into_owned();
    ensure!(came_back, "nothing came back: {printed}{errors}");
    Ok(printed)
}
