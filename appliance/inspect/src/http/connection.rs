//! Both directions of one HTTP/1 connection, framed step by step.
//!
//! A step looks at the front of what came and says what it is; heads and trailers are gathered
//! until they are whole, everything else is counted through. Requests and responses are paired,
//! because how a response ends depends on its request (RFC 9112 section 6.3).

use std::collections::VecDeque;

use super::{
    MAX_HEAD,
    chunked::Chunked,
    head::{
        Asked, Framing, RequestHead, ResponseHead, check_trailers, parse_request, parse_response,
    },
    lines::LineScan,
    recognise::{FirstLine, Recognised, may_be_request},
    violation::HttpViolation,
};
use crate::session::{Direction, Dropped};

/// Most requests without a final response; one more is a violation. Browsers do not pipeline, and
/// what does keeps far below.
pub const MAX_OUTSTANDING: usize = 128;

/// A withheld buffer larger than this is given back once it is empty.
const KEPT_CAPACITY: usize = 8 * 1024;

#[derive(Debug, Default)]
pub(crate) struct Connection {
    halves: [Half; 2],
    /// Requests without a final response, oldest first; at most [`MAX_OUTSTANDING`].
    outstanding: VecDeque<Asked>,
    first_line: FirstLine,
    /// The client is known to speak HTTP.
    recognised: bool,
    /// The newest request asked for another protocol and was not answered yet.
    switch_pending: bool,
}

#[derive(Debug, Default)]
struct Half {
    reading: Reading,
    /// A head or trailers not yet whole, or whole and not yet judged; about [`MAX_HEAD`] at most.
    withheld: Vec<u8>,
    /// How much of `withheld` was looked at.
    scanned: usize,
    lines: LineScan,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Reading {
    #[default]
    Head,
    Length(u64),
    Chunked(Chunked),
    UntilClose,
    /// A server that speaks before its client is known to speak HTTP, and does not speak it.
    SpokeFirst,
}

/// What the front of the input is.
#[derive(Debug)]
pub(crate) enum Step {
    /// Withheld, all of it: nothing is whole yet.
    Waiting,
    /// The session carries something else than HTTP; what came is withheld and may be released.
    NotHttp,
    /// The withheld bytes are a request's whole head.
    Request(RequestHead),
    /// The withheld bytes are a response's whole head. `switched`: another protocol follows.
    Response { switched: bool },
    /// The withheld bytes are whole trailers, the empty line included.
    Trailers,
    /// So many bytes of a body.
    Body(usize),
    /// So many bytes, after the withheld ones, that only `tcp` rules judge: the framing of chunks,
    /// or what a server says that speaks first.
    Unjudged(usize),
}

/// What to do with the withheld bytes of a direction that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// There are none, or they are part of a head: never forwarded.
    Discard,
    /// Those of a server that speaks first: forwarded, and the client is still to be recognised.
    Release,
    /// The session carries something else than HTTP.
    NotHttp,
}

impl Connection {
    /// Frames the front of a direction's next bytes; not empty. Also says how many of them are now
    /// withheld; those of `Body` and `Unjudged` are the caller's.
    pub(crate) fn step(
        &mut self,
        direction: Direction,
        input: &[u8],
    ) -> Result<(usize, Step), Dropped> {
        let half = &mut self.halves[direction.index()];
        match &mut half.reading {
            Reading::Head => self.head(direction, input),
            Reading::Length(left) => {
                let taken = take(left, input);
                if *left == 0 {
                    half.reading = Reading::Head;
                }
                Ok((0, Step::Body(taken)))
            }
            Reading::Chunked(Chunked::Data(left)) => {
                let taken = take(left, input);
                if *left == 0 {
                    half.reading = Reading::Chunked(Chunked::DataCarriageReturn);
                }
                Ok((0, Step::Body(taken)))
            }
            Reading::Chunked(Chunked::Trailers) => half.trailers(input),
            Reading::Chunked(chunked) => {
                let mut taken = 0;
                for byte in input {
                    if matches!(chunked, Chunked::Data(_) | Chunked::Trailers) {
                        break;
                    }
                    match chunked.next(*byte, direction == Direction::ToClient) {
                        Ok(next) => *chunked = next,
                        // What was right before it goes on; the next step finds it again.
                        Err(_) if taken > 0 => break,
                        Err(violation) => return Err(violation.into()),
                    }
                    taken += 1;
                }
                Ok((0, Step::Unjudged(taken)))
            }
            Reading::UntilClose => Ok((0, Step::Body(input.len()))),
            Reading::SpokeFirst => Ok((0, Step::Unjudged(input.len()))),
        }
    }

    /// What a direction withholds.
    pub(crate) fn withheld(&self, direction: Direction) -> &[u8] {
        &self.halves[direction.index()].withheld
    }

    /// Forwards what a direction withholds.
    pub(crate) fn release(&mut self, direction: Direction, forward: &mut Vec<u8>) {
        let half = &mut self.halves[direction.index()];
        forward.append(&mut half.withheld);
        half.restart();
    }

    /// A direction ended.
    pub(crate) fn finish(&mut self, direction: Direction) -> Ending {
        let withheld = self.withheld(direction);
        if withheld.is_empty() || self.recognised || self.client_may_be_http() {
            return Ending::Discard;
        }
        match direction {
            Direction::ToServer => Ending::NotHttp,
            Direction::ToClient if withheld.len() >= STATUS_LINE.len() => Ending::Discard,
            Direction::ToClient => {
                self.halves[direction.index()].reading = Reading::SpokeFirst;
                Ending::Release
            }
        }
    }

    fn head(&mut self, direction: Direction, input: &[u8]) -> Result<(usize, Step), Dropped> {
        let server_spoke_first = self.server_spoke_first();
        let half = &mut self.halves[direction.index()];
        if direction == Direction::ToServer && self.switch_pending && half.withheld.is_empty() {
            return Err(HttpViolation::BytesBeforeSwitch.into());
        }
        let before = half.withheld.len();
        let room = (MAX_HEAD + 1).saturating_sub(before).min(input.len());
        half.withheld.extend_from_slice(input.get(..room).unwrap_or_default());
        match direction {
            Direction::ToServer if !self.recognised => {
                match self.first_line.recognise(&half.withheld)? {
                    Recognised::Http if server_spoke_first => {
                        return Err(HttpViolation::NotAResponse.into());
                    }
                    Recognised::Http => self.recognised = true,
                    Recognised::NotHttp => return Ok((room, Step::NotHttp)),
                    Recognised::Undecided if half.withheld.len() > MAX_HEAD => {
                        return Err(Dropped::HeadTooLarge);
                    }
                    Recognised::Undecided => return Ok((room, Step::Waiting)),
                }
            }
            Direction::ToServer => {}
            Direction::ToClient if is_status_line(&half.withheld) => {}
            Direction::ToClient if self.recognised || self.client_may_be_http() => {
                return Err(HttpViolation::NotAResponse.into());
            }
            Direction::ToClient => {
                // Only this direction: else any server could turn the rules for HTTP off.
                self.halves[direction.index()].reading = Reading::SpokeFirst;
                return Ok((room, Step::Unjudged(0)));
            }
        }
        let half = &mut self.halves[direction.index()];
        let Some(kept) = half.whole(direction == Direction::ToServer)? else {
            return Ok((room, Step::Waiting));
        };
        let consumed = kept.saturating_sub(before);
        let step = match direction {
            Direction::ToServer => self.request()?,
            Direction::ToClient => self.response()?,
        };
        Ok((consumed, step))
    }

    fn client_may_be_http(&self) -> bool {
        may_be_request(self.withheld(Direction::ToServer))
    }

    fn server_spoke_first(&self) -> bool {
        self.halves[Direction::ToClient.index()].reading == Reading::SpokeFirst
    }

    /// The client's withheld bytes are a whole head.
    fn request(&mut self) -> Result<Step, Dropped> {
        let half = &mut self.halves[Direction::ToServer.index()];
        let request = parse_request(&half.withheld)?;
        if self.outstanding.len() >= MAX_OUTSTANDING {
            return Err(HttpViolation::TooManyOutstanding.into());
        }
        self.outstanding.push_back(request.asked);
        self.switch_pending = request.asked.may_switch();
        half.reading = Reading::after_head(request.framing);
        Ok(Step::Request(request))
    }

    /// The server's withheld bytes are a whole head.
    fn response(&mut self) -> Result<Step, Dropped> {
        let half = &mut self.halves[Direction::ToClient.index()];
        let asked = self.outstanding.front().copied();
        let ResponseHead { status, framing, switched } = parse_response(&half.withheld, asked)?;
        half.reading = Reading::after_head(framing);
        // RFC 9110 section 15.5.9: a server may send 408 unasked, to close an idle connection.
        if asked.is_none() && status != 408 {
            return Err(HttpViolation::UnexpectedResponse.into());
        }
        if status >= 200 || switched {
            self.outstanding.pop_front();
            // What asked for another protocol is the newest request: nothing follows it.
            self.switch_pending &= !asked.is_some_and(Asked::may_switch);
        }
        let client = &self.halves[Direction::ToServer.index()];
        if switched && !(client.reading == Reading::Head && client.withheld.is_empty()) {
            return Err(HttpViolation::UnexpectedSwitch.into());
        }
        Ok(Step::Response { switched })
    }
}

impl Half {
    /// Looks for the end of the head in what is withheld; cuts it there and gives its length.
    fn whole(&mut self, after_empty_lines: bool) -> Result<Option<usize>, Dropped> {
        if after_empty_lines && !self.skip_empty_lines()? {
            return Ok(None);
        }
        let unseen = self.withheld.get(self.scanned..).unwrap_or_default();
        let end = self.lines.end(unseen)?.map(|end| self.scanned.saturating_add(end));
        self.scanned = end.unwrap_or(self.withheld.len());
        if self.scanned > MAX_HEAD {
            return Err(Dropped::HeadTooLarge);
        }
        if let Some(end) = end {
            self.withheld.truncate(end);
        }
        Ok(end)
    }

    /// RFC 9112 section 2.2: empty lines before a request line are ignored by servers. They count
    /// to the head's length. Whether the request line has begun.
    fn skip_empty_lines(&mut self) -> Result<bool, Dropped> {
        while self.lines.is_fresh() {
            match self.withheld.get(self.scanned..).unwrap_or_default() {
                _ if self.scanned > MAX_HEAD => return Err(Dropped::HeadTooLarge),
                [b'\r', b'\n', ..] => self.scanned += 2,
                [b'\r', _, ..] | [b'\n' | b' ' | b'\t', ..] => {
                    return Err(HttpViolation::BytesBeforeRequestLine.into());
                }
                // All that may be withheld is, and no request line has begun.
                [] | [b'\r'] if self.withheld.len() > MAX_HEAD => {
                    return Err(Dropped::HeadTooLarge);
                }
                [] | [b'\r'] => return Ok(false),
                _ => break,
            }
        }
        Ok(true)
    }

    fn trailers(&mut self, input: &[u8]) -> Result<(usize, Step), Dropped> {
        let before = self.withheld.len();
        let room = (MAX_HEAD + 1).saturating_sub(before).min(input.len());
        self.withheld.extend_from_slice(input.get(..room).unwrap_or_default());
        let Some(end) = self.whole(false)? else { return Ok((room, Step::Waiting)) };
        check_trailers(&self.withheld)?;
        self.reading = Reading::Head;
        Ok((end.saturating_sub(before), Step::Trailers))
    }

    fn restart(&mut self) {
        self.withheld.clear();
        self.withheld.shrink_to(KEPT_CAPACITY);
        self.scanned = 0;
        self.lines = LineScan::default();
    }
}

impl Reading {
    fn after_head(framing: Framing) -> Self {
        match framing {
            Framing::None => Self::Head,
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunked(Chunked::START),
            Framing::UntilClose => Self::UntilClose,
        }
    }
}

/// How every response begins.
const STATUS_LINE: &[u8] = b"HTTP/";

/// Whether the bytes begin as a response does, as far as they go.
fn is_status_line(bytes: &[u8]) -> bool {
    bytes.iter().zip(STATUS_LINE).all(|(byte, expected)| byte == expected)
}

/// How much of the input belongs to a body of `left` bytes, which it then lacks.
fn take(left: &mut u64, input: &[u8]) -> usize {
    let taken = usize::try_from(*left).map_or(input.len(), |left| left.min(input.len()));
    *left -= taken as u64;
    taken
}
