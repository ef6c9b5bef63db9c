//! Refusals, as they are told.

use fabstir_protocol::{Code, Error, error::RequestError};

use crate::limits::{Hit, milliseconds};

/// A refusal as it is told.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) code: Code,
    pub(super) retry_after_ms: Option<u64>,
    /// The field of a request that is to blame.
    pub(super) field: Option<&'static str>,
}

impl From<Code> for Told {
    fn from(code: Code) -> Self {
        Self { code, retry_after_ms: None, field: None }
    }
}

impl From<Hit> for Told {
    fn from(Hit { code, wait }: Hit) -> Self {
        Self { retry_after_ms: wait.map(milliseconds), ..Self::from(code) }
    }
}

impl From<&Error> for Told {
    fn from(error: &Error) -> Self {
        let field =
            if let Error::Request(RequestError::Invalid(field) | RequestError::Unsupported(field)) = error {
                Some(*field)
            } else {
                None
            };
        Self { field, ..Self::from(Code::from(error)) }
    }
}
