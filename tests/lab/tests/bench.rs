//! The measurements against bars, as small as they get: that they do what they say and account for
//! it. What they come to is for a quiet machine (`ci/bench`).
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::process::Command;

use serde_json::Value;

#[test]
fn tls_is_measured_from_end_to_end_and_accounted_for() {
    let results = std::env::temp_dir().join(format!("weirlab-bench-{}.json", std::process::id()));
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir-lab"));
    command.args(["bench", "tls", "--rounds", "1", "--sessions", "40", "--objects", "4"]);
    command.args(["--requests", "320", "--idle", "50", "--idle-legacy", "10"]);
    command.args(["--without-peers", "--results"]);
    let output = command.arg(&results).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    for name in [
        "engine-to-crypto-p256",
        "engine-to-crypto-rsa",
        "forging-to-signature",
        "idle-session-kib-modern",
        "idle-session-kib-legacy",
    ] {
        assert!(text.contains(&format!("\nbar {name} ")), "{name}: {text}");
    }
    assert!(text.contains("\nbar forges-of-100-first-visits 1.00 1.00 ok\n"), "{text}");

    let kept: Value = serde_json::from_str(&std::fs::read_to_string(&results).unwrap()).unwrap();
    std::fs::remove_file(&results).unwrap();
    let cost = |way: &str, what: &str| {
        let samples = kept["samples"].as_array().unwrap();
        let sample = samples.iter().find(|s| s["way"] == way && s["what"] == what).unwrap();
        sample["attributed"].as_f64().unwrap()
    };
    for what in ["session-p256", "session-rsa", "gigabyte", "request"] {
        // Nothing is between the ends there.
        assert_eq!(cost("direct", what), 0.0);
        assert!(cost("weir-forging", what) > 0.0, "{kept}");
    }
    // Two handshakes are more than a request.
    assert!(cost("weir-forging", "session-p256") > 2.0 * cost("weir-forging", "request"), "{kept}");
    assert!(kept["engine"][0]["inspected_p256"].as_f64() > kept["engine"][0]["relayed"].as_f64());
}
