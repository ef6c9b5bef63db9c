//! Inputs of this side's making: well-formed ones, and such as are bent somewhere.

use fabstir_protocol::{
    identity::PrivateKey,
    v2::{
        Advertisement, Claim, Direction, End, Fault, Flags, Goodbye, Hello, Limits, ModelEntry,
        NodeChannelKey, NodeIdentity, NodeKeyRotation, Received, RecordType, Resume, Sealer,
        SessionDelegation, Shape, Sid, Welcome, encode,
    },
};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

use crate::judge::hex;

const NOW: u64 = 1_800_000_000;

/// The same question for the same seed.
pub(crate) fn question(seed: u64) -> Value {
    let mut draw = Draw(ChaCha20Rng::seed_from_u64(seed));
    match draw.below(4) {
        0 => draw.advertisement(),
        1 => draw.delegation(),
        2 => draw.record(),
        _ => draw.body(),
    }
}

struct Draw(ChaCha20Rng);

impl Draw {
    fn below(&mut self, most: u64) -> u64 {
        self.0.next_u64() % most
    }

    fn small(&mut self, most: u32) -> u32 {
        self.0.next_u32() % most
    }

    fn chance(&mut self) -> bool {
        self.below(2) == 0
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.fill_bytes(&mut bytes);
        bytes
    }

    fn key(&mut self) -> PrivateKey {
        PrivateKey::random(&mut self.0)
    }

    /// A time around now, sometimes at a bound.
    fn time(&mut self) -> u64 {
        let near = [NOW, NOW - 300, NOW - 301, NOW + 300, NOW + 301, NOW + 86_400, 0, 1 << 53, (1 << 53) - 1];
        near[usize::try_from(self.below(9)).unwrap()]
    }

    fn advertisement(&mut self) -> Value {
        let (identity, channel, chain_id) = (self.key(), self.key(), self.below(3));
        let made = if self.chance() { NOW } else { self.time() };
        let min_version = u16::try_from(1 + self.below(3)).unwrap();
        let key = NodeChannelKey::made_at(made, channel.public_key(), min_version);
        let key = if self.below(4) == 0 {
            NodeChannelKey { not_before: self.time(), not_after: self.time(), ..key }
        } else {
            key
        };
        let other = self.key();
        let signer = if self.below(6) == 0 { &other } else { &identity };
        let signature = signer.sign(&key.digest(chain_id)).unwrap();
        let old = self.key();
        let rotation = self.chance().then(|| {
            let moves =
                NodeKeyRotation { from: old.address(), to: identity.address(), not_before: self.time() };
            let signature = old.sign(&moves.digest(chain_id)).unwrap();
            moves.with_signature(signature)
        });
        let node = NodeIdentity {
            address: identity.address(),
            chain_id,
            channel_key: channel.public_key(),
            certificate: key.with_signature(signature),
            rotation,
        };
        let lists: [&[&str]; 4] = [&["2", "1"], &["2"], &["1"], &["3", "2", "x,y"]];
        let e2ee =
            lists[usize::try_from(self.below(4)).unwrap()].iter().map(|word| (*word).to_owned()).collect();
        let shown = serde_json::to_value(Advertisement { e2ee, node: Some(node) }).unwrap();
        let frame =
            json!({"type": "connected", "message": "m", "e2ee": shown["e2ee"], "node": shown["node"]});
        let pinned = if self.below(4) == 0 { old.address() } else { identity.address() };
        let frame = self.bent_text(frame.to_string());
        json!({"ask": "advertisement", "frame": frame, "pinned": pinned.to_string(), "now": NOW})
    }

    fn delegation(&mut self) -> Value {
        let (wallet, delegate, node) = (self.key(), self.key(), self.key().address());
        let (not_before, not_after) = (self.time(), self.time());
        let only = match self.below(3) {
            0 => None,
            1 => Some(node),
            _ => Some(self.key().address()),
        };
        let signed = SessionDelegation {
            wallet: wallet.address(),
            delegate_key: delegate.public_key(),
            node: only,
            not_before,
            not_after,
        }
        .sign(&wallet)
        .unwrap();
        let wire = self.bent(signed.to_bytes().to_vec());
        let shown = if self.below(5) == 0 { self.key().public_key() } else { delegate.public_key() };
        json!({"ask": "delegation", "wire": hex(&wire), "delegate": hex(&shown.to_bytes()),
               "node": node.to_string(), "now": NOW})
    }

    fn record(&mut self) -> Value {
        let (key, sid) = (self.bytes::<32>(), self.bytes::<16>());
        let counter = if self.below(8) == 0 { u64::MAX - self.below(3) } else { self.below(1 << 40) };
        let (direction, name) =
            if self.chance() { (Direction::ToNode, "to_node") } else { (Direction::ToClient, "to_client") };
        let kinds = [
            RecordType::Request,
            RecordType::Text,
            RecordType::Event,
            RecordType::Error,
            RecordType::Welcome,
            RecordType::Cancel,
            RecordType::Ack,
            RecordType::Goodbye,
        ];
        let kind = kinds[usize::try_from(self.below(8)).unwrap()];
        let flags = Flags { last: self.chance(), more: self.below(4) == 0 };
        let mut sealer = Sealer::at(&key, counter, Sid::from(sid), direction);
        sealer.set_shape(if self.chance() { Shape::Off } else { Shape::Bucket });
        let mut body = vec![0; usize::try_from(self.below(300)).unwrap()];
        self.0.fill_bytes(&mut body);
        let request = if self.chance() { 0 } else { self.small(9) };
        let index = self.small(5);
        let frame = sealer.seal(kind, flags, request, index, &body).unwrap_or_default();
        let frame = self.bent(frame);
        json!({"ask": "record", "key": hex(&key), "sid": hex(&sid), "counter": counter.to_string(),
               "direction": name, "frame": hex(&frame)})
    }

    fn body(&mut self) -> Value {
        let received = vec![Received(self.small(9), self.small(9)), Received(u32::MAX, 0)];
        let shape = if self.chance() { Shape::Off } else { Shape::Bucket };
        let models =
            vec![ModelEntry { id: "m\u{e9}".into(), sha256: "ab".into(), context_window: self.small(99) }];
        let (form, json) = match self.below(6) {
            0 => {
                let claim = Claim { session: Sid::from(self.bytes()), received };
                let claim = self.chance().then_some(claim);
                ("hello", encode(&Hello { client: "c\"\\".into(), shape, ticket: self.chance(), claim }))
            }
            1 => ("resume", encode(&Resume { received, shape })),
            2 => {
                let limits = Limits { max_request_bytes: self.time(), max_requests: 8, ..Limits::default() };
                let known = self.chance().then(|| vec![1, 2]);
                let node = "n".to_owned();
                ("welcome", encode(&Welcome { node, shape, ticket: true, limits, models, known }))
            }
            3 => ("end", encode(&End { finish_reason: "stop".into(), ..End::default() })),
            4 => {
                let retry_after_ms = self.chance().then(|| self.time());
                let fault = Fault { code: "NODE_BUSY".into(), retry_after_ms, ..Fault::default() };
                ("fault", encode(&fault))
            }
            _ => ("goodbye", encode(&Goodbye { reason: "r".into() })),
        };
        let json = self.bent_text(String::from_utf8(json.to_vec()).unwrap());
        json!({"ask": "body", "form": form, "json": hex(json.as_bytes())})
    }

    /// As it is, or with one byte changed, left out, put in, or the end cut off.
    fn bent(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        if bytes.is_empty() || self.chance() {
            return bytes;
        }
        let at = usize::try_from(self.below(u64::try_from(bytes.len()).unwrap())).unwrap();
        match self.below(4) {
            0 => bytes[at] ^= 1 << self.below(8),
            1 => drop(bytes.remove(at)),
            2 => bytes.insert(at, self.0.next_u32().to_le_bytes()[0]),
            _ => bytes.truncate(at),
        }
        bytes
    }

    /// JSON with something in it exchanged for what is like it and is not it.
    fn bent_text(&mut self, text: String) -> String {
        const SWAPS: [(&str, &str); 20] = [
            ("1", "1.0"),
            ("0", "-0"),
            ("1", "1e0"),
            (":", ":null,\"x\":"),
            ("\"node\"", "\"node\":null,\"node\""),
            ("{", "[{"),
            ("true", "1"),
            ("\"", "'"),
            ("a", "A"),
            ("\"e2ee\"", "\"e2\\u0065e\""),
            ("}", ",\"unknown\":{\"deep\":[1,2.5,null]}}"),
            ("[", "[null,"),
            ("8", "18446744073709551616"),
            ("9", "9007199254740993"),
            (",", ",,"),
            ("{", "{\"a\":\"\\ud800\","),
            ("m", "\\ud83d\\ude00"),
            ("false", "null"),
            ("\"bucket\"", "\"paced\""),
            ("\"bucket\"", "null"),
        ];
        if self.chance() {
            return text;
        }
        let (from, to) = SWAPS[usize::try_from(self.below(20)).unwrap()];
        let places: Vec<usize> = text.match_indices(from).map(|(at, _)| at).collect();
        if places.is_empty() {
            return text;
        }
        let at = places[usize::try_from(self.below(u64::try_from(places.len()).unwrap())).unwrap()];
        format!("{}{to}{}", &text[..at], &text[at + from.len()..])
    }
}
