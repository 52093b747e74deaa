//! Key exchange groups that the modern stack lacks: a session with either end that has no other is decrypted.
//! openssl's server and curl at the ends.

use weir_lab::checks;
use weir_lab::fetch::Fetch;

use super::{OLD, certified, ensure_holds, passes, record_of, server_of};

/// As openssl and as records name them. Finite fields are TLS 1.3's only: before it they are DHE's.
const CELLS: [(&str, &str, &str); 6] = [
    ("X448", "x448", "1.3"),
    ("X448", "x448", "1.2"),
    ("P-521", "secp521r1", "1.3"),
    ("ffdhe2048", "ffdhe2048", "1.3"),
    ("ffdhe3072", "ffdhe3072", "1.3"),
    ("ffdhe4096", "ffdhe4096", "1.3"),
];

/// What the console tells of one side's TLS, the lines that it is folded to with it.
fn of_side<'a>(record: &'a str, side: &str) -> &'a str {
    let begin = format!("TLS with the {side}");
    let told = record.split_once(&begin).map_or("", |(_, told)| told);
    let end = told.match_indices('\n').find(|(at, _)| !told[at + 1..].starts_with(' '));
    end.map_or(told, |(at, _)| &told[..at])
}

#[test]
fn ends_that_have_one_group_only_are_inspected() {
    passes(|bench| {
        let identity = certified(&bench.ends, "old.example", ["RSA", "rsa_keygen_bits:2048"])?;
        for (group, told, version) in CELLS {
            let server = format!("-tls{}", version.replace('.', "_"));
            let _server = server_of(&bench.ends, &identity, &[&server, "-groups", group])?;
            let fetched = Fetch::new("old.example", "/").at(OLD).run(&bench.ends)?;
            fetched.succeeded()?;
            checks::ensure_signed_by_weir(&fetched)?;
            let record = record_of(bench, &fetched)?;
            ensure_holds(&record, &["decrypted and inspected\n", "Legacy TLS stack "]);
            assert!(of_side(&record, "server").contains(told), "{group} {version}: {record}");

            let client = ["--tls-max", version, "--curves", group];
            let fetched = Fetch::new("public.example", "/").arguments(&client).run(&bench.ends)?;
            fetched.succeeded()?;
            checks::ensure_signed_by_weir(&fetched)?;
            let record = record_of(bench, &fetched)?;
            ensure_holds(&record, &["decrypted and inspected\n"]);
            assert!(of_side(&record, "client").contains(told), "{group} {version}: {record}");
        }
        Ok(())
    });
}
