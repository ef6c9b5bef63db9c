//! What version 1 costs a node, on one core: `cargo bench -p fabstir-protocol`.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "a benchmark measures what works")]

mod support;

use divan::{Bencher, black_box};
use fabstir_protocol::{
    identity::PrivateKey,
    v1::{ClientFrame, Dialect, Inbound, NodeFrame},
};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng as _;
use support::{init, open};

fn main() {
    divan::main();
}

fn rng() -> impl rand_core::CryptoRng {
    rand_core::UnwrapErr(getrandom::SysRng)
}

/// From the text of the frame to an authenticated session.
#[divan::bench(args = Dialect::ALL)]
fn session_init(bencher: Bencher<'_, '_>, dialect: Dialect) {
    let node = PrivateKey::random(&mut rng());
    let (frame, _) = init(&node, dialect, &mut rng());
    bencher.bench_local(|| open(&node, black_box(&frame)));
}

/// A well-formed init for another node: what a flood of them costs.
#[divan::bench]
fn garbage_init(bencher: Bencher<'_, '_>) {
    let node = PrivateKey::random(&mut rng());
    let (frame, _) = init(&PrivateKey::random(&mut rng()), Dialect::Deployed, &mut rng());
    bencher.bench_local(|| {
        let Ok(Inbound { frame: ClientFrame::SessionInit(id, raw), .. }) = Inbound::decode(black_box(&frame))
        else {
            panic!()
        };
        raw.read(id).unwrap().open(&node).is_err()
    });
}

/// One token of four bytes, sealed and in its frame.
#[divan::bench]
fn chunk(bencher: Bencher<'_, '_>) {
    let node = PrivateKey::random(&mut rng());
    let (frame, _) = init(&node, Dialect::Deployed, &mut rng());
    let mut answer = open(&node, &frame).session.answer();
    // As the node draws them: from a generator that the system has seeded.
    let mut nonces = ChaCha8Rng::from_rng(&mut rng());
    bencher.bench_local(|| {
        let (index, payload) = answer.chunk(black_box("word"), &mut nonces).unwrap();
        NodeFrame::EncryptedChunk { session_id: "1", tokens: 1, payload, index, last: false, id: None }
            .encode()
    });
}

/// A message of 200 bytes, from the text of the frame to the plaintext.
#[divan::bench]
fn message(bencher: Bencher<'_, '_>) {
    let node = PrivateKey::random(&mut rng());
    let (frame, mut client) = init(&node, Dialect::Deployed, &mut rng());
    let mut session = open(&node, &frame).session;
    bencher.with_inputs(|| client.message(&[b'x'; 200], &mut rng()).unwrap()).bench_local_values(|frame| {
        let Ok(Inbound { frame: ClientFrame::Message(_, raw), .. }) = Inbound::decode(&frame) else {
            panic!()
        };
        session.open(&raw.read().unwrap()).is_ok()
    });
}
