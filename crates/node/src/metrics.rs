//! Every metric of the node, in one list. No label names a client, an address or a session.

use std::{sync::OnceLock, time::Duration};

use fabstir_protocol::Code;
use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::node::Node;

const CONNECTIONS: &str = "fabstir_connections";
const SESSIONS: &str = "fabstir_sessions_active";
const KEYS: &str = "fabstir_session_keys_stored";
const KEY_BYTES: &str = "fabstir_session_keys_bytes";
const KEYS_EXPIRED: &str = "fabstir_session_keys_expired_total";
const REMEMBERED: &str = "fabstir_session_inits_remembered";
const WAITING: &str = "fabstir_requests_waiting";
const RUNNING: &str = "fabstir_requests_running";
const SLOTS: &str = "fabstir_engine_slots";
const RESTARTS: &str = "fabstir_engine_restarts_total";
const PREFILLED: &str = "fabstir_tokens_prefilled_total";
const REUSED: &str = "fabstir_tokens_reused_total";
const PREFIX_CACHE: &str = "fabstir_engine_prefix_cache_bytes";
const COMPUTE: &str = "fabstir_engine_compute_microseconds_total";
const CHOOSE: &str = "fabstir_engine_choose_microseconds_total";
const DECODED: &str = "fabstir_tokens_decoded_total";
const INITS: &str = "fabstir_session_inits_total";
const HANDSHAKES: &str = "fabstir_handshakes_total";
const RESUMPTIONS: &str = "fabstir_resumptions_total";
const CHANNELS: &str = "fabstir_channel_sessions";
const TICKETS: &str = "fabstir_channel_tickets";
const MESSAGES: &str = "fabstir_messages_total";
const REFUSED: &str = "fabstir_frames_refused_total";
const ANSWERS: &str = "fabstir_answers_total";
const PROMPT_TOKENS: &str = "fabstir_prompt_tokens_total";
const COMPLETION_TOKENS: &str = "fabstir_completion_tokens_total";
const FIRST_TOKEN: &str = "fabstir_time_to_first_token_seconds";
const DURATION: &str = "fabstir_answer_seconds";
const CHALLENGES: &str = "fabstir_challenges_signed_total";
const SLOW: &str = "fabstir_slow_consumers_total";

/// How often what was measured is added up.
const UPKEEP: Duration = Duration::from_secs(5);

/// Buckets of the two histograms, in seconds.
const BUCKETS: &[f64] = &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 180.0];

/// Starts counting. Once a process; later calls find the first one's work.
///
/// # Errors
/// Where the exporter cannot be built.
pub fn start() -> Result<PrometheusHandle, BuildError> {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    if let Some(handle) = HANDLE.get() {
        return Ok(handle.clone());
    }
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), BUCKETS)?
        .build_recorder();
    let handle = HANDLE.get_or_init(|| recorder.handle());
    // Fails only where another thread was first, whose recorder then counts.
    let _ = metrics::set_global_recorder(recorder);
    describe();
    Ok(handle.clone())
}

/// Adds up what was measured, until `stopping`: of a node whose counts nobody asks for, every measurement would be kept.
pub(crate) async fn keep_up(handle: PrometheusHandle, stopping: CancellationToken) {
    let mut ticks = interval(UPKEEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stopping.run_until_cancelled(ticks.tick()).await.is_some() {
        handle.run_upkeep();
    }
}

fn describe() {
    describe_gauge!(CONNECTIONS, "Sockets that are open");
    describe_gauge!(SESSIONS, "(connection, session id) pairs with a live key");
    describe_gauge!(KEYS, "Session keys in memory, superseded ones of running answers included");
    describe_gauge!(KEY_BYTES, "Bytes that the session keys and their nonces take");
    describe_counter!(KEYS_EXPIRED, "Session keys wiped because they expired");
    describe_gauge!(REMEMBERED, "Session inits remembered against replay");
    describe_gauge!(WAITING, "Requests waiting for a slot of the engine");
    describe_gauge!(RUNNING, "Requests being answered");
    describe_gauge!(SLOTS, "Sequences that the engine steps side by side");
    describe_counter!(RESTARTS, "Times that the engine had to be started again");
    describe_counter!(PREFILLED, "Prompt tokens computed");
    describe_counter!(REUSED, "Prompt tokens that an earlier request had computed");
    describe_gauge!(PREFIX_CACHE, "Bytes of computed prefixes that have no slot");
    describe_counter!(COMPUTE, "Microseconds that the model's steps took");
    describe_counter!(CHOOSE, "Microseconds that choosing tokens between the steps took");
    describe_counter!(DECODED, "Answer tokens computed");
    describe_counter!(INITS, "Session inits by result: ok or the code");
    describe_counter!(HANDSHAKES, "Handshakes of version 2 by result: ok or the code");
    describe_counter!(RESUMPTIONS, "Resumptions of version 2 by result: ok or the code");
    describe_gauge!(CHANNELS, "Sessions of version 2, those that wait for a resumption included");
    describe_gauge!(TICKETS, "Tickets that would resume a session");
    describe_counter!(MESSAGES, "Encrypted messages of both versions by result: ok or the code");
    describe_counter!(REFUSED, "Frames refused, by code");
    describe_counter!(ANSWERS, "Answers by finish reason");
    describe_counter!(PROMPT_TOKENS, "Prompt tokens of the answers");
    describe_counter!(COMPLETION_TOKENS, "Answer tokens of the answers");
    describe_histogram!(FIRST_TOKEN, "From the opened message to the first token, in seconds");
    describe_histogram!(DURATION, "From the opened message to the end of the answer, in seconds");
    describe_counter!(CHALLENGES, "Challenges signed, by form");
    describe_counter!(SLOW, "Connections closed because they did not read");
}

/// The page of `/metrics`: what was counted, and what is measured at this moment.
pub(crate) fn render(node: &Node, handle: &PrometheusHandle) -> String {
    let keys = node.sessions.metrics();
    let engine = node.engine.status();
    gauge!(CONNECTIONS).set(as_f64(node.connections.load(std::sync::atomic::Ordering::Relaxed)));
    gauge!(SESSIONS).set(as_f64(keys.active_sessions));
    gauge!(KEYS).set(as_f64(keys.total_keys_stored));
    gauge!(KEY_BYTES).set(as_f64(keys.memory_usage_estimate_bytes));
    counter!(KEYS_EXPIRED).absolute(keys.expired_keys_cleaned);
    let (channels, tickets) = node.channels.count();
    gauge!(CHANNELS).set(as_f64(channels));
    gauge!(TICKETS).set(as_f64(tickets));
    gauge!(REMEMBERED).set(as_f64(node.sessions.remembered_inits()));
    gauge!(WAITING).set(as_f64(engine.waiting));
    gauge!(RUNNING).set(as_f64(engine.running));
    gauge!(SLOTS).set(as_f64(engine.slots));
    counter!(RESTARTS).absolute(engine.restarts);
    counter!(PREFILLED).absolute(engine.prefilled_tokens);
    counter!(REUSED).absolute(engine.reused_tokens);
    gauge!(PREFIX_CACHE).set(as_f64(engine.prefix_cache_bytes));
    counter!(COMPUTE).absolute(engine.compute_micros);
    counter!(CHOOSE).absolute(engine.choose_micros);
    counter!(DECODED).absolute(engine.decoded_tokens);
    handle.run_upkeep();
    handle.render()
}

fn as_f64(count: usize) -> f64 {
    // Gauges are floats; counts here are far below 2^32.
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

fn result(code: Option<Code>) -> &'static str {
    code.map_or("ok", Code::as_str)
}

pub(crate) fn session_init(refused: Option<Code>) {
    counter!(INITS, "result" => result(refused)).increment(1);
}

pub(crate) fn handshake(refused: Option<Code>) {
    counter!(HANDSHAKES, "result" => result(refused)).increment(1);
}

pub(crate) fn resumption(refused: Option<Code>) {
    counter!(RESUMPTIONS, "result" => result(refused)).increment(1);
}

pub(crate) fn message(refused: Option<Code>) {
    counter!(MESSAGES, "result" => result(refused)).increment(1);
}

pub(crate) fn refused(code: Code) {
    counter!(REFUSED, "code" => code.as_str()).increment(1);
}

pub(crate) fn answer(finish_reason: &'static str, prompt: u32, completion: u32, took: Duration) {
    counter!(ANSWERS, "finish_reason" => finish_reason).increment(1);
    counter!(PROMPT_TOKENS).increment(u64::from(prompt));
    counter!(COMPLETION_TOKENS).increment(u64::from(completion));
    histogram!(DURATION).record(took);
}

pub(crate) fn first_token(took: Duration) {
    histogram!(FIRST_TOKEN).record(took);
}

pub(crate) fn challenge(form: &'static str) {
    counter!(CHALLENGES, "form" => form).increment(1);
}

pub(crate) fn slow_consumer() {
    counter!(SLOW).increment(1);
}
