use weir_api::engine::SessionRecord;
use weir_policy::outcome::{Bypassed, Outcome};

use super::*;

#[tokio::test]
async fn what_was_kept_back_is_told_to_the_next_agent_where_the_first_leaves_meanwhile() {
    let (totals, mut kept_back) = (Totals::default(), Vec::new());
    let recent = totals.recent.add();
    for id in 1..=3 {
        let end = "192.0.2.1:443".parse().unwrap();
        let mut session = SessionRecord::new(id, 0, SegmentId(1), end, end);
        session.outcome = Outcome::Bypassed(Bypassed::NotTls);
        assert!(recent.keep(Box::new(session)).is_none());
    }
    let (ours, its) = UnixStream::pair().unwrap();
    drop(its);
    let (_, mut writer) = ours.into_split();
    assert!(tell_kept_back(&mut writer, &totals, &mut kept_back).await.is_err());
    let (ours, mut its) = UnixStream::pair().unwrap();
    let (_, mut writer) = ours.into_split();
    tell_kept_back(&mut writer, &totals, &mut kept_back).await.unwrap();
    // And no other once more.
    tell_kept_back(&mut writer, &totals, &mut kept_back).await.unwrap();
    drop(writer);
    let mut told = Vec::new();
    while let Ok(Some(message)) = frame::read::<FromEngine, _>(&mut its).await {
        let FromEngine::Session(session) = message else { panic!("{message:?}") };
        told.push(session.id);
    }
    assert_eq!(told, [1, 2, 3]);
    assert_eq!(totals.events_lost.load(Ordering::Relaxed), 0);
}
