//! Response statuses, and requests that are refused.

use std::borrow::Cow;

use super::response::Response;

/// A status, with its reason phrase and the code that an error's body has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// 200
    Ok,
    /// 201
    Created,
    /// 204
    NoContent,
    /// 304
    NotModified,
    /// 400
    BadRequest,
    /// 401
    Unauthorized,
    /// 404
    NotFound,
    /// 405
    MethodNotAllowed,
    /// 406
    NotAcceptable,
    /// 412
    PreconditionFailed,
    /// 413
    TooLarge,
    /// 414
    UriTooLong,
    /// 415
    UnsupportedMediaType,
    /// 417
    ExpectationFailed,
    /// 431
    HeadTooLarge,
    /// 500
    Internal,
    /// 501
    NotImplemented,
    /// 505
    VersionNotSupported,
    /// 507
    InsufficientStorage,
}

impl Status {
    /// Number and reason phrase, as in a status line.
    pub const fn line(self) -> &'static str {
        self.texts().0
    }

    /// What `error.code` says.
    pub const fn code(self) -> &'static str {
        self.texts().1
    }

    const fn texts(self) -> (&'static str, &'static str) {
        match self {
            Status::Ok => ("200 OK", "ok"),
            Status::Created => ("201 Created", "created"),
            Status::NoContent => ("204 No Content", "no_content"),
            Status::NotModified => ("304 Not Modified", "not_modified"),
            Status::BadRequest => ("400 Bad Request", "bad_request"),
            Status::Unauthorized => ("401 Unauthorized", "unauthorized"),
            Status::NotFound => ("404 Not Found", "not_found"),
            Status::MethodNotAllowed => ("405 Method Not Allowed", "method_not_allowed"),
            Status::NotAcceptable => ("406 Not Acceptable", "not_acceptable"),
            Status::PreconditionFailed => ("412 Precondition Failed", "precondition_failed"),
            Status::TooLarge => ("413 Content Too Large", "too_large"),
            Status::UriTooLong => ("414 URI Too Long", "key_too_long"),
            Status::UnsupportedMediaType => ("415 Unsupported Media Type", "unsupported_media_type"),
            Status::ExpectationFailed => ("417 Expectation Failed", "expectation_failed"),
            Status::HeadTooLarge => ("431 Request Header Fields Too Large", "head_too_large"),
            Status::Internal => ("500 Internal Server Error", "internal"),
            Status::NotImplemented => ("501 Not Implemented", "not_implemented"),
            Status::VersionNotSupported => ("505 HTTP Version Not Supported", "version_not_supported"),
            Status::InsufficientStorage => ("507 Insufficient Storage", "out_of_memory"),
        }
    }

    /// Whether a response with this status has no body, and no length of one.
    pub(super) const fn is_bodiless(self) -> bool {
        matches!(self, Status::NoContent | Status::NotModified)
    }
}

/// Why a request was not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What kind of refusal it is.
    pub status: Status,
    /// What was wrong, and what would be right.
    pub message: Cow<'static, str>,
    /// The methods that the path has; empty unless the method was wrong.
    pub allow: &'static str,
    /// Whether the connection closes.
    pub close: bool,
    /// Whether it answers a `HEAD`.
    pub bodiless: bool,
    /// Whether a password was given, and it was not right.
    pub wrong_password: bool,
}

impl Refusal {
    /// A refusal after which the connection goes on.
    pub fn new(status: Status, message: impl Into<Cow<'static, str>>) -> Self {
        Self { status, message: message.into(), allow: "", close: false, bodiless: false, wrong_password: false }
    }

    pub(super) fn bad(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Status::BadRequest, message)
    }

    /// The same, after which what follows cannot be read.
    pub(super) fn closing(self) -> Self {
        Self { close: true, ..self }
    }

    /// Writes the response.
    pub fn write(&self, out: &mut Vec<u8>) {
        let Self { status, close, allow, bodiless, .. } = *self;
        Response { close, allow, bodiless, ..Response::new(status) }.error(&self.message, out);
    }
}
