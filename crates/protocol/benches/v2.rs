//! What version 2 costs either side, on one core: `cargo bench -p fabstir-protocol --bench v2`.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "a benchmark measures what works")]

use std::sync::Arc;

use divan::{Bencher, black_box};
use fabstir_protocol::{
    identity::PrivateKey,
    v2::{
        Advertisement, AwaitingM2, AwaitingR2, AwsLc, Channel, ClientIdentity, Direction, Flags, Greeted,
        Hello, M1, NodeChannelKey, NodeIdentity, Opener, R1, RecordType, Resume, Sealer, SessionDelegation,
        Shape, Sid, VerifiedNode, Welcome, prologue,
    },
};

const NOW: u64 = 1_800_000_000;

fn main() {
    divan::main();
}

fn rng() -> impl rand_core::CryptoRng {
    rand_core::UnwrapErr(getrandom::SysRng)
}

struct Pair {
    identity: PrivateKey,
    channel: Arc<PrivateKey>,
    client: ClientIdentity,
    shown: Advertisement,
}

impl Pair {
    fn new() -> Self {
        let identity = PrivateKey::random(&mut rng());
        let channel = Arc::new(PrivateKey::random(&mut rng()));
        let wallet = PrivateKey::random(&mut rng());
        let key = Arc::new(PrivateKey::random(&mut rng()));
        let delegation = SessionDelegation {
            wallet: wallet.address(),
            delegate_key: key.public_key(),
            node: Some(identity.address()),
            not_before: NOW,
            not_after: NOW + 3600,
        };
        let client = ClientIdentity { key, delegation: Some(delegation.sign(&wallet).unwrap()) };
        let certificate = NodeChannelKey::made_at(NOW, channel.public_key(), 1);
        let signature = identity.sign(&certificate.digest(1)).unwrap();
        let node = NodeIdentity {
            address: identity.address(),
            chain_id: 1,
            channel_key: channel.public_key(),
            certificate: certificate.with_signature(signature),
            rotation: None,
        };
        let shown = Advertisement { e2ee: vec!["2".into(), "1".into()], node: Some(node) };
        Self { identity, channel, client, shown }
    }

    fn verified(&self) -> VerifiedNode {
        self.shown.verify(self.identity.address(), NOW).unwrap()
    }

    fn prologue(&self) -> Vec<u8> {
        prologue(&self.shown.e2ee, 1, self.identity.address()).unwrap()
    }

    fn channels(&self) -> (Channel, Greeted) {
        let (m1, waiting) = AwaitingM2::<AwsLc>::start(&self.verified(), &mut rng()).unwrap();
        let opened = M1::read(&m1).unwrap().open(&self.channel, &self.prologue()).unwrap();
        let (m2, awaiting) = opened.respond::<AwsLc>(&mut rng()).unwrap();
        let (m3, channel) = waiting.finish(&m2, &self.client, &Hello::default(), &mut rng()).unwrap();
        (channel, awaiting.finish(&m3).unwrap())
    }
}

/// The node's side of a handshake: m1 opened, m2 made, m3 opened, the delegation verified.
#[divan::bench]
fn handshake_of_the_node(bencher: Bencher<'_, '_>) {
    let pair = Pair::new();
    let prologue = pair.prologue();
    // What the node does is timed by itself: the client's part is made beforehand, up to message 2.
    bencher
        .with_inputs(|| AwaitingM2::<AwsLc>::start(&pair.verified(), &mut rng()).unwrap())
        .bench_local_values(|(m1, waiting)| {
            let opened = M1::read(black_box(&m1)).unwrap().open(&pair.channel, &prologue).unwrap();
            (opened.respond::<AwsLc>(&mut rng()).unwrap(), waiting)
        });
}

#[divan::bench]
fn third_message_at_the_node(bencher: Bencher<'_, '_>) {
    let pair = Pair::new();
    bencher
        .with_inputs(|| {
            let (m1, waiting) = AwaitingM2::<AwsLc>::start(&pair.verified(), &mut rng()).unwrap();
            let opened = M1::read(&m1).unwrap().open(&pair.channel, &pair.prologue()).unwrap();
            let (m2, awaiting) = opened.respond::<AwsLc>(&mut rng()).unwrap();
            (waiting.finish(&m2, &pair.client, &Hello::default(), &mut rng()).unwrap().0, awaiting)
        })
        .bench_local_values(|(m3, awaiting)| awaiting.finish(black_box(&m3)).unwrap());
}

/// Once for each certificate: its verdict is kept.
#[divan::bench]
fn verifying_a_delegation(bencher: Bencher<'_, '_>) {
    let pair = Pair::new();
    let (signed, key) = (pair.client.delegation.clone().unwrap(), pair.client.key.public_key());
    bencher.bench_local(|| black_box(&signed).verify(&key, pair.identity.address(), NOW).unwrap());
}

/// A message 1 for another node: what a flood of them costs.
#[divan::bench]
fn garbage_m1(bencher: Bencher<'_, '_>) {
    let (pair, other) = (Pair::new(), Pair::new());
    let (m1, _) = AwaitingM2::<AwsLc>::start(&other.verified(), &mut rng()).unwrap();
    let prologue = pair.prologue();
    bencher.bench_local(|| M1::read(black_box(&m1)).unwrap().open(&pair.channel, &prologue).is_err());
}

/// The client's side, with the node's certificate checked.
#[divan::bench]
fn handshake_of_the_client(bencher: Bencher<'_, '_>) {
    let pair = Pair::new();
    let prologue = pair.prologue();
    bencher.bench_local(|| {
        let (m1, waiting) = AwaitingM2::<AwsLc>::start(&pair.verified(), &mut rng()).unwrap();
        // The node's part is in here too: subtract it.
        let opened = M1::read(&m1).unwrap().open(&pair.channel, &prologue).unwrap();
        let (m2, _) = opened.respond::<AwsLc>(&mut rng()).unwrap();
        waiting.finish(&m2, &pair.client, &Hello::default(), &mut rng()).unwrap()
    });
}

/// The node's side of a resumption.
#[divan::bench]
fn resumption_at_the_node(bencher: Bencher<'_, '_>) {
    let pair = Pair::new();
    bencher
        .with_inputs(|| {
            let (ours, theirs) = pair.channels();
            let (r1, _) = AwaitingR2::start(ours.ticket, &Resume::default(), &mut rng()).unwrap();
            (r1, theirs.channel.ticket)
        })
        .bench_local_values(|(r1, ticket)| {
            let opened = R1::read(black_box(&r1)).unwrap().open(&ticket).unwrap();
            opened.respond(&Welcome::default(), &mut rng()).unwrap()
        });
}

fn halves(shape: Shape) -> (Sealer, Opener) {
    let sid = Sid::from([5; 16]);
    let mut sealer = Sealer::at(&[7; 32], 0, sid, Direction::ToClient);
    sealer.set_shape(shape);
    (sealer, Opener::at(&[7; 32], 0, sid, Direction::ToClient))
}

/// One token of four bytes, sealed and in its frame.
#[divan::bench(args = [Shape::Off, Shape::Bucket])]
fn sealing_a_token(bencher: Bencher<'_, '_>, shape: Shape) {
    let (mut sealer, _) = halves(shape);
    bencher.bench_local(|| sealer.seal(RecordType::Text, Flags::NONE, 1, 0, black_box(b"word")).unwrap());
}

#[divan::bench]
fn opening_a_token(bencher: Bencher<'_, '_>) {
    let (mut sealer, mut opener) = halves(Shape::Bucket);
    bencher
        .with_inputs(|| sealer.seal(RecordType::Text, Flags::NONE, 1, 0, b"word").unwrap())
        .bench_local_values(|frame| opener.open(black_box(&frame)).unwrap());
}
