//! What becomes of a segment's ports when one loses its link (SPEC D7).
//!
//! For: hub, breaker and wire, as a state machine without I/O whose time is handed in. Not for:
//! interfaces. It cannot fail.

use std::time::Duration;

use weir_api::links::LinkSettings;
use weir_policy::snapshot::{LinkDownSynchronisation, SegmentId, Side};

/// A port that comes up again has so long to find its link before it counts as lost.
const SETTLE: Duration = Duration::from_secs(5);

/// A port as it was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Port {
    /// Not taken down by us (or by somebody).
    pub up: bool,
    pub link: bool,
    /// It has a link, or had one since the interface was made.
    pub seen: bool,
}

/// A port to take down or to bring up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    pub side: Side,
    pub up: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Together,
    /// A link is down, but not for long enough.
    Waiting {
        lost: Side,
        since: Duration,
    },
    /// The other port was taken down.
    Down {
        lost: Side,
    },
    /// The port was brought up again and may not have its link yet.
    Settling {
        side: Side,
        until: Duration,
    },
}

/// A link that was never there cannot be lost: at boot one port finds its link before the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arming {
    /// Nothing was seen of the ports yet.
    Fresh,
    /// Not both ports had a link; since when.
    Unarmed(Duration),
    Armed,
}

#[derive(Debug)]
pub struct Synchronisation {
    pub settings: LinkSettings,
    state: State,
    arming: Arming,
}

impl Synchronisation {
    pub fn new(settings: LinkSettings) -> Self {
        Self { settings, state: State::Together, arming: Arming::Fresh }
    }

    pub fn hub(segment: SegmentId) -> Self {
        let mode = LinkDownSynchronisation::Hub;
        Self::new(LinkSettings { segment, mode, wait: Duration::ZERO })
    }

    /// The port that is down because the other one lost its link.
    pub fn taken_down(&self) -> Option<Side> {
        match self.state {
            State::Down { lost } => Some(other(lost)),
            _ => None,
        }
    }

    /// What is to be done now; asked again, it is to be done again where it was not.
    pub fn look(&mut self, now: Duration, ports: [Port; 2]) -> Option<Change> {
        let [a, b] = ports;
        let port = |side| if side == Side::A { a } else { b };
        self.arm(now, ports);
        if self.settings.mode == LinkDownSynchronisation::Hub {
            self.state = State::Together;
            let down = [Side::A, Side::B].into_iter().find(|side| !port(*side).up);
            return down.map(|side| Change { side, up: true });
        }
        match self.state {
            State::Down { lost } => {
                let taken = other(lost);
                let back = port(lost).up && port(lost).link;
                if back && self.settings.mode == LinkDownSynchronisation::Wire {
                    return Some(self.bring_up(taken, now));
                }
                if !port(lost).up {
                    // Somebody else's doing; a port without a link has nothing to be down for.
                    return Some(Change { side: lost, up: true });
                }
                port(taken).up.then_some(Change { side: taken, up: false })
            }
            State::Settling { side, until } => {
                if !port(side).up {
                    return Some(Change { side, up: true });
                }
                if port(side).link || now >= until {
                    self.state = State::Together;
                }
                None
            }
            State::Together | State::Waiting { .. } => self.together(now, port),
        }
    }

    fn together(&mut self, now: Duration, port: impl Fn(Side) -> Port) -> Option<Change> {
        match (port(Side::A).up, port(Side::B).up) {
            // Left so by a process before this one.
            (true, false) => self.state = State::Down { lost: Side::A },
            (false, true) => self.state = State::Down { lost: Side::B },
            (false, false) => return Some(Change { side: Side::A, up: true }),
            (true, true) => {}
        }
        if matches!(self.state, State::Down { .. }) {
            return None;
        }
        if !self.acts(now) {
            self.state = State::Together;
            return None;
        }
        let waiting = match self.state {
            State::Waiting { lost, since } if !port(lost).link => Some((lost, since)),
            _ => None,
        };
        let found = [Side::A, Side::B].into_iter().find(|side| !port(*side).link);
        let Some((lost, since)) = waiting.or(found.map(|side| (side, now))) else {
            self.state = State::Together;
            return None;
        };
        if now.saturating_sub(since) < self.settings.wait {
            self.state = State::Waiting { lost, since };
            return None;
        }
        self.state = State::Down { lost };
        Some(Change { side: other(lost), up: false })
    }

    /// Before both links were there: a breaker never, as somebody would have to close it; a wire
    /// passes a link that does not come on, once it had its time.
    fn acts(&self, now: Duration) -> bool {
        match (self.arming, self.settings.mode) {
            (Arming::Armed, _) => true,
            (Arming::Unarmed(since), LinkDownSynchronisation::Wire) => {
                now.saturating_sub(since) >= SETTLE.max(self.settings.wait)
            }
            (Arming::Fresh | Arming::Unarmed(_), _) => false,
        }
    }

    fn arm(&mut self, now: Duration, [a, b]: [Port; 2]) {
        // A service that is started again knows by what the ports had before.
        let before = self.arming == Arming::Fresh && a.seen && b.seen;
        if before || (a.link && b.link) {
            self.arming = Arming::Armed;
        } else if self.arming == Arming::Fresh {
            self.arming = Arming::Unarmed(now);
        }
    }

    /// By an operator: both ports up again, and nothing taken down until both have had their links,
    /// as after boot. `None`: none was taken down.
    pub fn restart(&mut self, now: Duration) -> Option<Change> {
        let taken = self.taken_down()?;
        self.arming = Arming::Unarmed(now);
        Some(self.bring_up(taken, now))
    }

    fn bring_up(&mut self, side: Side, now: Duration) -> Change {
        self.state = State::Settling { side, until: now + SETTLE };
        Change { side, up: true }
    }
}

fn other(side: Side) -> Side {
    match side {
        Side::A => Side::B,
        Side::B => Side::A,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINKED: Port = Port { up: true, link: true, seen: true };
    const LOST: Port = Port { up: true, link: false, seen: true };
    const NEVER: Port = Port { up: true, link: false, seen: false };
    const DOWN: Port = Port { up: false, link: false, seen: true };
    const TAKE_B_DOWN: Option<Change> = Some(Change { side: Side::B, up: false });
    const BRING_B_UP: Option<Change> = Some(Change { side: Side::B, up: true });

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn segment(mode: LinkDownSynchronisation, wait: u64) -> Synchronisation {
        Synchronisation::new(LinkSettings { segment: SegmentId(1), mode, wait: at(wait) })
    }

    #[test]
    fn a_hub_leaves_the_other_port_up() {
        let mut hub = segment(LinkDownSynchronisation::Hub, 0);
        assert_eq!(hub.look(at(0), [LOST, LINKED]), None);
        assert_eq!(hub.look(at(99), [LOST, LINKED]), None);
    }

    #[test]
    fn a_wire_takes_the_other_port_down_after_its_wait_and_brings_it_back() {
        let mut wire = segment(LinkDownSynchronisation::Wire, 3);
        assert_eq!(wire.look(at(0), [LINKED, LINKED]), None);
        assert_eq!(wire.look(at(1), [LOST, LINKED]), None);
        assert_eq!(wire.look(at(3), [LOST, LINKED]), None);
        assert_eq!(wire.look(at(4), [LOST, LINKED]), TAKE_B_DOWN);
        assert_eq!(wire.taken_down(), Some(Side::B));
        assert_eq!(wire.look(at(5), [LOST, DOWN]), None);
        assert_eq!(wire.look(at(60), [LINKED, DOWN]), BRING_B_UP);
        // Its link takes a moment.
        assert_eq!(wire.look(at(61), [LINKED, LOST]), None);
        assert_eq!(wire.look(at(64), [LINKED, LINKED]), None);
        assert_eq!(wire.look(at(65), [LINKED, LOST]), None);
        let take_a_down = Some(Change { side: Side::A, up: false });
        assert_eq!(wire.look(at(68), [LINKED, LOST]), take_a_down);
    }

    #[test]
    fn a_link_that_comes_back_in_time_changes_nothing() {
        let mut wire = segment(LinkDownSynchronisation::Wire, 3);
        for second in 0..20 {
            let a = if second % 3 == 2 { LINKED } else { LOST };
            assert_eq!(wire.look(at(second), [a, LINKED]), None);
        }
    }

    #[test]
    fn a_breaker_stays_open_until_an_operator_closes_it() {
        let mut breaker = segment(LinkDownSynchronisation::Breaker, 0);
        assert_eq!(breaker.restart(at(0)), None);
        assert_eq!(breaker.look(at(0), [LOST, LINKED]), TAKE_B_DOWN);
        assert_eq!(breaker.look(at(1), [LINKED, DOWN]), None);
        assert_eq!(breaker.look(at(99), [LINKED, DOWN]), None);
        assert_eq!(breaker.restart(at(100)), BRING_B_UP);
        assert_eq!(breaker.look(at(101), [LINKED, LINKED]), None);
        assert_eq!(breaker.taken_down(), None);
    }

    #[test]
    fn a_breaker_does_not_open_before_both_links_were_there() {
        let mut breaker = segment(LinkDownSynchronisation::Breaker, 0);
        for second in 0..600 {
            assert_eq!(breaker.look(at(second), [LINKED, NEVER]), None);
        }
        assert_eq!(breaker.look(at(600), [LOST, NEVER]), None);
        assert_eq!(breaker.look(at(601), [LOST, LINKED]), None, "not both at one time");
        assert_eq!(breaker.look(at(602), [LINKED, LINKED]), None);
        assert_eq!(breaker.look(at(603), [LOST, LINKED]), TAKE_B_DOWN);
    }

    #[test]
    fn a_breaker_that_is_closed_while_the_link_is_out_stays_closed() {
        let mut breaker = segment(LinkDownSynchronisation::Breaker, 0);
        assert_eq!(breaker.look(at(0), [LINKED, LINKED]), None);
        assert_eq!(breaker.look(at(1), [LOST, LINKED]), TAKE_B_DOWN);
        assert_eq!(breaker.restart(at(2)), BRING_B_UP);
        for second in 3..60 {
            assert_eq!(breaker.look(at(second), [LOST, LINKED]), None);
        }
        assert_eq!(breaker.look(at(60), [LINKED, LINKED]), None);
        assert_eq!(breaker.look(at(61), [LOST, LINKED]), TAKE_B_DOWN);
    }

    #[test]
    fn a_wire_gives_a_link_that_was_never_there_its_time() {
        let mut wire = segment(LinkDownSynchronisation::Wire, 0);
        for second in 0..5 {
            assert_eq!(wire.look(at(second), [NEVER, LINKED]), None);
        }
        assert_eq!(wire.look(at(5), [NEVER, LINKED]), TAKE_B_DOWN);
        let mut slow = segment(LinkDownSynchronisation::Wire, 30);
        for second in 0..60 {
            assert_eq!(slow.look(at(second), [NEVER, LINKED]), None, "{second}");
        }
        assert_eq!(slow.look(at(60), [NEVER, LINKED]), TAKE_B_DOWN, "its time, then the wait");
    }

    #[test]
    fn what_was_not_done_is_asked_for_again() {
        let mut wire = segment(LinkDownSynchronisation::Wire, 0);
        assert_eq!(wire.look(at(0), [LOST, LINKED]), TAKE_B_DOWN);
        assert_eq!(wire.look(at(1), [LOST, LINKED]), TAKE_B_DOWN);
        assert_eq!(wire.look(at(2), [LINKED, DOWN]), BRING_B_UP);
        assert_eq!(wire.look(at(3), [LINKED, DOWN]), BRING_B_UP);
    }

    #[test]
    fn a_port_that_an_earlier_process_took_down_is_known_again() {
        let mut wire = segment(LinkDownSynchronisation::Wire, 0);
        assert_eq!(wire.look(at(0), [LOST, DOWN]), None);
        assert_eq!(wire.taken_down(), Some(Side::B));
        assert_eq!(wire.look(at(1), [LINKED, DOWN]), BRING_B_UP);
    }

    #[test]
    fn a_segment_that_becomes_a_hub_has_its_port_back() {
        let mut wire = segment(LinkDownSynchronisation::Wire, 0);
        assert_eq!(wire.look(at(0), [LOST, LINKED]), TAKE_B_DOWN);
        wire.settings.mode = LinkDownSynchronisation::Hub;
        assert_eq!(wire.look(at(1), [LOST, DOWN]), BRING_B_UP);
        assert_eq!(wire.look(at(2), [LOST, LINKED]), None);
    }

    #[test]
    fn two_links_lost_at_once_take_one_port_down_and_one_waits_for_its_link() {
        let mut wire = segment(LinkDownSynchronisation::Wire, 0);
        assert_eq!(wire.look(at(0), [LOST, LOST]), TAKE_B_DOWN);
        assert_eq!(wire.look(at(1), [LINKED, DOWN]), BRING_B_UP);
        // Longer than it has to settle: its cable is still out.
        assert_eq!(wire.look(at(7), [LINKED, LOST]), None);
        let take_a_down = Some(Change { side: Side::A, up: false });
        assert_eq!(wire.look(at(8), [LINKED, LOST]), take_a_down);
    }
}
