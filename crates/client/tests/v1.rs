//! A client against a node that misbehaves.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::expect_used,
    reason = "a test is meant to panic"
)]

mod support;

use fabstir_client::{
    End, Error, Event, Request, random_key,
    v1::{Answer, Client, Config},
};
use fabstir_protocol::{Code, v1::StreamEndReason};
use support::{Asked, Node, tampered};

async fn connect(node: &Node) -> Client {
    Client::connect(Config::new(node.url(), node.public_key), random_key()).await.unwrap()
}

/// The words of an answer up to its end.
async fn whole(mut answer: Answer<'_>) -> Result<(String, End), Error> {
    let mut words = String::new();
    while let Some(event) = answer.next().await? {
        match event {
            Event::Text(text) => words.push_str(text.as_str()),
            Event::Object(_) => panic!("version 1 has none"),
            Event::End(end) => return Ok((words, end)),
        }
    }
    panic!("no end")
}

#[tokio::test]
async fn two_questions_in_one_session_are_answered_in_turn() {
    let node = Node::start(async |mut peer| {
        while let Some(request) = peer.request().await {
            peer.answer(&["", "you said ", request["prompt"].as_str().unwrap()]).await;
        }
    });
    let mut client = connect(&node).await;
    for question in ["one", "two"] {
        let answer = client.ask(&Request::prompt(question)).await.unwrap();
        let (words, end) = whole(answer).await.unwrap();
        assert_eq!(words, format!("you said {question}"));
        assert_eq!(end.finish_reason, "stop");
        assert_eq!(end.usage.unwrap().completion_tokens, 2);
    }
    client.close().await;
}

#[tokio::test]
async fn a_tampered_chunk_does_not_open_and_closes_the_session() {
    let node = Node::start(async |mut peer| {
        peer.request().await;
        let mut sealer = peer.sealer();
        let (good, bad) = (peer.chunk(&mut sealer, "good"), peer.chunk(&mut sealer, "bad"));
        peer.send(good).await;
        peer.send(tampered(&bad)).await;
        peer.asked().await;
    });
    let mut client = connect(&node).await;
    let answer = client.ask(&Request::prompt("?")).await.unwrap();
    assert!(matches!(whole(answer).await, Err(Error::DidNotOpen)));
    assert!(!client.is_open());
    assert!(matches!(client.ask(&Request::prompt("?")).await, Err(Error::Closed)));
}

#[tokio::test]
async fn reordered_chunks_do_not_open() {
    let node = Node::start(async |mut peer| {
        peer.request().await;
        let mut sealer = peer.sealer();
        let (first, second) = (peer.chunk(&mut sealer, "a"), peer.chunk(&mut sealer, "b"));
        peer.send(second).await;
        peer.send(first).await;
        peer.asked().await;
    });
    let mut client = connect(&node).await;
    let answer = client.ask(&Request::prompt("?")).await.unwrap();
    assert!(matches!(whole(answer).await, Err(Error::DidNotOpen)));
}

#[tokio::test]
async fn a_chunk_of_an_earlier_answer_does_not_open_again() {
    let node = Node::start(async |mut peer| {
        peer.request().await;
        let mut sealer = peer.sealer();
        let chunk = peer.chunk(&mut sealer, "earlier");
        peer.send(chunk.clone()).await;
        let (last, end) = (peer.finish(sealer, "stop"), peer.end(StreamEndReason::Complete));
        peer.send(last).await;
        peer.send(end).await;
        peer.request().await;
        peer.send(chunk).await;
        peer.asked().await;
    });
    let mut client = connect(&node).await;
    assert_eq!(whole(client.ask(&Request::prompt("?")).await.unwrap()).await.unwrap().0, "earlier");
    let answer = client.ask(&Request::prompt("?")).await.unwrap();
    assert!(matches!(whole(answer).await, Err(Error::DidNotOpen)));
}

#[tokio::test]
async fn an_end_that_is_not_sealed_is_a_truncation() {
    let node = Node::start(async |mut peer| {
        peer.request().await;
        let mut sealer = peer.sealer();
        let (chunk, end) = (peer.chunk(&mut sealer, "half"), peer.end(StreamEndReason::Complete));
        peer.send(chunk).await;
        peer.send(end).await;
        peer.asked().await;
    });
    let mut client = connect(&node).await;
    let answer = client.ask(&Request::prompt("?")).await.unwrap();
    assert!(matches!(whole(answer).await, Err(Error::Truncated)));
    assert!(!client.is_open());
}

#[tokio::test]
async fn a_connection_that_ends_within_an_answer_is_a_truncation() {
    let node = Node::start(async |mut peer| {
        peer.request().await;
        let mut sealer = peer.sealer();
        let chunk = peer.chunk(&mut sealer, "half");
        peer.send(chunk).await;
    });
    let mut client = connect(&node).await;
    let answer = client.ask(&Request::prompt("?")).await.unwrap();
    assert!(matches!(whole(answer).await, Err(Error::Truncated)));
}

#[tokio::test]
async fn a_refusal_leaves_the_session_open() {
    let node = Node::start(async |mut peer| {
        peer.request().await;
        peer.refuse(Code::RateLimited).await;
        peer.request().await;
        peer.answer(&["now"]).await;
        peer.asked().await;
    });
    let mut client = connect(&node).await;
    let answer = client.ask(&Request::prompt("?")).await.unwrap();
    let refused = whole(answer).await;
    assert!(matches!(&refused, Err(Error::Refused { code, .. }) if code == Code::RateLimited.as_str()));
    assert!(client.is_open());
    let answer = client.ask(&Request::prompt("?")).await.unwrap();
    assert_eq!(whole(answer).await.unwrap().0, "now");
}

#[tokio::test]
async fn a_node_with_another_key_refuses() {
    let node = Node::start(async |_| panic!("opened under another key"));
    let other = random_key().public_key();
    let refused = Client::connect(Config::new(node.url(), other), random_key()).await;
    assert!(matches!(&refused, Err(Error::Refused { code, .. }) if code == "DECRYPTION_FAILED"));
}

#[tokio::test]
async fn a_dropped_answer_is_cancelled_before_the_next_question() {
    let node = Node::start(async |mut peer| {
        peer.request().await;
        let mut sealer = peer.sealer();
        let (one, two) = (peer.chunk(&mut sealer, "one"), peer.chunk(&mut sealer, "two"));
        peer.send(one).await;
        assert!(matches!(peer.asked().await, Asked::Cancel));
        peer.send(two).await;
        let (last, end) = (peer.finish(sealer, "cancelled"), peer.end(StreamEndReason::Cancelled));
        peer.send(last).await;
        peer.send(end).await;
        peer.request().await;
        peer.answer(&["second"]).await;
        peer.asked().await;
    });
    let mut client = connect(&node).await;
    let mut answer = client.ask(&Request::prompt("first")).await.unwrap();
    assert!(matches!(answer.next().await, Ok(Some(Event::Text(words))) if words.as_str() == "one"));
    drop(answer);
    let answer = client.ask(&Request::prompt("second")).await.unwrap();
    assert_eq!(whole(answer).await.unwrap().0, "second");
}

#[tokio::test]
async fn only_addresses_of_websockets_are_connected_to() {
    for url in ["https://127.0.0.1:1/v1/ws", "http://127.0.0.1:1", "nonsense"] {
        let refused = Client::connect(Config::new(url, random_key().public_key()), random_key()).await;
        assert!(matches!(refused, Err(Error::Address(_))), "{url}");
    }
    let config = Config::new("ws://127.0.0.1:1/v1/ws", random_key().public_key());
    assert!(matches!(Client::connect(config, random_key()).await, Err(Error::Connect(_))));
}
