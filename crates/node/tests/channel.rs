//! Version 2 between our client and a node: sessions, several answers at once, lost connections, rotation.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::expect_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test is meant to panic"
)]

mod support;

use std::{sync::Arc, time::Duration};

use fabstir_client::{
    Answer, ClientIdentity, Config, End, Error, Event, Op, Request, Session, SessionDelegation, Shape,
    anonymous,
};
use fabstir_protocol::{
    identity::PrivateKey,
    v2::{Advertisement, AwaitingM2, AwsLc, SignedDelegation},
};
use serde_json::{Value, json};
use support::{PATIENCE, TestNode, echo, llama, rng, slow_echo, wallet};
use tokio::time::timeout;

fn config(node: &TestNode, identity: ClientIdentity) -> Config {
    let url = format!("ws://{}/v1/ws", node.address);
    Config { resume_for: Duration::from_secs(10), ..Config::new(url, node.key.address(), identity) }
}

async fn open(node: &TestNode) -> Session {
    Session::connect(config(node, anonymous())).await.unwrap()
}

/// A delegate of `wallet` for this node.
fn delegate(node: &TestNode, wallet: &PrivateKey, lifetime: u64) -> ClientIdentity {
    let key = fabstir_client::random_key();
    let now = node.node.clock.unix(tokio::time::Instant::now());
    let delegation = SessionDelegation {
        wallet: wallet.address(),
        delegate_key: key.public_key(),
        node: Some(node.key.address()),
        not_before: now - 60,
        not_after: now + lifetime,
    };
    ClientIdentity { key: Arc::new(key), delegation: Some(delegation.sign(wallet).unwrap()) }
}

async fn whole(answer: Answer) -> Result<(String, End), Error> {
    let (words, end) = timeout(PATIENCE, answer.text()).await.expect("an answer in time")?;
    Ok((words.as_str().to_owned(), end))
}

async fn say(session: &Session, words: &str) -> (String, End) {
    whole(session.ask(&Request::prompt(words)).await.unwrap()).await.unwrap()
}

fn code(error: Error) -> String {
    match error {
        Error::Refused { code, .. } => code,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_model_answers_over_a_channel() {
    let node = TestNode::start(llama(2)).await;
    let config = config(&node, delegate(&node, &wallet(), 3600));
    let turn = |role, words: &str| fabstir_client::Turn { role, content: words.to_owned() };
    let question =
        [turn("system", "You are a helpful assistant."), turn("user", "What is the capital of France?")];
    let request =
        Request { temperature: Some(0.0), max_tokens: Some(24), ..Request::messages(question.into()) };
    let (session, answer) = Session::connect_asking(config, &request).await.unwrap();
    let (words, end) = whole(answer).await.unwrap();
    assert!(words.contains("Paris"), "{words} {end:?}");
    let usage = end.usage.unwrap();
    assert!(usage.completion_tokens > 0 && usage.prompt_tokens > 0);
    assert_eq!(usage.model_sha256.as_deref(), Some(session.models()[0].sha256.as_str()));
    // A next turn of the conversation that the node keeps computes only what is new.
    say(&session, "What is the capital of Spain?").await;
    let (_, end) = say(&session, "And of Italy?").await;
    assert!(end.usage.unwrap().prompt_tokens_details.cached_tokens > 0);
    session.close().await;
    node.stop().await;
}

#[tokio::test]
async fn several_requests_of_a_session_are_answered_side_by_side() {
    let node = TestNode::start(slow_echo(Duration::from_millis(5))).await;
    let session = open(&node).await;
    let long = "word ".repeat(400);
    let ask =
        |words: &str| Request::messages(vec![fabstir_client::Turn { role: "user", content: words.into() }]);
    let slow = session.ask(&ask(&long)).await.unwrap();
    let mut quick = Vec::new();
    for number in 0..4 {
        quick.push(session.ask(&ask(&format!("number {number}"))).await.unwrap());
    }
    for (number, answer) in quick.into_iter().enumerate() {
        assert_eq!(whole(answer).await.unwrap().0.trim(), format!("number {number}"));
    }
    let (words, end) = whole(slow).await.unwrap();
    assert_eq!((words.trim(), end.finish_reason.as_str()), (long.trim(), "stop"));
    assert_eq!(end.usage.unwrap().completion_tokens, 400);
}

#[tokio::test]
async fn a_lost_connection_is_not_noticed_and_nothing_is_made_or_counted_twice() {
    let node = TestNode::start(slow_echo(Duration::from_millis(5))).await;
    let session = open(&node).await;
    let words: Vec<String> = (0..200).map(|number| format!("w{number}")).collect();
    let mut answer = session.ask(&Request::prompt(words.join(" "))).await.unwrap();
    let (mut heard, mut losses) = (String::new(), 0);
    let end = loop {
        match timeout(PATIENCE, answer.next()).await.unwrap().unwrap().unwrap() {
            Event::Text(more) => heard.push_str(more.as_str()),
            Event::Object(_) => {}
            Event::End(end) => break end,
        }
        if losses < 3 && heard.len() > (losses + 1) * 100 {
            losses += 1;
            session.lose_connection();
        }
    };
    assert_eq!(losses, 3);
    assert_eq!(heard.split_whitespace().collect::<Vec<_>>(), words);
    assert_eq!(end.usage.unwrap().completion_tokens, 200);
    // The conversation goes on where it was, on the connection that there is now.
    assert_eq!(say(&session, "still there").await.0.trim(), "still there");
    assert_eq!(node.node.channels.count(), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_losses_change_no_word_of_four_answers() {
    let node = TestNode::start(slow_echo(Duration::from_millis(2))).await;
    // Most connections are lost before a word came by them: to the client that is one long loss.
    let config = Config { resume_for: PATIENCE, ..config(&node, anonymous()) };
    let session = Session::connect(config).await.unwrap();
    let mut answers = Vec::new();
    for number in 0..4 {
        let words: Vec<String> = (0..900).map(|word| format!("{number}.{word}")).collect();
        let turn = fabstir_client::Turn { role: "user", content: words.join(" ") };
        let answer = session.ask(&Request::messages(vec![turn])).await.unwrap();
        answers.push(tokio::spawn(async move { (whole(answer).await, words) }));
    }
    let losses = async {
        let mut lost = 0;
        while lost < 50 {
            // Wherever it is at that moment, a handshake included.
            tokio::time::sleep(Duration::from_millis(11 + lost % 37)).await;
            session.lose_connection();
            lost += 1;
        }
    };
    losses.await;
    for answer in answers {
        let (heard, words) = timeout(PATIENCE, answer).await.unwrap().unwrap();
        let (heard, end) = heard.unwrap();
        assert!(
            heard.split_whitespace().eq(words.iter()),
            "{} of {} words",
            heard.split(' ').count(),
            words.len()
        );
        assert_eq!(end.usage.unwrap().completion_tokens, 900);
    }
    assert_eq!(node.node.channels.count().0, 1);
}

#[tokio::test]
async fn a_new_handshake_on_time_takes_the_session_along() {
    let node = TestNode::start(slow_echo(Duration::from_millis(5))).await;
    let config = Config { renew_after: Duration::from_millis(200), ..config(&node, anonymous()) };
    let session = Session::connect(config).await.unwrap();
    let words: Vec<String> = (0..200).map(|number| format!("w{number}")).collect();
    let (heard, _) = say(&session, &words.join(" ")).await;
    assert_eq!(heard.split_whitespace().collect::<Vec<_>>(), words);
    assert_eq!(node.node.channels.count().0, 1, "one session, whatever its keys");
}

#[tokio::test]
async fn an_answer_that_nobody_comes_back_for_is_cut_off_and_said_to_be() {
    let node = TestNode::with(slow_echo(Duration::from_millis(5)), &[], |config| {
        config.channels.grace = Duration::from_millis(50);
        config.channels.keep = Duration::from_millis(100);
        config.channels.ticket = Duration::from_millis(150);
        config.inits_per_minute = 1.try_into().unwrap();
    })
    .await;
    let config = Config { resume_for: Duration::from_millis(1), ..config(&node, anonymous()) };
    let session = Session::connect(config).await.unwrap();
    let mut answer = session.ask(&Request::prompt("word ".repeat(2000))).await.unwrap();
    answer.next().await.unwrap();
    // Nobody of this network gets in again this minute; what is left of the session goes by its own clock.
    session.lose_connection();
    let error = loop {
        match timeout(PATIENCE, answer.next()).await.unwrap() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("an answer that is not whole passed for one"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Truncated), "{error:?}");
    while node.node.channels.count() != (0, 0) {
        tokio::task::yield_now().await;
    }
    assert_eq!(node.node.engine.status().running, 0, "nothing is made for nobody");
}

#[tokio::test]
async fn who_may_open_a_channel_is_the_operators_to_say() {
    let (mine, other) = (wallet(), wallet());
    let listed = mine.address().to_string();
    let node = TestNode::with(echo(), &["--allowed-clients", &listed], |_| {}).await;
    let refused = async |identity| code(Session::connect(config(&node, identity)).await.unwrap_err());
    assert_eq!(refused(anonymous()).await, "CLIENT_NOT_ALLOWED");
    assert_eq!(refused(delegate(&node, &other, 3600)).await, "CLIENT_NOT_ALLOWED");
    let session = Session::connect(config(&node, delegate(&node, &mine, 3600))).await.unwrap();
    assert_eq!(say(&session, "hi").await.0.trim(), "hi");
    // A delegation for another key, for another node, of another time.
    let key = Arc::new(fabstir_client::random_key());
    let stolen = ClientIdentity { key, delegation: delegate(&node, &mine, 3600).delegation };
    assert_eq!(refused(stolen).await, "CERTIFICATE_INVALID");
    let changed = |change: fn(&mut SessionDelegation)| {
        let identity = delegate(&node, &mine, 3600);
        let mut delegation = identity.delegation.as_ref().unwrap().delegation().clone();
        change(&mut delegation);
        ClientIdentity { delegation: Some(delegation.sign(&mine).unwrap()), ..identity }
    };
    assert_eq!(refused(changed(|d| d.node = Some([7; 20].into()))).await, "CERTIFICATE_INVALID");
    assert_eq!(refused(changed(|d| (d.not_before, d.not_after) = (0, 3600))).await, "CERTIFICATE_INVALID");
    assert_eq!(refused(changed(|d| d.not_after += 31 * 24 * 3600)).await, "CERTIFICATE_INVALID");
    Session::connect(config(&node, changed(|d| d.node = None))).await.unwrap();
    let closed = TestNode::with(echo(), &["--allow-anonymous=false"], |_| {}).await;
    let error = Session::connect(config(&closed, anonymous())).await.unwrap_err();
    assert_eq!(code(error), "CLIENT_NOT_ALLOWED");
}

#[tokio::test]
async fn a_signature_that_is_not_the_wallets_opens_nothing() {
    let node = TestNode::start(echo()).await;
    let identity = delegate(&node, &wallet(), 3600);
    let mut bytes = identity.delegation.as_ref().unwrap().to_bytes();
    // Somebody else's wallet over a signature that recovers to nobody in particular.
    bytes[3] ^= 1;
    let forged = SignedDelegation::try_from(&bytes[..]).unwrap();
    let identity = ClientIdentity { delegation: Some(forged), ..identity };
    assert_eq!(code(Session::connect(config(&node, identity)).await.unwrap_err()), "CERTIFICATE_INVALID");
}

#[tokio::test]
async fn a_node_of_version_2_alone_says_so_and_serves_no_other() {
    let node = TestNode::with(echo(), &["--min-protocol", "2"], |_| {}).await;
    let shown = node.get_json("/v1/node").await;
    assert_eq!(shown["e2ee"], json!(["2"]));
    assert_eq!(shown["node"]["certificate"]["minVersion"], 2);
    let mut peer = node.connect().await;
    let (init, _) = support::init(&node.key, &wallet(), "1", fabstir_protocol::v1::Dialect::Deployed, true);
    assert_eq!(peer.outcome(init).await, "PROTOCOL_TOO_OLD");
    let session = open(&node).await;
    assert_eq!((say(&session, "hi").await.0.trim(), session.least().version), ("hi", 2));
    // Whoever asks our client for version 1 by name is told by the node's own certificate.
    let old = fabstir_client::v1::Config::new(format!("ws://{}/v1/ws", node.address), node.key);
    let refused = fabstir_client::v1::Client::connect(old, wallet()).await.unwrap_err();
    assert!(matches!(refused, Error::TooOld { least: 2 }), "{refused:?}");
}

#[tokio::test]
async fn a_rotated_channel_key_drops_no_session_and_opens_none_after_the_overlap() {
    let node = TestNode::start(echo()).await;
    let session = open(&node).await;
    let shown =
        async || -> Advertisement { serde_json::from_value(node.get_json("/v1/node").await).unwrap() };
    let now = || node.node.clock.unix(tokio::time::Instant::now());
    let before = shown().await.verify(node.key.address(), now()).unwrap();
    let identity = node.node.identity().unwrap();
    let (keys, identity) = (&identity.channel_keys, &identity.key);
    keys.rotate(identity, now(), tokio::time::Instant::now(), &mut rng()).unwrap();
    let after = shown().await.verify(node.key.address(), now()).unwrap();
    assert_ne!(before.hint(), after.hint());
    assert_eq!(say(&session, "still there").await.0.trim(), "still there");
    // A handshake that was begun with the key before.
    let at = tokio::time::Instant::now();
    let (m1, _) = AwaitingM2::<AwsLc>::start(&before, &mut rng()).unwrap();
    let found = keys.find(before.hint(), at).unwrap();
    let m1 = fabstir_protocol::v2::M1::read(&m1).unwrap();
    m1.open(found.private(), keys.prologue()).unwrap();
    assert!(keys.find(before.hint(), at + Duration::from_secs(3601)).is_none(), "not for ever");
    assert!(keys.find(after.hint(), at + Duration::from_secs(3601)).is_some());
    keys.rotate_if_due(identity, now(), at + Duration::from_secs(23 * 3600), &mut rng()).unwrap();
    assert_eq!(
        shown().await.verify(node.key.address(), now()).unwrap().hint(),
        after.hint(),
        "not before its time"
    );
    keys.rotate_if_due(identity, now(), at + Duration::from_secs(25 * 3600), &mut rng()).unwrap();
    assert_ne!(shown().await.verify(node.key.address(), now()).unwrap().hint(), after.hint());
}

#[tokio::test]
async fn everything_that_may_be_asked_for_is_answered() {
    let node = TestNode::start(llama(1)).await;
    let session = open(&node).await;
    let ask = async |op, body: Value| {
        let mut answer = session.ask_json(op, &body.to_string()).await.unwrap();
        let (mut text, mut objects) = (String::new(), Vec::new());
        loop {
            match timeout(PATIENCE, answer.next()).await.unwrap()? {
                Some(Event::Text(words)) => text.push_str(words.as_str()),
                Some(Event::Object(json)) => {
                    objects.push(serde_json::from_str::<Value>(json.as_str()).unwrap())
                }
                Some(Event::End(end)) => return Ok((text, objects, end)),
                None => panic!("no end"),
            }
        }
    };
    let (text, ..) =
        ask(Op::Completions, json!({"prompt": "1 2 3 4 5 6", "max_tokens": 6, "temperature": 0}))
            .await
            .unwrap();
    assert!(text.contains('7'), "{text}");
    let (_, objects, end) = ask(Op::Embeddings, json!({"input": ["a", "b"]})).await.unwrap();
    assert_eq!((objects.len(), objects[1]["index"].as_u64()), (2, Some(1)));
    assert!(end.usage.unwrap().prompt_tokens > 0);
    let (_, objects, _) = ask(Op::Models, json!({})).await.unwrap();
    assert_eq!(objects[0][0]["sha256"], session.models()[0].sha256);
    let chat = json!({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, "logprobs": true});
    let (text, objects, end) = ask(Op::Chat, chat).await.unwrap();
    assert!(text.is_empty() && objects[0]["logprobs"]["content"].is_array());
    assert_eq!(end.finish_reason, "length");
    let refused = async |op, body| code(ask(op, body).await.map(|_| ()).unwrap_err());
    assert_eq!(refused(Op::Chat, json!({"messages": [], "n": 2})).await, "UNSUPPORTED_FIELD");
    assert_eq!(refused(Op::Chat, json!({"prompt": "a", "temperature": "hot"})).await, "INVALID_PAYLOAD");
    assert_eq!(refused(Op::Chat, json!({"prompt": "a", "model": "other"})).await, "MODEL_NOT_FOUND");
    assert_eq!(refused(Op::Completions, json!({"messages": []})).await, "INVALID_PAYLOAD");
    // What was refused has ended its own request and nothing else.
    assert!(session.is_open());
}

#[tokio::test]
async fn a_request_beyond_a_bound_is_refused_and_the_session_goes_on() {
    let flags = ["--max-request-bytes", "1000", "--max-queued-messages", "1"];
    let node = TestNode::with(slow_echo(Duration::from_millis(20)), &flags, |_| {}).await;
    // Before its welcome a client does not know the bound; after it, it sends nothing that is beyond.
    let (large, us) = (Request::prompt("x".repeat(2000)), config(&node, anonymous()));
    let (session, refused) = Session::connect_asking(us, &large).await.unwrap();
    assert_eq!(code(whole(refused).await.unwrap_err()), "REQUEST_TOO_LARGE");
    assert!(matches!(session.ask(&large).await, Err(Error::TooLarge { most: Some(1000) })));
    let (one, two, three) = (
        session.ask(&Request::prompt("one two three")).await.unwrap(),
        session.ask(&Request::prompt("four")).await.unwrap(),
        session.ask(&Request::prompt("five")).await.unwrap(),
    );
    assert_eq!(code(whole(three).await.unwrap_err()), "NODE_BUSY");
    assert_eq!(whole(one).await.unwrap().0.trim(), "one two three");
    assert_eq!(whole(two).await.unwrap().0.trim(), "four");
}

/// Half-sent requests take room like whole ones, and give it back.
#[tokio::test]
async fn unfinished_requests_are_bounded_over_all_sessions() {
    let node = TestNode::with(echo(), &["--max-queued-mib", "1"], |_| {}).await;
    let free = node.node.queued_kibibytes.available_permits();
    let mut halves = Vec::new();
    for _ in 0..2 {
        halves.push(open(&node).await);
    }
    // Two thirds of the room, twice: for the second there is none.
    let large = Request::prompt("x".repeat(700 << 10));
    let (one, two) = (halves[0].ask(&large).await.unwrap(), halves[1].ask(&large).await.unwrap());
    let (one, two) = tokio::join!(whole(one), whole(two));
    for answer in [one, two] {
        // Both may have been half there when there was no more room.
        assert!(
            answer.is_ok_and(|(words, _)| words.len() > 700 << 10) || node.node.engine.status().running == 0
        );
    }
    drop(halves);
    while node.node.queued_kibibytes.available_permits() < free {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_session_that_nobody_asked_anything_of_ends_with_its_connection() {
    let node = TestNode::start(echo()).await;
    let session = open(&node).await;
    assert_eq!(node.node.channels.count(), (1, 1));
    session.lose_connection_for(Duration::from_millis(50));
    while node.node.channels.count() != (0, 0) {
        tokio::task::yield_now().await;
    }
    // Its client has another one, and need not know.
    assert_eq!(say(&session, "hi").await.0.trim(), "hi");
}

/// The words are kept for a while, and then only that they were there.
#[tokio::test]
async fn an_answer_that_is_no_longer_kept_is_said_to_be_gone() {
    let node = TestNode::with(slow_echo(Duration::from_millis(5)), &[], |config| {
        config.channels.grace = Duration::from_millis(20);
        config.channels.keep = Duration::from_millis(40);
    })
    .await;
    let session = open(&node).await;
    let mut answer = session.ask(&Request::prompt("word ".repeat(1500))).await.unwrap();
    answer.next().await.unwrap();
    session.lose_connection_for(Duration::from_millis(300));
    let error = loop {
        match timeout(PATIENCE, answer.next()).await.unwrap() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("an answer that is not whole passed for one"),
            Err(error) => break error,
        }
    };
    assert_eq!(code(error), "ANSWER_GONE");
    assert_eq!(node.node.engine.status().running, 0);
    assert_eq!(say(&session, "still there").await.0.trim(), "still there");
}

/// The node stopped alone: nobody cancelled, so what there is of it is no answer.
#[tokio::test]
async fn an_answer_that_the_node_gave_up_is_truncated_and_not_cancelled() {
    let node = TestNode::with(slow_echo(Duration::from_millis(5)), &[], |config| {
        config.channels.grace = Duration::from_millis(20);
    })
    .await;
    let session = open(&node).await;
    let answer = session.ask(&Request::prompt("word ".repeat(1500))).await.unwrap();
    while node.node.engine.status().running == 0 {
        tokio::task::yield_now().await;
    }
    session.lose_connection_for(Duration::from_millis(200));
    assert!(matches!(whole(answer).await, Err(Error::Truncated)));
    assert_eq!(say(&session, "still there").await.0.trim(), "still there");
}

#[tokio::test]
async fn a_conversation_that_the_node_has_lost_does_not_go_on_as_if_it_had_not() {
    let node = TestNode::start(slow_echo(Duration::from_millis(5))).await;
    let session = open(&node).await;
    say(&session, "remember this").await;
    let answer = session.ask(&Request::prompt("word ".repeat(500))).await.unwrap();
    while node.node.engine.status().running == 0 {
        tokio::task::yield_now().await;
    }
    // As a restart would have it.
    node.node.channels.wipe();
    assert!(matches!(whole(answer).await, Err(Error::SessionLost)));
    // Who asks next hears the same, and whoever asks after that.
    for _ in 0..2 {
        assert!(matches!(session.ask(&Request::prompt("?")).await, Err(Error::SessionLost)));
    }
    assert!(!session.is_open());
    // Who keeps the conversation alone loses nothing by it.
    let session = open(&node).await;
    let turn = |words: &str| vec![fabstir_client::Turn { role: "user", content: words.to_owned() }];
    let ask = async |words: &str| whole(session.ask(&Request::messages(turn(words))).await.unwrap()).await;
    ask("one").await.unwrap();
    node.node.channels.wipe();
    // Its client has come back by itself, to another session.
    while node.node.channels.count().0 == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(ask("two").await.unwrap().0.trim(), "two");
}

/// Half a request is worth nothing without its connection.
#[tokio::test]
async fn nothing_is_kept_of_requests_that_were_not_whole() {
    let mut requests = fabstir_protocol::v2::Requests::new(1 << 20);
    let record = fabstir_protocol::v2::Record {
        kind: fabstir_protocol::v2::RecordType::Request,
        flags: fabstir_protocol::v2::Flags::NONE,
        request: 1,
        index: 0,
        body: vec![b'x'; 40_000].into(),
    };
    requests.take(record).unwrap();
    assert_eq!(requests.unfinished_bytes(), 40_000);
    requests.drop_unfinished();
    assert_eq!(requests.unfinished_bytes(), 0);
}

#[tokio::test]
async fn words_longer_than_a_record_go_in_several() {
    let node = TestNode::start(echo()).await;
    let session = open(&node).await;
    let word = "\u{20ac}".repeat(60_000);
    let (heard, _) = say(&session, &word).await;
    assert!(heard.trim() == word, "{} of {} bytes", heard.len(), word.len());
}

#[tokio::test]
async fn a_cancelled_answer_ends_as_cancelled_and_a_goodbye_ends_all() {
    let node = TestNode::start(slow_echo(Duration::from_millis(5))).await;
    let session = open(&node).await;
    let mut answer = session.ask(&Request::prompt("word ".repeat(1000))).await.unwrap();
    answer.next().await.unwrap();
    answer.cancel().await;
    let end = loop {
        if let Some(Event::End(end)) = timeout(PATIENCE, answer.next()).await.unwrap().unwrap() {
            break end;
        }
    };
    assert_eq!(end.finish_reason, "cancelled");
    assert!(end.usage.unwrap().completion_tokens < 1000);
    let running = session.ask(&Request::prompt("word ".repeat(1000))).await.unwrap();
    session.close().await;
    assert!(whole(running).await.is_err());
    while node.node.channels.count() != (0, 0) || node.node.engine.status().running > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn lengths_are_hidden_where_either_side_wants_it() {
    let node = TestNode::start(echo()).await;
    let shape = async |node: &TestNode, shape| {
        let config = Config { shape, ..config(node, anonymous()) };
        Session::connect(config).await.unwrap().welcome().shape
    };
    assert_eq!(shape(&node, Shape::Off).await, Shape::Off);
    assert_eq!(shape(&node, Shape::Bucket).await, Shape::Bucket);
    let strict = TestNode::with(echo(), &["--min-shape", "bucket"], |_| {}).await;
    assert_eq!(shape(&strict, Shape::Off).await, Shape::Bucket);
}

#[tokio::test]
async fn an_idle_session_is_told_goodbye() {
    let node = TestNode::with(echo(), &[], |config| config.channels.idle = Duration::from_millis(100)).await;
    let session = open(&node).await;
    say(&session, "hi").await;
    while session.is_open() {
        tokio::task::yield_now().await;
    }
    assert_eq!(node.node.channels.count(), (0, 0));
}

#[tokio::test]
async fn a_node_that_goes_away_lets_answers_finish_and_says_so() {
    let node = TestNode::start(slow_echo(Duration::from_millis(2))).await;
    let (busy, idle) = (open(&node).await, open(&node).await);
    say(&idle, "hi").await;
    let words = "word ".repeat(200);
    let mut answer = busy.ask(&Request::prompt(&*words)).await.unwrap();
    answer.next().await.unwrap();
    node.node.draining.cancel();
    // Told, and not merely cut off: nobody tries to come back.
    while idle.is_open() {
        tokio::task::yield_now().await;
    }
    let end = loop {
        if let Some(Event::End(end)) = timeout(PATIENCE, answer.next()).await.unwrap().unwrap() {
            break end;
        }
    };
    assert_eq!(end.usage.unwrap().completion_tokens, 200);
    while busy.is_open() {
        tokio::task::yield_now().await;
    }
    node.stop().await;
}

#[tokio::test]
async fn the_wrong_node_is_not_spoken_to() {
    let (node, other) = (TestNode::start(echo()).await, TestNode::start(echo()).await);
    let pinned = Config { node: other.key.address(), ..config(&node, anonymous()) };
    assert!(matches!(Session::connect(pinned).await.unwrap_err(), Error::Identity(_)));
}
