//! One operation so many times, for callgrind to count: `counts OPERATION TIMES`. What a run with no times costs is
//! making things ready.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "a benchmark measures what works")]

mod support;

use std::hint::black_box;

use fabstir_protocol::{
    identity::PrivateKey,
    v1::{ClientFrame, Dialect, Inbound, NodeFrame},
};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng as _;
use support::{init, open};

/// The same keys and nonces in every run, so that counts differ by what is measured.
fn rng() -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(7)
}

fn main() {
    let arguments: Vec<String> = std::env::args().filter(|argument| argument != "--bench").collect();
    let [_, operation, times] = arguments.as_slice() else { return };
    let times: usize = times.parse().unwrap();
    let node = PrivateKey::random(&mut ChaCha8Rng::seed_from_u64(1));
    let (frame, mut client) = init(&node, Dialect::Deployed, &mut rng());
    let mut established = open(&node, &frame);
    match operation.as_str() {
        "init" => {
            for _ in 0..times {
                black_box(open(&node, black_box(&frame)));
            }
        }
        "chunk" => {
            let (mut answer, mut nonces) = (established.session.answer(), rng());
            for _ in 0..times {
                let (index, payload) = answer.chunk(black_box("word"), &mut nonces).unwrap();
                let frame = NodeFrame::EncryptedChunk {
                    session_id: "1",
                    tokens: 1,
                    payload,
                    index,
                    last: false,
                    id: None,
                };
                black_box(frame.encode());
            }
        }
        "message" => {
            // Sealed before they are counted: both runs seal as many.
            let mut nonces = rng();
            let frames: Vec<String> =
                (0..100).map(|_| client.message(&[b'x'; 200], &mut nonces).unwrap()).collect();
            for frame in frames.iter().take(times) {
                let Ok(Inbound { frame: ClientFrame::Message(_, raw), .. }) = Inbound::decode(frame) else {
                    panic!()
                };
                black_box(established.session.open(&raw.read().unwrap()).unwrap());
            }
        }
        other => panic!("{other} is no operation: init, chunk, message"),
    }
}
