//! What holds between a client and a node, one fact a test. No socket, no sleep, no clock but `now`.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a test is meant to panic, and to do so on what it does not expect"
)]

mod support;

use std::collections::BTreeSet;

use fabstir_protocol::{
    Code,
    aad::Aad,
    id::{Index, SessionId},
    identity::{Agreed, PrivateKey, Signature},
    seal::{OpenError, Plaintext},
    v1::{
        AnswerSealer, ClientFrame, ClientHello, ClientSession, Dialect, Inbound, InitContext, InitMemory,
        InitMemoryLimits, Owner, ProcessSecret, Reply, SealedPayload, Session, StreamEndReason, Usage,
        WirePayload,
    },
};
use support::{
    Script, fixed, hex,
    node::{Node, Outcome},
    reference::{self as r, Make, Recipe},
    unhex, unhex_array,
};

const ID: &str = "42";

/// A client with an open session, its node, and the time.
struct Pair {
    client: ClientSession,
    owner: Owner,
    init: String,
    node: Node,
    now: u64,
    rng: Script,
}

struct Start {
    dialect: Dialect,
    claim: bool,
    timestamp: Option<u64>,
    seed: &'static str,
}

impl Default for Start {
    fn default() -> Self {
        Self { dialect: Dialect::Deployed, claim: true, timestamp: None, seed: "pair" }
    }
}

fn node_key() -> PrivateKey {
    PrivateKey::try_from(&r::node_key()).unwrap()
}

fn client_key() -> PrivateKey {
    PrivateKey::try_from(&r::client_key()).unwrap()
}

impl Start {
    fn init(&self, rng: &mut Script) -> (String, ClientSession) {
        let hello = ClientHello {
            node_key: &node_key().public_key(),
            client_key: &client_key(),
            id: SessionId::try_from(ID).unwrap(),
            context: InitContext::default(),
            dialect: self.dialect,
            timestamp: self.timestamp,
            claim: self.claim,
        };
        hello.start(rng).unwrap()
    }

    fn pair(self) -> Pair {
        let (mut rng, now) = (Script::seeded(self.seed), 1_780_000_000);
        let mut node = Node::new(node_key());
        let (init, client) = self.init(&mut rng);
        let Ok(Outcome::Opened(owner)) = node.receive(&init, now) else { panic!("the init is refused") };
        Pair { client, owner, init, node, now, rng }
    }
}

impl Pair {
    fn established() -> Self {
        Start::default().pair()
    }

    fn in_dialect(dialect: Dialect) -> Self {
        Start { dialect, ..Start::default() }.pair()
    }

    /// The client's next message.
    fn message(&mut self, words: &str) -> String {
        self.client.message(words.as_bytes(), &mut self.rng).unwrap()
    }

    fn receive(&mut self, frame: &str) -> Result<Outcome, Code> {
        self.node.receive(frame, self.now)
    }

    /// What the node makes of a message.
    fn words(&mut self, frame: &str) -> Result<String, Code> {
        match self.receive(frame)? {
            Outcome::Message(plaintext) => Ok(words(&plaintext)),
            other => panic!("{other:?} is no message"),
        }
    }

    /// A message at `index`, sealed by somebody who holds the client's key.
    fn message_at(&self, index: u64, nonce: &[u8; 24]) -> String {
        r::message(ID, self.client.expose_key(), &format!("message_{index}"), nonce, b"hello").json()
    }

    fn session(&self) -> &Session {
        &self.node.sessions[ID]
    }

    fn answer(&self) -> AnswerSealer {
        self.session().answer()
    }

    fn chunk(&mut self, answer: &mut AnswerSealer, words: &str) -> SealedPayload {
        received("encrypted_chunk", &answer.chunk(words, &mut self.rng).unwrap().1)
    }

    fn end(&mut self, answer: AnswerSealer) -> SealedPayload {
        received("encrypted_response", &answer.finish("stop", &mut self.rng).unwrap())
    }

    /// Seals anything as anything, under the session's key.
    fn forged(&mut self, sealed_as: Aad, sent_as: &str) -> SealedPayload {
        let sealed = self.client.seal_as(sealed_as, b"forged", &mut self.rng).unwrap();
        let payload = r::Object::default()
            .with_text("ciphertextHex", &hex(&sealed.ciphertext))
            .with_text("nonceHex", &hex(sealed.nonce.as_bytes()))
            .with_text("aadHex", &hex(sent_as));
        payload_of(&r::chunk_with(ID, &payload, 0).json())
    }
}

fn words(plaintext: &Plaintext) -> String {
    String::from_utf8(plaintext.as_bytes().to_vec()).unwrap()
}

/// As a client reads it.
fn received(kind: &str, payload: &WirePayload) -> SealedPayload {
    let payload = serde_json::to_string(payload).unwrap();
    payload_of(&format!(r#"{{"type":"{kind}","session_id":"{ID}","payload":{payload}}}"#))
}

fn payload_of(frame: &str) -> SealedPayload {
    match Reply::decode(frame).unwrap() {
        Reply::Chunk { payload, .. } | Reply::Response { payload, .. } => payload,
        other => panic!("{other:?} is not sealed"),
    }
}

#[test]
fn words_go_there_and_an_answer_comes_back_in_each_dialect() {
    for dialect in Dialect::ALL {
        let mut pair = Pair::in_dialect(dialect);
        for turn in ["one", "two"] {
            let message = pair.message(turn);
            assert_eq!(pair.words(&message).unwrap(), turn);

            let (mut sealer, mut opener) = (pair.answer(), pair.client.answer());
            for piece in ["he", "", "llo"] {
                let payload = pair.chunk(&mut sealer, piece);
                assert_eq!(words(&pair.client.open_chunk(&mut opener, &payload).unwrap()), piece);
            }
            let end = pair.end(sealer);
            assert_eq!(words(&pair.client.open_final(opener, &end).unwrap()), "stop");
        }
    }
}

#[test]
fn a_message_opens_once() {
    let mut pair = Pair::established();
    let message = pair.message("hello");
    pair.receive(&message).unwrap();

    assert_eq!(pair.words(&message), Err(Code::ReplayDetected));
}

#[test]
fn an_older_message_does_not_open() {
    let mut pair = Pair::established();
    let (first, second) = (pair.message("first"), pair.message("second"));
    pair.receive(&second).unwrap();

    assert_eq!(pair.words(&first), Err(Code::ReplayDetected), "v1 lets indices skip, never go back");
}

#[test]
fn indices_may_skip() {
    let mut pair = Pair::established();
    for index in [3, 4, 1000, u64::MAX] {
        let message = pair.message_at(index, &fixed(&index.to_string()));
        assert_eq!(pair.words(&message).unwrap(), "hello");
    }
}

#[test]
fn after_the_last_index_the_key_is_spent() {
    let mut pair = Pair::established();
    let last = pair.message_at(u64::MAX, &fixed("last"));
    pair.receive(&last).unwrap();
    let message = pair.message("hello");

    assert_eq!(pair.words(&message), Err(Code::SessionKeyNotFound));
}

#[test]
fn a_forged_high_index_does_not_burn_the_counter() {
    let mut pair = Pair::established();
    let forged = r::message(ID, &[9; 32], "message_18446744073709551615", &fixed("forged"), b"x").json();

    assert_eq!(pair.words(&forged), Err(Code::DecryptionFailed));

    let message = pair.message("hello");
    assert_eq!(pair.words(&message).unwrap(), "hello");
}

#[test]
fn a_forged_frame_does_not_burn_a_nonce() {
    let mut pair = Pair::established();
    let nonce = fixed("shared");
    let forged = r::message(ID, &[9; 32], "message_0", &nonce, b"x").json();

    assert_eq!(pair.words(&forged), Err(Code::DecryptionFailed));

    let honest = pair.message_at(0, &nonce);
    assert_eq!(pair.words(&honest).unwrap(), "hello");
}

#[test]
fn a_frame_that_does_not_open_changes_nothing() {
    let mut pair = Pair::established();
    let good = pair.message("hello");
    let before = format!("{:?}", pair.session());
    for index in [0, 1, 65_536, u64::MAX] {
        let frame = r::message(ID, &[9; 32], &format!("message_{index}"), &fixed("n"), b"x").json();
        assert_eq!(pair.words(&frame), Err(Code::DecryptionFailed));
    }
    assert_eq!(format!("{:?}", pair.session()), before);
    assert_eq!(pair.words(&good).unwrap(), "hello");
}

#[test]
fn a_nonce_is_never_accepted_twice() {
    let mut pair = Pair::established();
    let nonce = fixed("used twice");
    let (first, second) = (pair.message_at(0, &nonce), pair.message_at(1, &nonce));
    pair.receive(&first).unwrap();

    assert_eq!(pair.words(&second), Err(Code::ReplayDetected));
}

#[test]
fn the_nonce_of_the_init_is_spent_where_the_agreed_key_serves() {
    let recipe = Recipe::new(Make::GuideTypescript, "init nonce");
    let mut node = Node::new(node_key());
    node.receive(&recipe.frame(), 0).unwrap();
    let reused = recipe.message(0, &recipe.nonce, b"hello").json();

    assert_eq!(node.receive(&reused, 0).map(drop), Err(Code::ReplayDetected));
}

#[test]
fn the_nonce_of_the_init_is_free_under_a_session_key_of_its_own() {
    let recipe = Recipe::new(Make::Deployed, "init nonce");
    let mut node = Node::new(node_key());
    node.receive(&recipe.frame(), 0).unwrap();
    let same_nonce = recipe.message(0, &recipe.nonce, b"hello").json();

    assert!(node.receive(&same_nonce, 0).is_ok());
}

#[test]
fn a_key_is_spent_after_65_536_messages() {
    let mut pair = Pair::established();
    for _ in 0..Session::MAX_MESSAGES {
        let message = pair.message("");
        pair.receive(&message).unwrap();
    }
    let one_more = pair.message("");

    assert_eq!(pair.words(&one_more), Err(Code::SessionKeyNotFound));
    assert_eq!(Session::MAX_MESSAGES, 65_536);
}

#[test]
fn frames_that_do_not_open_do_not_spend_a_key() {
    let mut pair = Pair::established();
    for n in 0..70_000_u32 {
        let mut nonce = [0; 24];
        nonce[..4].copy_from_slice(&n.to_le_bytes());
        let payload = r::Object::default()
            .with_text("ciphertextHex", &"00".repeat(16))
            .with_text("nonceHex", &hex(nonce))
            .with_text("aadHex", &hex("message_0"));
        let forged = r::message_with(ID, &payload).json();
        assert_eq!(pair.receive(&forged).map(drop), Err(Code::DecryptionFailed));
    }
    let message = pair.message("hello");
    assert_eq!(pair.words(&message).unwrap(), "hello");
}

#[test]
fn chunks_open_in_their_order_only() {
    let mut pair = Pair::established();
    let mut sealer = pair.answer();
    let chunks = ["a", "b", "c"].map(|piece| pair.chunk(&mut sealer, piece));
    let mut opener = pair.client.answer();

    assert!(pair.client.open_chunk(&mut opener, &chunks[1]).is_err(), "the first is due");
    pair.client.open_chunk(&mut opener, &chunks[0]).unwrap();
    assert!(pair.client.open_chunk(&mut opener, &chunks[0]).is_err(), "a chunk opens once");
    assert!(pair.client.open_chunk(&mut opener, &chunks[2]).is_err(), "no chunk may be left out");
    pair.client.open_chunk(&mut opener, &chunks[1]).unwrap();
    pair.client.open_chunk(&mut opener, &chunks[2]).unwrap();
}

#[test]
fn a_chunk_does_not_open_at_another_index() {
    let mut pair = Pair::established();
    for (sealed_as, sent_as) in [(1, "chunk_0"), (1, "chunk_1"), (0, "chunk_1"), (0, "chunk_00"), (0, "")] {
        let payload = pair.forged(Aad::Chunk(Index::new(sealed_as)), sent_as);
        let mut opener = pair.client.answer();
        let opened = pair.client.open_chunk(&mut opener, &payload).map(drop);
        assert_eq!(opened, Err(OpenError), "chunk_{sealed_as} sent as {sent_as:?}");
    }
}

#[test]
fn the_end_does_not_open_as_a_chunk() {
    let mut pair = Pair::established();
    for sent_as in ["final", "chunk_0"] {
        let payload = pair.forged(Aad::Final, sent_as);
        let mut opener = pair.client.answer();
        assert!(pair.client.open_chunk(&mut opener, &payload).is_err(), "sent as {sent_as}");
    }
}

#[test]
fn a_chunk_does_not_open_as_the_end() {
    let mut pair = Pair::established();
    for sent_as in ["final", "chunk_0"] {
        let payload = pair.forged(Aad::Chunk(Index::default()), sent_as);
        assert!(pair.client.open_final(pair.client.answer(), &payload).is_err(), "sent as {sent_as}");
    }
}

#[test]
fn a_clients_message_given_back_to_it_does_not_open() {
    let mut pair = Pair::established();
    for sent_as in ["message_0", "chunk_0", "final"] {
        let payload = pair.forged(Aad::Message(Index::default()), sent_as);
        let mut opener = pair.client.answer();
        assert!(pair.client.open_chunk(&mut opener, &payload).is_err(), "sent as {sent_as}");
        assert!(pair.client.open_final(opener, &payload).is_err(), "sent as {sent_as}");
    }
}

#[test]
fn a_nodes_chunk_given_back_to_it_does_not_open() {
    let mut pair = Pair::established();
    for (sealed_as, sent_as) in [("chunk_0", "chunk_0"), ("chunk_0", "message_0"), ("final", "message_0")] {
        let payload = r::sealed(pair.client.expose_key(), sealed_as, &fixed(sent_as), b"x")
            .set_text("aadHex", &hex(sent_as));
        let reflected = r::message_with(ID, &payload).json();
        assert_eq!(pair.words(&reflected), Err(Code::DecryptionFailed), "{sealed_as} sent as {sent_as}");
    }
}

/// What v1 does not keep, and v2 does: every answer under one key starts again at chunk_0.
#[test]
fn v1_cannot_tell_the_chunks_of_two_answers_apart() {
    let mut pair = Pair::established();
    let (mut first, _second) = (pair.answer(), pair.answer());
    let of_the_first = pair.chunk(&mut first, "old words");
    let mut opener = pair.client.answer();

    assert!(pair.client.open_chunk(&mut opener, &of_the_first).is_ok());
}

/// What v1 does not keep, and v2 does: the end counts nothing.
#[test]
fn v1_cannot_tell_that_an_answer_was_cut() {
    let mut pair = Pair::established();
    let mut sealer = pair.answer();
    let (kept, _lost) = (pair.chunk(&mut sealer, "kept"), pair.chunk(&mut sealer, "lost"));
    let end = pair.end(sealer);
    let mut opener = pair.client.answer();
    pair.client.open_chunk(&mut opener, &kept).unwrap();

    assert!(pair.client.open_final(opener, &end).is_ok());
}

#[test]
fn a_claimed_owner_is_verified() {
    for dialect in Dialect::ALL {
        assert_eq!(Pair::in_dialect(dialect).owner, Owner::Verified(client_key().address()));
    }
}

#[test]
fn an_owner_who_claims_nothing_is_marked_so() {
    for dialect in Dialect::ALL {
        let pair = Start { dialect, claim: false, ..Start::default() }.pair();
        assert_eq!(pair.owner, Owner::Unclaimed(client_key().address()));
        assert_ne!(pair.owner, Owner::Verified(client_key().address()));
    }
}

/// Mallory has an init of the client and wants one of her own under the client's address.
#[test]
fn a_signature_cannot_be_moved_to_another_init() {
    for make in Make::ALL {
        let (victims, mallorys) = (Recipe::new(make, "the victim's"), Recipe::new(make, "Mallory's"));
        let moved = mallorys.changed(|p| p.set_text("signatureHex", &hex(victims.signature())));

        let outcome = Node::new(node_key()).receive(&moved, 0).map(drop);
        assert_eq!(outcome, Err(Code::InvalidSignature), "{make:?}");
    }
}

/// Whoever holds the agreed key (the node, or a thief of its key) tries to put other words under a signature.
fn with_other_words_under_the_signature(make: Make) -> Result<Outcome, Code> {
    let (signed, key) = (Recipe::new(make, "signed"), fixed::<32>("a key of Mallory's"));
    let data = signed.plain_data(true).set_text("sessionKey", &hex(key)).json();
    let other = signed.clone().with_data(data);
    let frame = other.changed(|p| p.set_text("signatureHex", &hex(signed.signature())));
    Node::new(node_key()).receive(&frame, 0)
}

#[test]
fn digests_1_and_2_cover_what_is_sealed() {
    for make in [Make::GuideRust, Make::GuideTypescript] {
        let outcome = with_other_words_under_the_signature(make).map(drop);
        assert_eq!(outcome, Err(Code::InvalidSignature), "{make:?}");
    }
}

#[test]
fn digest_3_does_not_cover_what_is_sealed() {
    let outcome = with_other_words_under_the_signature(Make::Deployed);

    assert!(matches!(outcome, Ok(Outcome::Opened(Owner::Verified(_)))), "{outcome:?}");
}

/// So the node takes the id from an unsigned place; that one init opens one session is the memory's work.
#[test]
fn no_digest_covers_the_session_id() {
    for make in Make::ALL {
        let recipe = Recipe::new(make, "moved");
        let moved = recipe.frame_with(&recipe.payload()).set_text("session_id", "43").json();
        let mut node = Node::new(node_key());

        let first = node.receive(&moved, 0);
        assert!(matches!(first, Ok(Outcome::Opened(Owner::Verified(_)))), "{make:?}");
        assert_eq!(node.receive(&recipe.frame(), 0).map(drop), Err(Code::ReplayDetected), "{make:?}");
    }
}

/// Even by somebody who holds the ephemeral key and seals the same words to the other node.
#[test]
fn a_signature_for_one_node_serves_at_no_other() {
    for make in Make::ALL {
        let first = Recipe::new(make, "to one node");
        let second = Recipe { node: fixed("another node"), ..first.clone() };
        let moved = second.changed(|p| p.set_text("signatureHex", &hex(first.signature())));
        let mut node = Node::new(PrivateKey::try_from(&second.node).unwrap());

        assert_eq!(node.receive(&moved, 0).map(drop), Err(Code::InvalidSignature), "{make:?}");
    }
}

#[test]
fn keys_differ_in_every_session_and_dialect() {
    let mut rng = Script::seeded("many sessions");
    let mut seen = BTreeSet::new();
    for dialect in Dialect::ALL {
        for _ in 0..8 {
            let start = Start { dialect, ..Start::default() };
            assert!(seen.insert(*start.init(&mut rng).1.expose_key()), "a key came twice");
        }
    }
}

#[test]
fn one_ephemeral_key_gives_each_key_material_its_own_key() {
    let mut x = Recipe::new(Make::GuideRust, "one");
    let point = Recipe { material: r::Material::Point, ..x.clone() };
    x.own_key = None;
    assert_ne!(x.agreed_key(), point.agreed_key());
}

#[test]
fn no_two_frames_share_a_nonce() {
    let mut pair = Pair::established();
    let nonce_of = |frame: &str| {
        let value: serde_json::Value = serde_json::from_str(frame).unwrap();
        value["payload"]["nonceHex"].as_str().unwrap().to_owned()
    };
    let mut seen = BTreeSet::from([nonce_of(&pair.init)]);
    for _ in 0..64 {
        let message = pair.message("x");
        assert!(seen.insert(nonce_of(&message)));
        let mut sealer = pair.answer();
        let chunk = pair.chunk(&mut sealer, "x");
        assert!(seen.insert(hex(chunk.sealed.nonce.as_bytes())));
        assert!(seen.insert(hex(pair.end(sealer).sealed.nonce.as_bytes())));
    }
}

#[test]
fn an_init_opens_one_session() {
    let mut pair = Pair::established();
    let init = pair.init.clone();

    assert_eq!(pair.receive(&init).map(drop), Err(Code::ReplayDetected));

    let message = pair.message("hello");
    assert_eq!(pair.words(&message).unwrap(), "hello", "the replay touched nothing");
}

#[test]
fn the_negative_of_an_ephemeral_key_opens_no_second_session() {
    for make in Make::ALL {
        let recipe = Recipe::new(make, "twin");
        let mut twin = r::public(&recipe.ephemeral);
        twin[0] ^= 1;
        let twin = recipe.changed(|p| p.set_text("ephPubHex", &hex(twin)));
        let mut node = Node::new(node_key());
        node.receive(&recipe.frame(), 0).unwrap();

        let expected = match make {
            Make::GuideRust => Code::ReplayDetected,
            Make::GuideTypescript => Code::DecryptionFailed,
            Make::Deployed => Code::InvalidSignature,
        };
        assert_eq!(node.receive(&twin, 0).map(drop), Err(expected), "{make:?}");
    }
}

#[test]
fn an_init_is_not_forgotten_while_its_timestamp_is_fresh() {
    let start = Start { timestamp: Some(1_780_000_300), ..Start::default() };
    let mut pair = start.pair();
    let (init, opened_at) = (pair.init.clone(), pair.now);
    pair.node.memory = InitMemory::new(
        ProcessSecret::random(&mut pair.rng),
        InitMemoryLimits { keep_seconds: 1, ..InitMemoryLimits::standard(1) },
    );
    pair.receive(&init).unwrap();
    pair.node.end_conversations(opened_at);

    for later in 0..=1000 {
        pair.now = opened_at + later;
        assert_eq!(pair.receive(&init).map(drop), Err(Code::ReplayDetected), "{later} s later");
    }
}

/// The limit that SECURITY.md states, and REQUIRE_INIT_TIMESTAMP closes.
#[test]
fn an_init_without_a_timestamp_can_be_replayed_once_its_entry_has_expired() {
    let mut pair = Pair::established();
    let init = pair.init.clone();
    pair.node.end_conversations(pair.now);
    pair.now += 3600;

    assert!(pair.receive(&init).is_ok());

    pair.node.require_timestamp_since = Some(pair.now);
    assert_eq!(pair.receive(&init).map(drop), Err(Code::ReplayDetected));
}

#[test]
fn a_memory_holds_each_init_that_was_taken() {
    let mut pair = Start::default().pair();
    pair.node.memory =
        InitMemory::new(ProcessSecret::random(&mut pair.rng), InitMemoryLimits::standard(3600));
    assert!(pair.node.memory.is_empty());
    for taken in 0..3 {
        assert_eq!(pair.node.memory.len(), taken);
        let (init, _) = Start::default().init(&mut pair.rng);
        pair.receive(&init).unwrap();
        assert!(!pair.node.memory.is_empty());
    }
    assert_eq!(pair.node.memory.len(), 3);
}

#[test]
fn a_full_memory_refuses_new_inits_and_leaves_open_sessions_alone() {
    let mut pair = Pair::established();
    let limits = InitMemoryLimits { total: 0, ..InitMemoryLimits::standard(3600) };
    pair.node.memory = InitMemory::new(ProcessSecret::random(&mut pair.rng), limits);
    let (second, _) = Start::default().init(&mut pair.rng);

    assert_eq!(pair.receive(&second).map(drop), Err(Code::NodeBusy));

    let message = pair.message("hello");
    assert_eq!(pair.words(&message).unwrap(), "hello");
}

#[test]
fn a_new_init_starts_again_at_message_0_and_ends_the_old_key() {
    let mut pair = Pair::established();
    let (first, late) = (pair.message("first"), pair.message("late"));
    pair.receive(&first).unwrap();
    let (init, renewed) = Start::default().init(&mut pair.rng);
    pair.receive(&init).unwrap();
    let old = std::mem::replace(&mut pair.client, renewed);

    assert_eq!(pair.words(&late), Err(Code::DecryptionFailed));
    let message = pair.message("again");
    assert_eq!(pair.words(&message).unwrap(), "again");
    assert_ne!(old.expose_key(), pair.client.expose_key());
}

#[test]
fn a_running_answer_stays_under_the_key_that_opened_its_prompt() {
    let mut pair = Pair::established();
    let mut running = pair.answer();
    assert_eq!(pair.session().key_holders(), 2);
    let (init, _) = Start::default().init(&mut pair.rng);
    pair.receive(&init).unwrap();
    assert_eq!(pair.session().key_holders(), 1, "the running answer holds the old key, not the new one");

    let chunk = pair.chunk(&mut running, "under the old key");
    let mut opener = pair.client.answer();
    assert_eq!(words(&pair.client.open_chunk(&mut opener, &chunk).unwrap()), "under the old key");
}

#[test]
fn a_message_opens_in_its_own_session_only() {
    let mut pair = Pair::established();
    let other = Start { seed: "other", ..Start::default() }.pair();
    let foreign = other.message_at(0, &fixed("foreign"));

    assert_eq!(pair.words(&foreign), Err(Code::DecryptionFailed));
}

#[test]
fn an_init_for_one_node_does_not_open_on_another() {
    let pair = Pair::established();
    let mut other = Node::new(PrivateKey::try_from(&fixed::<32>("another node")).unwrap());

    assert_eq!(other.receive(&pair.init, pair.now).map(drop), Err(Code::DecryptionFailed));
}

#[test]
fn a_session_key_is_one_owners_once_and_says_nothing_to_others() {
    let key = Some(fixed("shared"));
    let ours = Recipe::new(Make::Deployed, "ours").keyed(key).claiming(true).frame();
    let again = Recipe::new(Make::Deployed, "again").keyed(key).claiming(true).frame();
    let mut theirs = Recipe::new(Make::Deployed, "theirs").keyed(key);
    theirs.client = fixed("another client");
    let theirs = theirs.claiming(true).frame();
    let mut node = Node::new(node_key());
    node.receive(&ours, 0).unwrap();

    assert_eq!(node.receive(&again, 0).map(drop), Err(Code::ReplayDetected));
    assert!(node.receive(&theirs, 0).is_ok(), "a refusal would tell them that the key is in use");
}

#[test]
fn what_a_client_writes_opens_under_the_bare_primitives() {
    let mut pair = Pair::in_dialect(Dialect::GuideTypescript);
    let message = pair.message("hello");
    let value: serde_json::Value = serde_json::from_str(&message).unwrap();
    let field = |name: &str| value["payload"][name].as_str().unwrap().to_owned();
    assert_eq!(field("aadHex"), hex("message_0"));
    let opened = r::open(
        pair.client.expose_key(),
        &unhex_array(&field("nonceHex")),
        b"message_0",
        &unhex(&field("ciphertextHex")),
    );
    assert_eq!(opened.as_deref(), Some(&b"hello"[..]));
}

#[test]
fn every_signature_of_ours_is_low_and_recovers() {
    for n in 0..200 {
        let key = PrivateKey::try_from(&fixed::<32>(&format!("signer {n}"))).unwrap();
        let digest = fixed(&format!("digest {n}"));
        let signature = key.sign(&digest).unwrap();
        assert_eq!(signature.recover(&digest), Ok(key.address()));
        assert!(signature.to_bytes()[32] < 0x80, "a high s");
        assert_eq!(signature.to_bytes(), r::sign(&fixed(&format!("signer {n}")), &digest));
    }
}

#[test]
fn a_client_reads_replies_whose_fields_are_null_or_unknown() {
    let end = r#"{"type":"stream_end","session_id":"1","reason":"complete","finish_reason":"stop","tokens_used":3,"code":null,"usage":null,"new":[]}"#;
    let read = Reply::decode(end).unwrap();
    let Reply::StreamEnd { reason: StreamEndReason::Complete, code: None, usage: None, .. } = read else {
        panic!("{read:?}")
    };
    let pair = Pair::established();
    let chunk = r::chunk(ID, pair.client.expose_key(), 0, &fixed("null"), "x");
    let chunk = chunk.set("tokens", "null").set("final", "null").set("id", "null").json();
    assert!(matches!(Reply::decode(&chunk), Ok(Reply::Chunk { tokens: 0, last: false, .. })));
    let decoded = |kind: &str| Reply::decode(&format!("{{\"type\":\"{kind}\"}}"));
    assert!(matches!(decoded("connected"), Ok(Reply::Connected)));
    assert!(matches!(decoded("pong"), Ok(Reply::Pong)));
    let ack = r#"{"type":"session_init_ack","session_id":"1","client_address":"0x00"}"#;
    let Ok(Reply::Ack { session_id, client_address: Some(address) }) = Reply::decode(ack) else {
        panic!("an ack with an address was expected");
    };
    assert_eq!((session_id.as_str(), address.as_str()), ("1", "0x00"));
    assert!(matches!(decoded("news"), Ok(Reply::Unknown)));
    assert_eq!(Usage::default().total_tokens, 0);
}

#[test]
fn an_init_opens_with_what_a_token_gives_which_is_x_alone() {
    for dialect in Dialect::ALL {
        let (frame, _) = Start { dialect, ..Start::default() }.init(&mut Script::seeded("token"));
        let ClientFrame::SessionInit(id, raw) = Inbound::decode(&frame).unwrap().frame else { panic!() };
        let init = raw.read(id).unwrap();
        let secret = k256::SecretKey::from_slice(&r::node_key()).unwrap();
        let theirs = k256::PublicKey::from_sec1_bytes(&init.ephemeral().to_bytes()).unwrap();
        let shared = k256::ecdh::diffie_hellman(secret.to_nonzero_scalar(), theirs.as_affine());
        let x = Agreed::from_x(shared.raw_secret_bytes().as_slice().try_into().unwrap());
        let opened = init.open_agreed(&x, &node_key().public_key()).unwrap();
        assert_eq!(
            opened.authenticate().unwrap().owner,
            Owner::Verified(client_key().address()),
            "{dialect:?}"
        );
    }
}

#[test]
fn an_init_for_another_identity_comes_back_whole_to_be_tried_with_the_next() {
    let (frame, _) = Start::default().init(&mut Script::seeded("two identities"));
    let ClientFrame::SessionInit(id, raw) = Inbound::decode(&frame).unwrap().frame else { panic!() };
    let init = raw.read(id).unwrap();
    let other = client_key();
    let agreed = other.agree(init.ephemeral());
    let refused = init.open_agreed(&agreed, &other.public_key()).unwrap_err();
    assert_eq!(Code::from(&refused.error), Code::DecryptionFailed);
    assert!(refused.init.unwrap().open(&node_key()).is_ok());
}

#[test]
fn a_tokens_signature_is_taken_with_a_low_s_and_for_its_signer_alone() {
    let (key, digest) = (client_key(), [7; 32]);
    let ours = key.sign(&digest).unwrap();
    let rs: [u8; 64] = ours.to_bytes()[..64].try_into().unwrap();
    let low = k256::ecdsa::Signature::from_slice(&rs).unwrap();
    let high: [u8; 64] = k256::ecdsa::Signature::from_scalars(*low.r(), -*low.s()).unwrap().to_bytes().into();
    for rs in [rs, high] {
        assert_eq!(Signature::of_token(&rs, &digest, key.address()), Ok(ours));
        assert!(Signature::of_token(&rs, &digest, node_key().address()).is_err());
        assert!(Signature::of_token(&rs, &[8; 32], key.address()).is_err());
    }
}
