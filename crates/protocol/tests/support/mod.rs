//! What the integration tests share: a generator that repeats, the protocol written a second time, and a node.
#![allow(dead_code, reason = "each test crate uses its part of this")]

pub(crate) mod node;
pub(crate) mod reference;

use std::convert::Infallible;

use rand_core::{TryCryptoRng, TryRng};
use sha2::{Digest, Sha256};

pub(crate) fn hex(bytes: impl AsRef<[u8]>) -> String {
    const_hex::encode(bytes)
}

pub(crate) fn unhex(text: &str) -> Vec<u8> {
    const_hex::decode(text).unwrap()
}

pub(crate) fn unhex_array<const N: usize>(text: &str) -> [u8; N] {
    unhex(text).try_into().unwrap()
}

/// Bytes that look random, are public, and are the same in every run.
pub(crate) fn fixed<const N: usize>(label: &str) -> [u8; N] {
    let hash = Sha256::digest(format!("fabstir v1 vectors|{label}"));
    std::array::from_fn(|i| hash[i])
}

/// Hands out the bytes that it was given, in order, then a stream that repeats from run to run.
pub(crate) struct Script {
    given: Vec<u8>,
    blocks: u64,
    seed: String,
}

impl Script {
    pub(crate) fn seeded(seed: &str) -> Self {
        Self { given: Vec::new(), blocks: 0, seed: seed.to_owned() }
    }

    pub(crate) fn of(parts: &[&[u8]]) -> Self {
        Self { given: parts.concat(), ..Self::seeded("after the script") }
    }
}

impl TryRng for Script {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, dst: &mut [u8]) -> Result<(), Infallible> {
        while self.given.len() < dst.len() {
            self.given.extend(fixed::<32>(&format!("{}|{}", self.seed, self.blocks)));
            self.blocks += 1;
        }
        dst.copy_from_slice(&self.given[..dst.len()]);
        self.given.drain(..dst.len());
        Ok(())
    }
}

impl TryCryptoRng for Script {}
