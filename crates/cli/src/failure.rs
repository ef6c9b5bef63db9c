//! How a command ends, and what is said when it ends badly.

use std::{
    fmt::Display,
    io::{self, ErrorKind, Write as _},
    process::ExitCode,
};

use fabstir_client::Error;
use fabstir_protocol::v2::AdvertisementError;

/// The exit codes, as `--help` lists them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Exit {
    Ok = 0,
    Refused = 1,
    Usage = 2,
    Connect = 3,
    Identity = 4,
    Broken = 5,
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Ok => 0_u8,
            Exit::Refused => 1,
            Exit::Usage => 2,
            Exit::Connect => 3,
            Exit::Identity => 4,
            Exit::Broken => 5,
            Exit::Interrupted => 130,
        })
    }
}

/// What went wrong, for a person to read. Nothing is said where `what` is empty.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    what: String,
    /// What the client met, where that is the cause.
    cause: Option<Error>,
}

impl Failure {
    /// `what`: lower case, what was wrong and what to do.
    pub(crate) fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self { exit, what: what.into(), cause: None }
    }

    /// A file of the user's that cannot be used.
    pub(crate) fn file(path: &std::path::Path, error: impl Display) -> Self {
        Self::new(Exit::Usage, format!("{}: {error}", path.display()))
    }

    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }

    pub(crate) fn cause(&self) -> Option<&Error> {
        self.cause.as_ref()
    }

    /// What there is to say.
    pub(crate) fn what(&self) -> &str {
        &self.what
    }

    pub(crate) fn report(self) -> ExitCode {
        if !self.what.is_empty() {
            complain(&self.what);
        }
        self.exit.into()
    }
}

impl From<fabstir_custody::SecretFileError> for Failure {
    fn from(error: fabstir_custody::SecretFileError) -> Self {
        Self::new(Exit::Usage, error.to_string())
    }
}

impl From<fabstir_custody::KeySourceError> for Failure {
    fn from(error: fabstir_custody::KeySourceError) -> Self {
        Self::new(Exit::Usage, error.to_string())
    }
}

/// Writes to standard output that fail. A reader that has left (`| head`) is no failure.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == ErrorKind::BrokenPipe {
            return Self::new(Exit::Ok, "");
        }
        Self::new(Exit::Usage, format!("cannot write the output: {error}"))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let (exit, advice) = match &error {
            Error::Address(_) => {
                (Exit::Usage, "only ws:// is spoken, for what is sent is sealed before it leaves".to_owned())
            }
            Error::Connect(_) => (Exit::Connect, "check --node, and that the node runs".to_owned()),
            Error::Identity(shown) => (Exit::Identity, identity_advice(shown).to_owned()),
            Error::Tls(_) => (
                Exit::Connect,
                "check the name in --node; --ca-file FILE believes an authority of your own, --client-cert-file FILE \
                 shows a certificate of yours"
                    .to_owned(),
            ),
            Error::TooOld { .. } => (Exit::Identity, "leave --protocol out".to_owned()),
            Error::Handshake => {
                (Exit::Broken, "try once more; if it happens again, someone changes it on the way".to_owned())
            }
            Error::Refused { code, retry_after, .. } => (Exit::Refused, after_refusal(code, *retry_after)),
            Error::TooLarge { .. } => (Exit::Refused, "shorten it".to_owned()),
            Error::DidNotOpen => (
                Exit::Broken,
                "someone changed it on the way, or the node is not the one expected".to_owned(),
            ),
            Error::Protocol => (Exit::Broken, "check that --node ends in /v1/ws".to_owned()),
            Error::Truncated => (Exit::Broken, "what came is not the whole answer; ask again".to_owned()),
            Error::Silent(_) => (Exit::Broken, "try again, or another node".to_owned()),
            Error::Closed | Error::SessionLost => {
                (Exit::Broken, "start again; what the node remembered of it is gone".to_owned())
            }
        };
        let what = format!("{}; {advice}", printable(&error.to_string()));
        Self { cause: Some(error), ..Self::new(exit, what) }
    }
}

fn identity_advice(shown: &AdvertisementError) -> &'static str {
    match shown {
        AdvertisementError::NoVersion2 => {
            "someone may have taken it out on the way; if the node really is that old, --protocol 1 speaks to it, \
             without forward secrecy"
        }
        AdvertisementError::Certificate(_) => "check this machine's clock, and ask the node's operator",
        AdvertisementError::Malformed
        | AdvertisementError::OtherIdentity(_)
        | AdvertisementError::Moved(_) => {
            "either it is not that node, or someone stands in between: ask its operator"
        }
    }
}

fn after_refusal(code: &str, retry_after: Option<std::time::Duration>) -> String {
    match (code, retry_after) {
        (_, Some(wait)) => format!("try again in {} seconds", wait.as_secs().max(1)),
        ("DECRYPTION_FAILED", None) => "check that the node's key is the right one".to_owned(),
        _ => "docs/protocol.md, section 3, says what the code means".to_owned(),
    }
}

/// One line on standard error.
pub(crate) fn complain(what: &str) {
    // Where nobody listens there is nobody to tell.
    let _ = writeln!(io::stderr().lock(), "fabstir: {what}");
}

/// What a terminal may be given of a text that somebody else wrote: no escape sequences.
pub(crate) fn printable(text: &str) -> String {
    text.chars().filter(|&c| matches!(c, '\n' | '\t') || !c.is_control()).collect()
}
