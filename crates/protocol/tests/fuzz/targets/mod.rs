//! What is fuzzed: one function for each target, called by libFuzzer (fuzz/fuzz_targets) and by the test that replays
//! the corpora. Everything is the same in every run: no clock, no randomness but that of fixed seeds.
#![allow(
    dead_code,
    unused_qualifications,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a target is meant to panic on what must not be, and each crate that has these uses its part"
)]

pub(crate) mod model;
pub(crate) mod peers;
pub(crate) mod v1_frames;
pub(crate) mod v1_sessions;
pub(crate) mod v2_certificates;
pub(crate) mod v2_handshake;
pub(crate) mod v2_records;
pub(crate) mod v2_resumption;
#[path = "../../v2_support/mod.rs"]
pub(crate) mod v2_support;

/// Bytes read as choices: zeros once they are spent, so that any input means something.
pub(crate) struct Bytes<'a>(pub(crate) &'a [u8]);

impl<'a> Bytes<'a> {
    pub(crate) fn more(&self) -> bool {
        !self.0.is_empty()
    }

    pub(crate) fn take(&mut self, most: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(most.min(self.0.len()));
        self.0 = rest;
        taken
    }

    pub(crate) fn array<const N: usize>(&mut self) -> [u8; N] {
        let taken = self.take(N);
        std::array::from_fn(|at| taken.get(at).copied().unwrap_or(0))
    }

    pub(crate) fn byte(&mut self) -> u8 {
        u8::from_be_bytes(self.array())
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.array())
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.array())
    }

    pub(crate) fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.array())
    }

    /// A number below `below`, or 0.
    pub(crate) fn below(&mut self, below: usize) -> usize {
        usize::from(self.u16()) % below.max(1)
    }

    /// A few bytes behind their length.
    pub(crate) fn chunk(&mut self) -> &'a [u8] {
        let length = self.byte();
        self.take(length.into())
    }

    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}

/// Most changes of one message.
const MOST_EDITS: usize = 12;

/// A message changed as the bytes say; `others` are messages that parts may be taken of.
pub(crate) fn bend(real: &[u8], others: &[&[u8]], bytes: &mut Bytes<'_>) -> Vec<u8> {
    let mut bent = real.to_vec();
    for _ in 0..MOST_EDITS {
        if !bytes.more() {
            break;
        }
        let (what, at) = (bytes.byte() % 8, bytes.below(bent.len()));
        match what {
            0 if !bent.is_empty() => bent[at] ^= 1 << (bytes.byte() % 8),
            1 if !bent.is_empty() => bent[at] = bytes.byte(),
            2 => drop(bent.splice(at..at, bytes.chunk().iter().copied())),
            3 => {
                let end = at.saturating_add(bytes.byte().into()).min(bent.len());
                bent.drain(at..end);
            }
            4 => bent.truncate(at),
            5 => bent.extend_from_slice(bytes.chunk()),
            6 => {
                // The same place of another message.
                let length = bytes.below(2048);
                let other = others.get(bytes.below(others.len())).copied().unwrap_or_default();
                let end = at.saturating_add(length).min(bent.len()).min(other.len());
                if at < end {
                    bent[at..end].copy_from_slice(&other[at..end]);
                }
            }
            7 => {
                let other = bytes.below(bent.len());
                if !bent.is_empty() {
                    bent.swap(at, other);
                }
            }
            _ => {}
        }
    }
    bent
}

/// The parts of a handshake's payload, read a second time: behind their lengths, zeros up to the smallest of the four
/// sizes.
pub(crate) fn parts(payload: &[u8], count: usize) -> Option<Vec<Vec<u8>>> {
    let mut parts = Vec::new();
    let mut at = 0;
    for _ in 0..count {
        let length = payload.get(at..at + 2)?;
        at += 2;
        let length = usize::from(length[0]) * 256 + usize::from(length[1]);
        parts.push(payload.get(at..at + length)?.to_vec());
        at += length;
    }
    let size = [512, 1024, 2048, 4096].into_iter().find(|size| at <= *size)?;
    (payload.len() == size && payload[at..].iter().all(|byte| *byte == 0)).then_some(parts)
}

/// A payload of the fuzzer's: parts behind their lengths and zeros, sound or not.
pub(crate) fn payload(parts: &[&[u8]], bytes: &mut Bytes<'_>) -> Vec<u8> {
    let how = bytes.byte();
    let mut payload = v2_support::reference::parts(parts);
    let bent = bytes.below(payload.len());
    let lie = bytes.byte();
    if how & 1 != 0 {
        payload[bent] ^= lie;
    }
    let size = [512, 1024, 2048, 4096].into_iter().find(|size| payload.len() <= *size).unwrap_or(4096);
    let size = if how & 2 != 0 { 256 << (lie % 6) } else { size };
    payload.resize(if how & 4 != 0 { size.saturating_add(lie.into()) } else { size }, 0);
    if how & 8 != 0
        && let Some(last) = payload.last_mut()
    {
        *last = lie;
    }
    payload
}
