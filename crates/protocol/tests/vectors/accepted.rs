//! What must work.

use fabstir_protocol::{
    id::SessionId,
    identity::{PrivateKey, PublicKey},
    request::{PromptRequest, RequestPrompt},
    seal::SessionKey,
    v1::{
        ClientFrame, ClientHello, ClientSession, Dialect, Inbound, InitContext, Owner, PlainRequest, Reply,
        Session, StringOrNumber,
    },
};
use serde_json::Value;

use crate::{
    cases::{
        Accepted, AnswerCase, FrameCase, FrameExpect, Given, MessageCase, PieceCase, RequestCase,
        RequestExpect, SessionCase, SessionExpect,
    },
    support::{
        Script, fixed, hex,
        node::Node,
        reference::{self as r, Make, Material, Object, Recipe},
        unhex, unhex_array,
    },
};

pub(crate) const NOW: u64 = 1_780_000_000;

pub(crate) fn make() -> Accepted {
    let about = [
        "What version 1 of the protocol accepts (docs/protocol.md, part 1). Bytes are lower-case hex; a frame is \
the exact text on the wire; null means absent.",
        "frames: what a text frame is read as.",
        "sessions: a node with the private key reads the frame at `now` and must come to what is expected; then \
the messages open in order; a client with the session key opens the answer. `given` is all that the client \
used: with `canonical`, a client of this project that is given it writes exactly these values.",
        "requests: what an opened message is read as.",
    ];
    Accepted {
        about: about.map(str::to_owned).into(),
        frames: frames(),
        sessions: [grid(), spellings(), data(), openings(), signatures(), times(), messages()].concat_all(),
        requests: requests(),
    }
}

trait ConcatAll<T> {
    fn concat_all(self) -> Vec<T>;
}

impl<T, const N: usize> ConcatAll<T> for [Vec<T>; N] {
    fn concat_all(self) -> Vec<T> {
        self.into_iter().flatten().collect()
    }
}

fn frames() -> Vec<FrameCase> {
    let case = |name: &str, frame: &str, kind: &str, session_id: Option<&str>, id: Option<&str>| FrameCase {
        name: name.to_owned(),
        spec: "1.1".to_owned(),
        frame: frame.to_owned(),
        expect: FrameExpect {
            kind: kind.to_owned(),
            session_id: session_id.map(str::to_owned),
            id: id.map(str::to_owned),
            prompt: None,
        },
    };
    let (long_id, long_name) = (format!("\"{}\"", "x".repeat(254)), "~".repeat(64));
    let with_id = |id: &str| format!(r#"{{"type":"stream_cancel","session_id":"1","id":{id}}}"#);
    let mut cases = vec![
        case("a ping", r#"{"type":"ping"}"#, "ping", None, None),
        case("a ping with more", r#"{"type":"ping","at":[1,{}],"x":null}"#, "ping", None, None),
        case("white space", " {\r\n\t\"type\" : \"ping\" } \n", "ping", None, None),
        case("an escaped type", r#"{"type":"p\u0069ng"}"#, "ping", None, None),
        case(
            "fields that are null",
            r#"{"type":"stream_cancel","session_id":"1","id":null,"job_id":null,"chain_id":null,"payload":null,"prompt":null,"request":null,"x":null}"#,
            "stream_cancel",
            Some("1"),
            None,
        ),
        case(
            "a session id of 64 characters",
            &format!(r#"{{"type":"stream_cancel","session_id":"{long_name}"}}"#),
            "stream_cancel",
            Some(&long_name),
            None,
        ),
        case(
            "sessionId",
            r#"{"type":"stream_cancel","sessionId":"a!~#\"\\"}"#,
            "stream_cancel",
            Some("a!~#\"\\"),
            None,
        ),
        case(
            "session_id and sessionId that agree",
            r#"{"type":"stream_cancel","sessionId":"7","session_id":"7"}"#,
            "stream_cancel",
            Some("7"),
            None,
        ),
        case(
            "fields of other frames, of any type",
            r#"{"type":"stream_cancel","session_id":"1","prompt":{"a":1},"request":[1],"payload":7}"#,
            "stream_cancel",
            Some("1"),
            None,
        ),
        case(
            "a plaintext session",
            r#"{"type":"session_init","session_id":"1","job_id":9,"chain_id":84532}"#,
            "session_init",
            Some("1"),
            None,
        ),
    ];
    let ids = [
        "7",
        "-1.5e3",
        "\"a\\u0020b\"",
        "true",
        "[1,[2]]",
        r#"{"b":1,"a":[null]}"#,
        "\"\"",
        long_id.as_str(),
    ];
    for id in ids {
        let short = if id.len() > 40 { "of 256 bytes" } else { id };
        let name = format!("the id {short} is repeated as it was written");
        cases.push(case(&name, &with_id(id), "stream_cancel", Some("1"), Some(id)));
    }
    cases.extend(plaintext_frames());
    cases
}

fn plaintext_frames() -> Vec<FrameCase> {
    let cases = [
        ("a prompt", r#"{"type":"prompt","session_id":"1","prompt":"h\u00e9llo"}"#, "prompt", "héllo"),
        (
            "a request object in a prompt frame",
            r#"{"type":"prompt","session_id":"1","request":{"prompt":"hi","n":1}}"#,
            "prompt",
            r#"{"prompt":"hi","n":1}"#,
        ),
        (
            "an inference request",
            r#"{"type":"inference","session_id":"1","request":{"messages":[]}}"#,
            "inference",
            r#"{"messages":[]}"#,
        ),
    ];
    cases
        .map(|(name, frame, kind, prompt)| FrameCase {
            name: name.to_owned(),
            spec: "1.1".to_owned(),
            frame: frame.to_owned(),
            expect: FrameExpect {
                kind: kind.to_owned(),
                session_id: Some("1".to_owned()),
                id: None,
                prompt: Some(prompt.to_owned()),
            },
        })
        .into()
}

/// A case with one message and a short answer.
fn session(name: &str, recipe: &Recipe, verified: bool, frame: String) -> SessionCase {
    let spec = "1.2";
    let given = Given {
        dialect: recipe.make.name().to_owned(),
        canonical: false,
        claim: verified,
        client_private_key: hex(recipe.client),
        ephemeral_private_key: hex(recipe.ephemeral),
        nonce: hex(recipe.nonce),
        key_material: match recipe.material {
            Material::X => "x".to_owned(),
            Material::Point => "point".to_owned(),
        },
        sealed_as: recipe.aad.to_owned(),
        digest: recipe.digest,
        session_key: recipe.own_key.map(hex),
        session_data: String::from_utf8(recipe.data.clone()).unwrap(),
    };
    let expect = SessionExpect {
        session_id: recipe.session_id.clone(),
        job_id: None,
        chain_id: None,
        session_key: hex(recipe.session_key()),
        address: r::address_text(&recipe.client),
        verified,
    };
    SessionCase {
        name: name.to_owned(),
        spec: spec.to_owned(),
        node_private_key: hex(recipe.node),
        now: NOW,
        require_timestamp_since: None,
        given,
        frame,
        expect,
        messages: vec![message(name, recipe, 0, "hello")],
        answer: answer(name, recipe),
    }
}

fn message(name: &str, recipe: &Recipe, index: u64, text: &str) -> MessageCase {
    let nonce = fixed(&format!("{name}|message {index}"));
    let frame = recipe.message(index, &nonce, text.as_bytes()).json();
    MessageCase { index, nonce: hex(nonce), plaintext: text.to_owned(), frame }
}

fn answer(name: &str, recipe: &Recipe) -> AnswerCase {
    let (id, key) = (&recipe.session_id, recipe.session_key());
    let piece = |nonce: [u8; 24], text: &str, frame: Object| PieceCase {
        nonce: hex(nonce),
        plaintext: text.to_owned(),
        frame: frame.json(),
    };
    let chunks = (0..).zip(["Hel", "lo", ""]).map(|(index, text)| {
        let nonce = fixed(&format!("{name}|chunk {index}"));
        piece(nonce, text, r::chunk(id, &key, index, &nonce, text))
    });
    let nonce = fixed(&format!("{name}|final"));
    AnswerCase {
        chunks: chunks.collect(),
        response: piece(nonce, "stop", r::response(id, &key, &nonce, "stop")),
    }
}

fn grid() -> Vec<SessionCase> {
    let mut cases = Vec::new();
    for make in Make::ALL {
        for (claim, keyed) in [(true, true), (true, false), (false, true), (false, false)] {
            let name = format!(
                "{}, {}, {}",
                make.name(),
                if claim { "claimed" } else { "unclaimed" },
                if keyed { "with a session key" } else { "under the agreed key" },
            );
            let key = keyed.then(|| fixed(&format!("{name}|session key")));
            let recipe = Recipe::new(make, &name).keyed(key).claiming(claim);
            let mut case = session(&name, &recipe, claim, recipe.frame());
            case.given.canonical = keyed != (make == Make::GuideTypescript);
            case.messages.push(message(&name, &recipe, 1, "and again"));
            cases.push(case);
        }
    }
    cases
}

const HEX_FIELDS: [&str; 5] = ["ephPubHex", "ciphertextHex", "signatureHex", "nonceHex", "aadHex"];

fn spellings() -> Vec<SessionCase> {
    let mut cases = Vec::new();
    let upper = |text: String| text.strip_prefix("0x").unwrap_or(&text).to_uppercase();
    let prefixed = |text: String| if text.starts_with("0x") { text } else { format!("0x{text}") };
    for make in Make::ALL {
        let mut add = |what: &str, change: &dyn Fn(&Recipe, Object) -> Object| {
            let name = format!("{}, {what}", make.name());
            let recipe = Recipe::new(make, &name);
            cases.push(session(&name, &recipe, true, recipe.changed(|payload| change(&recipe, payload))));
        };
        let every = |payload: Object, change: &dyn Fn(String) -> String| {
            HEX_FIELDS.iter().fold(payload, |payload, field| payload.map_text(field, change))
        };
        add("0x before every field", &|_, payload| every(payload, &prefixed));
        add("upper case", &|_, payload| every(payload, &upper));
        add("0x and upper case", &|_, payload| every(every(payload, &upper), &prefixed));
        add("an uncompressed ephemeral key", &|recipe, payload| {
            payload.set_text("ephPubHex", &hex(r::uncompressed(&r::point_of(&recipe.ephemeral))))
        });
        add("unknown and null fields in the payload", &|_, payload| {
            payload.with("kemHex", "null").with_text("alg", "x").with("list", "[1,{\"a\":2}]")
        });
    }
    cases.extend(outer_spellings());
    cases
}

fn outer_spellings() -> Vec<SessionCase> {
    let mut cases = Vec::new();
    let mut add =
        |name: &str, change: &dyn Fn(Object) -> Object, job: Option<Value>, chain: Option<Value>| {
            let recipe = Recipe::new(Make::Deployed, name);
            let frame = change(recipe.frame_with(&recipe.payload())).json();
            let mut case = session(name, &recipe, true, frame);
            (case.expect.job_id, case.expect.chain_id) = (job, chain);
            cases.push(case);
        };
    add("sessionId", &|frame| frame.without("session_id").with_text("sessionId", "42"), None, None);
    add("job_id as text", &|f| f.with_text("job_id", "7"), Some("7".into()), None);
    add("job_id as a number", &|f| f.with("job_id", "7"), Some(7.into()), None);
    add("chain_id", &|f| f.with("chain_id", "84532"), None, Some(84532.into()));
    add(
        "fields outside the payload that change nothing",
        &|f| f.with_text("model", "m").with("max_tokens", "1").with("prompt", "[1]").with("x", "null"),
        None,
        None,
    );
    cases
}

fn data() -> Vec<SessionCase> {
    let mut cases = Vec::new();
    let mut add = |make: Make, name: &str, data: &dyn Fn(&Recipe) -> Object| {
        let recipe = Recipe::new(make, name);
        let data = data(&recipe).json();
        let recipe = recipe.with_data(data);
        cases.push(session(name, &recipe, true, recipe.frame()));
    };
    let (rust, deployed) = (Make::GuideRust, Make::Deployed);
    let client = r::client_key();
    let key = |recipe: &Recipe| hex(recipe.own_key.unwrap());
    add(deployed, "snake_case data with recovery_public_key", &|recipe| {
        Object::default()
            .with_text("job_id", "1")
            .with_text("model_name", "m")
            .with_text("price_per_token", "2000")
            .with_text("session_key", &key(recipe))
            .with_text("recovery_public_key", &hex(r::public(&client)))
            .with("timestamp", NOW.to_string())
    });
    add(rust, "snake_case data with client_address", &|recipe| {
        Object::default()
            .with_text("session_key", &key(recipe))
            .with_text("client_address", &r::address_text(&client))
    });
    add(deployed, "clientAddress from a deployed client", &|recipe| {
        Object::default()
            .with_text("sessionKey", &key(recipe))
            .with_text("clientAddress", &r::address_text(&client))
    });
    add(rust, "both claims, of one address", &|recipe| {
        recipe.plain_data(true).with_text("recoveryPublicKey", &hex(r::public(&client)))
    });
    add(rust, "an address with its checksum", &|recipe| {
        let address: fabstir_protocol::ethereum::Address = r::address_text(&client).parse().unwrap();
        recipe.plain_data(true).set_text("clientAddress", &address.to_checksum())
    });
    add(rust, "an address in upper case without 0x", &|recipe| {
        recipe.plain_data(true).map_text("clientAddress", |text| text[2..].to_uppercase())
    });
    add(deployed, "a claim in upper case with 0x", &|recipe| {
        recipe.plain_data(true).map_text("recoveryPublicKey", |text| format!("0x{}", text.to_uppercase()))
    });
    add(rust, "a session key in upper case with 0x", &|recipe| {
        recipe.plain_data(true).map_text("sessionKey", |text| format!("0x{}", text.to_uppercase()))
    });
    add(rust, "jobId and pricePerToken as numbers", &|recipe| {
        recipe.plain_data(true).set("jobId", "12").with("pricePerToken", "0.5")
    });
    add(rust, "pricePerToken as text", &|recipe| recipe.plain_data(true).with_text("pricePerToken", "2000"));
    add(rust, "unknown fields and nulls in the data", &|recipe| {
        recipe.plain_data(true).with("recoveryPublicKey", "null").with("timestamp", "null").with("x", "[[]]")
    });
    add(rust, "only what is needed", &|recipe| recipe.plain_data(true).without("jobId").without("modelName"));
    cases
}

/// Which aad and key material: the node tries both of each, whatever `aadHex` says of the two.
fn openings() -> Vec<SessionCase> {
    let mut cases = Vec::new();
    for material in [Material::X, Material::Point] {
        for (sealed_as, sent) in
            [("", ""), ("", "session_init"), ("session_init", ""), ("session_init", "session_init")]
        {
            for digest in [1, 3] {
                let name = format!(
                    "{material:?} as key material, sealed as {sealed_as:?}, sent as {sent:?}, digest {digest}"
                );
                let mut recipe = Recipe::new(Make::GuideRust, &name);
                (recipe.material, recipe.aad, recipe.digest) = (material, sealed_as, digest);
                let frame = recipe.changed(|payload| payload.set_text("aadHex", &hex(sent)));
                cases.push(session(&name, &recipe, true, frame));
            }
        }
    }
    cases
}

fn signatures() -> Vec<SessionCase> {
    let mut cases = Vec::new();
    let zeros = hex([0; 32]);
    for digest in [1, 2, 3] {
        for v in [0, 27] {
            for extended in [false, true] {
                let name = format!(
                    "claimed, digest {digest}, v from {v}, {} salt and info",
                    if extended { "with" } else { "without" }
                );
                let mut recipe = Recipe::new(Make::GuideRust, &name);
                (recipe.digest, recipe.v) = (digest, v);
                let frame = recipe.changed(|payload| match extended {
                    true => payload.with_text("saltHex", &zeros).with_text("info", ""),
                    false => payload,
                });
                cases.push(session(&name, &recipe, true, frame));
            }
        }
    }
    // Without a claim the form alone decides which digest the address is recovered from.
    let choices: [(&str, u8, u8, &dyn Fn(Object) -> Object); 5] = [
        ("v 0 or 1", 1, 0, &|p| p),
        ("v 27 or 28", 2, 27, &|p| p),
        ("saltHex", 3, 0, &|p| p.with_text("saltHex", &zeros)),
        ("info", 3, 27, &|p| p.with_text("info", "")),
        ("saltHex and info that are null", 1, 0, &|p| p.with("saltHex", "null").with("info", "null")),
    ];
    for (what, digest, v, change) in choices {
        let name = format!("unclaimed, {what} says digest {digest}");
        let mut recipe = Recipe::new(Make::GuideRust, &name).claiming(false);
        (recipe.digest, recipe.v) = (digest, v);
        cases.push(session(&name, &recipe, false, recipe.changed(change)));
    }
    cases.push(parity_twin());
    cases
}

/// -P instead of P: the same x, so a digest that does not name the point does not notice.
fn parity_twin() -> SessionCase {
    let name = "the negative of the ephemeral key, under digest 1";
    let recipe = Recipe::new(Make::GuideRust, name);
    let mut twin = r::public(&recipe.ephemeral);
    twin[0] ^= 1;
    session(name, &recipe, true, recipe.changed(|payload| payload.set_text("ephPubHex", &hex(twin))))
}

fn times() -> Vec<SessionCase> {
    let mut cases = Vec::new();
    for (name, at, since) in [
        ("a timestamp of now", NOW, None),
        ("a timestamp 300 seconds old", NOW - 300, None),
        ("a timestamp 300 seconds ahead", NOW + 300, None),
        ("a timestamp of the second of the start, where one is required", NOW - 9, Some(NOW - 9)),
    ] {
        let recipe = Recipe::new(Make::Deployed, name);
        let data = recipe.plain_data(true).with("timestamp", at.to_string()).json();
        let recipe = recipe.with_data(data);
        let mut case = session(name, &recipe, true, recipe.frame());
        case.spec = "1.5".to_owned();
        case.require_timestamp_since = since;
        cases.push(case);
    }
    cases
}

fn messages() -> Vec<SessionCase> {
    let name = "messages with gaps in the index";
    let recipe = Recipe::new(Make::Deployed, name);
    let mut gaps = session(name, &recipe, true, recipe.frame());
    let texts = ["first", "", "Grüße, 世界", "{\"prompt\":\"hi\"}", "last"];
    let indices = [0, 1, 9, 1 << 53, u64::MAX];
    gaps.messages = indices.iter().zip(texts).map(|(i, text)| message(name, &recipe, *i, text)).collect();

    let name = "messages in other spellings";
    let recipe = Recipe::new(Make::Deployed, name);
    let mut spelled = session(name, &recipe, true, recipe.frame());
    let text = "hello";
    let sealed = |index: u64| {
        let nonce = fixed(&format!("{name}|message {index}"));
        (nonce, r::sealed(&recipe.session_key(), &format!("message_{index}"), &nonce, text.as_bytes()))
    };
    let fields = ["ciphertextHex", "nonceHex", "aadHex"];
    let every = |payload: Object, change: &dyn Fn(String) -> String| {
        fields.iter().fold(payload, |payload, field| payload.map_text(field, change))
    };
    let changes: [&dyn Fn(Object) -> Object; 4] = [
        &|p| every(p, &|text| format!("0x{text}")),
        &|p| every(p, &|text| text.to_uppercase()),
        &|p| every(p, &|text| format!("0x{}", text.to_uppercase())),
        &|p| p.with("index", "7").with("saltHex", "5").with("x", "null"),
    ];
    spelled.messages = (0..)
        .zip(changes)
        .map(|(index, change)| {
            let (nonce, payload) = sealed(index);
            let frame = r::message_with(&recipe.session_id, &change(payload)).json();
            MessageCase { index, nonce: hex(nonce), plaintext: text.to_owned(), frame }
        })
        .collect();
    [gaps, spelled].map(|case| SessionCase { spec: "1.3".to_owned(), ..case }).into()
}

fn requests() -> Vec<RequestCase> {
    let mut cases = Vec::new();
    let mut add = |name: &str, plaintext: &str, expect: RequestExpect| {
        let (name, plaintext) = (name.to_owned(), plaintext.to_owned());
        cases.push(RequestCase { name, spec: "1.4".to_owned(), plaintext, expect });
    };
    let turn = |text: &str| RequestExpect { prompt: Some(text.to_owned()), ..RequestExpect::default() };
    for text in ["hello", "", "{", "{}", "[1]", "null", "\"prompt\"", "{\"question\":1}", "{\"prompt\":null}"]
    {
        add(&format!("{text:?} is a bare prompt"), text, turn(text));
    }
    add("JSON with more after it is a bare prompt", "{\"prompt\":\"a\"}x", turn("{\"prompt\":\"a\"}x"));
    add("a prompt", r#"{"prompt":"hi"}"#, turn("hi"));
    add("a prompt and fields that change nothing", PROMPT_WITH_MORE, turn("hi"));
    let all = RequestExpect {
        model: Some("m".to_owned()),
        max_tokens: Some(16),
        temperature: Some(0.5),
        top_p: Some(1.0),
        seed: Some(4_294_967_295),
        stop: vec!["a".to_owned(), "b".to_owned()],
        ..turn("hi")
    };
    add("every field", EVERY_FIELD, all);
    let one = RequestExpect { stop: vec!["x".to_owned()], max_tokens: Some(3), ..turn("hi") };
    add("one stop text, a seed of -1, the newer name of max_tokens", ONE_STOP, one);
    let messages = [("system", "s"), ("user", "ab"), ("assistant", ""), ("tool", "t"), ("system", "d")];
    let owned = messages.map(|(role, content)| (role.to_owned(), content.to_owned()));
    let stateless = RequestExpect { messages: Some(owned.into()), ..RequestExpect::default() };
    add("messages", MESSAGES, stateless);
    cases
}

const PROMPT_WITH_MORE: &str =
    r#" {"stream":true,"thinking":"low","n":1,"logprobs":false,"tools":null,"x":{"y":[1]},"prompt":"hi"} "#;
const EVERY_FIELD: &str = r#"{"prompt":"hi","model":"m","max_tokens":16,"temperature":0.5,"top_p":1,"seed":4294967295,"stop":["a","b"],"stream":false}"#;
const ONE_STOP: &str = r#"{"prompt":"hi","stop":"x","seed":-1,"max_tokens":9,"max_completion_tokens":3}"#;
const MESSAGES: &str = r#"{"messages":[{"role":"system","content":"s"},{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]},{"role":"assistant","content":null},{"role":"tool","content":"t"},{"role":"developer","content":"d"}]}"#;

pub(crate) fn run_frame(case: &FrameCase) {
    let inbound = Inbound::decode(&case.frame).unwrap_or_else(|refusal| panic!("{}: {refusal:?}", case.name));
    let (kind, prompt) = match &inbound.frame {
        ClientFrame::Ping => ("ping", None),
        ClientFrame::Cancel(_) => ("stream_cancel", None),
        ClientFrame::PlainInit(..) => ("session_init", None),
        ClientFrame::PlainPrompt(_, PlainRequest::Prompt(words)) => ("prompt", Some(words.as_ref())),
        ClientFrame::PlainPrompt(_, PlainRequest::Object(json)) => (case.expect.kind.as_str(), Some(*json)),
        ClientFrame::SessionInit(..) => ("encrypted_session_init", None),
        ClientFrame::Message(..) => ("encrypted_message", None),
    };
    assert_eq!(kind, case.expect.kind, "{}", case.name);
    assert_eq!(prompt, case.expect.prompt.as_deref(), "{}", case.name);
    let echo = inbound.echo;
    assert_eq!(
        echo.session_id.as_ref().map(SessionId::as_str),
        case.expect.session_id.as_deref(),
        "{}",
        case.name
    );
    assert_eq!(echo.id.as_ref().map(|id| id.get()), case.expect.id.as_deref(), "{}", case.name);
}

pub(crate) fn run_session(case: &SessionCase) {
    let name = &case.name;
    let node = Node::new(case.node_private_key.parse().unwrap());
    let Inbound { frame: ClientFrame::SessionInit(id, raw), .. } = Inbound::decode(&case.frame).unwrap()
    else {
        panic!("{name}: an init was expected")
    };
    let established = node.established(id, raw).unwrap_or_else(|code| panic!("{name}: {code:?}"));
    established.check_time(case.now, case.require_timestamp_since).unwrap();

    let expect = &case.expect;
    let address = expect.address.parse().unwrap();
    let owner = if expect.verified { Owner::Verified(address) } else { Owner::Unclaimed(address) };
    assert_eq!(established.owner, owner, "{name}");
    assert_eq!(established.id.as_str(), expect.session_id, "{name}");
    let job = |value: &StringOrNumber| serde_json::to_value(value).unwrap();
    assert_eq!(established.context.job_id.as_ref().map(job), expect.job_id, "{name}");
    assert_eq!(established.context.chain_id.clone().map(Value::Number), expect.chain_id, "{name}");
    seals_under(&established.session, &unhex_array(&expect.session_key), name);

    let mut session = established.session;
    for message in &case.messages {
        let plaintext = open(&mut session, &message.frame);
        assert_eq!(plaintext, message.plaintext.as_bytes(), "{name}, message {}", message.index);
    }
}

/// The session's key does not show; what it seals does.
fn seals_under(session: &Session, key: &[u8; 32], name: &str) {
    let (_, payload) = session.answer().chunk("x", &mut Script::seeded(name)).unwrap();
    let payload = serde_json::to_value(payload).unwrap();
    let bytes = |field: &str| unhex(payload[field].as_str().unwrap());
    let nonce: [u8; 24] = bytes("nonceHex").try_into().unwrap();
    let opened = r::open(key, &nonce, b"chunk_0", &bytes("ciphertextHex"));
    assert_eq!(opened.as_deref(), Some(&b"x"[..]), "{name}");
    assert_eq!(payload["index"], 0, "{name}");
}

fn open(session: &mut Session, frame: &str) -> Vec<u8> {
    let Inbound { frame: ClientFrame::Message(_, raw), .. } = Inbound::decode(frame).unwrap() else {
        panic!("a message was expected")
    };
    session.open(&raw.read().unwrap()).unwrap().as_bytes().to_vec()
}

/// Opens the answer; and, where the case is one that our own client would write, writes it. Says whether.
pub(crate) fn run_client(case: &SessionCase) -> bool {
    let id = SessionId::try_from(case.expect.session_id.as_str()).unwrap();
    let key = SessionKey::take(&mut unhex_array(&case.expect.session_key)).unwrap();
    opens_the_answer(&ClientSession::with_key(id, key), case);
    if case.given.canonical {
        writes_the_frames(case);
    }
    case.given.canonical
}

fn opens_the_answer(session: &ClientSession, case: &SessionCase) {
    let mut answer = session.answer();
    for piece in &case.answer.chunks {
        let Ok(Reply::Chunk { payload, session_id, tokens: 1, last: false }) = Reply::decode(&piece.frame)
        else {
            panic!("{}: a chunk was expected", case.name)
        };
        assert_eq!(session_id, case.expect.session_id);
        let opened = session.open_chunk(&mut answer, &payload).unwrap();
        assert_eq!(opened.as_bytes(), piece.plaintext.as_bytes(), "{}", case.name);
    }
    let piece = &case.answer.response;
    let Ok(Reply::Response { payload, .. }) = Reply::decode(&piece.frame) else {
        panic!("{}: the end of the answer was expected", case.name)
    };
    let opened = session.open_final(answer, &payload).unwrap();
    assert_eq!(opened.as_bytes(), piece.plaintext.as_bytes(), "{}", case.name);
}

fn writes_the_frames(case: &SessionCase) {
    let given = &case.given;
    let node: PrivateKey = case.node_private_key.parse().unwrap();
    let (node_key, client_key): (PublicKey, PrivateKey) =
        (node.public_key(), given.client_private_key.parse().unwrap());
    let hello = ClientHello {
        node_key: &node_key,
        client_key: &client_key,
        id: SessionId::try_from(case.expect.session_id.as_str()).unwrap(),
        context: InitContext::default(),
        dialect: dialect(&given.dialect),
        timestamp: None,
        claim: given.claim,
    };
    let own_key = given.session_key.as_deref().map(unhex).unwrap_or_default();
    let mut script = Script::of(&[&unhex(&given.ephemeral_private_key), &own_key, &unhex(&given.nonce)]);
    let (frame, mut session) = hello.start(&mut script).unwrap();
    assert_eq!(plain_hex(&frame), plain_hex(&case.frame), "{}", case.name);
    for message in &case.messages {
        let mut script = Script::of(&[&unhex(&message.nonce)]);
        let frame = session.message(message.plaintext.as_bytes(), &mut script).unwrap();
        assert_eq!(plain_hex(&frame), plain_hex(&message.frame), "{}", case.name);
    }
}

/// The guide's TypeScript writes 0x before its signatures; this project's clients do not.
fn plain_hex(frame: &str) -> Value {
    let mut value: Value = serde_json::from_str(frame).unwrap();
    if let Some(Value::String(text)) = value["payload"].get_mut("signatureHex") {
        *text = text.trim_start_matches("0x").to_owned();
    }
    value
}

fn dialect(name: &str) -> Dialect {
    match name {
        "guide-rust" => Dialect::GuideRust,
        "guide-typescript" => Dialect::GuideTypescript,
        "deployed" => Dialect::Deployed,
        other => panic!("{other} is no dialect"),
    }
}

pub(crate) fn run_request(case: &RequestCase) {
    let request = PromptRequest::read(case.plaintext.as_bytes())
        .unwrap_or_else(|error| panic!("{}: {error}", case.name));
    let expect = &case.expect;
    match &request.prompt {
        RequestPrompt::Turn(words) => {
            assert_eq!(Some(words.as_str()), expect.prompt.as_deref(), "{}", case.name)
        }
        RequestPrompt::Messages(messages) => {
            let said = |role: &str, words: &str| (role.to_lowercase(), words.to_owned());
            let read = messages.iter().map(|m| said(&format!("{:?}", m.role), m.content.as_str()));
            assert_eq!(Some(read.collect()), expect.messages, "{}", case.name);
        }
        RequestPrompt::Embeddings(..) => panic!("{}: version 1 of the vectors has no embeddings", case.name),
    }
    assert_eq!((&request.model, request.max_tokens), (&expect.model, expect.max_tokens), "{}", case.name);
    let sampling = &request.sampling;
    assert_eq!(
        (sampling.temperature, sampling.top_p, sampling.seed),
        (expect.temperature, expect.top_p, expect.seed),
        "{}",
        case.name
    );
    assert_eq!(request.stop, expect.stop, "{}", case.name);
}
