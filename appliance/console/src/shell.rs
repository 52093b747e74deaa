//! The interactive console: banner, login, prompt, commands.
//!
//! A serial line tells of no hang-up, so that a login ends by itself after a while without a key.
//! An agent that is away is said once and waited for. Fails only where the terminal does.

use std::cell::RefCell;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use weir_api::capture::CaptureOptions;
use weir_api::console::{Greeting, Request, Response, Role};
use weir_policy::SecretBytes;

use crate::agent::{Agent, Away};
use crate::capture::{self, Pause};
use crate::command::{self, Step};
use crate::editor::{Editor, Entry, Event};
use crate::grammar::{self, Completion};
use crate::render;
use crate::terminal::{Input, Terminal};
use crate::text::{WIDTH, fold, printable};

/// Without a key for this long, the login ends.
const IDLE_LOGOUT: Duration = Duration::from_secs(15 * 60);
/// Time for a password, once a name was given.
const PASSWORD_WITHIN: Duration = Duration::from_secs(60);
const RETRY_AGENT: Duration = Duration::from_secs(2);

/// Longest hostname in the prompt.
const PROMPT_NAME: usize = 32;

pub fn interactive(socket: &Path) -> anyhow::Result<()> {
    let mut shell = Shell { terminal: Terminal::open()?, editor: Editor::default() };
    loop {
        match shell.sitting(socket)? {
            Sitting::Over => shell.editor.forget(),
            Sitting::AgentAway(Away(why)) => {
                let text = format!("The agent went away: {why}.");
                shell.terminal.print(&fold("", &text))?;
                shell.editor.forget();
            }
            Sitting::Leave => return Ok(()),
        }
    }
}

/// How a sitting ended.
enum Sitting {
    /// The next one begins.
    Over,
    AgentAway(Away),
    /// The process ends.
    Leave,
}

/// How reading a line ended.
enum Typed {
    Line(String),
    Idle,
    EndOfInput,
    Closed,
}

struct Shell {
    terminal: Terminal,
    editor: Editor,
}

impl Shell {
    /// From banner to logout.
    fn sitting(&mut self, socket: &Path) -> io::Result<Sitting> {
        let Some(mut agent) = self.connect(socket)? else { return Ok(Sitting::Leave) };
        let greeting = match agent.greeting() {
            Ok(greeting) => greeting,
            Err(away) => return self.agent_away(away),
        };
        self.terminal.print(&format!("\n{}", render::banner(&greeting)))?;
        match greeting.role {
            None => match self.log_in(&mut agent, &greeting)? {
                Ok(true) => {}
                Ok(false) => return Ok(Sitting::Leave),
                Err(away) => return self.agent_away(away),
            },
            // The serial line of an appliance without users: its reader may have gone.
            Some(Role::Viewer) => {
                match self.read("Press Enter for the console. ", Entry::Answer, None)? {
                    Typed::Closed => return Ok(Sitting::Leave),
                    Typed::Line(_) | Typed::Idle | Typed::EndOfInput => {}
                }
            }
            Some(_) => {}
        }
        let end = self.commands(&mut agent, &greeting)?;
        // Root at a shell leaves; on the serial line the next login follows.
        Ok(match (end, greeting.role) {
            (Sitting::Over, Some(role)) if role > Role::Viewer => Sitting::Leave,
            (Sitting::AgentAway(away), _) => return self.agent_away(away),
            (end, _) => end,
        })
    }

    /// Keeps an agent that fails at once from filling the screen.
    fn agent_away(&mut self, away: Away) -> io::Result<Sitting> {
        match self.terminal.read(RETRY_AGENT)? {
            Input::Closed => Ok(Sitting::Leave),
            Input::Byte(_) | Input::Idle => Ok(Sitting::AgentAway(away)),
        }
    }

    /// `None`: the terminal was closed while waiting for the agent.
    fn connect(&mut self, socket: &Path) -> io::Result<Option<Agent>> {
        let mut said = false;
        loop {
            match Agent::connect(socket) {
                Ok(agent) => return Ok(Some(agent)),
                Err(error) if !said => {
                    let text = format!(
                        "The agent does not answer at {}: {error}. Trying again.",
                        socket.display()
                    );
                    self.terminal.print(&fold("", &text))?;
                    said = true;
                }
                Err(_) => {}
            }
            // Keys typed meanwhile are dropped; Ctrl-C and Ctrl-D leave.
            match self.terminal.read(RETRY_AGENT)? {
                Input::Closed | Input::Byte(0x03 | 0x04) => return Ok(None),
                Input::Byte(_) => std::thread::sleep(Duration::from_millis(200)),
                Input::Idle => {}
            }
        }
    }

    /// `false`: the terminal was closed.
    fn log_in(&mut self, agent: &mut Agent, greeting: &Greeting) -> io::Result<Result<bool, Away>> {
        let prompt = format!("{} login: ", prompt_name(greeting));
        loop {
            let user = match self.read(&prompt, Entry::Answer, None)? {
                Typed::Line(user) if user.trim().is_empty() => continue,
                Typed::Line(user) => user.trim().to_owned(),
                Typed::Closed => return Ok(Ok(false)),
                Typed::EndOfInput | Typed::Idle => {
                    self.terminal.print("\n")?;
                    continue;
                }
            };
            self.editor.forget();
            let password = match self.read("Password: ", Entry::Secret, Some(PASSWORD_WITHIN))? {
                Typed::Line(password) => SecretBytes::new(password.into_bytes()),
                Typed::Closed => return Ok(Ok(false)),
                Typed::EndOfInput | Typed::Idle => {
                    self.terminal.print("\n")?;
                    continue;
                }
            };
            match agent.ask(&Request::Login { user, password }) {
                Ok(response @ Response::LoggedIn { .. }) => {
                    self.terminal.print(&render::response(&response))?;
                    return Ok(Ok(true));
                }
                Ok(response) => self.terminal.print(&render::response(&response))?,
                Err(away) => return Ok(Err(away)),
            }
        }
    }

    fn commands(&mut self, agent: &mut Agent, greeting: &Greeting) -> io::Result<Sitting> {
        // Contexts of `edit` will stand between the braces.
        let prompt = format!("{}{{}} ", prompt_name(greeting));
        loop {
            let line = match self.read(&prompt, Entry::Command, Some(IDLE_LOGOUT))? {
                Typed::Line(line) => line,
                Typed::Closed => return Ok(Sitting::Leave),
                Typed::EndOfInput => {
                    self.terminal.print("\n")?;
                    return Ok(Sitting::Over);
                }
                Typed::Idle => {
                    self.terminal.print("\nLogged out after 15 minutes without a key.\n")?;
                    return Ok(Sitting::Over);
                }
            };
            let parsed = match grammar::parse(&line) {
                Ok(None) => continue,
                Ok(Some(parsed)) => parsed,
                Err(mistake) => {
                    self.terminal.print(&mistake.show(prompt.chars().count()))?;
                    continue;
                }
            };
            let request = match command::step(&parsed) {
                Step::Leave => return Ok(Sitting::Over),
                Step::Help => {
                    self.terminal.print(&render::help())?;
                    continue;
                }
                Step::Capture(options) => {
                    match self.capture(agent, options) {
                        Ok(Ok(())) => {}
                        Ok(Err(refused)) => self.refused(&refused)?,
                        Err(away) => return Ok(Sitting::AgentAway(away)),
                    }
                    continue;
                }
                Step::Ask(request) => request,
                Step::Confirm(question, request) => {
                    if !self.confirm(question)? {
                        self.terminal.print("Nothing was done.\n")?;
                        continue;
                    }
                    request
                }
            };
            match command::ask(agent, &parsed, &request) {
                Ok(Ok(shown)) => self.terminal.print(&shown)?,
                Ok(Err(refused)) => self.refused(&refused)?,
                Err(away) => return Ok(Sitting::AgentAway(away)),
            }
        }
    }

    fn refused(&self, why: &str) -> io::Result<()> {
        self.terminal.print(&fold("", &format!("Refused: {why}")))
    }

    /// Keys typed meanwhile are dropped, but Ctrl-C.
    fn capture(
        &mut self,
        agent: &mut Agent,
        options: CaptureOptions,
    ) -> Result<Result<(), String>, Away> {
        let terminal = RefCell::new(&mut self.terminal);
        // A terminal that does not print is found out at the next prompt.
        let print = |text: &str| drop(terminal.borrow().print(text));
        let pause = |_: &mut Agent, time: Duration| {
            let until = Instant::now() + time;
            loop {
                match terminal.borrow_mut().read(until.saturating_duration_since(Instant::now())) {
                    Ok(Input::Byte(0x03) | Input::Closed) | Err(_) => return Pause::Stop,
                    Ok(Input::Byte(_)) => {}
                    Ok(Input::Idle) => return Pause::Over,
                }
            }
        };
        capture::run(agent, options, print, pause)
    }

    fn confirm(&mut self, question: &str) -> io::Result<bool> {
        let typed =
            self.read(&format!("{question} [y/N] "), Entry::Answer, Some(PASSWORD_WITHIN))?;
        Ok(matches!(typed, Typed::Line(answer) if matches!(answer.trim(), "y" | "Y" | "yes")))
    }

    /// `patience`: without a key for longer, [`Typed::Idle`]; `None`: for ever.
    fn read(
        &mut self,
        prompt: &str,
        entry: Entry,
        patience: Option<Duration>,
    ) -> io::Result<Typed> {
        let start = self.editor.begin(prompt, entry, WIDTH);
        self.terminal.print(&start)?;
        loop {
            let byte = match self.terminal.read(patience.unwrap_or(IDLE_LOGOUT))? {
                Input::Byte(byte) => byte,
                Input::Idle if patience.is_none() => continue,
                Input::Idle => return Ok(Typed::Idle),
                Input::Closed => return Ok(Typed::Closed),
            };
            let mut output = String::new();
            let event = self.editor.feed(byte, &mut output);
            self.terminal.print(&output)?;
            match event {
                None => {}
                Some(Event::Line(line)) => return Ok(Typed::Line(line)),
                Some(Event::EndOfInput) => return Ok(Typed::EndOfInput),
                Some(Event::Help(line)) => self.help(prompt, &line)?,
                Some(Event::Complete(line)) => self.complete(&line)?,
            }
        }
    }

    fn help(&mut self, prompt: &str, line: &str) -> io::Result<()> {
        let text = match grammar::help(line) {
            Ok(valid) => grammar::list(&valid),
            Err(mistake) => mistake.show(prompt.chars().count()),
        };
        self.terminal.print(&format!("?\n{text}{}", self.editor.redraw()))
    }

    fn complete(&mut self, line: &str) -> io::Result<()> {
        match grammar::complete(line) {
            Completion::Append(text) => {
                let mut output = String::new();
                self.editor.append(&text, &mut output);
                self.terminal.print(&output)
            }
            Completion::Several(valid) => {
                let text = grammar::list(&valid);
                self.terminal.print(&format!("\n{text}{}", self.editor.redraw()))
            }
            Completion::Nothing => self.terminal.print("\u{7}"),
        }
    }
}

fn prompt_name(greeting: &Greeting) -> String {
    let name = printable(&greeting.hostname);
    let first = name.split('.').next().unwrap_or(&name);
    first.get(..PROMPT_NAME).unwrap_or(first).to_owned()
}
