//! Every metric of the node, in one list. No label names a client, an address or a session.

use std::sync::OnceLock;

use fabstir_protocol::Code;
use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

use crate::{limits::Limit, node::Node, process};

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
const LIMITS: &str = "fabstir_limits_hit_total";
const TLS_HANDSHAKES: &str = "fabstir_tls_handshakes_total";
const PROXY_HEADERS: &str = "fabstir_proxy_headers_total";
const TLS_EXPIRES: &str = "fabstir_tls_certificate_expires_timestamp_seconds";

const SESSIONS_BY_STATE: &str = "fabstir_sessions";
const KV_USED: &str = "fabstir_engine_kv_tokens_used";
const KV: &str = "fabstir_engine_kv_tokens";
const HEALTHY: &str = "fabstir_engine_healthy";
const QUEUED: &str = "fabstir_queue_seconds";
const TOKEN_GAP: &str = "fabstir_token_gap_seconds";
const RECEIVED: &str = "fabstir_received_bytes_total";
const SENT: &str = "fabstir_sent_bytes_total";
const ROTATIONS: &str = "fabstir_key_rotations_total";
const KEY_OPERATIONS: &str = "fabstir_key_operations_total";
const KEY_READY: &str = "fabstir_identity_key_ready";
const DRAINING: &str = "fabstir_draining";
const BUILD: &str = "fabstir_build_info";
const UPTIME: &str = "fabstir_uptime_seconds";
const TASKS: &str = "fabstir_tokio_tasks";
const CPU: &str = "process_cpu_seconds_total";
const RESIDENT: &str = "process_resident_memory_bytes";
const OPEN_FDS: &str = "process_open_fds";
const MAX_FDS: &str = "process_max_fds";
const THREADS: &str = "process_threads";
const START: &str = "process_start_time_seconds";

/// What a metric is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// What is now.
    Gauge,
    /// What has been, added up.
    Counter,
    /// How often it took how long.
    Histogram,
}

/// Every metric and what it says, in the order of the table in docs/operating.md.
pub const ALL: &[(Kind, &str, &str)] = &[
    (Kind::Gauge, CONNECTIONS, "Sockets that are open"),
    (Kind::Gauge, SESSIONS, "(connection, session id) pairs with a live key"),
    (Kind::Gauge, KEYS, "Session keys in memory, superseded ones of running answers included"),
    (Kind::Gauge, KEY_BYTES, "Bytes that the session keys and their nonces take"),
    (Kind::Counter, KEYS_EXPIRED, "Session keys wiped because they expired"),
    (Kind::Gauge, REMEMBERED, "Session inits remembered against replay"),
    (Kind::Gauge, WAITING, "Requests waiting for a slot of the engine"),
    (Kind::Gauge, RUNNING, "Requests being answered: slots of the engine that are taken"),
    (Kind::Gauge, SLOTS, "Sequences that the engine steps side by side"),
    (Kind::Counter, RESTARTS, "Times that the engine had to be started again"),
    (Kind::Counter, PREFILLED, "Prompt tokens computed"),
    (Kind::Counter, REUSED, "Prompt tokens that an earlier request had computed"),
    (Kind::Gauge, PREFIX_CACHE, "Bytes of computed prefixes that have no slot"),
    (Kind::Counter, COMPUTE, "Microseconds that the model's steps took"),
    (Kind::Counter, CHOOSE, "Microseconds that choosing tokens between the steps took"),
    (Kind::Counter, DECODED, "Answer tokens computed"),
    (Kind::Counter, INITS, "Session inits by result: ok or the code"),
    (Kind::Counter, HANDSHAKES, "Handshakes of version 2 by result: ok or the code"),
    (Kind::Counter, RESUMPTIONS, "Resumptions of version 2 by result: ok or the code"),
    (Kind::Gauge, CHANNELS, "Sessions of version 2, those that wait for a resumption included"),
    (Kind::Gauge, TICKETS, "Tickets that would resume a session"),
    (Kind::Counter, MESSAGES, "Encrypted messages of both versions by result: ok or the code"),
    (Kind::Counter, REFUSED, "Frames refused, by code"),
    (Kind::Counter, ANSWERS, "Answers by finish reason"),
    (Kind::Counter, PROMPT_TOKENS, "Prompt tokens of the answers"),
    (Kind::Counter, COMPLETION_TOKENS, "Answer tokens of the answers"),
    (Kind::Histogram, FIRST_TOKEN, "From the opened message to the first token, in seconds"),
    (Kind::Histogram, DURATION, "From the opened message to the end of the answer, in seconds"),
    (Kind::Counter, CHALLENGES, "Challenges signed, by form"),
    (Kind::Counter, SLOW, "Connections closed because they did not read"),
    (Kind::Counter, LIMITS, "Times that a limit was hit, by limit"),
    (
        Kind::Counter,
        PROXY_HEADERS,
        "Connections with PROXY_PROTOCOL=require by result: named, unnamed, untrusted, invalid, timeout",
    ),
    (Kind::Counter, TLS_HANDSHAKES, "TLS handshakes by result: ok, failed, timeout"),
    (Kind::Gauge, TLS_EXPIRES, "When the TLS certificate ends, in seconds since 1970"),
    (
        Kind::Gauge,
        SESSIONS_BY_STATE,
        "Sessions by version and state: live, grace (1); attached, lost, ticket (2); ending",
    ),
    (Kind::Gauge, KV_USED, "Tokens that the model's memory holds, those of idle slots included"),
    (Kind::Gauge, KV, "Tokens that the model's memory has room for"),
    (Kind::Gauge, HEALTHY, "1 while the engine can answer, 0 while it starts again"),
    (Kind::Histogram, QUEUED, "From the opened message to its slot in the engine, in seconds"),
    (Kind::Histogram, TOKEN_GAP, "Between two pieces of an answer, in seconds"),
    (Kind::Counter, RECEIVED, "Bytes of WebSocket messages that came in"),
    (Kind::Counter, SENT, "Bytes of WebSocket messages that went out"),
    (Kind::Counter, ROTATIONS, "Keys that took the place of another, by key: channel or identity"),
    (Kind::Gauge, KEY_READY, "1 while the identity key answers, 0 after a use that failed"),
    (Kind::Counter, KEY_OPERATIONS, "Uses of the identity key, by operation: sign or agree"),
    (Kind::Gauge, DRAINING, "1 while the node drains"),
    (Kind::Gauge, BUILD, "1, with the version of the program"),
    (Kind::Gauge, UPTIME, "Seconds since the start"),
    (Kind::Gauge, TASKS, "Tasks of the runtime that are alive"),
    (Kind::Gauge, CPU, "Seconds of processor time that the process took"),
    (Kind::Gauge, RESIDENT, "Bytes of memory that the process has"),
    (Kind::Gauge, OPEN_FDS, "File descriptors that are open"),
    (Kind::Gauge, MAX_FDS, "File descriptors that may be open"),
    (Kind::Gauge, THREADS, "Threads of the process"),
    (Kind::Gauge, START, "When the process started, in unix seconds"),
];

/// Buckets of the histograms, in seconds.
const BUCKETS: &[f64] = &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 180.0];

/// Buckets of what is between two tokens.
const GAP_BUCKETS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

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
        .set_buckets_for_metric(Matcher::Full(TOKEN_GAP.into()), GAP_BUCKETS)?
        .build_recorder();
    // In one step: the page is that of the recorder that counts, whichever thread was first.
    let handle = HANDLE.get_or_init(move || {
        let handle = recorder.handle();
        let _ = metrics::set_global_recorder(recorder);
        describe();
        handle
    });
    Ok(handle.clone())
}

fn describe() {
    for (kind, name, meaning) in ALL.iter().copied() {
        match kind {
            Kind::Gauge => describe_gauge!(name, meaning),
            Kind::Counter => describe_counter!(name, meaning),
            Kind::Histogram => describe_histogram!(name, meaning),
        }
    }
    // What grows from nothing is not seen to grow: of these the first one matters.
    for key in ["identity", "channel"] {
        counter!(ROTATIONS, "key" => key).increment(0);
    }
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
    // Where there is no end of them, there is nothing to say.
    if engine.slots < usize::MAX {
        gauge!(SLOTS).set(as_f64(engine.slots));
    }
    counter!(RESTARTS).absolute(engine.restarts);
    counter!(PREFILLED).absolute(engine.prefilled_tokens);
    counter!(REUSED).absolute(engine.reused_tokens);
    gauge!(PREFIX_CACHE).set(as_f64(engine.prefix_cache_bytes));
    counter!(COMPUTE).absolute(engine.compute_micros);
    counter!(CHOOSE).absolute(engine.choose_micros);
    counter!(DECODED).absolute(engine.decoded_tokens);
    gauge!(KV_USED).set(as_f64(engine.kv_tokens_used));
    gauge!(KV).set(as_f64(engine.kv_tokens));
    gauge!(HEALTHY).set(flag(engine.healthy));
    if let Some(identity) = node.identity() {
        gauge!(KEY_READY).set(flag(!identity.key.is_away()));
    }
    measure_sessions(node);
    measure_process(node);
    handle.run_upkeep();
    handle.render()
}

/// The sessions by what state they are in.
fn measure_sessions(node: &Node) {
    let lines = node.ledger.sessions();
    let count = |version: u8, state: &str| {
        lines.iter().filter(|line| line.version == version && line.state == state).count()
    };
    for state in ["live", "ending"] {
        gauge!(SESSIONS_BY_STATE, "version" => "1", "state" => state).set(as_f64(count(1, state)));
    }
    gauge!(SESSIONS_BY_STATE, "version" => "1", "state" => "grace").set(as_f64(node.sessions.in_grace()));
    for state in ["attached", "lost", "ticket", "ending"] {
        gauge!(SESSIONS_BY_STATE, "version" => "2", "state" => state).set(as_f64(count(2, state)));
    }
}

fn measure_process(node: &Node) {
    gauge!(DRAINING).set(flag(node.draining.is_cancelled()));
    gauge!(BUILD, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    gauge!(UPTIME).set(node.clock.uptime().as_secs_f64());
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        gauge!(TASKS).set(as_f64(runtime.metrics().num_alive_tasks()));
    }
    let taken = process::taken();
    gauge!(CPU).set(taken.cpu_seconds);
    let bytes = |bytes| usize::try_from(bytes).unwrap_or(usize::MAX);
    let seen = [
        (RESIDENT, taken.resident_bytes.map(bytes)),
        (OPEN_FDS, taken.open_fds),
        (MAX_FDS, taken.max_fds.map(bytes)),
        (THREADS, taken.threads),
        (START, Some(bytes(node.clock.unix_at_start()))),
    ];
    for (name, value) in seen {
        if let Some(value) = value {
            gauge!(name).set(as_f64(value));
        }
    }
}

fn flag(set: bool) -> f64 {
    f64::from(u8::from(set))
}

fn as_f64(count: usize) -> f64 {
    // Gauges are floats: two halves, each of which one holds exactly.
    let count = u64::try_from(count).unwrap_or(u64::MAX);
    let half = |half: u64| u32::try_from(half).map_or(0.0, f64::from);
    half(count >> 32) * 4_294_967_296.0 + half(count & u64::from(u32::MAX))
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

pub(crate) fn answer(finish_reason: &'static str, prompt: u32, completion: u32, took: std::time::Duration) {
    counter!(ANSWERS, "finish_reason" => finish_reason).increment(1);
    counter!(PROMPT_TOKENS).increment(u64::from(prompt));
    counter!(COMPLETION_TOKENS).increment(u64::from(completion));
    histogram!(DURATION).record(took);
}

pub(crate) fn first_token(took: std::time::Duration) {
    histogram!(FIRST_TOKEN).record(took);
}

pub(crate) fn challenge(form: &'static str) {
    counter!(CHALLENGES, "form" => form).increment(1);
}

pub(crate) fn key_operation(operation: &'static str) {
    counter!(KEY_OPERATIONS, "operation" => operation).increment(1);
}

pub(crate) fn limit_hit(limit: Limit) {
    counter!(LIMITS, "limit" => limit.as_str()).increment(1);
}

pub(crate) fn slow_consumer() {
    counter!(SLOW).increment(1);
}

/// From the opened message to its slot in the engine.
pub(crate) fn queued(took: std::time::Duration) {
    histogram!(QUEUED).record(took);
}

/// Between two pieces of an answer.
pub(crate) fn token_gap(took: std::time::Duration) {
    histogram!(TOKEN_GAP).record(took);
}

pub(crate) fn received(bytes: usize) {
    counter!(RECEIVED).increment(u64::try_from(bytes).unwrap_or(0));
}

pub(crate) fn sent(bytes: usize) {
    counter!(SENT).increment(u64::try_from(bytes).unwrap_or(0));
}

/// A key took another's place; `key` is `channel` or `identity`.
pub(crate) fn rotated(key: &'static str) {
    counter!(ROTATIONS, "key" => key).increment(1);
}

pub(crate) fn proxy_header(result: &'static str) {
    counter!(PROXY_HEADERS, "result" => result).increment(1);
}

pub(crate) fn tls_handshake(result: &'static str) {
    counter!(TLS_HANDSHAKES, "result" => result).increment(1);
}

pub(crate) fn tls_certificate_expires(unix: i64) {
    // Below 2^53 in this age of the world.
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
    gauge!(TLS_EXPIRES).set(unix as f64);
}
