//! Ways in which traffic breaks HTTP/1's grammar, or could be read in two ways.

/// Why an HTTP session was dropped. Each is counted by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
pub enum HttpViolation {
    #[error("bytes before the request line that are not empty lines")]
    BytesBeforeRequestLine,
    #[error("malformed request line")]
    RequestLine,
    #[error("malformed request target")]
    RequestTarget,
    #[error("malformed status line")]
    StatusLine,
    #[error("HTTP version other than 1.0 and 1.1")]
    Version,
    #[error("line feed without carriage return")]
    BareLineFeed,
    #[error("carriage return without line feed")]
    BareCarriageReturn,
    #[error("folded field line")]
    FoldedField,
    #[error("malformed field name, or white space before its colon")]
    FieldName,
    #[error("malformed field value")]
    FieldValue,
    #[error("more than 256 fields")]
    TooManyFields,
    #[error("missing, repeated, malformed or contradictory Host")]
    Host,
    #[error("malformed Content-Length")]
    ContentLength,
    #[error("contradictory Content-Length fields")]
    DifferentContentLengths,
    #[error("both Content-Length and Transfer-Encoding")]
    LengthAndTransferEncoding,
    #[error("Transfer-Encoding other than chunked, or in HTTP/1.0")]
    TransferEncoding,
    #[error("malformed chunk size")]
    ChunkSize,
    #[error("malformed or oversize chunk extension")]
    ChunkExtension,
    #[error("chunk data not followed by its line end")]
    ChunkEnd,
    #[error("field in the trailers that belongs into the head")]
    Trailer,
    #[error("more than 128 requests without a response")]
    TooManyOutstanding,
    #[error("bytes from the server that are no response")]
    NotAResponse,
    #[error("response without a request")]
    UnexpectedResponse,
    #[error("switch of protocols that was not asked for, or before the request's end")]
    UnexpectedSwitch,
    #[error("bytes from the client between asking for another protocol and the answer")]
    BytesBeforeSwitch,
    #[error("upgrade to HTTP/2, which is not inspected")]
    Http2Upgrade,
}
