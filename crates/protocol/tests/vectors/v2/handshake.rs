//! Full handshakes, by every input that either side brings.

use std::sync::Arc;

use fabstir_protocol::{
    identity::PrivateKey,
    v2::{
        Advertisement, AwaitingM2, AwaitingM3, Channel, Claim, ClientIdentity, Hello, Hint, M1,
        NodeChannelKey, NodeIdentity, Received, SessionDelegation, Shape, Sid, SignedDelegation,
        VerifiedNode, encode, prologue,
    },
};
use rand_chacha::ChaCha20Rng;
use serde::Serialize;

use super::{
    cases::{EndCase, HandshakeCase, Handshakes, StateCase},
    number,
};
use crate::{
    support::{Script, hex, unhex, unhex_array},
    v2_support::{
        draw,
        noise::{Finished, Side, State, key_of, public},
        portable::{self, Portable},
        reference as r, rng,
    },
};

pub(crate) const NOW: u64 = 1_800_000_000;

pub(crate) fn key(bytes: &[u8; 32]) -> PrivateKey {
    PrivateKey::try_from(bytes).unwrap()
}

/// Whose word a client brings.
#[derive(Clone, Copy)]
enum Word {
    None,
    ForThisNode,
    ForAnyNode,
}

/// What the cases differ in beside the random bytes.
struct Recipe {
    name: &'static str,
    chain_id: u64,
    versions: &'static [&'static str],
    word: Word,
    hello: Hello,
}

/// What is random in a case.
struct Inputs {
    identity: [u8; 32],
    channel: [u8; 32],
    wallet: [u8; 32],
    own: [u8; 32],
    client_ephemeral: [u8; 32],
    kem_seed: [u8; 64],
    node_ephemeral: [u8; 32],
    kem_m: [u8; 32],
}

impl Inputs {
    fn new(rng: &mut ChaCha20Rng) -> Self {
        Self {
            identity: draw(rng),
            channel: draw(rng),
            wallet: draw(rng),
            own: draw(rng),
            client_ephemeral: draw(rng),
            kem_seed: draw(rng),
            node_ephemeral: draw(rng),
            kem_m: draw(rng),
        }
    }
}

fn hello(client: &str) -> Hello {
    Hello { client: client.to_owned(), shape: Shape::Bucket, ticket: true, claim: None }
}

fn recipes() -> Vec<Recipe> {
    let usual: &[&str] = &["2", "1"];
    let claim = |most| Claim {
        session: Sid::from([0xa5; 16]),
        received: (1..=most).map(|request| Received(request, request * 7)).collect(),
    };
    let recipe = |name, word, hello| Recipe { name, chain_id: 84532, versions: usual, word, hello };
    vec![
        recipe("a delegate for this node", Word::ForThisNode, hello("fabstir/0.1")),
        recipe("a delegate for any node", Word::ForAnyNode, hello("fabstir/0.1")),
        recipe("nobody's delegate", Word::None, hello("fabstir/0.1")),
        recipe(
            "no padding and no ticket",
            Word::ForThisNode,
            Hello { shape: Shape::Off, ticket: false, ..hello("fabstir/0.1") },
        ),
        recipe(
            "a claim of a session",
            Word::ForThisNode,
            Hello { claim: Some(claim(3)), ..hello("fabstir/0.1") },
        ),
        recipe(
            "a claim that takes the next bucket",
            Word::ForThisNode,
            Hello { claim: Some(claim(70)), ..hello("fabstir/0.1") },
        ),
        recipe("a hello that is not ASCII", Word::None, hello("Grüße, 世界 🦀 \"quoted\"\n\u{0}")),
        recipe("the shortest hello", Word::None, hello("")),
        // Two lengths, a delegation and the hello are 512 bytes, 513, and 4096.
        recipe("the largest payload of the smallest bucket", Word::ForThisNode, hello(&"x".repeat(310))),
        recipe("the smallest payload of the next bucket", Word::ForThisNode, hello(&"x".repeat(311))),
        recipe("the largest payload", Word::ForThisNode, hello(&"x".repeat(3894))),
        Recipe { chain_id: 0, ..recipe("chain 0", Word::ForThisNode, hello("fabstir/0.1")) },
        Recipe {
            chain_id: (1 << 53) - 1,
            ..recipe("the largest chain that JSON carries everywhere", Word::None, hello("fabstir/0.1"))
        },
        Recipe { versions: &["2"], ..recipe("one version", Word::None, hello("fabstir/0.1")) },
        Recipe {
            versions: &["7.x", "sixteen-of-them!", "6", "2", "5", "4", "3", "1"],
            ..recipe("as many versions as there may be", Word::None, hello("fabstir/0.1"))
        },
        recipe("agreements that begin with a zero", Word::ForThisNode, hello("fabstir/0.1")),
        recipe("the smallest and the largest keys", Word::None, hello("fabstir/0.1")),
    ]
}

/// Redraws a key until its agreement with another begins with a zero.
pub(crate) fn with_a_zero(rng: &mut ChaCha20Rng, theirs: &[u8; 32]) -> [u8; 32] {
    let theirs = public(theirs);
    loop {
        let key = draw(rng);
        if crate::support::reference::agree(&key, &theirs)[1] == 0 {
            return key;
        }
    }
}

fn inputs(recipe: &Recipe) -> Inputs {
    let rng = &mut rng(&format!("handshake|{}", recipe.name));
    let mut inputs = Inputs::new(rng);
    if recipe.name == "agreements that begin with a zero" {
        inputs.client_ephemeral = with_a_zero(rng, &inputs.channel);
        inputs.node_ephemeral = with_a_zero(rng, &inputs.client_ephemeral);
        inputs.own = with_a_zero(rng, &inputs.node_ephemeral);
    }
    if recipe.name == "the smallest and the largest keys" {
        let mut one = [0; 32];
        one[31] = 1;
        let mut largest: [u8; 32] = unhex_array(crate::support::reference::ORDER);
        largest[31] -= 1;
        inputs.client_ephemeral = one;
        inputs.node_ephemeral = largest;
    }
    inputs
}

/// A node's first frame, as a node writes it.
#[derive(Serialize)]
pub(crate) struct Connected {
    r#type: &'static str,
    message: &'static str,
    #[serde(flatten)]
    shown: Advertisement,
}

pub(crate) fn connected(shown: Advertisement) -> String {
    let frame = Connected { r#type: "connected", message: "welcome", shown };
    serde_json::to_string(&frame).unwrap()
}

fn shown(inputs: &Inputs, recipe: &Recipe) -> Advertisement {
    let identity = key(&inputs.identity);
    let channel_key = key(&inputs.channel).public_key();
    let certificate = NodeChannelKey::made_at(NOW, channel_key, 1);
    let signature = identity.sign(&certificate.digest(recipe.chain_id)).unwrap();
    let node = NodeIdentity {
        address: identity.address(),
        chain_id: recipe.chain_id,
        channel_key,
        certificate: certificate.with_signature(signature),
        rotation: None,
    };
    Advertisement {
        e2ee: recipe.versions.iter().map(|&version| version.to_owned()).collect(),
        node: Some(node),
    }
}

fn delegation(inputs: &Inputs, word: Word) -> Option<SignedDelegation> {
    let wallet = key(&inputs.wallet);
    let node = match word {
        Word::None => return None,
        Word::ForThisNode => Some(key(&inputs.identity).address()),
        Word::ForAnyNode => None,
    };
    let delegation = SessionDelegation {
        wallet: wallet.address(),
        delegate_key: key(&inputs.own).public_key(),
        node,
        not_before: NOW - 60,
        not_after: NOW + 86_400,
    };
    Some(delegation.sign(&wallet).unwrap())
}

pub(crate) fn state(state: &State) -> StateCase {
    StateCase { ck: hex(state.chaining_key), h: hex(state.hash) }
}

pub(crate) fn end(finished: &Finished) -> EndCase {
    let (id, psk) = r::ticket(&finished.state);
    EndCase {
        h: hex(finished.state.hash),
        sid: hex(r::sid(&finished.state)),
        to_node_key: hex(key_of(&finished.to_node)),
        to_client_key: hex(key_of(&finished.to_client)),
        ticket_id: hex(id),
        ticket_psk: hex(psk),
    }
}

fn case(recipe: &Recipe) -> HandshakeCase {
    let inputs = inputs(recipe);
    let shown = shown(&inputs, recipe);
    let identity = key(&inputs.identity);
    let delegation = delegation(&inputs, recipe.word);
    let wire = delegation.as_ref().map_or(Vec::new(), |signed| signed.to_bytes().to_vec());
    let hello = encode(&recipe.hello);
    let prologue = r::prologue(&shown.e2ee, recipe.chain_id, identity.address().as_bytes());

    let channel_public = public(&inputs.channel);
    let mut client = Side::client(&prologue, channel_public, &inputs.own, &inputs.client_ephemeral);
    let mut node = Side::node(&prologue, &inputs.channel, &inputs.node_ephemeral);
    let (kem_key, kem_public) = portable::keygen(inputs.kem_seed);
    let one = client.write(&kem_public);
    assert_eq!(node.read(&one).unwrap(), kem_public);
    let mut states = vec![state(&client.state())];
    let (ciphertext, secret) = portable::encapsulate(&kem_public, inputs.kem_m).unwrap();
    let two = node.write(&ciphertext);
    assert_eq!(client.read(&two).unwrap(), ciphertext);
    assert_eq!(portable::decapsulate(&kem_key, &ciphertext), secret);
    states.push(state(&client.state()));
    client.psk(&secret);
    node.psk(&secret);
    let payload = r::payload(&[&wire, &hello]);
    let three = client.write(&payload);
    assert_eq!(node.read(&three).unwrap(), payload);
    states.push(state(&client.state()));
    assert_eq!(node.state(), client.state());

    HandshakeCase {
        name: recipe.name.to_owned(),
        now: NOW,
        node_identity_key: hex(inputs.identity),
        node_address: identity.address().to_string(),
        chain_id: recipe.chain_id.to_string(),
        versions: shown.e2ee.clone(),
        channel_key: hex(inputs.channel),
        channel_public_key: hex(channel_public),
        node_ephemeral_key: hex(inputs.node_ephemeral),
        kem_m: hex(inputs.kem_m),
        connected: connected(shown),
        client_static_key: hex(inputs.own),
        client_static_public_key: hex(public(&inputs.own)),
        client_ephemeral_key: hex(inputs.client_ephemeral),
        kem_seed: hex(inputs.kem_seed),
        delegation: hex(&wire),
        wallet: delegation.map(|signed| signed.delegation().wallet.to_string()),
        hello: String::from_utf8(hello.to_vec()).unwrap(),
        prologue: hex(prologue),
        m1: hex(r::frame(r::M1, &[&r::hint(&channel_public), &one])),
        m2: hex(r::frame(r::M2, &[&two])),
        kem_secret: hex(secret),
        m3_payload_length: payload.len(),
        m3: hex(r::frame(r::M3, &[&three])),
        states,
        end: end(&client.finish()),
    }
}

pub(crate) fn make() -> Handshakes {
    let about = [
        "Full handshakes of version 2 of the protocol (docs/protocol.md, part 2), with every input of both sides. Bytes \
are lower-case hex; numbers of 64 bits are decimal text; connected and hello are the exact JSON on the wire.",
        "The client reads `connected` at `now`, having pinned node_address, and comes to the prologue. With \
client_ephemeral_key and kem_seed (d, then z, of FIPS 203) it makes m1. The node, with channel_key, node_ephemeral_key \
and kem_m (m of FIPS 203), makes m2. With client_static_key, delegation (empty: none) and hello the client makes m3, \
whose payload is padded to m3_payload_length. Every frame is whole: 02, its kind, and of m1 the hint.",
        "states: ck and h of Noise after each message. end: the last h, its first 16 bytes, the first key of each \
direction, and the ticket that both sides can resume with. wallet: whose delegation it is, at `now`, on this node.",
    ];
    Handshakes { about: about.map(str::to_owned).to_vec(), cases: recipes().iter().map(case).collect() }
}

impl HandshakeCase {
    /// The case of a name, made anew: nothing waits for the files.
    pub(crate) fn named(name: &str) -> Self {
        case(recipes().iter().find(|recipe| recipe.name == name).unwrap())
    }

    pub(crate) fn channel(&self) -> Arc<PrivateKey> {
        Arc::new(self.channel_key.parse().unwrap())
    }

    pub(crate) fn verified(&self) -> VerifiedNode {
        let shown = Advertisement::read(&self.connected).unwrap();
        shown.verify(self.node_address.parse().unwrap(), self.now).unwrap()
    }

    pub(crate) fn identity(&self) -> ClientIdentity {
        let wire = unhex(&self.delegation);
        let delegation = (!wire.is_empty()).then(|| SignedDelegation::try_from(wire.as_slice()).unwrap());
        ClientIdentity { key: Arc::new(self.client_static_key.parse().unwrap()), delegation }
    }

    /// The client, with what it draws.
    pub(crate) fn client(&self) -> (Vec<u8>, AwaitingM2<Portable>) {
        let given = [unhex(&self.kem_seed), unhex(&self.client_ephemeral_key)];
        AwaitingM2::start(&self.verified(), &mut Script::of(&[&given[0], &given[1]])).unwrap()
    }

    /// The node, with what it draws.
    pub(crate) fn node(&self, m1: &[u8]) -> (Vec<u8>, AwaitingM3) {
        let given = [unhex(&self.kem_m), unhex(&self.node_ephemeral_key)];
        let opened = M1::read(m1).unwrap().open(&self.channel(), &unhex(&self.prologue)).unwrap();
        opened.respond::<Portable>(&mut Script::of(&[&given[0], &given[1]])).unwrap()
    }

    pub(crate) fn hello(&self) -> Hello {
        serde_json::from_str(&self.hello).unwrap()
    }
}

/// A channel of the crate's as the files have it; h shows in its first half only, and in the ticket.
pub(crate) fn ended(channel: &Channel, node: bool, expect: &EndCase) {
    let (send, receive) = (channel.sealer.expose_key(), channel.opener.expose_key().unwrap());
    let (to_node, to_client) = if node { (receive, send) } else { (send, receive) };
    let found = EndCase {
        h: expect.h.clone(),
        sid: channel.sid.to_string(),
        to_node_key: hex(to_node),
        to_client_key: hex(to_client),
        ticket_id: hex(channel.ticket.id()),
        ticket_psk: hex(channel.ticket.expose_psk()),
    };
    assert_eq!(&found, expect);
    assert!(expect.h.starts_with(&expect.sid));
}

pub(crate) fn run(case: &HandshakeCase) {
    let name = &case.name;
    let address = case.node_identity_key.parse::<PrivateKey>().unwrap().address();
    assert_eq!(address.to_string(), case.node_address, "{name}");
    let written = prologue(&case.versions, number(&case.chain_id), address).unwrap();
    assert_eq!(hex(written), case.prologue, "{name}");
    assert_eq!(Hint::of(&case.channel_public_key.parse().unwrap()), case.verified().hint(), "{name}");

    let (m1, awaiting_m2) = case.client();
    assert_eq!(hex(&m1), case.m1, "{name}");
    let (m2, awaiting_m3) = case.node(&m1);
    assert_eq!(hex(&m2), case.m2, "{name}");
    let hello = case.hello();
    assert_eq!(*encode(&hello), *case.hello.as_bytes(), "{name}");
    let (m3, ours) =
        awaiting_m2.finish(&m2, &case.identity(), &hello, &mut Script::seeded("nothing more")).unwrap();
    assert_eq!(hex(&m3), case.m3, "{name}");
    let greeted = awaiting_m3.finish(&m3).unwrap();
    assert_eq!(greeted.static_key.to_string(), case.client_static_public_key, "{name}");
    assert_eq!(greeted.hello, Some(hello), "{name}");
    let wallet =
        greeted.delegation.unwrap().map(|signed| signed.verify(&greeted.static_key, address, case.now));
    assert_eq!(wallet.map(|wallet| wallet.unwrap().to_string()), case.wallet, "{name}");
    ended(&ours, false, &case.end);
    ended(&greeted.channel, true, &case.end);
}
