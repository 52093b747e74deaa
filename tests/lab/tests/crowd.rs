//! Sessions by the thousand. `weir-lab crowd` has more of them, for those who have more time.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::lab;
use weir_lab::crowd::{churn, idle};

#[test]
fn idle_sessions_all_stay_in_little_memory_and_go_on_when_they_are_used() {
    let mut bench = lab();
    let report = idle::run(&mut bench, &idle::Settings { sessions: 2_000, seconds: 3 });
    println!("{:#?}", report.unwrap_or_else(|error| panic!("{error:#}")));
    bench.run.succeeded();
}

#[test]
fn sessions_aborted_at_any_stage_leave_nothing_behind() {
    let mut bench = lab();
    let settings = churn::Settings { sessions: 3_000, seed: 7, forgotten: false };
    let report = churn::run(&mut bench, &settings);
    println!("{:#?}", report.unwrap_or_else(|error| panic!("{error:#}")));
    bench.run.succeeded();
}
