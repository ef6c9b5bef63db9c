//! Servers behind the node, played by a mock that fails on purpose.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a test is meant to panic"
)]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use fabstir_engine::{
    ApiKey, EmbeddingRequest, Engine, Failure, FinishReason, Generation, Message, Output, Overflow, Prompt,
    Refused, Request, Role, Text, UpstreamConfig, UpstreamEngine, UpstreamError, Usage,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
    time::timeout,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// What the mock does with a request.
#[derive(Clone, Debug)]
enum Act {
    /// Answers with this status and body.
    Refuse(u16, String),
    /// Streams these events, and then `[DONE]`.
    Say(Vec<Value>),
    /// Streams these events, and then closes the connection.
    Break(Vec<Value>),
    /// Streams these events, and then nothing until the other side closes.
    Hang(Vec<Value>),
    /// Closes the connection at once.
    Drop,
}

/// A server with a list of what it does, one for each request; the last is repeated.
struct Mock {
    url: String,
    asked: Arc<Mutex<Vec<Value>>>,
    heads: Arc<Mutex<Vec<String>>>,
    /// Connections that the other side has closed while the mock was saying nothing.
    left: watch::Receiver<usize>,
    task: JoinHandle<()>,
}

impl Mock {
    async fn start(acts: Vec<Act>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let (asked, heads) = (Arc::default(), Arc::default());
        let (leaves, left) = watch::channel(0);
        let shared = Arc::new(Shared {
            acts,
            next: AtomicUsize::new(0),
            asked: Arc::clone(&asked),
            heads: Arc::clone(&heads),
            leaves,
        });
        let task = tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                tokio::spawn(Arc::clone(&shared).serve(socket));
            }
        });
        Self { url, asked, heads, left, task }
    }

    fn asked(&self) -> Vec<Value> {
        self.asked.lock().unwrap().clone()
    }

    async fn until_left(&mut self) {
        timeout(PATIENCE, self.left.wait_for(|left| *left > 0)).await.unwrap().unwrap();
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Shared {
    acts: Vec<Act>,
    next: AtomicUsize,
    asked: Arc<Mutex<Vec<Value>>>,
    heads: Arc<Mutex<Vec<String>>>,
    leaves: watch::Sender<usize>,
}

impl Shared {
    async fn serve(self: Arc<Self>, socket: TcpStream) {
        let mut socket = BufReader::new(socket);
        while let Some((head, body)) = request(&mut socket).await {
            if head.starts_with("GET /v1/models ") {
                let list = json!({"data": [{"id": "m", "max_model_len": 100}, {"id": "other"}]});
                reply(&mut socket, 200, &list.to_string()).await;
                continue;
            }
            self.heads.lock().unwrap().push(head);
            self.asked.lock().unwrap().push(serde_json::from_slice(&body).unwrap());
            let number = self.next.fetch_add(1, Ordering::SeqCst);
            let act = self.acts.get(number).or(self.acts.last()).unwrap().clone();
            let closes = match act {
                Act::Refuse(status, body) => {
                    reply(&mut socket, status, &body).await;
                    false
                }
                Act::Say(events) => {
                    stream(&mut socket, &events).await;
                    let _ = socket.write_all(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n").await;
                    false
                }
                Act::Break(events) => {
                    stream(&mut socket, &events).await;
                    true
                }
                Act::Hang(events) => {
                    stream(&mut socket, &events).await;
                    let _ = socket.read(&mut [0]).await;
                    self.leaves.send_modify(|left| *left += 1);
                    true
                }
                Act::Drop => true,
            };
            if closes {
                return;
            }
        }
    }
}

async fn request(socket: &mut BufReader<TcpStream>) -> Option<(String, Vec<u8>)> {
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if socket.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        head.push_str(&line);
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    socket.read_exact(&mut body).await.ok()?;
    Some((head, body))
}

async fn reply(socket: &mut BufReader<TcpStream>, status: u16, body: &str) {
    let text = format!(
        "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let _ = socket.write_all(text.as_bytes()).await;
}

async fn stream(socket: &mut BufReader<TcpStream>, events: &[Value]) {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    let _ = socket.write_all(head.as_bytes()).await;
    for event in events {
        let data = format!("data: {event}\n\n");
        let _ = socket.write_all(format!("{:x}\r\n{data}\r\n", data.len()).as_bytes()).await;
    }
    let _ = socket.flush().await;
}

fn words(words: &str) -> Value {
    json!({"choices": [{"index": 0, "delta": {"content": words}}]})
}

fn finish(reason: &str) -> Value {
    json!({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
}

fn usage() -> Value {
    json!({"choices": [], "usage": {
        "prompt_tokens": 7, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 3},
    }})
}

fn paris() -> Act {
    Act::Say(vec![words("Par"), words("is"), finish("stop"), usage()])
}

fn config(mocks: &[&Mock]) -> UpstreamConfig {
    let urls = mocks.iter().map(|mock| mock.url.clone()).collect();
    UpstreamConfig { silence: Duration::from_millis(500), ..UpstreamConfig::new(urls) }
}

async fn engine(mocks: &[&Mock]) -> UpstreamEngine {
    UpstreamEngine::connect(config(mocks)).await.unwrap()
}

fn asking(words: &str) -> Request {
    Request::new(Prompt::Chat(vec![Message::new(Role::User, words)]))
}

#[derive(Debug, Default)]
struct Answer {
    text: String,
    reasoning: String,
    calls: Vec<(String, String, String)>,
    started: Option<(u32, bool)>,
    dropped: usize,
    end: Option<Result<(FinishReason, Usage), Failure>>,
}

async fn read(mut generation: Generation) -> Answer {
    let mut answer = Answer::default();
    while let Some(output) = timeout(PATIENCE, generation.outputs.recv()).await.unwrap() {
        match output {
            Output::Started { prompt_tokens, estimated, dropped_messages, .. } => {
                answer.started = Some((prompt_tokens, estimated));
                answer.dropped = dropped_messages;
            }
            Output::Text { text, .. } => answer.text.push_str(text.as_str()),
            Output::Reasoning { text, .. } => answer.reasoning.push_str(text.as_str()),
            Output::ToolCalls { calls, .. } => answer.calls.extend(
                calls.into_iter().map(|call| (call.id, call.name, call.arguments.as_str().to_owned())),
            ),
            Output::Finished { reason, usage } => answer.end = Some(Ok((reason, usage))),
            Output::Failed(failure) => answer.end = Some(Err(failure)),
        }
    }
    answer
}

async fn ask(engine: &UpstreamEngine, request: Request) -> Answer {
    read(engine.submit(request).unwrap()).await
}

#[tokio::test]
async fn a_field_that_would_undo_a_limit_is_refused_by_name_and_asks_no_server() {
    let mock = Mock::start(vec![paris()]).await;
    let engine = engine(&[&mock]).await;
    let mut request = asking("capital?");
    request.extra = Some("{\"n_predict\":100000}".into());
    let answer = ask(&engine, request).await;
    assert_eq!((answer.end, mock.asked().len()), (Some(Err(Failure::Unsupported("n_predict"))), 0));
}

#[tokio::test]
async fn an_answer_comes_through_with_its_usage() {
    let mock = Mock::start(vec![paris()]).await;
    let engine = engine(&[&mock]).await;
    let models: Vec<_> =
        engine.models().iter().map(|model| (model.name.as_str(), model.context_window)).collect();
    assert_eq!(models, [("m", 100), ("other", 2048)]);
    let answer = ask(&engine, asking("capital?")).await;
    let counted = Usage { prompt_tokens: 7, cached_tokens: 3, completion_tokens: 2, estimated: false };
    assert_eq!((answer.text.as_str(), answer.end), ("Paris", Some(Ok((FinishReason::Stop, counted)))));
    assert_eq!(mock.asked()[0]["messages"][0]["content"], "capital?");
    assert_eq!(mock.asked()[0]["model"], "m");
    let status = engine.status();
    assert_eq!((status.prefilled_tokens, status.reused_tokens, status.decoded_tokens), (4, 3, 2));
    let unknown = Request { model: Some("x".into()), ..asking("a") };
    assert_eq!(engine.submit(unknown).unwrap_err(), Refused::ModelNotFound);
}

#[tokio::test]
async fn a_server_that_does_not_count_is_counted_for_and_marked_so() {
    let mock = Mock::start(vec![Act::Say(vec![words("Par"), words("is"), finish("length")])]).await;
    let answer = ask(&engine(&[&mock]).await, asking("capital?")).await;
    let guessed = Usage { prompt_tokens: 2, cached_tokens: 0, completion_tokens: 2, estimated: true };
    assert_eq!(answer.end, Some(Ok((FinishReason::Length, guessed))));
    assert_eq!(answer.started, Some((2, true)));
}

#[tokio::test]
async fn reasoning_and_calls_come_through_untouched() {
    let call = |part: Value| json!({"choices": [{"index": 0, "delta": {"tool_calls": [part]}}]});
    let mock = Mock::start(vec![Act::Say(vec![
        json!({"choices": [{"index": 0, "delta": {"reasoning_content": "let me "}}]}),
        json!({"choices": [{"index": 0, "delta": {"reasoning": "see"}}]}),
        json!({"choices": [{"index": 0, "delta": {"reasoning": "!", "reasoning_content": "!"}}]}),
        json!({"choices": [{"index": 1, "delta": {"content": "of another choice"}}]}),
        call(json!({"index": 0, "id": "c0", "function": {"name": "f", "arguments": ""}})),
        call(json!({"index": 1, "id": "c1", "function": {"name": "g", "arguments": "{ \"b\""}})),
        call(json!({"index": 0, "function": {"arguments": "{\"a\" : 1}"}})),
        call(json!({"index": 1, "function": {"arguments": ":2}"}})),
        finish("tool_calls"),
        usage(),
    ])])
    .await;
    let answer = ask(&engine(&[&mock]).await, asking("a")).await;
    assert_eq!((answer.reasoning.as_str(), answer.text.as_str()), ("let me see!", ""));
    let call = |id: &str, name: &str, arguments: &str| (id.to_owned(), name.to_owned(), arguments.to_owned());
    assert_eq!(answer.calls, [call("c0", "f", "{\"a\" : 1}"), call("c1", "g", "{ \"b\":2}")]);
    assert_eq!(answer.end.unwrap().unwrap().0, FinishReason::ToolCalls);
}

#[tokio::test]
async fn a_server_that_fails_before_its_first_word_costs_nothing() {
    let failing = [
        Act::Drop,
        Act::Refuse(500, "{}".into()),
        Act::Refuse(503, "{}".into()),
        Act::Refuse(429, "{}".into()),
        Act::Break(vec![]),
        Act::Hang(vec![]),
        Act::Say(vec![json!({"error": {"message": "out of memory"}})]),
        Act::Break(vec![json!({"choices": [{"index": 0, "delta": {"role": "assistant"}}]})]),
    ];
    for act in failing {
        let (bad, good) = (Mock::start(vec![act.clone()]).await, Mock::start(vec![paris()]).await);
        let engine = engine(&[&bad, &good]).await;
        for _ in 0..4 {
            let answer = ask(&engine, asking("capital?")).await;
            assert_eq!(answer.text, "Paris", "{act:?}");
            assert!(matches!(answer.end, Some(Ok(_))), "{act:?}");
        }
        assert!(!bad.asked().is_empty(), "{act:?}: it was tried");
    }
}

#[tokio::test]
async fn one_address_that_stands_for_many_servers_is_tried_again() {
    let mock = Mock::start(vec![Act::Drop, paris()]).await;
    let answer = ask(&engine(&[&mock]).await, asking("capital?")).await;
    assert_eq!((answer.text.as_str(), mock.asked().len()), ("Paris", 2));
    let busy = Mock::start(vec![Act::Refuse(503, "{}".into()), paris()]).await;
    let answer = ask(&engine(&[&busy]).await, asking("capital?")).await;
    assert_eq!((answer.end, busy.asked().len()), (Some(Err(Failure::Busy)), 1), "who is busy is left alone");
}

#[tokio::test]
async fn nothing_is_asked_twice_once_a_word_has_come() {
    for act in [
        Act::Break(vec![words("Par")]),
        Act::Hang(vec![words("Par")]),
        Act::Say(vec![words("Par"), json!({"error": {}})]),
    ] {
        let mocks = [Mock::start(vec![act.clone()]).await, Mock::start(vec![act.clone()]).await];
        let answer = ask(&engine(&[&mocks[0], &mocks[1]]).await, asking("capital?")).await;
        assert_eq!((answer.text.as_str(), answer.end), ("Par", Some(Err(Failure::Engine))), "{act:?}");
        let asked: usize = mocks.iter().map(|mock| mock.asked().len()).sum();
        assert_eq!(asked, 1, "{act:?}");
    }
}

#[tokio::test]
async fn an_answer_without_its_end_is_no_answer() {
    let mock = Mock::start(vec![Act::Say(vec![words("Par")])]).await;
    let answer = ask(&engine(&[&mock]).await, asking("capital?")).await;
    assert_eq!(answer.end, Some(Err(Failure::Engine)));
}

#[tokio::test]
async fn when_all_fail_the_last_reason_is_told() {
    let refusals = [
        (503, json!({}), Failure::Busy),
        (500, json!({}), Failure::Engine),
        (401, json!({}), Failure::Engine),
        (404, json!({}), Failure::Unsupported("model")),
        (400, json!({"error": {"param": "temperature"}}), Failure::Invalid("temperature")),
        (422, json!({}), Failure::Invalid("a field that the server refuses")),
        (
            400,
            json!({"error": {"type": "exceed_context_size_error", "n_prompt_tokens": 900, "n_ctx": 512}}),
            Failure::PromptTooLong { prompt_tokens: 900, context_window: 512 },
        ),
    ];
    for (status, body, failure) in refusals {
        let mock = Mock::start(vec![Act::Refuse(status, body.to_string())]).await;
        let answer = ask(&engine(&[&mock]).await, asking("capital?")).await;
        assert_eq!(answer.end, Some(Err(failure)), "{status} {body}");
    }
}

#[tokio::test]
async fn the_oldest_turns_make_way_where_the_context_is_too_small() {
    let long = json!({"error": {"type": "exceed_context_size_error", "n_prompt_tokens": 150, "n_ctx": 100}});
    let mock = Mock::start(vec![Act::Refuse(400, long.to_string()), paris()]).await;
    let engine = engine(&[&mock]).await;
    let roles = [Role::System, Role::User, Role::Assistant, Role::User, Role::Assistant, Role::User];
    let messages = roles.iter().map(|role| Message::new(*role, "words")).collect();
    let request = Request { overflow: Overflow::DropOldest, ..Request::new(Prompt::Chat(messages)) };
    let answer = ask(&engine, request).await;
    assert_eq!((answer.text.as_str(), answer.dropped), ("Paris", 1));
    let roles = |number: usize| -> Vec<String> {
        let asked = mock.asked();
        let messages = asked[number]["messages"].as_array().unwrap().iter();
        messages.map(|message| message["role"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(roles(0), ["system", "user", "assistant", "user", "assistant", "user"]);
    assert_eq!(roles(1), ["system", "assistant", "user", "assistant", "user"]);
}

#[tokio::test]
async fn an_answer_that_is_asked_to_be_too_long_is_capped_and_nothing_is_left_out() {
    let words = "'max_tokens' is too large: 90. This model's maximum context length is 100 tokens and your request has 40 input tokens";
    let mock =
        Mock::start(vec![Act::Refuse(400, json!({"error": {"message": words}}).to_string()), paris()]).await;
    let engine = engine(&[&mock]).await;
    let messages = vec![
        Message::new(Role::User, "1"),
        Message::new(Role::Assistant, "2"),
        Message::new(Role::User, "3"),
    ];
    let request = Request {
        overflow: Overflow::DropOldest,
        max_tokens: Some(90),
        ..Request::new(Prompt::Chat(messages))
    };
    let answer = ask(&engine, request).await;
    assert_eq!((answer.text.as_str(), answer.dropped), ("Paris", 0));
    assert_eq!(
        (&mock.asked()[1]["max_tokens"], mock.asked()[1]["messages"].as_array().unwrap().len()),
        (&json!(60), 3)
    );
}

#[tokio::test]
async fn an_answer_that_the_server_broke_off_is_no_whole_one() {
    let mock = Mock::start(vec![Act::Say(vec![words("Par"), finish("abort")])]).await;
    assert_eq!(ask(&engine(&[&mock]).await, asking("a")).await.end, Some(Err(Failure::Engine)));
    let call = json!({"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": "{\"a"}}]}}]});
    let mock = Mock::start(vec![Act::Say(vec![call])]).await;
    let answer = ask(&engine(&[&mock]).await, asking("a")).await;
    assert_eq!((answer.calls.len(), answer.end), (0, Some(Err(Failure::Engine))), "half a call is none");
}

#[tokio::test]
async fn an_answer_whose_end_is_known_is_whole_whatever_comes_after() {
    for act in
        [Act::Break(vec![words("Paris"), finish("stop")]), Act::Hang(vec![words("Paris"), finish("stop")])]
    {
        let mock = Mock::start(vec![act.clone()]).await;
        let answer = ask(&engine(&[&mock]).await, asking("a")).await;
        assert!(matches!(answer.end, Some(Ok((FinishReason::Stop, _)))), "{act:?}: {:?}", answer.end);
    }
}

#[tokio::test]
async fn a_request_that_a_server_cannot_take_does_not_make_it_unwell() {
    let mock = Mock::start(vec![Act::Refuse(500, "{}".into()), Act::Refuse(500, "{}".into()), paris()]).await;
    let engine = engine(&[&mock]).await;
    assert_eq!(ask(&engine, asking("a")).await.end, Some(Err(Failure::Engine)));
    assert!(engine.status().healthy);
    assert_eq!(ask(&engine, asking("a")).await.text, "Paris");
}

#[tokio::test]
async fn who_goes_away_closes_the_servers_connection() {
    let mut mock = Mock::start(vec![Act::Hang(vec![words("Par")])]).await;
    let config = UpstreamConfig { silence: PATIENCE, ..config(&[&mock]) };
    let engine = UpstreamEngine::connect(config).await.unwrap();
    let mut generation = engine.submit(asking("capital?")).unwrap();
    while !matches!(generation.outputs.recv().await.unwrap(), Output::Text { .. }) {}
    drop(generation);
    mock.until_left().await;
    let idle = async {
        while engine.status().running > 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, idle).await.unwrap();
}

#[tokio::test]
async fn requests_spread_over_the_servers() {
    let mocks = [Mock::start(vec![paris()]).await, Mock::start(vec![paris()]).await];
    let engine = engine(&[&mocks[0], &mocks[1]]).await;
    for _ in 0..6 {
        ask(&engine, asking("capital?")).await;
    }
    assert_eq!(mocks.map(|mock| mock.asked().len()), [3, 3]);
}

#[tokio::test]
async fn waiting_requests_take_turns_by_client_and_the_line_is_bounded() {
    let mock = Mock::start(vec![Act::Hang(vec![words("x")]), paris()]).await;
    let config = UpstreamConfig { max_running: 1, max_waiting: 3, silence: PATIENCE, ..config(&[&mock]) };
    let engine = UpstreamEngine::connect(config).await.unwrap();
    let mut first = engine.submit(asking("first")).unwrap();
    first.outputs.recv().await.unwrap();
    let by = |client, words| engine.submit(Request { client, ..asking(words) });
    let (a1, a2, b1) = (by(1, "a1").unwrap(), by(1, "a2").unwrap(), by(2, "b1").unwrap());
    assert_eq!(by(3, "c1").unwrap_err(), Refused::Busy);
    assert_eq!((engine.status().running, engine.status().waiting), (1, 3));
    drop(first);
    for generation in [a1, b1, a2] {
        assert_eq!(read(generation).await.text, "Paris");
    }
    let order: Vec<Value> =
        mock.asked().iter().map(|asked| asked["messages"][0]["content"].clone()).collect();
    assert_eq!(order, ["first", "a1", "b1", "a2"]);
}

#[tokio::test]
async fn a_server_that_comes_back_is_found_again() {
    let mock = Mock::start(vec![Act::Drop, Act::Drop, paris()]).await;
    let config = UpstreamConfig { health_interval: Duration::from_millis(20), ..config(&[&mock]) };
    let engine = UpstreamEngine::connect(config).await.unwrap();
    assert_eq!(ask(&engine, asking("a")).await.end, Some(Err(Failure::Engine)));
    let well = async {
        while !engine.status().healthy {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, well).await.unwrap();
    assert_eq!(ask(&engine, asking("a")).await.text, "Paris");
}

#[tokio::test]
async fn the_key_goes_out_and_does_not_print() {
    let mock = Mock::start(vec![paris()]).await;
    let config = UpstreamConfig { api_key: Some(ApiKey::from("sk-canary\n")), ..config(&[&mock]) };
    let engine = UpstreamEngine::connect(config).await.unwrap();
    ask(&engine, asking("a")).await;
    assert!(mock.heads.lock().unwrap()[0].contains("authorization: Bearer sk-canary\r\n"));
    assert!(!format!("{engine:?}").contains("canary"));
}

#[tokio::test]
async fn texts_are_embedded_in_their_order() {
    let list = json!({"data": [
        {"index": 1, "embedding": [0.0, 1.0]}, {"index": 0, "embedding": [1.0, 0.0]},
    ], "usage": {"prompt_tokens": 5}});
    let mock = Mock::start(vec![Act::Refuse(200, list.to_string())]).await;
    let engine = engine(&[&mock]).await;
    let embed = |texts: &[&str]| {
        let inputs = texts.iter().map(|text| Text::from(*text)).collect();
        engine.embed(EmbeddingRequest { model: None, inputs, client: 0 }).unwrap().result
    };
    let places = embed(&["a", "b"]).await.unwrap().unwrap();
    assert_eq!(places[0].values, [1.0, 0.0]);
    assert_eq!(places.iter().map(|place| place.tokens).sum::<u32>(), 5);
    assert_eq!(embed(&["a"]).await.unwrap().unwrap_err(), Failure::Engine, "two places for one text");
    assert!(mock.heads.lock().unwrap()[0].starts_with("POST /v1/embeddings "));
}

#[tokio::test]
async fn servers_that_are_not_there_are_told_of() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let named = UpstreamConfig {
        models: vec!["m".into()],
        health_interval: Duration::from_millis(20),
        ..UpstreamConfig::new(vec![format!("http://{nobody}/v1")])
    };
    let engine = UpstreamEngine::connect(named).await.unwrap();
    assert_eq!(ask(&engine, asking("a")).await.end, Some(Err(Failure::Engine)));
    assert!(!engine.status().healthy);
    for wrong in ["nonsense", "u:s3cret@h:1/v1", "http://:s3cret@h/v1", "http://h/v1?key=s3cret"] {
        let wrong = UpstreamConfig::new(vec!["http://127.0.0.1:1/v1".into(), wrong.into()]);
        let error = UpstreamEngine::connect(wrong).await.unwrap_err();
        assert!(matches!(error, UpstreamError::Url(2)), "{error:?}");
    }
    let tls = UpstreamConfig {
        trust: Some(b"-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n".to_vec()),
        ..UpstreamConfig::new(vec!["https://localhost/v1".into()])
    };
    assert!(matches!(UpstreamEngine::connect(tls).await, Err(UpstreamError::Tls(_))));
}

/// What waits for a slow reader is bounded: the server waits too.
#[tokio::test]
async fn a_reader_that_does_not_read_is_given_up() {
    let many = (0..500).map(|_| words("word ")).collect();
    let mock = Mock::start(vec![Act::Hang(many)]).await;
    let config =
        UpstreamConfig { stalled_reader: Duration::from_millis(50), silence: PATIENCE, ..config(&[&mock]) };
    let engine = UpstreamEngine::connect(config).await.unwrap();
    let mut generation = engine.submit(asking("a")).unwrap();
    let idle = async {
        while engine.status().running > 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, idle).await.unwrap();
    let mut heard = 0;
    while let Some(output) = generation.outputs.recv().await {
        assert!(!matches!(output, Output::Finished { .. }));
        heard += 1;
    }
    assert!(heard <= 33, "{heard} outputs waited");
}
