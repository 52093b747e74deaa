//! Servers that ask to renegotiate, which is refused: whether they do without it.
//!
//! For: telling a server that wants a client certificate for this one page from one that only wanted new keys.
//! What says so is the server's alone: an alert after the refusal, or, less surely, that it ends the session
//! with a request of its client's unanswered. A client that ends the session says nothing of its server. Not
//! for: the refusal itself, which is the stacks', nor what is learnt of it ([`crate::learnt`]). Cannot fail.

use weir_api::engine::End;

/// Whether a server insisted on what was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Insistence {
    /// It ended the session by an alert.
    Told,
    /// It was asked something, asked for a renegotiation instead of answering, and then left.
    Left,
    /// It went on, or others ended the session.
    None,
}

/// What was seen of it in one session.
#[derive(Debug, Default)]
pub(super) struct Renegotiation {
    /// The client has said something that the server has not answered.
    unanswered: bool,
    refused: Option<Refused>,
    ended_first: Option<End>,
}

#[derive(Clone, Copy, Debug)]
struct Refused {
    /// In the place of an answer.
    instead_of_answer: bool,
    /// The client has said more since.
    client_spoke: bool,
    /// And that was answered.
    went_on: bool,
    /// The server has said anything at all since.
    server_spoke: bool,
}

impl Renegotiation {
    /// After each read of a side. `spoke`: it had data for the other; `requested`: by now the server has asked.
    pub(super) fn read(&mut self, by: End, spoke: bool, requested: bool) {
        match (&mut self.refused, by) {
            (None, End::Server) if requested => {
                // In one read nobody can tell which came first.
                self.refused = Some(Refused {
                    instead_of_answer: self.unanswered && !spoke,
                    client_spoke: false,
                    went_on: false,
                    server_spoke: false,
                });
            }
            (Some(refused), End::Client) => refused.client_spoke |= spoke,
            (Some(refused), End::Server) => {
                refused.server_spoke |= spoke;
                refused.went_on |= spoke && refused.client_spoke;
            }
            (None, _) => {}
        }
        if spoke {
            self.unanswered = by == End::Client;
        }
    }

    /// This end has ended its direction, or its TCP broke. Only the first counts.
    pub(super) fn ended(&mut self, by: End) {
        self.ended_first.get_or_insert(by);
    }

    /// At the session's end; `told`: the server ended it by an alert. `None`: it never asked.
    pub(super) fn insistence(&self, told: bool) -> Option<Insistence> {
        let refused = self.refused?;
        let left = refused.instead_of_answer
            && !refused.server_spoke
            && self.ended_first == Some(End::Server);
        Some(match told {
            _ if refused.went_on => Insistence::None,
            true if self.ended_first != Some(End::Client) => Insistence::Told,
            _ if left => Insistence::Left,
            _ => Insistence::None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy)]
    enum Step {
        ClientSays,
        ServerSays,
        /// Alone, or with data in the same read.
        Asks,
        AsksWithData,
        Ends(End),
    }
    use Step::*;

    fn insistence(steps: &[Step], told: bool) -> Option<Insistence> {
        let (mut seen, mut requested) = (Renegotiation::default(), false);
        for step in steps {
            requested |= matches!(step, Asks | AsksWithData);
            match step {
                ClientSays => seen.read(End::Client, true, requested),
                ServerSays | AsksWithData => seen.read(End::Server, true, requested),
                Asks => seen.read(End::Server, false, requested),
                Ends(end) => seen.ended(*end),
            }
        }
        seen.insistence(told)
    }

    #[test]
    fn server_that_says_so_insists_unless_it_went_on_before() {
        let told = |steps: &[Step]| insistence(steps, true);
        assert_eq!(told(&[ClientSays]), None);
        assert_eq!(told(&[ClientSays, Asks]), Some(Insistence::Told));
        assert_eq!(told(&[ClientSays, ServerSays, Asks]), Some(Insistence::Told));
        assert_eq!(told(&[ClientSays, Asks, ClientSays]), Some(Insistence::Told));
        assert_eq!(told(&[ClientSays, Asks, ClientSays, ServerSays]), Some(Insistence::None));
        // What a server says to a client that has ended is of that.
        assert_eq!(told(&[ClientSays, Asks, Ends(End::Client)]), Some(Insistence::None));
    }

    #[test]
    fn ordinary_ends_behind_a_request_say_nothing_of_certificates() {
        let end = |steps: &[Step], by| {
            insistence(&[steps, &[Ends(by), Ends(End::Client)]].concat(), false)
        };
        // Any client of an honest server can do so, to have the next session bypassed.
        for steps in [&[ClientSays, Asks][..], &[ClientSays, Asks, ClientSays], &[Asks]] {
            assert_eq!(end(steps, End::Client), Some(Insistence::None));
        }
        // New keys, amid or after an answer.
        for steps in [
            &[ClientSays, ServerSays, Asks][..],
            &[ClientSays, AsksWithData],
            &[Asks],
            &[ClientSays, Asks, ServerSays],
            &[ClientSays, Asks, ClientSays, ServerSays],
        ] {
            assert_eq!(end(steps, End::Server), Some(Insistence::None));
        }
        for steps in [&[ClientSays, Asks][..], &[ServerSays, ClientSays, Asks, ClientSays]] {
            assert_eq!(end(steps, End::Server), Some(Insistence::Left));
        }
    }
}
