//! Frames that open nothing, of eight kinds for each version.

use std::net::Ipv4Addr;

use anyhow::Context as _;
use fabstir_protocol::v2::{Advertisement, AwaitingM2, AwsLc, VerifiedNode};
use futures_util::{SinkExt as _, StreamExt as _};
use rand_core::Rng as _;
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use crate::{
    node::Node,
    peer::{PATIENCE, Socket, Version, greeted, init},
    rng, unix_now,
};

/// How many kinds there are.
pub(crate) const KINDS: usize = 8;

/// What a node did with a frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Met {
    /// It said what was wrong, or that there are too many.
    Refused,
    Closed,
    /// It was taken for good.
    Accepted,
}

/// Somebody who sends frames that are none, one after the other, from an address of their own.
pub(crate) struct Flooder {
    from: Ipv4Addr,
    version: Version,
    line: Option<(Socket, VerifiedNode)>,
}

impl Flooder {
    pub(crate) fn new(from: Ipv4Addr, version: Version) -> Self {
        Self { from, version, line: None }
    }

    /// Sends a frame of a kind, on a new connection where the node has closed the last one.
    pub(crate) async fn send(&mut self, node: &Node, kind: usize) -> anyhow::Result<Met> {
        self.say(node, |version, node, shown| garbage(version, node, shown, kind)).await
    }

    /// Sends what opens a session.
    pub(crate) async fn send_good(&mut self, node: &Node) -> anyhow::Result<Met> {
        self.say(node, |version, node, shown| match version {
            Version::One => Ok(Message::text(init(&node.key)?.0)),
            Version::Two => Ok(Message::binary(m1(shown)?)),
        })
        .await
    }

    async fn say(
        &mut self,
        node: &Node,
        frame: impl FnOnce(Version, &Node, &VerifiedNode) -> anyhow::Result<Message>,
    ) -> anyhow::Result<Met> {
        let (mut socket, shown) = match self.line.take() {
            Some(line) => line,
            None => {
                let (socket, greeting) = greeted(node.address, self.from).await?;
                let shown = Advertisement::read(&greeting)?.verify(node.key.address(), unix_now())?;
                (socket, shown)
            }
        };
        if socket.send(frame(self.version, node, &shown)?).await.is_err() {
            return Ok(Met::Closed);
        }
        let met = answer(&mut socket).await?;
        // After a handshake, whatever came of it, a connection is of no more use; and one holds so many sessions.
        if met == Met::Refused && self.version == Version::One {
            self.line = Some((socket, shown));
        }
        Ok(met)
    }
}

async fn answer(socket: &mut Socket) -> anyhow::Result<Met> {
    loop {
        let next = timeout(PATIENCE, socket.next()).await.context("the node does not answer")?;
        match next {
            Some(Ok(Message::Text(text))) if text.contains("\"error\"") => return Ok(Met::Refused),
            Some(Ok(Message::Text(_) | Message::Binary(_))) => return Ok(Met::Accepted),
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
            Some(Ok(Message::Close(_)) | Err(_)) | None => return Ok(Met::Closed),
        }
    }
}

fn m1(shown: &VerifiedNode) -> anyhow::Result<Vec<u8>> {
    let started = AwaitingM2::<AwsLc>::start(shown, &mut rng());
    Ok(started.ok().context("message 1 could not be made")?.0)
}

fn garbage(version: Version, node: &Node, shown: &VerifiedNode, kind: usize) -> anyhow::Result<Message> {
    match version {
        Version::One => Ok(Message::text(old(node, kind)?)),
        Version::Two => Ok(Message::binary(new(shown, kind)?)),
    }
}

fn random(bytes: usize) -> Vec<u8> {
    let mut random = vec![0; bytes];
    rng().fill_bytes(&mut random);
    random
}

/// Session inits of version 1: no JSON, another type, fields that are missing, no hex, a point off the curve, a nonce of
/// another length, sealed data that is none, and an init for another node.
fn old(node: &Node, kind: usize) -> anyhow::Result<String> {
    if kind == 7 {
        return Ok(init(&fabstir_client::random_key().public_key())?.0);
    }
    let mut frame: Value = serde_json::from_str(&init(&node.key)?.0)?;
    let hex = |bytes| Value::from(const_hex::encode(random(bytes)));
    let payload = frame.get_mut("payload").context("an init without a payload")?;
    match kind {
        0 => return Ok("{\"type\":\"encrypted_session_init\",".to_owned()),
        1 => return Ok(json!({"type": "encrypted_session_nothing", "session_id": "1"}).to_string()),
        2 => *payload = json!({"aadHex": ""}),
        3 => set(payload, "ephPubHex", "zz".repeat(33).into()),
        4 => set(payload, "ephPubHex", Value::from(format!("02{}", "ff".repeat(32)))),
        5 => set(payload, "nonceHex", hex(23)),
        _ => set(payload, "ciphertextHex", hex(300)),
    }
    Ok(frame.to_string())
}

fn set(payload: &mut Value, name: &str, value: Value) {
    if let Some(place) = payload.get_mut(name) {
        *place = value;
    }
}

/// First messages of version 2: nothing, its head alone, too short, for another key, a point off the curve, random bytes
/// of the right length, the last bit flipped, and a third message.
fn new(shown: &VerifiedNode, kind: usize) -> anyhow::Result<Vec<u8>> {
    let mut frame = m1(shown)?;
    let length = frame.len();
    // 02, the kind, the hint, the point, what is sealed.
    match kind {
        0 => frame.clear(),
        1 => frame.truncate(2),
        2 => frame.truncate(length.saturating_sub(1)),
        3 => frame.splice(2..6, random(4)).for_each(drop),
        4 => frame.splice(6..39, [vec![2], vec![0xFF; 32]].concat()).for_each(drop),
        5 => frame.splice(39.., random(length.saturating_sub(39))).for_each(drop),
        6 => frame.iter_mut().rev().take(1).for_each(|last| *last ^= 1),
        _ => frame.iter_mut().skip(1).take(1).for_each(|kind| *kind = 3),
    }
    Ok(frame)
}
