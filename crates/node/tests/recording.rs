//! Who recorded a session and gets every long-lived key afterwards: of version 2 nothing opens, of version 1 all does.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test is meant to panic"
)]

mod support;

use std::{convert::Infallible, sync::Arc};

use chacha20::{
    ChaCha20,
    cipher::{KeyIvInit as _, StreamCipher as _, StreamCipherSeek as _},
};
use fabstir_attack::{Frame, Kind, Plan, Proxy, Recording, Way};
use fabstir_client::{ClientIdentity, Config, Request, Session, SessionDelegation, Turn, v1};
use fabstir_protocol::{
    aad::Aad,
    identity::{KeyMaterial, PrivateKey, PublicKey},
    seal::{Sealed, SessionKey},
    v1::{ClientFrame, ClientSession, Inbound, Reply},
    v2::{
        Advertisement, AwaitingM2, CIPHERTEXT_LEN, ENCAPSULATION_KEY_LEN, Flags, HandshakeError, Hello, Kem,
        KemSecret, M1, RecordType,
    },
};
use hkdf::Hkdf;
use rand_core::{CryptoRng, TryCryptoRng, TryRng};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use support::{TestNode, echo, rng, settings};

const QUESTION: &str = "what nobody else may read";

type Key = [u8; 32];

/// The first `N` keys of RFC 5869's, which is also how Noise derives.
fn hkdf<const N: usize>(salt: &Key, input: &[u8]) -> [Key; N] {
    let mut output = vec![0; 32 * N];
    Hkdf::<Sha256>::new(Some(salt), input).expand(&[], &mut output).unwrap();
    std::array::from_fn(|at| output[32 * at..][..32].try_into().unwrap())
}

/// What a key makes of a frame: the words behind ChaCha20-Poly1305 under the n-th nonce. The tag is not looked at, so that
/// nothing has to be guessed beside the key.
fn deciphered(key: &Key, n: u64, sealed: &[u8]) -> Vec<u8> {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&n.to_le_bytes());
    let mut cipher = ChaCha20::new(key.into(), &nonce.into());
    // The first block is the tag's.
    cipher.seek(64_u32);
    let mut bytes = sealed[..sealed.len().saturating_sub(16)].to_vec();
    cipher.apply_keystream(&mut bytes);
    bytes
}

/// Words that are in nearly every record of a session and in message 3; and the client's static key. Six bytes at the least:
/// over the hundred million places that are looked at, four come up by chance once in some fifty runs.
fn is_readable(bytes: &[u8], static_key: &PublicKey) -> bool {
    let has = |words: &str| bytes.windows(words.len()).any(|part| part == words.as_bytes());
    let words =
        ["\"op\":\"", "nobody", "finish_reason", "max_request", "\"shape\"", "\"received\"", "reason"];
    bytes.starts_with(&static_key.to_bytes()) || words.into_iter().any(has)
}

/// A session as whoever carries it has it.
struct Recorded {
    m1: Vec<u8>,
    m2: Vec<u8>,
    m3: Vec<u8>,
    /// Of the first connection, and of the one that resumed it.
    records: Vec<(usize, Way, Vec<u8>)>,
    resumption: Option<(Vec<u8>, Vec<u8>)>,
    /// What message 1 is opened with, by whoever has the channel key.
    es: Key,
    static_key: PublicKey,
}

impl Recorded {
    fn initiator(&self) -> PublicKey {
        PublicKey::try_from(&self.m1[6..39]).unwrap()
    }

    fn responder(&self) -> PublicKey {
        PublicKey::try_from(&self.m2[2..35]).unwrap()
    }

    fn first(&self, on: usize, way: Way) -> &[u8] {
        &self.records.iter().find(|(at, its, _)| *at == on && *its == way).unwrap().2
    }

    /// Everything that is sealed, and its name.
    fn sealed(&self) -> Vec<(String, &[u8])> {
        let mut sealed: Vec<(String, &[u8])> =
            vec![("m3's static key".into(), &self.m3[2..51]), ("m3".into(), &self.m3[51..])];
        let records = self.records.iter().enumerate();
        sealed.extend(records.map(|(at, (_, way, bytes))| (format!("record {at} {way:?}"), &bytes[2..])));
        if let Some((r1, r2)) = &self.resumption {
            sealed.extend([("r1".into(), &r1[67..]), ("r2".into(), &r2[35..])]);
        }
        sealed
    }
}

/// What somebody who wants to read a recording holds.
struct Thief {
    private: Vec<PrivateKey>,
    /// Keys that are on the wire or in certificates.
    public: Vec<PublicKey>,
    /// Secrets that are no points: what the ML-KEM secret might be.
    others: Vec<Key>,
}

const FULL: &str = "Noise_XKpsk3_secp256k1x_ChaChaPoly_SHA256";
const RESUMED: &str = "Noise_NNpsk0_secp256k1x_ChaChaPoly_SHA256";

impl Thief {
    /// What Noise could have mixed of what the keys give: x of every private key with every public one (`es` and `se`
    /// with the static keys, the static ones among themselves), the bare keys, zeros.
    fn secrets(&self) -> Vec<Key> {
        let mut secrets = self.others.clone();
        secrets.push([0; 32]);
        for private in &self.private {
            secrets.push(bare(private));
            secrets.extend(self.public.iter().map(|public| x_of(private, public)));
        }
        secrets.sort_unstable();
        secrets.dedup();
        secrets
    }

    /// How many keys were tried, and what could be read.
    fn read(&self, session: &Recorded) -> (usize, Vec<String>) {
        let mut search = Search { session, tried: 0, found: Vec::new() };
        self.try_each_alone(&mut search);
        self.try_the_handshake(&mut search);
        self.try_the_resumption(&mut search);
        search.found.sort();
        search.found.dedup();
        (search.tried, search.found)
    }

    /// Every secret as a key by itself, and as what HKDF makes of it, over everything and under the first nonces.
    fn try_each_alone(&self, search: &mut Search<'_>) {
        let salts = [[0; 32], digest(FULL), digest(RESUMED)];
        let mut keys = self.secrets();
        for secret in self.secrets() {
            keys.extend(salts.iter().flat_map(|salt| hkdf::<3>(salt, &secret)));
            keys.extend(hkdf::<3>(&secret, &[]));
        }
        // As version 1 derives, of x and of the compressed point.
        for (private, public) in
            self.private.iter().flat_map(|key| self.public.iter().map(move |of| (key, of)))
        {
            for material in [KeyMaterial::X, KeyMaterial::Point] {
                keys.push(*private.agree(public).derive(material).unwrap().expose());
            }
        }
        for (what, sealed) in search.session.sealed() {
            for key in &keys {
                search.attempt(key, &what, sealed, 5);
            }
        }
    }

    /// Noise's own chain, with every secret in the place of each of `ee`, `se` and the pre-shared key.
    fn try_the_handshake(&self, search: &mut Search<'_>) {
        let session = search.session;
        let secrets = self.secrets();
        assert!(secrets.contains(&session.es), "who has the channel key opens message 1");
        let [chain] = hkdf(&digest(FULL), &session.initiator().to_bytes());
        let [chain] = hkdf(&chain, &session.es);
        let [chain] = hkdf(&chain, &session.responder().to_bytes());
        for ee in &secrets {
            let [chain, key] = hkdf(&chain, ee);
            search.attempt(&key, "m3's static key", &session.m3[2..51], 1);
            for se in &secrets {
                let [chain] = hkdf(&chain, se);
                for psk in &secrets {
                    let [chain, _, key] = hkdf(&chain, psk);
                    search.attempt(&key, "m3", &session.m3[51..], 0);
                    search.split(&chain, 0);
                }
            }
        }
    }

    fn try_the_resumption(&self, search: &mut Search<'_>) {
        let Some((r1, r2)) = &search.session.resumption else { return };
        for psk in self.secrets() {
            let [chain, _, _] = hkdf(&digest(RESUMED), &psk);
            let [chain, key] = hkdf(&chain, &r1[34..67]);
            search.attempt(&key, "r1", &r1[67..], 0);
            let [chain] = hkdf(&chain, &r2[2..35]);
            for ee in self.secrets() {
                let [chain, key] = hkdf(&chain, &ee);
                search.attempt(&key, "r2", &r2[35..], 0);
                search.split(&chain, 1);
            }
        }
    }
}

struct Search<'a> {
    session: &'a Recorded,
    tried: usize,
    found: Vec<String>,
}

impl Search<'_> {
    fn attempt(&mut self, key: &Key, what: &str, sealed: &[u8], most: u64) {
        for n in 0..=most {
            self.tried += 1;
            if is_readable(&deciphered(key, n, sealed), &self.session.static_key) {
                self.found.push(what.to_owned());
            }
        }
    }

    /// The keys that a chain ends in, over the first record of each direction of a connection.
    fn split(&mut self, chain: &Key, connection: usize) {
        let [one, other] = hkdf(chain, &[]);
        let session = self.session;
        self.attempt(&one, "what the client said", &session.first(connection, Way::ToNode)[2..], 0);
        self.attempt(&other, "what the node said", &session.first(connection, Way::ToClient)[2..], 0);
    }
}

fn digest(name: &str) -> Key {
    Sha256::digest(name).into()
}

fn bare(private: &PrivateKey) -> Key {
    const_hex::decode(&private.to_secret_hex().as_str()[2..]).unwrap().try_into().unwrap()
}

/// x of the agreed point, which the library gives to nobody and a thief computes.
fn x_of(private: &PrivateKey, public: &PublicKey) -> Key {
    let secret = k256::SecretKey::from_slice(&bare(private)).unwrap();
    let public = k256::PublicKey::from_sec1_bytes(&public.to_bytes()).unwrap();
    let agreed = k256::ecdh::diffie_hellman(secret.to_nonzero_scalar(), public.as_affine());
    agreed.raw_secret_bytes().as_slice().try_into().unwrap()
}

fn frames(recording: &Recording, kind: Kind) -> impl Iterator<Item = (usize, Way, Vec<u8>)> {
    recording.iter().filter(move |seen| seen.place.kind == kind).map(|seen| {
        let Frame::Binary(bytes) = &seen.frame else { panic!() };
        (seen.place.connection, seen.place.way, bytes.clone())
    })
}

fn copy(key: &PrivateKey) -> PrivateKey {
    key.to_secret_hex().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorded_session_does_not_open_with_every_key_that_lasts() {
    let (config, identity, hex) = settings(&[]);
    let node = TestNode::run(config, identity, echo()).await;
    let identity: PrivateKey = hex.parse().unwrap();
    let proxy = Proxy::start(&format!("ws://{}/v1/ws", node.address), Plan::default()).await.unwrap();
    let (wallet, delegate) = (PrivateKey::random(&mut rng()), Arc::new(PrivateKey::random(&mut rng())));
    let now = node.node.clock.unix(tokio::time::Instant::now());
    let delegation = SessionDelegation {
        wallet: wallet.address(),
        delegate_key: delegate.public_key(),
        node: Some(identity.address()),
        not_before: now - 60,
        not_after: now + 600,
    };
    let client =
        ClientIdentity { key: Arc::clone(&delegate), delegation: Some(delegation.sign(&wallet).unwrap()) };
    let asked = Request::messages(vec![Turn { role: "user", content: QUESTION.into() }]);
    let config = Config::new(proxy.url(), identity.address(), client);
    let (session, answer) = Session::connect_asking(config, &asked).await.unwrap();
    assert_eq!(answer.text().await.unwrap().0.as_str(), QUESTION);
    // One more on a connection that resumes.
    session.lose_connection();
    let again = session.ask(&asked).await.unwrap().text().await.unwrap();
    assert_eq!(again.0.as_str(), QUESTION);
    session.close().await;
    proxy.finish().await;
    let log = proxy.into_log().seen;

    let one = |kind| frames(&log, kind).next().unwrap().2;
    let shown: Advertisement = serde_json::from_value(node.get_json("/v1/node").await).unwrap();
    let hint = shown.verify(identity.address(), now).unwrap().hint();
    let current = node.node.identity().unwrap();
    let keys = &current.channel_keys;
    let channel = copy(keys.find(hint, tokio::time::Instant::now()).unwrap().private());
    let mut session = Recorded {
        m1: one(Kind::M1),
        m2: one(Kind::M2),
        m3: one(Kind::M3),
        records: frames(&log, Kind::Record).collect(),
        resumption: Some((one(Kind::R1), one(Kind::R2))),
        es: [0; 32],
        static_key: delegate.public_key(),
    };
    session.es = x_of(&channel, &session.initiator());
    let (r1, r2) = session.resumption.as_ref().unwrap();
    let on_the_wire = [&r1[34..67], &r2[2..35]].map(|bytes| PublicKey::try_from(bytes).unwrap());
    let private = vec![identity, channel, wallet, copy(&delegate)];
    let public = private.iter().map(PrivateKey::public_key);
    let public = public.chain([session.initiator(), session.responder()]).chain(on_the_wire).collect();
    let thief = Thief { private, public, others: Vec::new() };
    let (tried, found) = tokio::task::spawn_blocking(move || thief.read(&session)).await.unwrap();
    println!("{tried} keys tried");
    assert!(tried > 100_000);
    assert_eq!(found, Vec::<String>::new());
}

/// A generator that always draws the same.
struct Known;

impl TryRng for Known {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(0x0505_0505)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(0x0505_0505_0505_0505)
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        bytes.fill(5);
        Ok(())
    }
}

impl TryCryptoRng for Known {}

/// An encapsulation whose secret everybody knows.
enum NoKem {}

const NO_SECRET: Key = [9; 32];

impl Kem for NoKem {
    type DecapsulationKey = ();

    fn generate(_: &mut impl CryptoRng) -> Result<((), [u8; ENCAPSULATION_KEY_LEN]), HandshakeError> {
        Ok(((), [1; ENCAPSULATION_KEY_LEN]))
    }

    fn encapsulate(
        _: &[u8; ENCAPSULATION_KEY_LEN],
        _: &mut impl CryptoRng,
    ) -> Result<([u8; CIPHERTEXT_LEN], KemSecret), HandshakeError> {
        Ok(([1; CIPHERTEXT_LEN], KemSecret::of(&NO_SECRET)))
    }

    fn decapsulate((): &(), _: &[u8; CIPHERTEXT_LEN]) -> Result<KemSecret, HandshakeError> {
        Ok(KemSecret::of(&NO_SECRET))
    }
}

/// The search itself, over a session whose client's ephemeral key is known: with the ML-KEM secret it reads everything,
/// without it message 3's static key and nothing more.
#[tokio::test]
async fn the_search_finds_what_there_is_to_find() {
    let node = TestNode::start(echo()).await;
    let now = node.node.clock.unix(tokio::time::Instant::now());
    let shown: Advertisement = serde_json::from_value(node.get_json("/v1/node").await).unwrap();
    let verified = shown.verify(node.key.address(), now).unwrap();
    let current = node.node.identity().unwrap();
    let keys = &current.channel_keys;
    let channel = keys.find(verified.hint(), tokio::time::Instant::now()).unwrap();
    let (m1, waiting) = AwaitingM2::<NoKem>::start(&verified, &mut Known).unwrap();
    let opened = M1::read(&m1).unwrap().open(channel.private(), keys.prologue()).unwrap();
    let (m2, node_waiting) = opened.respond::<NoKem>(&mut rng()).unwrap();
    let client = fabstir_client::anonymous();
    let (m3, mut one) = waiting.finish(&m2, &client, &Hello::default(), &mut rng()).unwrap();
    let mut other = node_waiting.finish(&m3).unwrap().channel;
    let request = one.sealer.seal(RecordType::Request, Flags::LAST, 1, 0, b"{\"op\":\"chat\"}").unwrap();
    let welcome = b"{\"max_request_bytes\":1}";
    let welcome = other.sealer.seal(RecordType::Welcome, Flags::NONE, 0, 0, welcome).unwrap();
    let mut session = Recorded {
        m1,
        m2,
        m3,
        records: vec![(0, Way::ToNode, request), (0, Way::ToClient, welcome)],
        resumption: None,
        es: [0; 32],
        static_key: client.key.public_key(),
    };
    session.es = x_of(channel.private(), &session.initiator());
    let thief = |others| {
        let ephemeral = PrivateKey::try_from(&[5; 32]).unwrap();
        let private = vec![copy(channel.private()), copy(&client.key), ephemeral];
        let public = private.iter().map(PrivateKey::public_key);
        Thief { public: public.chain([session.responder()]).collect(), private, others }
    };
    let all = ["m3", "m3's static key", "what the client said", "what the node said"];
    assert_eq!(thief(vec![NO_SECRET]).read(&session).1, all);
    assert_eq!(thief(Vec::new()).read(&session).1, ["m3's static key"]);
}

/// The same in version 1: the node's key opens the session's, and that everything.
#[tokio::test]
async fn a_recorded_session_of_version_1_opens_with_the_nodes_key() {
    let (config, identity, hex) = settings(&[]);
    let node = TestNode::run(config, identity, echo()).await;
    let stolen: PrivateKey = hex.parse().unwrap();
    let proxy = Proxy::start(&format!("ws://{}/v1/ws", node.address), Plan::default()).await.unwrap();
    let config = v1::Config::new(proxy.url(), stolen.public_key());
    let mut client = v1::Client::connect(config, PrivateKey::random(&mut rng())).await.unwrap();
    let mut answer = client.ask(&Request::prompt(QUESTION)).await.unwrap();
    while answer.next().await.unwrap().is_some() {}
    client.close().await;
    let log = proxy.into_log().seen;
    let texts = |kind| {
        let of_kind = log.iter().filter(move |seen| seen.place.kind == kind);
        of_kind.map(|seen| if let Frame::Text(text) = &seen.frame { text.clone() } else { panic!() })
    };

    let init = texts(Kind::Init).next().unwrap();
    let ClientFrame::SessionInit(id, raw) = Inbound::decode(&init).unwrap().frame else { panic!() };
    let opened = raw.read(id.clone()).unwrap().open(&stolen).unwrap();
    let mut established = opened.authenticate().unwrap();
    let message = texts(Kind::Message).next().unwrap();
    let ClientFrame::Message(_, raw) = Inbound::decode(&message).unwrap().frame else { panic!() };
    let prompt = established.session.open(&raw.read().unwrap()).unwrap();
    assert!(String::from_utf8_lossy(prompt.as_bytes()).contains(QUESTION));

    let init: Value = serde_json::from_str(&init).unwrap();
    let field = |name: &str| const_hex::decode(init["payload"][name].as_str().unwrap()).unwrap();
    let ephemeral = PublicKey::try_from(field("ephPubHex").as_slice()).unwrap();
    let nonce: [u8; 24] = field("nonceHex").try_into().unwrap();
    let sealed = Sealed { nonce: nonce.into(), ciphertext: field("ciphertextHex") };
    let agreed = stolen.agree(&ephemeral).derive(KeyMaterial::X).unwrap();
    let data: Value = serde_json::from_slice(agreed.open(&sealed, Aad::Empty).unwrap().as_bytes()).unwrap();
    let mut key: Key = const_hex::decode(data["sessionKey"].as_str().unwrap()).unwrap().try_into().unwrap();
    let session = ClientSession::with_key(id, SessionKey::take(&mut key).unwrap());
    let (mut opener, mut words) = (session.answer(), String::new());
    for chunk in texts(Kind::Chunk) {
        let Reply::Chunk { payload, .. } = Reply::decode(&chunk).unwrap() else { panic!() };
        let opened = session.open_chunk(&mut opener, &payload).unwrap();
        words.push_str(std::str::from_utf8(opened.as_bytes()).unwrap());
    }
    assert_eq!(words, QUESTION);
}
