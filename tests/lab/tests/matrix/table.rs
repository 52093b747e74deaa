//! The matrix as a person reads it.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use anyhow::Result;
use weir_lab::peers::{Cell, Peer, cells};

use crate::{NotResumed, Visit};

/// One line a cell, one column a program; below it what is not in it, and why.
pub fn table(of: &str, judged: &[(Visit, Result<bool>)], not_resumed: NotResumed) -> String {
    let mut columns: Vec<(&str, Peer)> = Vec::new();
    for (visit, _) in judged {
        if !columns.iter().any(|(column, _)| *column == visit.column) {
            columns.push((visit.column, visit.peer));
        }
    }
    let mut text = format!(
        "TLS versions and suites, {of}: + both sessions, the second resumed; o both, the second not \
         resumed;\nFAILED; - not with this program or key.\n\n{:55}",
        ""
    );
    for (column, _) in &columns {
        let _ = write!(text, "{column:9}");
    }
    text.push('\n');
    let mut reasons = BTreeSet::new();
    if columns.iter().any(|(column, _)| *column == "P-224") {
        let why = "RFC 8446 section 4.2.3: TLS 1.3 has no signature scheme for the curve";
        reasons.insert(format!("P-224: {why}"));
    }
    let possible: Vec<Cell> = cells().filter(|cell| cell.forbidden().is_none()).collect();
    for &cell in &possible {
        let _ = write!(text, "{:55}", cell.name());
        for &(column, peer) in &columns {
            let is_it = |visit: &Visit| visit.column == column && visit.cell.name() == cell.name();
            let sign = match judged.iter().find(|(visit, _)| is_it(visit)) {
                Some((_, Ok(true))) => "+",
                Some((_, Ok(false))) => "o",
                Some((_, Err(_))) => "FAILED",
                None => "-",
            };
            let _ = write!(text, "{sign:9}");
            let reason = peer.lacks(cell).or_else(|| not_resumed(peer, cell));
            let reason = reason.filter(|_| column == peer.name());
            reasons.extend(reason.map(|reason| format!("{}: {reason}", peer.name())));
        }
        text.push('\n');
    }
    text += "\nWhat programs and keys cannot:\n";
    for reason in reasons {
        let _ = writeln!(text, "  {reason}");
    }
    text += "\nForbidden by standards:\n";
    for cell in cells() {
        if let Some(standard) = cell.forbidden() {
            let _ = writeln!(text, "  {:55}{standard}", cell.name());
        }
    }
    text
}
