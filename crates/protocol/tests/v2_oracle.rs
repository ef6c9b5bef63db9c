//! Version 2 against others' implementations: Noise by the crate `clatter`, over other primitives than the crate's, and
//! EIP-712 by viem.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test is meant to panic, and to do so on what it does not expect"
)]

mod v2_support;

use std::{fs, path::Path, process::Command, sync::Arc};

use clatter::cipherstate::CipherState;
use fabstir_protocol::{
    identity::PrivateKey,
    v2::{
        Advertisement, AwaitingM2, AwaitingR2, AwsLc, Channel, Claim, ClientIdentity, Flags, Greeted, Hello,
        Kem, M1, NodeChannelKey, NodeIdentity, R1, Received, RecordType, Resume, SessionDelegation, Shape,
        Sid, Ticket, VerifiedNode, Welcome, encode, prologue,
    },
};
use rand_chacha::ChaCha20Rng;
use rand_core::Rng as _;
use v2_support::{
    draw,
    noise::{ChaChaPoly, Finished, Side, key_of, public},
    portable::{self, Portable},
    reference as r, rng,
};

const NOW: u64 = 1_800_000_000;
const RUNS: u32 = 100;

/// Below a bound.
fn below(rng: &mut ChaCha20Rng, bound: u32) -> u32 {
    rng.next_u32() % bound
}

fn coin(rng: &mut ChaCha20Rng) -> bool {
    below(rng, 2) == 1
}

fn key(bytes: &[u8; 32]) -> PrivateKey {
    PrivateKey::try_from(bytes).unwrap()
}

/// A list of versions in which there is a 2: up to eight, of up to sixteen characters.
fn versions(rng: &mut ChaCha20Rng) -> Vec<String> {
    let graphic: Vec<char> = (b'!'..=b'~').filter(|byte| *byte != b',').map(char::from).collect();
    let others = below(rng, 8);
    let mut word = || {
        let length = 1 + below(rng, 16);
        (0..length).map(|_| graphic[usize::try_from(rng.next_u32()).unwrap() % graphic.len()]).collect()
    };
    let mut list: Vec<String> = (0..others).map(|_| word()).collect();
    let place = usize::try_from(below(rng, others + 1)).unwrap();
    list.insert(place, "2".to_owned());
    list
}

fn received(rng: &mut ChaCha20Rng) -> Vec<Received> {
    (0..below(rng, 40)).map(|_| Received(rng.next_u32(), rng.next_u32())).collect()
}

fn shape(rng: &mut ChaCha20Rng) -> Shape {
    if coin(rng) { Shape::Bucket } else { Shape::Off }
}

/// Text of any length that fits, with characters that take one byte to four.
fn words(rng: &mut ChaCha20Rng, most: u32) -> String {
    let letters = ['a', '"', 'é', '\u{0}', '世', '🦀'];
    (0..below(rng, most)).map(|_| letters[usize::try_from(rng.next_u32()).unwrap() % letters.len()]).collect()
}

fn hello(rng: &mut ChaCha20Rng) -> Hello {
    let claim = coin(rng).then(|| Claim { session: Sid::from(draw(rng)), received: received(rng) });
    Hello { client: words(rng, 300), shape: shape(rng), ticket: coin(rng), claim }
}

/// Everything that two sides bring.
struct Given {
    identity: PrivateKey,
    channel: [u8; 32],
    chain_id: u64,
    versions: Vec<String>,
    own: [u8; 32],
    ephemeral: [u8; 32],
    client: ClientIdentity,
    hello: Hello,
}

impl Given {
    fn new(rng: &mut ChaCha20Rng) -> Self {
        let identity = PrivateKey::random(rng);
        let own = draw(rng);
        let wallet = PrivateKey::random(rng);
        let delegation = SessionDelegation {
            wallet: wallet.address(),
            delegate_key: key(&own).public_key(),
            node: coin(rng).then(|| identity.address()),
            not_before: NOW,
            not_after: NOW + u64::from(rng.next_u32() % 2_592_000),
        };
        let delegation = coin(rng).then(|| delegation.sign(&wallet).unwrap());
        let client = ClientIdentity { key: Arc::new(key(&own)), delegation };
        // Small numbers and large ones.
        let chain_id = rng.next_u64() >> (11 + below(rng, 53));
        Self {
            identity,
            channel: draw(rng),
            chain_id,
            versions: versions(rng),
            own,
            ephemeral: draw(rng),
            client,
            hello: hello(rng),
        }
    }

    fn prologue(&self) -> Vec<u8> {
        r::prologue(&self.versions, self.chain_id, self.identity.address().as_bytes())
    }

    fn verified(&self) -> VerifiedNode {
        let channel_key = key(&self.channel).public_key();
        let certificate = NodeChannelKey::made_at(NOW, channel_key, 1);
        let signature = self.identity.sign(&certificate.digest(self.chain_id)).unwrap();
        let node = NodeIdentity {
            address: self.identity.address(),
            chain_id: self.chain_id,
            channel_key,
            certificate: certificate.with_signature(signature),
            rotation: None,
        };
        let shown = Advertisement { e2ee: self.versions.clone(), node: Some(node) };
        shown.verify(self.identity.address(), NOW).unwrap()
    }

    /// What message 3 carries.
    fn payload(&self) -> Vec<u8> {
        let delegation = self.client.delegation.as_ref().map(|signed| signed.to_bytes().to_vec());
        r::payload(&[&delegation.unwrap_or_default(), &encode(&self.hello)])
    }
}

/// Both sides' names, keys and tickets are the same.
fn same(channel: &Channel, theirs: &Finished, node: bool) {
    assert_eq!(channel.sid, Sid::from(r::sid(&theirs.state)));
    let (id, psk) = r::ticket(&theirs.state);
    assert_eq!((channel.ticket.id(), channel.ticket.expose_psk()), (&id, &psk));
    let (to_node, to_client) = (key_of(&theirs.to_node), key_of(&theirs.to_client));
    let (send, receive) = if node { (to_client, to_node) } else { (to_node, to_client) };
    assert_eq!(channel.sealer.expose_key(), &send);
    assert_eq!(channel.opener.expose_key(), Some(&receive));
}

/// Records both ways, the first under the keys of the handshake and counter 0, then others across new keys.
fn talk(channel: &mut Channel, mut theirs: Finished, node: bool, rng: &mut ChaCha20Rng) -> u32 {
    let sid = r::sid(&theirs.state);
    let (sent, heard) = if node { (RecordType::Event, 1) } else { (RecordType::Request, 3) };
    let (from, to) = (u8::from(node), u8::from(!node));
    let rounds = 1 + below(rng, 6);
    for index in 0..rounds {
        let last = coin(rng);
        let flags = if last { Flags::LAST } else { Flags::NONE };
        let body = words(rng, 60);
        let shape = shape(rng);
        channel.sealer.set_shape(shape);
        // What the crate sends.
        let frame = channel.sealer.seal(sent, flags, 7, index, body.as_bytes()).unwrap();
        let kind = if node { 3 } else { 1 };
        let mut plaintext = r::record(kind, u8::from(last), 7, index, body.as_bytes());
        if shape == Shape::Bucket {
            let length = r::bucket(plaintext.len());
            plaintext = r::to_length(plaintext, length);
        }
        let cipher = if node { &mut theirs.to_client } else { &mut theirs.to_node };
        assert_eq!(open(cipher, &r::aad(&sid, from), &frame), plaintext);
        replace(cipher, last);
        assert_eq!(channel.sealer.expose_key(), &key_of(cipher));
        // What it hears.
        let plaintext = r::record(heard, u8::from(last), 7, index, body.as_bytes());
        let cipher = if node { &mut theirs.to_node } else { &mut theirs.to_client };
        let record = channel.opener.open(&seal(cipher, &r::aad(&sid, to), &plaintext)).unwrap();
        assert_eq!((record.request, record.index, record.flags), (7, index, flags));
        assert_eq!(*record.body, body.as_bytes());
        replace(cipher, last);
        assert_eq!(channel.opener.expose_key(), Some(&key_of(cipher)));
    }
    2 * rounds
}

fn replace(cipher: &mut CipherState<ChaChaPoly>, last: bool) {
    if last {
        cipher.rekey().unwrap();
    }
}

fn open(cipher: &mut CipherState<ChaChaPoly>, aad: &[u8], frame: &[u8]) -> Vec<u8> {
    assert_eq!(frame[..2], [2, 6]);
    let mut plaintext = vec![0; frame.len() - 2 - 16];
    cipher.decrypt_with_ad(aad, &frame[2..], &mut plaintext).unwrap();
    plaintext
}

fn seal(cipher: &mut CipherState<ChaChaPoly>, aad: &[u8], plaintext: &[u8]) -> Vec<u8> {
    let mut sealed = vec![0; plaintext.len() + 16];
    cipher.encrypt_with_ad(aad, plaintext, &mut sealed).unwrap();
    r::frame(r::RECORD, &[&sealed])
}

/// clatter begins, the crate is the node.
fn node_of<K: Kem>(run: u32) -> u32 {
    let rng = &mut rng(&format!("the crate is the node, {run}"));
    let given = Given::new(rng);
    let channel_public = public(&given.channel);
    let mut theirs = Side::client(&given.prologue(), channel_public, &given.own, &given.ephemeral);
    assert_eq!(theirs.name(), "Noise_XKpsk3_secp256k1x_ChaChaPoly_SHA256");
    let (kem_key, kem_public) = portable::keygen(draw(rng));
    let m1 = r::frame(r::M1, &[&r::hint(&channel_public), &theirs.write(&kem_public)]);

    let ours = prologue(&given.versions, given.chain_id, given.identity.address()).unwrap();
    let read = M1::read(&m1).unwrap();
    assert_eq!(read.hint, given.verified().hint());
    let opened = read.open(&Arc::new(key(&given.channel)), &ours).unwrap();
    let (m2, awaiting) = opened.respond::<K>(rng).unwrap();

    assert_eq!(m2[..2], [2, r::M2]);
    let ciphertext = theirs.read(&m2[2..]).unwrap().try_into().unwrap();
    theirs.psk(&portable::decapsulate(&kem_key, &ciphertext));
    let m3 = r::frame(r::M3, &[&theirs.write(&given.payload())]);
    let theirs = theirs.finish();

    let Greeted { static_key, delegation, hello, mut channel } = awaiting.finish(&m3).unwrap();
    assert_eq!(static_key.to_bytes(), public(&given.own));
    assert_eq!(delegation, Ok(given.client.delegation.clone()));
    assert_eq!(hello, Some(given.hello));
    same(&channel, &theirs, true);
    talk(&mut channel, theirs, true, rng)
}

/// The crate begins, clatter is the node.
fn client_of<K: Kem>(run: u32) -> u32 {
    let rng = &mut rng(&format!("the crate is the client, {run}"));
    let given = Given::new(rng);
    let (m1, awaiting) = AwaitingM2::<K>::start(&given.verified(), rng).unwrap();
    assert_eq!(m1[..2], [2, r::M1]);
    assert_eq!(m1[2..6], r::hint(&public(&given.channel)));

    let mut theirs = Side::node(&given.prologue(), &given.channel, &given.ephemeral);
    let kem_public = theirs.read(&m1[6..]).unwrap().try_into().unwrap();
    let (ciphertext, secret) = portable::encapsulate(&kem_public, draw(rng)).unwrap();
    let m2 = r::frame(r::M2, &[&theirs.write(&ciphertext)]);
    theirs.psk(&secret);

    let (m3, mut channel) = awaiting.finish(&m2, &given.client, &given.hello, rng).unwrap();
    assert_eq!(m3[..2], [2, r::M3]);
    assert_eq!(theirs.read(&m3[2..]).unwrap(), given.payload());
    assert_eq!(theirs.their_static(), Some(public(&given.own)));
    let theirs = theirs.finish();
    same(&channel, &theirs, false);
    talk(&mut channel, theirs, false, rng)
}

#[test]
fn a_full_handshake_goes_through_with_another_implementation_as_the_client() {
    let records: u32 = (0..RUNS).map(|run| node_of::<AwsLc>(run) + node_of::<Portable>(RUNS + run)).sum();
    assert!(records > 4 * RUNS, "{records}");
}

#[test]
fn a_full_handshake_goes_through_with_another_implementation_as_the_node() {
    let records: u32 = (0..RUNS).map(|run| client_of::<AwsLc>(run) + client_of::<Portable>(RUNS + run)).sum();
    assert!(records > 4 * RUNS, "{records}");
}

fn resume(rng: &mut ChaCha20Rng) -> Resume {
    Resume { received: received(rng), shape: shape(rng) }
}

fn welcome(rng: &mut ChaCha20Rng) -> Welcome {
    let known = coin(rng).then(|| (0..below(rng, 50)).map(|_| rng.next_u32()).collect());
    Welcome { node: words(rng, 200), shape: shape(rng), ticket: coin(rng), known, ..Welcome::default() }
}

#[test]
fn a_resumption_goes_through_with_another_implementation_as_the_client() {
    for run in 0..RUNS {
        let rng = &mut rng(&format!("a node resumes, {run}"));
        let (id, psk) = (draw(rng), draw(rng));
        let (resume, welcome) = (resume(rng), welcome(rng));
        let mut theirs = Side::resuming(true, &r::resume_prologue(&id), &psk, &draw(rng));
        assert_eq!(theirs.name(), "Noise_NNpsk0_secp256k1x_ChaChaPoly_SHA256");
        let r1 = r::frame(r::R1, &[&id, &theirs.write(&r::payload(&[&encode(&resume)]))]);

        let read = R1::read(&r1).unwrap();
        assert_eq!(read.ticket, &id);
        let opened = read.open(&Ticket::of(id, &psk)).unwrap();
        assert_eq!(opened.resume, Some(resume));
        let (r2, mut channel) = opened.respond(&welcome, rng).unwrap();

        assert_eq!(r2[..2], [2, r::R2]);
        assert_eq!(theirs.read(&r2[2..]).unwrap(), r::payload(&[&encode(&welcome)]));
        let theirs = theirs.finish();
        same(&channel, &theirs, true);
        talk(&mut channel, theirs, true, rng);
    }
}

#[test]
fn a_resumption_goes_through_with_another_implementation_as_the_node() {
    for run in 0..RUNS {
        let rng = &mut rng(&format!("a client resumes, {run}"));
        let (id, psk) = (draw(rng), draw(rng));
        let (resume, welcome) = (resume(rng), welcome(rng));
        let (r1, awaiting) = AwaitingR2::start(Ticket::of(id, &psk), &resume, rng).unwrap();
        assert_eq!((&r1[..2], &r1[2..34]), (&[2, r::R1][..], &id[..]));

        let mut theirs = Side::resuming(false, &r::resume_prologue(&id), &psk, &draw(rng));
        assert_eq!(theirs.read(&r1[34..]).unwrap(), r::payload(&[&encode(&resume)]));
        let r2 = r::frame(r::R2, &[&theirs.write(&r::payload(&[&encode(&welcome)]))]);
        let theirs = theirs.finish();

        let (heard, mut channel) = awaiting.finish(&r2).unwrap();
        assert_eq!(heard, welcome);
        same(&channel, &theirs, false);
        talk(&mut channel, theirs, false, rng);
    }
}

/// Runs a program in a folder and gives what it said.
fn said(folder: &Path, program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).current_dir(folder).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program} cannot be run: {error}"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {arguments:?}: {out}{err}");
    out.trim().to_owned()
}

#[test]
fn viem_comes_to_the_same_digests_and_the_same_signers() {
    let tests = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/eip712"));
    if !tests.join("node_modules").is_dir() {
        said(tests, "npm", &["ci", "--no-audit", "--no-fund", "--silent"]);
    }
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../vectors/v2/eip712.json");
    let file: serde_json::Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    let signed = file["signed"].as_array().unwrap();
    let asked = signed.iter().filter(|case| case["typed_data"].is_string()).count();
    assert!(signed.len() >= 30 && asked >= 10, "{} cases, {asked} of them asked for", signed.len());
    let all = signed.len();
    let expected = format!("viem agrees: {all} digests, {all} signatures, {asked} requests to a wallet");
    assert_eq!(said(tests, "node", &["check.mjs"]).lines().last(), Some(expected.as_str()));
}
