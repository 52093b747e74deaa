//! Why a rule was refused: place, keyword, what would be right.

/// A refused rule, or part of one. Shown as `web.rules:12: keyword ...`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{origin}:{line}: {problem}")]
pub struct RuleError {
    pub origin: String,
    /// From 1; in a rule of several lines, the line of the keyword.
    pub line: usize,
    pub problem: RuleProblem,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleProblem {
    #[error("action `{0}` is not supported; supported are: alert, drop")]
    Action(String),
    #[error("protocol `{0}` is not supported; supported are: tcp, http")]
    Protocol(String),
    #[error("{place} `{found}` is not supported; supported is: any")]
    Endpoint { place: &'static str, found: String },
    #[error("direction `{0}` is not supported; supported is: -> (see the keyword `flow`)")]
    Direction(String),
    #[error(
        "a rule's header has 7 words, this one {0}; it looks like \
         `drop http any any -> any any (msg:\"...\"; sid:1;)`"
    )]
    Header(usize),
    #[error("a rule's keywords stand in parentheses after its header, up to the end of the line")]
    Parentheses,
    #[error("keyword `{0}` lacks the `;` that ends it")]
    Unended(String),
    #[error("keyword `{0}` has a quote that is not closed; in quotes `\"` is written `\\\"`")]
    Quote(String),
    #[error("keyword `{0}` has a `;` in quotes; there it is written `\\;`")]
    Semicolon(String),
    #[error(
        "keyword `{0}` is not supported; supported are: content, flow, http.host, http.method, \
         http.uri, msg, nocase, rev, sid"
    )]
    Keyword(String),
    #[error("keyword `{keyword}` cannot be `{found}`; it is {wanted}")]
    Value { keyword: &'static str, found: String, wanted: &'static str },
    #[error("keyword `{0}` stands twice; once is enough")]
    Repeated(&'static str),
    #[error("keyword `content` is wrong at `{found}`: {wrong}")]
    Content { found: String, wrong: &'static str },
    #[error(
        "keyword `content` is negated outside a sticky buffer, where it is known to be absent only \
         after everything was forwarded; put it after http.uri, http.method or http.host"
    )]
    NegatedInStream,
    #[error("keyword `nocase` follows no content; it belongs right after the content it modifies")]
    NocaseAlone,
    #[error(
        "content `{0}` can never match: http.host is in lower case; write it so, or add nocase"
    )]
    UpperCaseHost(String),
    #[error("keyword `{0}` is a sticky buffer and needs a content after it")]
    EmptyBuffer(&'static str),
    #[error("keyword `{0}` needs protocol http in the rule's header")]
    BufferOnTcp(&'static str),
    #[error("keyword `{0}` is of the request; flow cannot be to_client or from_server")]
    BufferToClient(&'static str),
    #[error("keyword `content` is missing; a rule needs at least one")]
    NoContent,
    #[error("keyword `sid` is missing; each rule needs its own number, from 1")]
    NoSid,
    #[error("keyword `sid` {sid} is taken by the rule at {first}; each rule needs its own")]
    DuplicateSid { sid: u32, first: String },
    #[error("more than {0} contents in all rules together; use fewer rules")]
    TooManyContents(usize),
    #[error("the contents of all rules do not fit a search automaton ({0}); use fewer rules")]
    Automaton(String),
}
