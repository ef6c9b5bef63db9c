//! Version 1's frames, both ways, and the requests inside them. No text panics; what is read of a frame is what it
//! says; nobody is taken for the client but the client.

use std::sync::LazyLock;

use fabstir_protocol::{
    Code,
    error::RequestError,
    ethereum::Address,
    id::SessionId,
    identity::PrivateKey,
    request::{Operation, PromptRequest, RequestPrompt},
    v1::{
        ClientFrame, ClientHello, Dialect, Echo, Inbound, InitContext, NodeFrame, Owner, PlainRequest,
        RawInit, Reply, StreamEndReason, Usage,
    },
};

use super::{peers::key, v2_support::rng};

pub(crate) static NODE: LazyLock<PrivateKey> = LazyLock::new(|| key(&[6; 32]));
static CLIENT: LazyLock<Address> = LazyLock::new(|| key(&[7; 32]).address());

/// The init of a client, and its session as it begins.
pub(crate) fn init(dialect: Dialect, claim: bool) -> (String, fabstir_protocol::v1::ClientSession) {
    let hello = ClientHello {
        node_key: &NODE.public_key(),
        client_key: &key(&[7; 32]),
        id: "fuzz".try_into().unwrap(),
        context: InitContext::default(),
        dialect,
        timestamp: Some(1_800_000_000),
        claim,
    };
    hello.start(&mut rng(&format!("{dialect:?} {claim}"))).unwrap()
}

pub(crate) fn run(data: &[u8]) {
    requests(data);
    let Ok(text) = std::str::from_utf8(data) else { return };
    inbound(text);
    let _ = Reply::decode(text);
}

fn requests(data: &[u8]) {
    let read = PromptRequest::read(data);
    let _ = Operation::read(data);
    let Ok(text) = std::str::from_utf8(data) else {
        assert!(matches!(read, Err(RequestError::Utf8)));
        return;
    };
    // What is no object is a bare prompt, word for word.
    if !text.trim_start().starts_with('{') {
        let Ok(PromptRequest { prompt: RequestPrompt::Turn(words), .. }) = read else {
            panic!("a bare prompt was expected")
        };
        assert_eq!(words.as_str(), text);
    }
}

fn echoed(echo: &Echo) {
    if let Some(id) = &echo.id {
        assert!(id.get().len() <= 256);
    }
    if let Some(id) = &echo.session_id {
        assert!((1..=64).contains(&id.as_str().len()));
        assert!(id.as_str().bytes().all(|byte| byte.is_ascii_graphic()));
    }
}

fn inbound(text: &str) {
    let inbound = match Inbound::decode(text) {
        Ok(inbound) => inbound,
        Err(refusal) => return echoed(&refusal.echo),
    };
    echoed(&inbound.echo);
    let Inbound { echo, frame } = inbound;
    replies(&echo, text);
    match frame {
        ClientFrame::SessionInit(id, raw) => {
            assert_eq!(echo.session_id.as_ref(), Some(&id));
            opened(id, raw);
        }
        ClientFrame::Message(id, raw) => {
            assert_eq!(echo.session_id, Some(id));
            let _ = raw.read();
        }
        ClientFrame::PlainPrompt(id, request) => {
            assert_eq!(echo.session_id, Some(id));
            if let PlainRequest::Object(object) = request {
                assert!(object.starts_with('{'));
                let _ = PromptRequest::read(object.as_bytes());
            }
        }
        ClientFrame::PlainInit(id, _) | ClientFrame::Cancel(id) => assert_eq!(echo.session_id, Some(id)),
        ClientFrame::Ping => {}
    }
}

fn opened(id: SessionId, raw: RawInit<'_>) {
    let Ok(init) = raw.read(id) else { return };
    let Ok(opened) = init.open(&NODE) else { return };
    let Ok(established) = opened.authenticate() else { return };
    if let Owner::Verified(address) = established.owner {
        assert_eq!(address, *CLIENT, "somebody else is taken for the client");
    }
}

/// What a node repeats of a frame, a client reads back.
fn replies(echo: &Echo, text: &str) {
    let session_id = echo.session_id.as_ref().map(SessionId::as_str);
    let id = echo.id.as_deref();
    let error = NodeFrame::Error {
        code: Code::MalformedFrame,
        message: text,
        retry_after_ms: Some(7),
        prompt_tokens: None,
        context_window_size: None,
        session_id,
        id,
    };
    let Ok(Reply::Error { session_id: named, message, .. }) = Reply::decode(&error.encode()) else {
        panic!("an error was expected")
    };
    assert_eq!((named.as_deref(), message.as_str()), (session_id, text));
    let Some(session_id) = session_id else { return };
    let end = NodeFrame::StreamEnd {
        session_id,
        reason: StreamEndReason::Complete,
        finish_reason: text,
        tokens_used: 1,
        code: None,
        usage: Usage::default(),
        dropped_messages: None,
        id,
    };
    let end = Reply::decode(&end.encode());
    assert!(matches!(end, Ok(Reply::StreamEnd { session_id: named, .. }) if named == session_id));
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let mut frames: Vec<String> = Vec::new();
    for dialect in Dialect::ALL {
        let (text, mut session) = init(dialect, true);
        frames.extend([text, init(dialect, false).0, session.message(b"hello", &mut rng("m")).unwrap()]);
    }
    let plain = [
        r#"{"type":"ping"}"#,
        r#"{"type":"stream_cancel","session_id":"1","id":[1]}"#,
        r#"{"type":"session_init","sessionId":"1","job_id":9,"chain_id":84532,"id":{"a":[1]}}"#,
        r#"{"type":"prompt","session_id":"1","prompt":"hi","request":null}"#,
        r#"{"type":"inference","session_id":"1","request":{"prompt":"hi","max_tokens":3}}"#,
        r#"{"type":"encrypted_chunk","session_id":"1","tokens":1,"final":true,"payload":{"ciphertextHex":"00","nonceHex":"000000000000000000000000000000000000000000000000","aadHex":"6368756e6b5f30"}}"#,
        r#"{"type":"encrypted_response","session_id":"1","payload":{"ciphertextHex":"00","nonceHex":"000000000000000000000000000000000000000000000000","aadHex":""}}"#,
        r#"{"type":"stream_end","session_id":"1","reason":"complete","usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3,"context_window_size":4}}"#,
        r#"{"type":"error","code":"NODE_BUSY","message":"m","retry_after_ms":5}"#,
        r#"{"type":"session_init_ack","status":"success","session_id":"1","client_address":"0x00"}"#,
        r#"{"op":"chat","body":{"messages":[{"role":"system","content":"s"},{"role":"user","content":[{"type":"text","text":"t"}]}],"model":"m","stream":true,"stop":["a"],"temperature":0.5,"top_p":1,"seed":3,"logit_bias":{"1":2},"logprobs":true,"top_logprobs":2}}"#,
        r#"{"op":"chat","body":{"messages":[{"role":"user","content":"x"},{"role":"assistant","tool_calls":[{"id":"c","type":"function","function":{"name":"f","arguments":"{}"}}]},{"role":"tool","tool_call_id":"c","content":"r"}],"tools":[{"type":"function","function":{"name":"f","description":"d","parameters":{"type":"object"}}}],"tool_choice":"auto","parallel_tool_calls":false}}"#,
        r#"{"op":"chat","body":{"messages":[{"role":"user","content":"x"}],"response_format":{"type":"json_schema","json_schema":{"name":"n","schema":{"type":"object"}}}}}"#,
        r#"{"op":"completions","body":{"prompt":"once","max_tokens":8,"frequency_penalty":1,"presence_penalty":-1,"min_p":0.1,"top_k":4,"repeat_penalty":1.1}}"#,
        r#"{"op":"embeddings","body":{"input":["a","b"],"encoding_format":"base64"}}"#,
        r#"{"op":"models"}"#,
        r#"{"prompt":"hi","stop":["a"],"temperature":1,"max_completion_tokens":5,"n":1,"user":"u"}"#,
        "just words",
    ];
    frames.extend(plain.map(str::to_owned));
    frames.into_iter().map(String::into_bytes).collect()
}
