//! When the node's certificate is valid: measured, and said before it ends.

use std::{
    fmt,
    sync::Mutex,
    time::{SystemTime, UNIX_EPOCH},
};

use x509_parser::time::ASN1Time;

use super::{TlsError, certificate::Validity};
use crate::{crypto::lock, metrics};

/// From how many seconds before its end a certificate is warned about.
const SOON: i64 = 14 * DAY;
const DAY: i64 = 24 * 60 * 60;

/// When the certificate that is served is valid; `None` while there is none.
#[derive(Debug, Default)]
pub(super) struct Ends(Mutex<Option<Validity>>);

impl Ends {
    /// A certificate is served from now on.
    pub(super) fn tell(&self, validity: Validity) {
        *lock(&self.0) = Some(validity);
        metrics::tls_certificate_expires(validity.not_after);
        tracing::info!(event = "tls_certificate", not_after = %date(validity.not_after), "TLS certificate loaded");
        self.warn();
    }

    /// Refuses a certificate that is not valid in the place of one that is.
    pub(super) fn refuse_worse(&self, next: Validity) -> Result<(), TlsError> {
        let now = unix_now();
        if next.holds(now) || !lock(&self.0).is_some_and(|served| served.holds(now)) {
            return Ok(());
        }
        Err(if now < next.not_before { TlsError::Early(date(next.not_before)) } else { TlsError::Ended })
    }

    /// Says in the log what there is to worry about.
    pub(super) fn warn(&self) {
        match self.worry() {
            None => {}
            Some(Worry::Early(not_before)) => {
                tracing::warn!(event = "tls_certificate", %not_before, "the TLS certificate is not valid yet: clients refuse it");
            }
            Some(Worry::Ended(not_after)) => {
                tracing::warn!(event = "tls_certificate", %not_after, "the TLS certificate has ended: renew it");
            }
            Some(Worry::Soon { not_after, days }) => {
                tracing::warn!(event = "tls_certificate", %not_after, days, "the TLS certificate ends soon: renew it");
            }
        }
    }

    /// Why the certificate is not valid, or will not be for long.
    pub(super) fn worry(&self) -> Option<Worry> {
        let Validity { not_before, not_after } = (*lock(&self.0))?;
        let now = unix_now();
        let left = not_after.saturating_sub(now);
        if left <= 0 {
            return Some(Worry::Ended(date(not_after)));
        }
        if now < not_before {
            return Some(Worry::Early(date(not_before)));
        }
        (left <= SOON).then(|| Worry::Soon { not_after: date(not_after), days: left.div_euclid(DAY) })
    }
}

/// What there is to worry about a certificate.
#[derive(Debug)]
pub(crate) enum Worry {
    /// It will be valid from then on.
    Early(String),
    /// It was valid until then.
    Ended(String),
    /// It ends in so many whole days.
    Soon { not_after: String, days: i64 },
}

impl fmt::Display for Worry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Early(not_before) => write!(
                f,
                "the certificate is not valid before {not_before}: clients refuse it until then; look at this machine's clock"
            ),
            Self::Ended(not_after) => {
                write!(f, "the certificate has ended, on {not_after}: clients refuse it; renew it")
            }
            Self::Soon { not_after, days } => {
                write!(f, "the certificate ends in {days} days, on {not_after}: renew it")
            }
        }
    }
}

fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn date(unix: i64) -> String {
    ASN1Time::from_timestamp(unix).map_or_else(|_| unix.to_string(), |time| time.to_string())
}
