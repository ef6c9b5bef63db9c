//! The same as spans: names and attributes by OpenTelemetry's semantic conventions for generative AI.

use std::time::SystemTime;

use opentelemetry::{
    Context, KeyValue,
    global::{self, BoxedTracer},
    trace::{Span as _, SpanKind, Status, TraceContextExt as _, Tracer as _},
};
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};

use super::{Ended, Traces, TracesError};

const SCOPE: &str = "fabstir-llm-node";
/// Ends that are nobody's fault.
const WELL: [&str; 5] = ["stop", "length", "tool_calls", "cancelled", "disconnected"];

pub(super) fn start(variable: &'static str) -> Result<Traces, TracesError> {
    let exporter = SpanExporter::builder().with_http().build();
    let exporter = exporter.map_err(|error| TracesError::Exporter(error.to_string()))?;
    let service = std::env::var("OTEL_SERVICE_NAME").unwrap_or_else(|_| SCOPE.to_owned());
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let resource = Resource::builder().with_service_name(service).with_attribute(version).build();
    let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
    global::set_tracer_provider(provider.clone());
    tracing::info!(variable, "traces are sent where this names: times and counts, nothing that was said");
    Ok(Traces { provider })
}

impl Traces {
    /// Sends what is left to be sent. Blocks.
    pub fn end(self) {
        if let Err(error) = self.provider.shutdown() {
            tracing::warn!(%error, "the last traces could not be sent");
        }
    }
}

/// The moments of a request.
#[derive(Debug)]
pub(super) struct Times {
    asked: SystemTime,
    started: Option<SystemTime>,
    first_token: Option<SystemTime>,
}

impl Times {
    pub(super) fn new() -> Self {
        Self { asked: SystemTime::now(), started: None, first_token: None }
    }

    pub(super) fn started(&mut self) {
        self.started.get_or_insert_with(SystemTime::now);
    }

    pub(super) fn first_token(&mut self) {
        self.first_token.get_or_insert_with(SystemTime::now);
    }

    pub(super) fn end(&self, ended: &Ended<'_>) {
        let now = SystemTime::now();
        let tracer = global::tracer(SCOPE);
        let mut whole = tracer
            .span_builder(format!("chat {}", ended.model))
            .with_kind(SpanKind::Server)
            .with_start_time(self.asked)
            .with_attributes(attributes(ended))
            .start(&tracer);
        if !WELL.contains(&ended.reason) {
            whole.set_status(Status::error(ended.reason));
            whole.set_attribute(KeyValue::new("error.type", ended.reason));
        }
        let context = Context::current_with_span(whole);
        part(&tracer, &context, "queue", Some(self.asked), self.started.or(Some(now)));
        part(&tracer, &context, "prefill", self.started, self.first_token.or(Some(now)));
        part(&tracer, &context, "decode", self.first_token, Some(now));
        context.span().end_with_timestamp(now);
    }
}

fn part(
    tracer: &BoxedTracer,
    whole: &Context,
    name: &'static str,
    from: Option<SystemTime>,
    to: Option<SystemTime>,
) {
    let (Some(from), Some(to)) = (from, to) else { return };
    let mut span = tracer.span_builder(name).with_start_time(from).start_with_context(tracer, whole);
    span.end_with_timestamp(to);
}

fn attributes(ended: &Ended<'_>) -> Vec<KeyValue> {
    let tokens = |count: u32| i64::from(count);
    vec![
        KeyValue::new("gen_ai.operation.name", "chat"),
        KeyValue::new("gen_ai.provider.name", "fabstir"),
        KeyValue::new("gen_ai.response.model", ended.model.to_owned()),
        KeyValue::new("gen_ai.response.finish_reasons", ended.reason),
        KeyValue::new("gen_ai.usage.input_tokens", tokens(ended.usage.prompt_tokens)),
        KeyValue::new("gen_ai.usage.output_tokens", tokens(ended.usage.completion_tokens)),
        KeyValue::new(
            "gen_ai.usage.cache_read.input_tokens",
            tokens(ended.usage.prompt_tokens_details.cached_tokens),
        ),
        KeyValue::new("fabstir.protocol.version", i64::from(ended.version)),
    ]
}
