//! What a run tells its reader: numbered checks, the evidence for each, and a verdict.

use std::time::Instant;

use anyhow::Result;

/// Prints as it goes.
pub struct Report {
    program: &'static str,
    started: Instant,
    passed: usize,
    failed: usize,
}

impl Report {
    pub fn new(program: &'static str) -> Self {
        Self { program, started: Instant::now(), passed: 0, failed: 0 }
    }

    /// What is being done, with the time since the start.
    pub fn progress(&self, text: &str) {
        println!("[{:4} s] {text}", self.started.elapsed().as_secs());
    }

    /// Runs one check and prints its verdict.
    pub fn check(
        &mut self,
        number: usize,
        title: &str,
        check: impl FnOnce(&mut Evidence) -> Result<()>,
    ) {
        println!();
        self.progress(&format!("{number}. {title}"));
        match check(&mut Evidence) {
            Ok(()) => {
                self.passed += 1;
                println!("   => {number} passed");
            }
            Err(error) => {
                self.failed += 1;
                println!("   => {number} FAILED: {error:#}");
            }
        }
    }

    /// The last line. True where every check passed.
    pub fn conclude(&self) -> bool {
        let all = self.passed + self.failed;
        println!();
        println!("{}: {} of {all} checks passed", self.program, self.passed);
        self.failed == 0
    }
}

/// Prints evidence of one check.
pub struct Evidence;

impl Evidence {
    /// A command as it was run.
    pub fn command(&mut self, command: &str) {
        println!("   $ {command}");
    }

    pub fn line(&mut self, text: impl AsRef<str>) {
        println!("     {}", text.as_ref());
    }

    /// Output of several lines, at most `limit` of them.
    pub fn block(&mut self, text: &str, limit: usize) {
        let lines: Vec<&str> = text.trim_end().lines().collect();
        for line in lines.iter().take(limit) {
            println!("     | {line}");
        }
        if lines.len() > limit {
            println!("     | ... ({} more lines)", lines.len() - limit);
        }
    }
}
