//! When the node's certificate ends: measured, and said before it happens.

use std::{
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

    /// Says so where the end is near, or over.
    pub(super) fn warn_if_soon(&self) {
        let not_after = self.0.load(Ordering::Relaxed);
        let left = not_after.saturating_sub(unix_now());
        if not_after == 0 || left > SOON {
            return;
        }
        let days = left.div_euclid(DAY);
        if left <= 0 {
            tracing::warn!(event = "tls_certificate", not_after = %date(not_after), "the TLS certificate has ended: renew it");
        } else {
            tracing::warn!(event = "tls_certificate", not_after = %date(not_after), days, "the TLS certificate ends soon: renew it");
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
