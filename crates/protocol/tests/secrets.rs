//! Secrets cannot be printed, copied or serialized.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a test is meant to panic, and to do so on what it does not expect"
)]

mod support;

use std::fmt::Debug;

use fabstir_protocol::{
    aad::Aad,
    id::{Nonce, SessionId},
    identity::{Agreed, PrivateKey},
    request::PromptRequest,
    seal::{Plaintext, SessionKey, Words},
    v1::{
        AnswerSealer, ClientFrame, ClientHello, ClientSession, Dialect, Established, Inbound, InitContext,
        Opened, ProcessSecret, Session, SessionData,
    },
};
use serde::Serialize;
use support::{
    Script, fixed, hex,
    reference::{self as r, Make, Recipe},
};

/// Does not compile if `$type` implements `$trait`: then there are two ways to read `some_item`.
macro_rules! is_not {
    ($($type:ty: $trait:path;)*) => {$(
        const _: fn() = || {
            trait Either<Way> {
                fn some_item() {}
            }
            impl<T: ?Sized> Either<()> for T {}
            struct Implements;
            impl<T: ?Sized + $trait> Either<Implements> for T {}
            let _ = <$type as Either<_>>::some_item;
        };
    )*};
}

is_not! {
    PrivateKey: Clone;
    PrivateKey: Serialize;
    PrivateKey: std::fmt::Display;
    SessionKey: Clone;
    SessionKey: Serialize;
    SessionKey: std::fmt::Display;
    SessionKey: PartialEq;
    Agreed: Clone;
    Agreed: Serialize;
    Plaintext: Clone;
    Plaintext: Serialize;
    Plaintext: std::fmt::Display;
    Words: Clone;
    Words: Serialize;
    Words: std::fmt::Display;
    ProcessSecret: Clone;
    ProcessSecret: Serialize;
    SessionData: Clone;
    SessionData: Serialize;
    Opened: Clone;
    Opened: Serialize;
    Established: Clone;
    Established: Serialize;
    Session: Clone;
    Session: Serialize;
    ClientSession: Clone;
    ClientSession: Serialize;
    AnswerSealer: Clone;
    AnswerSealer: Serialize;
    PromptRequest: Clone;
    PromptRequest: Serialize;
    Nonce: Clone;
}

/// Bytes as any of the ways in which a `Debug` could show them.
fn spellings(bytes: &[u8]) -> [String; 4] {
    let list = format!("{bytes:?}");
    let inner = list.trim_matches(['[', ']']).to_owned();
    let pretty = format!("{bytes:#?}").split_whitespace().collect::<Vec<_>>().join(" ");
    let pretty = pretty.trim_start_matches("[ ").trim_end_matches(", ]").to_owned();
    [hex(bytes), hex(bytes).to_uppercase(), inner, pretty]
}

/// `{:?}` and `{:#?}` of `value` hold no four bytes in a row of any of the secrets.
fn shows_none_of(value: &impl Debug, secrets: &[&[u8]]) {
    let flat = format!("{value:#?}").split_whitespace().collect::<Vec<_>>().join(" ");
    let text = format!("{value:?} {flat}");
    for part in secrets.iter().flat_map(|secret| secret.windows(4)) {
        for spelling in spellings(part) {
            assert!(!text.contains(&spelling), "{spelling} of a secret shows in {text}");
        }
        if let Ok(words) = std::str::from_utf8(part) {
            assert!(!text.contains(words), "{words:?} of a secret shows in {text}");
        }
    }
}

const WORDS: &str = "xyzzy plugh, a quick brown secret";

#[test]
fn the_debug_of_a_secret_is_its_name() {
    let key = PrivateKey::try_from(&fixed::<32>("secret")).unwrap();
    let agreed = key.agree(&PrivateKey::try_from(&fixed::<32>("other")).unwrap().public_key());
    let session_key = SessionKey::take(&mut fixed("session key")).unwrap();
    let sealed = session_key.seal(Nonce::from([7; 24]), Aad::Final, WORDS.as_bytes()).unwrap();
    let plaintext = session_key.open(&sealed, Aad::Final).unwrap();
    assert_eq!(format!("{key:?}"), "PrivateKey(..)");
    assert_eq!(format!("{agreed:?}"), "Agreed(..)");
    assert_eq!(format!("{session_key:?}"), "SessionKey(..)");
    assert_eq!(format!("{plaintext:?}"), format!("Plaintext({} bytes)", WORDS.len()));
    assert_eq!(format!("{:?}", Words::from(WORDS)), format!("Words({} bytes)", WORDS.len()));
    let secret = ProcessSecret::random(&mut Script::seeded("secret"));
    assert_eq!(format!("{secret:?}"), "ProcessSecret(..)");
}

#[test]
fn the_debug_of_a_session_is_what_may_be_known() {
    let recipe = Recipe::new(Make::GuideTypescript, "debug");
    let session = established(&recipe).session;
    assert_eq!(format!("{session:?}"), "Session { opened: 0, .. }");
    assert!(session.memory_usage() >= size_of::<Session>(), "what it weighs may be known too");
    let answer = session.answer();
    assert_eq!(format!("{answer:?}"), "AnswerSealer { next: Some(Index(0)), .. }");
    let key = SessionKey::take(&mut fixed("client's")).unwrap();
    let client = ClientSession::with_key(SessionId::try_from("42").unwrap(), key);
    assert_eq!(format!("{client:?}"), "ClientSession { id: SessionId(\"42\"), .. }");
}

fn opened(recipe: &Recipe) -> Opened {
    let frame = recipe.frame();
    let Ok(Inbound { frame: ClientFrame::SessionInit(id, raw), .. }) = Inbound::decode(&frame) else {
        panic!("an init was expected")
    };
    raw.read(id).unwrap().open(&PrivateKey::try_from(&recipe.node).unwrap()).unwrap()
}

fn established(recipe: &Recipe) -> Established {
    opened(recipe).authenticate().unwrap()
}

#[test]
fn no_state_of_a_handshake_shows_a_key() {
    for make in Make::ALL {
        let recipe = Recipe::new(make, "states");
        let (agreed, session) = (recipe.agreed_key(), recipe.session_key());
        let point = r::agree(&recipe.ephemeral, &r::public(&recipe.node));
        let secrets: [&[u8]; 6] =
            [&agreed, &session, &point[1..], &recipe.node, &recipe.ephemeral, &recipe.client];

        shows_none_of(&opened(&recipe), &secrets);
        let established = established(&recipe);
        shows_none_of(&established, &secrets);
        assert!(format!("{established:?}").contains("KeyDigest(..)"));
        shows_none_of(&established.data, &secrets);
        shows_none_of(&established.session, &secrets);
        shows_none_of(&established.session.answer(), &secrets);
    }
}

#[test]
fn no_state_of_a_client_shows_a_key() {
    let client_key = PrivateKey::try_from(&r::client_key()).unwrap();
    for dialect in Dialect::ALL {
        let hello = ClientHello {
            node_key: &PrivateKey::try_from(&r::node_key()).unwrap().public_key(),
            client_key: &client_key,
            id: SessionId::try_from("42").unwrap(),
            context: InitContext::default(),
            dialect,
            timestamp: None,
            claim: true,
        };
        shows_none_of(&hello, &[&r::client_key()]);
        let (_, session) = hello.start(&mut Script::seeded("client")).unwrap();
        shows_none_of(&session, &[session.expose_key()]);
    }
}

#[test]
fn no_request_shows_its_words() {
    let turn = PromptRequest::read(WORDS.as_bytes()).unwrap();
    shows_none_of(&turn, &[WORDS.as_bytes()]);
    let json = format!(r#"{{"messages":[{{"role":"user","content":"{WORDS}"}}]}}"#);
    shows_none_of(&PromptRequest::read(json.as_bytes()).unwrap(), &[WORDS.as_bytes()]);
}

#[test]
fn no_error_shows_what_it_is_about() {
    let text = "0x53cret53cret53cret53cret53cret53cret53cret53cret53cret53cret53cr";
    shows_none_of(&text.parse::<PrivateKey>().unwrap_err(), &[b"53cr"]);
    let json = format!(r#"{{"prompt":"a","max_tokens":"{WORDS}"}}"#);
    let error = PromptRequest::read(json.as_bytes()).unwrap_err();
    shows_none_of(&error, &[WORDS.as_bytes()]);
    assert!(!error.to_string().contains("xyzzy"));
}

/// The base point of SEC 2, section 2.4.1: the public half of the key 1.
#[test]
fn a_public_key_is_printed_as_it_is() {
    let mut one = [0; 32];
    one[31] = 1;
    let base = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798";
    let key = PrivateKey::try_from(&one).unwrap().public_key();
    assert_eq!(format!("{key:?}"), format!("PublicKey({base})"));
    let whole = key.to_uncompressed_bytes();
    assert_eq!((whole[0], hex(&whole[1..33]).as_str()), (4, &base[2..]));
    assert_eq!(fabstir_protocol::identity::PublicKey::try_from(whole.as_slice()), Ok(key));
    assert_eq!(format!("{:?}", key.address()), "Address(0x7e5f4552091a69125d5dfcb7b8c2659029395bdf)");
}

#[test]
fn what_a_token_agrees_on_is_compared_by_x_alone() {
    let key = |name| PrivateKey::try_from(&fixed::<32>(name)).unwrap();
    let (ours, theirs) = (key("ours"), key("theirs"));
    let point = r::agree(&fixed("ours"), &r::public(&fixed("theirs")));
    let of_token = Agreed::from_x(point[1..].try_into().unwrap());
    assert!(of_token.has_x_of(&ours.agree(&theirs.public_key())));
    assert!(!of_token.has_x_of(&ours.agree(&ours.public_key())));
}
