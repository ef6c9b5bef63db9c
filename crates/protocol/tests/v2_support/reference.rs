//! What version 2 puts around Noise: frames, payloads, records, keys after keys, typed data.

use chacha20poly1305::{
    ChaCha20Poly1305, KeyInit as _,
    aead::{Aead as _, Payload},
};
use hmac::{Hmac, Mac as _};
use sha2::{Digest as _, Sha256};
use sha3::Keccak256;

use super::noise::{State, nonce};

pub(crate) const M1: u8 = 1;
pub(crate) const M2: u8 = 2;
pub(crate) const M3: u8 = 3;
pub(crate) const R1: u8 = 4;
pub(crate) const R2: u8 = 5;
pub(crate) const RECORD: u8 = 6;

const RESUME: &[u8] = b"fabstir-e2ee/2 resume";

/// `02 ‖ kind`, then the parts.
pub(crate) fn frame(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    [&[2, kind], parts.concat().as_slice()].concat()
}

pub(crate) fn prologue(versions: &[String], chain_id: u64, node: &[u8; 20]) -> Vec<u8> {
    let versions = versions.join(",");
    let length = u16::try_from(versions.len()).unwrap();
    let parts: [&[u8]; 5] =
        [b"fabstir-e2ee/2", &chain_id.to_be_bytes(), node, &length.to_be_bytes(), versions.as_bytes()];
    parts.concat()
}

pub(crate) fn resume_prologue(ticket: &[u8; 32]) -> Vec<u8> {
    [RESUME, ticket].concat()
}

/// Which channel key message 1 is for.
pub(crate) fn hint(channel: &[u8; 33]) -> [u8; 4] {
    Sha256::digest(channel)[..4].try_into().unwrap()
}

/// Parts behind their lengths.
pub(crate) fn parts(parts: &[&[u8]]) -> Vec<u8> {
    let with_length = |part: &&[u8]| [&u16::try_from(part.len()).unwrap().to_be_bytes(), *part].concat();
    parts.iter().flat_map(with_length).collect()
}

/// With zeros up to a length.
pub(crate) fn to_length(mut bytes: Vec<u8>, length: usize) -> Vec<u8> {
    assert!(bytes.len() <= length);
    bytes.resize(length, 0);
    bytes
}

/// A handshake's payload: 512 bytes, or 1024, 2048, 4096.
pub(crate) fn payload(given: &[&[u8]]) -> Vec<u8> {
    let bytes = parts(given);
    let length = [512, 1024, 2048, 4096].into_iter().find(|length| bytes.len() <= *length).unwrap();
    to_length(bytes, length)
}

fn hmac(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

/// The ticket's name and secret: HKDF of Noise, spelled out, over the label and the hash.
pub(crate) fn ticket(state: &State) -> ([u8; 32], [u8; 32]) {
    let key = hmac(&state.chaining_key, &[RESUME, &state.hash]);
    let id = hmac(&key, &[&[1]]);
    (id, hmac(&key, &[&id, &[2]]))
}

pub(crate) fn sid(state: &State) -> [u8; 16] {
    state.hash[..16].try_into().unwrap()
}

/// 0 to the node, 1 to the client.
pub(crate) fn aad(sid: &[u8; 16], direction: u8) -> Vec<u8> {
    [sid.as_slice(), &[direction, 2, RECORD]].concat()
}

/// A record before its padding.
pub(crate) fn record(kind: u8, flags: u8, request: u32, index: u32, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap();
    let parts: [&[u8]; 5] =
        [&[kind, flags], &request.to_be_bytes(), &index.to_be_bytes(), &length.to_be_bytes(), body];
    parts.concat()
}

/// The bucket of a record's plaintext.
pub(crate) fn bucket(length: usize) -> usize {
    let doublings = (5..=15).map(|power| 1 << power);
    doublings.chain([49152]).find(|bucket| length <= *bucket).unwrap()
}

/// ChaCha20-Poly1305 under a counter.
pub(crate) fn seal(key: &[u8; 32], n: u64, aad: &[u8], msg: &[u8]) -> Vec<u8> {
    ChaCha20Poly1305::new(key.into()).encrypt(&nonce(n).into(), Payload { msg, aad }).unwrap()
}

/// The frame of a record.
pub(crate) fn seal_record(key: &[u8; 32], n: u64, aad: &[u8], plaintext: &[u8]) -> Vec<u8> {
    frame(RECORD, &[&seal(key, n, aad, plaintext)])
}

/// REKEY of Noise, section 4.2.
pub(crate) fn rekey(key: &[u8; 32]) -> [u8; 32] {
    seal(key, u64::MAX, &[], &[0; 32])[..32].try_into().unwrap()
}

pub(crate) fn keccak(parts: &[&[u8]]) -> [u8; 32] {
    Keccak256::digest(parts.concat()).into()
}

/// A number or an address as EIP-712 writes it: 32 bytes, aligned to the right.
pub(crate) fn word(bytes: &[u8]) -> [u8; 32] {
    let mut word = [0; 32];
    word[32 - bytes.len()..].copy_from_slice(bytes);
    word
}

/// EIP-712: the separator of the domain, with a chain or without.
pub(crate) fn domain_separator(chain_id: Option<u64>) -> [u8; 32] {
    let (name, version) = (keccak(&[b"Fabstir E2EE"]), keccak(&[b"2"]));
    match chain_id {
        None => keccak(&[&keccak(&[b"EIP712Domain(string name,string version)"]), &name, &version]),
        Some(chain_id) => {
            let kind = keccak(&[b"EIP712Domain(string name,string version,uint256 chainId)"]);
            keccak(&[&kind, &name, &version, &word(&chain_id.to_be_bytes())])
        }
    }
}

/// EIP-712: `hashStruct`, and the digest that is signed.
pub(crate) fn typed_digest(domain: &[u8; 32], kind: &str, words: &[[u8; 32]]) -> ([u8; 32], [u8; 32]) {
    let hash = keccak(&[&keccak(&[kind.as_bytes()]), words.concat().as_slice()]);
    (hash, keccak(&[b"\x19\x01", domain, &hash]))
}
