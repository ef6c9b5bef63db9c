//! What a client is told of a failure.

use fabstir_engine::{Failure, Refused};
use fabstir_protocol::{Code, error::RequestError};

/// What is told of a failure.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) code: Code,
    /// Of a prompt that does not fit: its tokens, and those that the context holds.
    pub(crate) too_long: Option<(u32, u32)>,
    /// The field of the request that is to blame.
    pub(crate) field: Option<&'static str>,
}

/// What a code means, and the field that is to blame.
pub(crate) fn meaning(code: Code, field: Option<&str>) -> String {
    field.map_or_else(|| code.meaning().to_owned(), |field| format!("{}: {field}", code.meaning()))
}

impl From<Code> for Fault {
    fn from(code: Code) -> Self {
        Self { code, too_long: None, field: None }
    }
}

impl Fault {
    /// For a person.
    pub(crate) fn message(&self) -> String {
        match self.too_long {
            Some((tokens, window)) => {
                format!("the prompt has {tokens} tokens, and the context holds {window} with the answer")
            }
            None => meaning(self.code, self.field),
        }
    }

    fn of_field(code: Code, field: &'static str) -> Self {
        Self { field: Some(field), ..Self::from(code) }
    }
}

impl From<RequestError> for Fault {
    fn from(error: RequestError) -> Self {
        let field = match &error {
            RequestError::Invalid(field) | RequestError::Unsupported(field) => Some(*field),
            RequestError::Utf8 => None,
        };
        Self { field, ..Self::from(Code::from(&error.into())) }
    }
}

impl From<Refused> for Fault {
    fn from(refused: Refused) -> Self {
        Self::from(match refused {
            Refused::Busy => Code::NodeBusy,
            Refused::ModelNotFound => Code::ModelNotFound,
            Refused::NoEmbeddings => return Self::of_field(Code::UnsupportedField, "embeddings"),
            Refused::Stopping => Code::Draining,
        })
    }
}

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::PromptTooLong { prompt_tokens, context_window } => {
                let too_long = Some((prompt_tokens, context_window));
                Self { too_long, ..Self::from(Code::TokenLimitExceeded) }
            }
            Failure::Invalid(field) => Self::of_field(Code::InvalidPayload, field),
            Failure::Unsupported(field) => Self::of_field(Code::UnsupportedField, field),
            Failure::Busy => Code::NodeBusy.into(),
            Failure::Template => Code::InvalidPayload.into(),
            Failure::Engine => Code::EngineFailed.into(),
        }
    }
}
