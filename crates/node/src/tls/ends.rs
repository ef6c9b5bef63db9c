//! When the node's certificate ends: measured, and said before it happens.

use std::{
    fmt,
    sync::atomic::{AtomicI64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use x509_parser::time::ASN1Time;

use super::TlsError;
use crate::metrics;

/// From how many seconds before its end a certificate is warned about.
const SOON: i64 = 14 * DAY;
const DAY: i64 = 24 * 60 * 60;

/// The end of the certificate that is served, in unix seconds; 0 while there is none.
#[derive(Debug, Default)]
pub(super) struct Ends(AtomicI64);

impl Ends {
    /// A certificate that ends at `not_after` is served from now on.
    pub(super) fn tell(&self, not_after: i64) {
        self.0.store(not_after, Ordering::Relaxed);
        metrics::tls_certificate_expires(not_after);
        tracing::info!(event = "tls_certificate", not_after = %date(not_after), "TLS certificate loaded");
        self.warn_if_soon();
    }

    /// Refuses a certificate that has ended in the place of one that has not.
    pub(super) fn refuse_worse(&self, not_after: i64) -> Result<(), TlsError> {
        let now = unix_now();
        if not_after <= now && now < self.0.load(Ordering::Relaxed) { Err(TlsError::Ended) } else { Ok(()) }
    }

    /// Says so in the log where the end is near, or over.
    pub(super) fn warn_if_soon(&self) {
        let Some(Near { not_after, days }) = self.near() else { return };
        if days < 0 {
            tracing::warn!(event = "tls_certificate", %not_after, "the TLS certificate has ended: renew it");
        } else {
            tracing::warn!(event = "tls_certificate", %not_after, days, "the TLS certificate ends soon: renew it");
        }
    }

    /// When the certificate ends, if that is soon, or was.
    pub(super) fn near(&self) -> Option<Near> {
        let not_after = self.0.load(Ordering::Relaxed);
        let left = not_after.saturating_sub(unix_now());
        let days = if left <= 0 { -1 } else { left.div_euclid(DAY) };
        (not_after != 0 && left <= SOON).then(|| Near { not_after: date(not_after), days })
    }
}

/// An end that is near.
#[derive(Debug)]
pub(crate) struct Near {
    not_after: String,
    /// Whole days that are left, below 0 when it is over.
    days: i64,
}

impl fmt::Display for Near {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { not_after, days } = self;
        if *days < 0 {
            write!(f, "the certificate has ended, on {not_after}: clients refuse it; renew it")
        } else {
            write!(f, "the certificate ends in {days} days, on {not_after}: renew it")
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
