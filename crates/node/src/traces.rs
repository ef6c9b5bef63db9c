//! Where a request's time went, as traces of OpenTelemetry's: a span for the request, and one for each part of its way. Without what was said, without
//! the client's address or the session's name: nothing in a trace leads from a request to a person.
//!
//! With the feature `otel`, and an endpoint by OpenTelemetry's own variables. Without either there is nothing here.

#[cfg(feature = "otel")]
mod otel;

use fabstir_protocol::v1::Usage;

/// Sends traces.
#[derive(Debug)]
pub struct Traces {
    #[cfg(feature = "otel")]
    provider: opentelemetry_sdk::trace::SdkTracerProvider,
}

#[cfg(not(feature = "otel"))]
impl Traces {
    /// There is nothing to send.
    pub fn end(self) {}
}

/// Why no traces can be sent.
#[derive(Debug, thiserror::Error)]
pub enum TracesError {
    /// What is set cannot be followed.
    #[error("traces cannot be sent: {0}; look at the variables OTEL_EXPORTER_OTLP_...")]
    Exporter(String),
}

/// The variables by which OpenTelemetry's SDKs are told where traces go.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];

/// Starts sending traces, if `is_set` says that a variable names where to.
///
/// # Errors
/// [`TracesError`], which says what to do.
pub fn start(is_set: impl Fn(&str) -> bool) -> Result<Option<Traces>, TracesError> {
    let Some(variable) = ENDPOINTS.into_iter().find(|name| is_set(name)) else { return Ok(None) };
    #[cfg(feature = "otel")]
    return otel::start(variable).map(Some);
    // Where many programs share an environment, it may be set for others.
    #[cfg(not(feature = "otel"))]
    tracing::warn!(
        "{variable} is set, and this binary sends no traces: cargo build --release --features otel makes one that does"
    );
    #[cfg(not(feature = "otel"))]
    Ok(None)
}

/// A request on its way.
#[derive(Debug)]
pub(crate) struct Trace {
    #[cfg(feature = "otel")]
    times: otel::Times,
}

impl Trace {
    /// It was opened, and asks.
    pub(crate) fn new() -> Self {
        Self {
            #[cfg(feature = "otel")]
            times: otel::Times::new(),
        }
    }

    /// It has a place in the engine.
    pub(crate) fn started(&mut self) {
        #[cfg(feature = "otel")]
        self.times.started();
    }

    /// Its first token has come.
    pub(crate) fn first_token(&mut self) {
        #[cfg(feature = "otel")]
        self.times.first_token();
    }

    /// It is over.
    pub(crate) fn end(&self, ended: &Ended<'_>) {
        #[cfg(feature = "otel")]
        self.times.end(ended);
        #[cfg(not(feature = "otel"))]
        let (Self {}, _) = (self, ended);
    }
}

/// How a request ended.
#[derive(Debug)]
#[cfg_attr(not(feature = "otel"), expect(dead_code, reason = "spans say it"))]
pub(crate) struct Ended<'a> {
    pub(crate) version: u8,
    pub(crate) model: &'a str,
    pub(crate) reason: &'static str,
    pub(crate) usage: &'a Usage,
}
