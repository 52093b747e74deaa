//! The smallest engine: judges each flow of port 4433 on segment 1 without looking at it.
//!
//! `engine PREFIX PIN_DIRECTORY take-over|release|hold`, as root, after `segment::create`. Prints
//! `ready` once flows are held. Tests run it as a process of its own, to kill and to stop it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../tests/wire/engine.rs"]
mod engine;

use std::path::PathBuf;

use engine::{Does, Engine, judge_all};
use weir_dataplane::Attach;
use weir_dataplane::segment::Names;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut next = |what: &str| arguments.next().unwrap_or_else(|| panic!("{what} is missing"));
    let names = Names { prefix: next("PREFIX"), ..Names::default() };
    let pins = PathBuf::from(next("PIN_DIRECTORY"));
    let does = match next("take-over, release or hold").as_str() {
        "take-over" => Does::TakeOver,
        "release" => Does::Release,
        "hold" => Does::Hold,
        other => panic!("{other}: right would be take-over, release or hold"),
    };
    let (_engine, held) = Engine::open(&names, &pins, Attach::Auto);
    let judge = judge_all(held, 1, does);
    println!("ready");
    judge.join().unwrap();
}
