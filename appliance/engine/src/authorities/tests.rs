//! The test is the agent: it sees what the engine wants fetched, and answers.

mod judging;
mod lists;
mod path;

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CustomExtension, IsCa, Issuer, KeyPair};
use tokio::sync::mpsc;
use weir_api::engine::FromEngine;
use weir_api::fetch::{Bytes, FetchFailure, HttpUrl, MOST_FETCHES};
use weir_tls::verify::revocation::ocsp_request;
use weir_tls::{Intermediates, Judged, Verdict};

use super::asking::UnknownLasts;
use super::fetching::FAILURE_LASTS;
use super::*;

type Agent = mpsc::Receiver<FromEngine>;

fn authorities() -> (Authorities, Agent) {
    let (events, agent) = mpsc::channel(MOST_FETCHES * 2);
    let authorities = Authorities::new(Fetching::new(events));
    authorities.fetching.connected(true);
    (authorities, agent)
}

fn asked(agent: &mut Agent) -> (u64, Fetch) {
    match agent.try_recv() {
        Ok(FromEngine::Fetch { number, fetch }) => (number, fetch),
        other => panic!("{other:?}"),
    }
}

fn url(text: &str) -> HttpUrl {
    text.parse().unwrap()
}

fn of(name: &str) -> Fetch {
    Fetch::Intermediate { url: url(&format!("http://{name}.example/")) }
}

fn soon() -> Instant {
    Instant::now() + WITHIN
}

/// Who asks does not wait for it.
fn at_once() -> Instant {
    Instant::now() + Duration::from_millis(1)
}

fn client(address: &str) -> Client {
    Client::from(address.parse::<std::net::IpAddr>().unwrap())
}

fn list(name: &str) -> Fetch {
    Fetch::RevocationList { url: url(&format!("http://{name}.example/")) }
}

#[tokio::test(start_paused = true)]
async fn one_fetch_serves_all_who_want_the_same() {
    let (authorities, mut agent) = authorities();
    let fetching = &authorities.fetching;
    let answer = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (number, fetch) = asked(&mut agent);
        assert_eq!(fetch, of("a"));
        fetching.answered(number, Ok(Bytes(vec![7])));
    };
    let (first, second, ()) = tokio::join!(
        fetching.fetch(of("a"), None, soon()),
        fetching.fetch(of("a"), None, soon()),
        answer
    );
    assert_eq!((first.unwrap()[..].to_vec(), second.unwrap()[..].to_vec()), (vec![7], vec![7]));
    assert!(agent.try_recv().is_err(), "asked once");
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_longer_than_he_has_and_a_failure_is_remembered() {
    let (authorities, mut agent) = authorities();
    let fetching = &authorities.fetching;
    let started = Instant::now();
    assert_eq!(fetching.fetch(of("a"), None, soon()).await.unwrap_err(), Unavailable::Slow);
    assert_eq!(started.elapsed(), WITHIN);
    // The agent's own time ends a little later.
    let (number, _) = asked(&mut agent);
    fetching.answered(number, Err(FetchFailure::TimedOut));
    let started = Instant::now();
    let failed = Unavailable::Failed(FetchFailure::TimedOut);
    assert_eq!(fetching.fetch(of("a"), None, soon()).await.unwrap_err(), failed);
    assert_eq!(started.elapsed(), Duration::ZERO);
    assert!(agent.try_recv().is_err());
    // Not for ever, and not what passes.
    tokio::time::sleep(Duration::from_secs(301)).await;
    for _ in 0..2 {
        let answer = async {
            tokio::task::yield_now().await;
            let (number, _) = asked(&mut agent);
            fetching.answered(number, Err(FetchFailure::Busy));
        };
        let (busy, ()) = tokio::join!(fetching.fetch(of("a"), None, soon()), answer);
        assert_eq!(busy.unwrap_err(), Unavailable::Failed(FetchFailure::Busy));
    }
}

#[tokio::test(start_paused = true)]
async fn fetches_are_bounded_and_end_with_the_agent() {
    let (authorities, mut agent) = authorities();
    let fetching = &authorities.fetching;
    for number in 0..MOST_FETCHES {
        let waited = fetching.fetch(of(&format!("n{number}")), None, at_once()).await;
        assert_eq!(waited.unwrap_err(), Unavailable::Slow);
    }
    assert_eq!(fetching.fetch(of("more"), None, soon()).await.unwrap_err(), Unavailable::Busy);
    let leaves = async {
        tokio::task::yield_now().await;
        fetching.connected(false);
    };
    let (waited, ()) = tokio::join!(fetching.fetch(of("n1"), None, soon()), leaves);
    assert_eq!(waited.unwrap_err(), Unavailable::NoAgent);
    assert_eq!(fetching.fetch(of("more"), None, soon()).await.unwrap_err(), Unavailable::NoAgent);
    fetching.connected(true);
    while agent.try_recv().is_ok() {}
    assert_eq!(fetching.fetch(of("more"), None, at_once()).await.unwrap_err(), Unavailable::Slow);
    let (number, _) = asked(&mut agent);
    // An answer to nobody's question, and one that is longer than was asked for.
    fetching.answered(number + 1, Ok(Bytes(Vec::new())));
    fetching.answered(number, Ok(Bytes(vec![0; of("more").bound() + 1])));
    let failed = Unavailable::Failed(FetchFailure::TooLong);
    assert_eq!(fetching.fetch(of("more"), None, soon()).await.unwrap_err(), failed);
    // What the agent never answers is lost, and asked again.
    assert_eq!(fetching.fetch(of("lost"), None, at_once()).await.unwrap_err(), Unavailable::Slow);
    asked(&mut agent);
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert_eq!(fetching.fetch(of("lost"), None, at_once()).await.unwrap_err(), Unavailable::Slow);
    asked(&mut agent);
}

#[tokio::test(start_paused = true)]
async fn who_has_no_time_left_begins_nothing_and_has_what_is_known() {
    let (authorities, mut agent) = authorities();
    let fetching = &authorities.fetching;
    let late = fetching.fetch(of("a"), None, Instant::now()).await;
    assert_eq!(late.unwrap_err(), Unavailable::Slow);
    assert!(agent.try_recv().is_err());
    assert_eq!(fetching.fetch(of("a"), None, at_once()).await.unwrap_err(), Unavailable::Slow);
    let (number, _) = asked(&mut agent);
    fetching.answered(number, Ok(Bytes(vec![7])));
    assert_eq!(fetching.fetch(of("a"), None, Instant::now()).await.unwrap()[..], [7]);
}

#[tokio::test(start_paused = true)]
async fn one_client_leaves_room_for_others_and_intermediates_for_revocation() {
    let (authorities, _agent) = authorities();
    let fetching = &authorities.fetching;
    let begin = async |fetch, of| fetching.fetch(fetch, of, at_once()).await.unwrap_err();
    let page = Some(client("2001:db8:0:1::1"));
    for number in 0..4 {
        assert_eq!(begin(of(&format!("n{number}")), page).await, Unavailable::Slow);
    }
    assert_eq!(begin(of("n4"), page).await, Unavailable::Busy);
    // What is under way already is no more than it was.
    assert_eq!(begin(of("n3"), page).await, Unavailable::Slow);
    assert_eq!(begin(of("n4"), Some(client("2001:db8:0:1:2::2"))).await, Unavailable::Busy);
    assert_eq!(begin(of("n4"), Some(client("2001:db8:0:2::1"))).await, Unavailable::Slow);
    for number in 5..MOST_FETCHES {
        let many = Some(client(&format!("10.0.0.{number}")));
        assert_eq!(begin(of(&format!("n{number}")), many).await, Unavailable::Slow);
    }
    assert_eq!(begin(of("more"), Some(client("10.0.1.1"))).await, Unavailable::Busy);
    assert_eq!(begin(list("a"), None).await, Unavailable::Slow);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_believed_is_kept_as_long_as_a_failure_and_forgotten_with_them() {
    let (authorities, mut agent) = authorities();
    let fetching = &authorities.fetching;
    let mut fetched = async || {
        let answer = async {
            tokio::task::yield_now().await;
            agent.try_recv().ok().map(|message| match message {
                FromEngine::Fetch { number, .. } => {
                    fetching.answered(number, Ok(Bytes(vec![7])));
                }
                other => panic!("{other:?}"),
            })
        };
        let (bytes, anew) = tokio::join!(fetching.fetch(of("a"), None, soon()), answer);
        (bytes.unwrap(), anew.is_some())
    };
    assert!(fetched().await.1);
    tokio::time::sleep(Duration::from_secs(600)).await;
    let (bytes, anew) = fetched().await;
    assert!(!anew);
    fetching.disbelieved(&of("a"), &bytes);
    assert_eq!(fetching.lasts(&of("a")), Some(FAILURE_LASTS));
    tokio::time::sleep(Duration::from_secs(299)).await;
    // Nor for longer where it is looked at again.
    let (bytes, anew) = fetched().await;
    assert!(!anew);
    fetching.disbelieved(&of("a"), &bytes);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (newer, anew) = fetched().await;
    assert!(anew);
    // What was said of others says nothing of these.
    fetching.disbelieved(&of("a"), &bytes);
    fetching.forget_failures();
    assert!(!fetched().await.1);
    fetching.disbelieved(&of("a"), &newer);
    fetching.forget_failures();
    assert!(fetched().await.1);
}

/// Of the leaf.
fn question<'a>(
    judged: &'a Judged,
    chain: &'a [CertificateDer<'_>],
    staple: Option<&'a [u8]>,
) -> Question<'a> {
    let Issued { certificate, issuer } = judged.issued(&chain[0]).next().unwrap();
    Question { certificate, issuer, staple }
}

struct World {
    anchors: Arc<TrustAnchors>,
    /// Until 2040; and the same with other dates.
    middle: CertificateDer<'static>,
    renewed: CertificateDer<'static>,
    middle_key: KeyPair,
    leaf: CertificateDer<'static>,
}

/// A leaf below an intermediate that is at `http://ca.example/`; of its revocation says
/// `http://ocsp.example/`.
fn world() -> World {
    let authority = |name: &str| {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
    };
    let access = |method: u8, host: &str| {
        let method = [0x06, 8, 0x2b, 6, 1, 5, 5, 7, 0x30, method];
        let url = format!("http://{host}.example/");
        let url = [&[0x86, url.len() as u8], url.as_bytes()].concat();
        [&[0x30, (method.len() + url.len()) as u8], &method[..], &url].concat()
    };
    let all = [access(1, "ocsp"), access(2, "ca")].concat();
    let all = [&[0x30, all.len() as u8], &all[..]].concat();
    let keys: [KeyPair; 3] = std::array::from_fn(|_| KeyPair::generate().unwrap());
    let [root_key, middle_key, leaf_key] = keys;
    let root = authority("Root").self_signed(&root_key).unwrap();
    let root_issuer = Issuer::new(authority("Root"), root_key);
    let mut until_2040 = authority("Middle");
    until_2040.not_after = rcgen::date_time_ymd(2040, 1, 1);
    let middle = until_2040.signed_by(&middle_key, &root_issuer).unwrap().der().clone();
    let renewed = authority("Middle").signed_by(&middle_key, &root_issuer).unwrap().der().clone();
    let middle_issuer = Issuer::new(authority("Middle"), &middle_key);
    let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
    params.custom_extensions =
        vec![CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 1], all)];
    let leaf = params.signed_by(&leaf_key, &middle_issuer).unwrap();
    let anchors = TrustAnchors::new(&[root.der().to_vec()], false).unwrap();
    let anchors = Arc::new(anchors.learning(Arc::new(Intermediates::default())));
    let leaf = leaf.der().clone();
    World { anchors, middle, renewed, middle_key, leaf }
}

#[tokio::test(start_paused = true)]
async fn a_chain_is_completed_with_what_its_leaf_names_and_learnt() {
    let (authorities, mut agent) = authorities();
    let World { anchors, middle, leaf, .. } = world();
    let now = UnixTime::now();
    let complete =
        || authorities.complete(&anchors, vec![leaf.clone()], client("10.0.0.1"), now, soon());
    // Another certificate than the missing one is none.
    let answer = async |agent: &mut Agent, der: &[u8]| {
        tokio::task::yield_now().await;
        let (number, fetch) = asked(agent);
        assert_eq!(fetch, Fetch::Intermediate { url: url("http://ca.example/") });
        authorities.fetching.answered(number, Ok(Bytes(der.to_vec())));
    };
    let (chain, ()) = tokio::join!(complete(), answer(&mut agent, &leaf));
    assert_eq!(chain, std::slice::from_ref(&leaf));
    // Nor is it asked for again at once.
    assert_eq!(complete().await, std::slice::from_ref(&leaf));
    assert!(agent.try_recv().is_err());
    tokio::time::sleep(Duration::from_secs(301)).await;
    let (chain, ()) = tokio::join!(complete(), answer(&mut agent, &middle));
    assert_eq!(chain, [leaf.clone(), middle]);
    assert!(anchors.verify(&chain, None, 0, now).is_verified());
    // The next session needs nobody.
    assert_eq!(complete().await, std::slice::from_ref(&leaf));
    assert!(anchors.verify(&[leaf], None, 0, now).is_verified());
    assert!(agent.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn what_nobody_says_in_time_is_unknown_and_asked_again_later() {
    let (authorities, mut agent) = authorities();
    let World { anchors, middle, leaf, .. } = world();
    let (chain, now) = ([leaf, middle.clone()], UnixTime::now());
    let judged = anchors.judge(&chain, None, 0, now);
    let question = question(&judged, &chain, Some(b"nothing"));
    let ask = |now| authorities.answer(question, now, soon());
    assert_eq!(ask(now).await, Revocation::Unknown(Unavailable::Slow.into()));
    let (number, fetch) = asked(&mut agent);
    let request = Bytes(ocsp_request(&chain[0], question.issuer).unwrap());
    assert_eq!(fetch, Fetch::Ocsp { url: url("http://ocsp.example/"), request });
    authorities.fetching.answered(number, Err(FetchFailure::Name));
    let failed = Revocation::Unknown(Unavailable::Failed(FetchFailure::Name).into());
    assert_eq!(ask(now).await, failed);
    let seconds =
        |seconds| UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs() + seconds));
    // Known to be unknown for as long as the failure is remembered, and no longer.
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert_eq!(ask(seconds(200)).await, failed);
    tokio::time::sleep(Duration::from_secs(101)).await;
    let refuses = async |agent: &mut Agent| {
        tokio::task::yield_now().await;
        let (number, _) = asked(agent);
        // tryLater.
        authorities.fetching.answered(number, Ok(Bytes(vec![0x30, 3, 0x0a, 1, 3])));
    };
    let refused = Revocation::Unknown(AnswerError::Refused(3).into());
    let (unknown, ()) = tokio::join!(ask(seconds(301)), refuses(&mut agent));
    assert_eq!(unknown, refused);
    // Nothing of it is remembered but this.
    assert_eq!(ask(seconds(600)).await, refused);
    let (unknown, ()) = tokio::join!(ask(seconds(602)), refuses(&mut agent));
    assert_eq!(unknown, refused);
}

#[tokio::test(start_paused = true)]
async fn what_a_late_failure_says_is_known_no_longer_than_the_failure() {
    let (authorities, mut agent) = authorities();
    let World { anchors, middle, leaf, .. } = world();
    let (chain, now) = ([leaf, middle.clone()], UnixTime::now());
    let judged = anchors.judge(&chain, None, 0, now);
    let question = question(&judged, &chain, None);
    let ask = |after| {
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs() + after));
        authorities.answer(question, now, soon())
    };
    assert_eq!(ask(0).await, Revocation::Unknown(Unavailable::Slow.into()));
    let (number, _) = asked(&mut agent);
    authorities.fetching.answered(number, Err(FetchFailure::Name));
    tokio::time::sleep(Duration::from_secs(290)).await;
    let failed = Revocation::Unknown(Unavailable::Failed(FetchFailure::Name).into());
    assert_eq!(ask(290).await, failed);
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(ask(301).await, Revocation::Unknown(Unavailable::Slow.into()));
    asked(&mut agent);
}

#[test]
fn a_source_that_may_answer_at_once_keeps_nothing_unknown() {
    let failed = Why::NotFetched(Unavailable::Failed(FetchFailure::Status(404)));
    for passing in [Unavailable::Busy, Unavailable::Failed(FetchFailure::Busy), Unavailable::Slow] {
        let mut unknown = UnknownLasts::default();
        unknown.and(passing.into(), None);
        unknown.and(failed, Some(FAILURE_LASTS));
        assert_eq!(unknown.0, None);
    }
    let mut unknown = UnknownLasts::default();
    unknown.and(failed, Some(Duration::from_secs(7)));
    unknown.and(AnswerError::Refused(3).into(), None);
    unknown.and(failed, Some(FAILURE_LASTS));
    assert_eq!(unknown.0, Some(7));
}
