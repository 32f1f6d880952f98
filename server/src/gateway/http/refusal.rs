//! A request that is refused: a status, and one line with a stable code.

use std::borrow::Cow;

use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use posthorn_proto::ErrorCode;

use super::{Answer, blob};
use crate::parts::PartError;
use crate::store::StoreError;

/// The code again, for answers to HEAD, which have no words.
const ERROR: HeaderName = HeaderName::from_static("posthorn-error");

/// Why a request is refused.
#[derive(Debug)]
pub(super) struct Refused {
    code: ErrorCode,
    message: Cow<'static, str>,
    status: StatusCode,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Refused {
    pub(super) fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into(), status: status(code), headers: Vec::new() }
    }

    /// Too many requests; how many milliseconds to wait.
    pub(super) fn rate_limited(millis: u32) -> Self {
        let refused = Self::new(ErrorCode::RateLimited, "too many of these requests: wait before the next");
        refused.header(RETRY_AFTER, &millis.div_ceil(1000).to_string())
    }

    /// With another status than the code has by itself.
    pub(super) fn with(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    /// With one header more.
    pub(super) fn header(mut self, name: HeaderName, value: &str) -> Self {
        self.headers.extend(HeaderValue::from_str(value).map(|value| (name, value)));
        self
    }

    /// The answer.
    pub(super) fn answer(self, is_head: bool) -> Answer {
        let name = self.code.name();
        let text = if is_head { String::new() } else { format!("{name}: {}\n", self.message) };
        let mut answer = Answer::new(blob::words(text));
        *answer.status_mut() = self.status;
        let headers = answer.headers_mut();
        headers.extend(self.headers);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(ERROR, HeaderValue::from_static(name));
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("10"));
        }
        answer
    }
}

fn status(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorCode::TokenUnknown | ErrorCode::HolderKeyWrong => StatusCode::FORBIDDEN,
        ErrorCode::BlobUnknown | ErrorCode::PartMissing => StatusCode::NOT_FOUND,
        ErrorCode::BlobExists | ErrorCode::PartDiffers => StatusCode::CONFLICT,
        ErrorCode::RangeWrong => StatusCode::RANGE_NOT_SATISFIABLE,
        ErrorCode::TooSlow => StatusCode::REQUEST_TIMEOUT,
        ErrorCode::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        ErrorCode::Quota => StatusCode::INSUFFICIENT_STORAGE,
        ErrorCode::Busy | ErrorCode::StoreUnavailable | ErrorCode::ShuttingDown => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        ErrorCode::Internal | ErrorCode::Damaged => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::BAD_REQUEST,
    }
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

impl From<PartError> for Refused {
    fn from(error: PartError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}
