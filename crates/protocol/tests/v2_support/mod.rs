//! Version 2 written a second time: Noise by the crate `clatter`, everything around it by hand. What checks the crate
//! is not made by it.
#![allow(dead_code, reason = "each test crate uses its part of this")]

pub(crate) mod noise;
pub(crate) mod portable;
pub(crate) mod reference;

use rand_chacha::ChaCha20Rng;
use rand_core::{Rng as _, SeedableRng as _};
use sha2::{Digest, Sha256};

/// A generator that hangs on its label and on nothing else, so that a new case changes no other.
pub(crate) fn rng(label: &str) -> ChaCha20Rng {
    ChaCha20Rng::from_seed(Sha256::digest(format!("fabstir v2 vectors|{label}")).into())
}

/// The next bytes of a generator.
pub(crate) fn draw<const N: usize>(rng: &mut ChaCha20Rng) -> [u8; N] {
    let mut bytes = [0; N];
    rng.fill_bytes(&mut bytes);
    bytes
}
