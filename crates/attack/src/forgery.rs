//! Changes of a node's first frame, and the node that an attacker may have of its own.

use std::sync::Arc;

use fabstir_protocol::{
    identity::PrivateKey,
    v2::{
        Advertisement, AwaitingM3, AwsLc, Channel, End, Flags, M1, NodeChannelKey, NodeIdentity,
        NodeKeyRotation, RecordType, Sealer, SignedChannelKey, Welcome, encode, prologue,
    },
};
use serde_json::{Value, json};

use crate::{rng, unix_now, wire::Frame};

/// What is done to the first frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Forgery {
    /// The list of versions is this one.
    Versions(&'static [&'static str]),
    /// There is no list.
    NoVersions,
    /// The greeting of a node of before version 2.
    Old,
    /// Nothing of who the node is.
    NoNode,
    /// The certificate's oldest version is another.
    MinVersion(u16),
    /// The certificate is said to last for so many seconds longer.
    Longer(u64),
    /// Another chain.
    Chain(u64),
    /// All of the attacker's own node.
    Whole,
    /// The same, with a rotation from the node to it that the attacker signed.
    WholeWithRotation,
    /// The attacker's channel key and certificate under the node's address.
    KeyAndCertificate,
    /// The attacker's channel key, the node's certificate.
    Key,
    /// The attacker's channel key, also in the node's certificate.
    KeyInCertificate,
    /// The attacker's certificate, the node's channel key.
    Certificate,
    /// The attacker's address alone.
    Address,
}

impl Forgery {
    /// Those that seem to say that the node speaks less.
    pub const DOWNGRADES: [Self; 14] = [
        Self::Versions(&["1"]),
        Self::Versions(&[]),
        Self::Versions(&["2"]),
        Self::Versions(&["1", "2"]),
        Self::Versions(&["2", "1", "0"]),
        Self::Versions(&["3", "2", "1"]),
        Self::NoVersions,
        Self::Old,
        Self::NoNode,
        Self::MinVersion(0),
        Self::MinVersion(2),
        Self::MinVersion(3),
        Self::Longer(86_400),
        Self::Chain(1),
    ];
    /// Those that put the attacker in the node's place.
    pub const SWAPS: [Self; 7] = [
        Self::Whole,
        Self::WholeWithRotation,
        Self::KeyAndCertificate,
        Self::Key,
        Self::KeyInCertificate,
        Self::Certificate,
        Self::Address,
    ];
}

/// A node of the attacker's: keys of its own, and no scruples about whose name it uses.
pub struct Impostor {
    identity: PrivateKey,
    channel: Arc<PrivateKey>,
    prologue: Vec<u8>,
    stage: Stage,
}

enum Stage {
    Fresh,
    Greeting(Box<AwaitingM3>),
    Open(Box<Channel>),
    Over,
}

/// What the attacker's node says, whatever it is asked.
pub const IMPOSTORS_WORDS: &str = "words of an attacker";

impl Default for Impostor {
    fn default() -> Self {
        let (identity, channel) = (PrivateKey::random(&mut rng()), Arc::new(PrivateKey::random(&mut rng())));
        Self { identity, channel, prologue: Vec::new(), stage: Stage::Fresh }
    }
}

impl std::fmt::Debug for Impostor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Impostor(..)")
    }
}

impl Impostor {
    /// The changed greeting; with `true` this node is to answer in the place of the real one.
    pub fn forge(&mut self, greeting: &Frame, forgery: Forgery) -> (Frame, bool) {
        let mut ours = false;
        let forged = greeting.edited(|json| ours = self.change(json, forgery));
        if ours && let Frame::Text(text) = &forged {
            // Whatever the client will take for the truth.
            let shown = Advertisement::read(text).ok();
            let shown = shown.and_then(|shown| {
                let node = shown.node?;
                prologue(&shown.e2ee, node.chain_id, node.address)
            });
            self.prologue = shown.unwrap_or_default();
        }
        (forged, ours)
    }

    fn change(&self, json: &mut Value, forgery: Forgery) -> bool {
        let mut set = |pointer: &str, value: Value| {
            if let Some(place) = json.pointer_mut(pointer) {
                *place = value;
            }
        };
        match forgery {
            Forgery::Versions(list) => set("/e2ee", json!(list)),
            Forgery::MinVersion(version) => set("/node/certificate/minVersion", json!(version)),
            Forgery::Chain(chain) => set("/node/chainId", json!(chain)),
            Forgery::Address => set("/node/address", json!(self.identity.address().to_string())),
            Forgery::NoVersions | Forgery::NoNode => {
                let field = if forgery == Forgery::NoNode { "node" } else { "e2ee" };
                if let Some(fields) = json.as_object_mut() {
                    fields.remove(field);
                }
            }
            Forgery::Old => *json = json!({"type": "connected", "message": "fabstir-llm-node 0.0.1"}),
            Forgery::Longer(seconds) => {
                if let Some(end) = json.pointer_mut("/node/certificate/notAfter") {
                    *end = json!(end.as_u64().unwrap_or_default().saturating_add(seconds));
                }
            }
            Forgery::Whole
            | Forgery::WholeWithRotation
            | Forgery::KeyAndCertificate
            | Forgery::Key
            | Forgery::KeyInCertificate
            | Forgery::Certificate => return self.replace(json, forgery).is_some(),
        }
        false
    }

    fn replace(&self, json: &mut Value, forgery: Forgery) -> Option<()> {
        let node: NodeIdentity = serde_json::from_value(json.get("node")?.clone()).ok()?;
        let certificate = self.certificate(node.chain_id)?;
        let mut own = serde_json::to_value(NodeIdentity {
            address: self.identity.address(),
            chain_id: node.chain_id,
            channel_key: self.channel.public_key(),
            certificate,
            rotation: None,
        })
        .ok()?;
        if forgery == Forgery::WholeWithRotation {
            let rotation = NodeKeyRotation {
                from: node.address,
                to: self.identity.address(),
                not_before: unix_now().saturating_sub(60),
            };
            let signature = self.identity.sign(&rotation.digest(node.chain_id)).ok()?;
            own.as_object_mut()?
                .insert("rotation".into(), serde_json::to_value(rotation.with_signature(signature)).ok()?);
        }
        let theirs = json.get_mut("node")?;
        let mut take = |pointers: &[(&str, &str)]| {
            for (to, from) in pointers {
                let value = own.pointer(from).cloned();
                if let (Some(place), Some(value)) = (theirs.pointer_mut(to), value) {
                    *place = value;
                }
            }
        };
        match forgery {
            Forgery::KeyAndCertificate => {
                take(&[("/channelKey", "/channelKey"), ("/certificate", "/certificate")]);
            }
            Forgery::Key => take(&[("/channelKey", "/channelKey")]),
            Forgery::KeyInCertificate => {
                take(&[("/channelKey", "/channelKey"), ("/certificate/publicKey", "/channelKey")]);
            }
            Forgery::Certificate => take(&[("/certificate", "/certificate")]),
            Forgery::Whole
            | Forgery::WholeWithRotation
            | Forgery::Versions(_)
            | Forgery::NoVersions
            | Forgery::Old
            | Forgery::NoNode
            | Forgery::MinVersion(_)
            | Forgery::Longer(_)
            | Forgery::Chain(_)
            | Forgery::Address => *theirs = own,
        }
        Some(())
    }

    fn certificate(&self, chain_id: u64) -> Option<SignedChannelKey> {
        let key = NodeChannelKey::made_at(unix_now(), self.channel.public_key(), 1);
        let signature = self.identity.sign(&key.digest(chain_id)).ok()?;
        Some(key.with_signature(signature))
    }

    /// What this node says to a frame of the client's.
    pub fn hear(&mut self, frame: &Frame) -> Vec<Frame> {
        let Frame::Binary(bytes) = frame else { return Vec::new() };
        let stage = std::mem::replace(&mut self.stage, Stage::Over);
        let said = match stage {
            Stage::Fresh => self.greet(bytes),
            Stage::Greeting(waiting) => self.open(*waiting, bytes),
            Stage::Open(channel) => self.answer(*channel, bytes),
            Stage::Over => None,
        };
        said.unwrap_or_default().into_iter().map(Frame::Binary).collect()
    }

    fn greet(&mut self, m1: &[u8]) -> Option<Vec<Vec<u8>>> {
        let opened = M1::read(m1).ok()?.open(&self.channel, &self.prologue).ok()?;
        let (m2, waiting) = opened.respond::<AwsLc>(&mut rng()).ok()?;
        self.stage = Stage::Greeting(Box::new(waiting));
        Some(vec![m2])
    }

    fn open(&mut self, waiting: AwaitingM3, m3: &[u8]) -> Option<Vec<Vec<u8>>> {
        let mut channel = waiting.finish(m3).ok()?.channel;
        let welcome = encode(&Welcome::default());
        let welcome = channel.sealer.seal(RecordType::Welcome, Flags::NONE, 0, 0, &welcome).ok()?;
        self.stage = Stage::Open(Box::new(channel));
        Some(vec![welcome])
    }

    fn answer(&mut self, mut channel: Channel, record: &[u8]) -> Option<Vec<Vec<u8>>> {
        let record = channel.opener.open(record).ok()?;
        let said = if record.kind == RecordType::Request && record.flags.last {
            words(&mut channel.sealer, record.request)?
        } else {
            Vec::new()
        };
        self.stage = Stage::Open(Box::new(channel));
        Some(said)
    }
}

fn words(sealer: &mut Sealer, request: u32) -> Option<Vec<Vec<u8>>> {
    let end = End { finish_reason: "stop".into(), ..End::default() };
    Some(vec![
        sealer.seal(RecordType::Text, Flags::NONE, request, 0, IMPOSTORS_WORDS.as_bytes()).ok()?,
        sealer.seal(RecordType::Event, Flags::LAST, request, 1, &encode(&end)).ok()?,
    ])
}
