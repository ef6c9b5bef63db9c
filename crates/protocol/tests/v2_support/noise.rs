//! Noise by `clatter`, over k256 and RustCrypto's primitives where the crate uses libsecp256k1 and AWS-LC.

use chacha20poly1305::{
    ChaCha20Poly1305, KeyInit as _,
    aead::{Aead as _, Payload},
};
use clatter::{
    Handshaker as _, KeyPair, NqHandshakeCore,
    cipherstate::CipherState,
    error::{CipherError, CipherResult, DhError, DhResult},
    handshakepattern::{HandshakePattern, noise_nn_psk0, noise_xk_psk3},
    rand_core::{self, RngCore},
    traits::{Cipher, CryptoComponent, Dh, Hash, Rng},
};
use k256::{PublicKey, SecretKey, ecdh::diffie_hellman, elliptic_curve::sec1::ToSec1Point as _};
use sha2::Digest as _;

/// The Diffie-Hellman of the protocol's name: compressed points, and the x coordinate of the shared one.
#[derive(Clone)]
pub(crate) enum Secp256k1x {}

impl CryptoComponent for Secp256k1x {
    fn name() -> &'static str {
        "secp256k1x"
    }
}

impl Dh for Secp256k1x {
    type PrivateKey = [u8; 32];
    type PubKey = [u8; 33];
    type Output = [u8; 32];

    fn genkey_rng<R: Rng>(_: &mut R) -> DhResult<KeyPair<[u8; 33], [u8; 32]>> {
        unreachable!("every ephemeral key is given")
    }

    fn pubkey(key: &[u8; 32]) -> [u8; 33] {
        let key = SecretKey::from_slice(key).unwrap().public_key();
        key.to_sec1_point(true).as_bytes().try_into().unwrap()
    }

    fn dh(ours: &[u8; 32], theirs: &[u8; 33]) -> DhResult<[u8; 32]> {
        let ours = SecretKey::from_slice(ours).map_err(|_| DhError::KeyGeneration)?;
        let theirs = PublicKey::from_sec1_bytes(theirs).map_err(|_| DhError::KeyGeneration)?;
        let shared = diffie_hellman(ours.to_nonzero_scalar(), theirs.as_affine());
        Ok((*shared.raw_secret_bytes()).into())
    }
}

#[derive(Clone)]
pub(crate) enum ChaChaPoly {}

impl CryptoComponent for ChaChaPoly {
    fn name() -> &'static str {
        "ChaChaPoly"
    }
}

/// Section 12.3: four bytes of zeros, then the counter in little-endian.
pub(crate) fn nonce(n: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&n.to_le_bytes());
    nonce
}

impl Cipher for ChaChaPoly {
    type Key = [u8; 32];

    fn tag_len() -> usize {
        16
    }

    fn encrypt(key: &[u8; 32], n: u64, aad: &[u8], msg: &[u8], out: &mut [u8]) -> CipherResult<()> {
        let cipher = ChaCha20Poly1305::new(key.into());
        let sealed = cipher.encrypt(&nonce(n).into(), Payload { msg, aad });
        out.copy_from_slice(&sealed.map_err(|_| CipherError::Encrypt)?);
        Ok(())
    }

    fn decrypt(key: &[u8; 32], n: u64, aad: &[u8], msg: &[u8], out: &mut [u8]) -> CipherResult<()> {
        let cipher = ChaCha20Poly1305::new(key.into());
        let opened = cipher.decrypt(&nonce(n).into(), Payload { msg, aad });
        out.copy_from_slice(&opened.map_err(|_| CipherError::Decrypt)?);
        Ok(())
    }

    fn encrypt_in_place(_: &[u8; 32], _: u64, _: &[u8], _: &mut [u8], _: usize) -> CipherResult<usize> {
        unreachable!("a handshake does not seal in place")
    }

    fn decrypt_in_place(_: &[u8; 32], _: u64, _: &[u8], _: &mut [u8], _: usize) -> CipherResult<usize> {
        unreachable!("a handshake does not open in place")
    }
}

#[derive(Clone, Default)]
pub(crate) struct Sha256(sha2::Sha256);

impl CryptoComponent for Sha256 {
    fn name() -> &'static str {
        "SHA256"
    }
}

impl Hash for Sha256 {
    type Block = [u8; 64];
    type Output = [u8; 32];

    fn input(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn result(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

/// Nothing is drawn: who draws all the same is told.
#[derive(Clone, Default)]
pub(crate) struct Given;

impl RngCore for Given {
    fn next_u32(&mut self) -> u32 {
        unreachable!("every ephemeral key is given")
    }

    fn next_u64(&mut self) -> u64 {
        unreachable!("every ephemeral key is given")
    }

    fn fill_bytes(&mut self, _: &mut [u8]) {
        unreachable!("every ephemeral key is given")
    }

    fn try_fill_bytes(&mut self, _: &mut [u8]) -> Result<(), rand_core::Error> {
        unreachable!("every ephemeral key is given")
    }
}

impl rand_core::CryptoRng for Given {}

pub(crate) fn public(key: &[u8; 32]) -> [u8; 33] {
    Secp256k1x::pubkey(key)
}

fn pair(key: &[u8; 32]) -> KeyPair<[u8; 33], [u8; 32]> {
    KeyPair::new(public(key), *key)
}

/// The chaining key and the hash, which clatter shows after every message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct State {
    pub(crate) chaining_key: [u8; 32],
    pub(crate) hash: [u8; 32],
}

/// What a handshake leaves.
pub(crate) struct Finished {
    pub(crate) state: State,
    pub(crate) to_node: CipherState<ChaChaPoly>,
    pub(crate) to_client: CipherState<ChaChaPoly>,
}

/// The key of a cipher state that stays.
pub(crate) fn key_of(cipher: &CipherState<ChaChaPoly>) -> [u8; 32] {
    cipher.clone().take().0
}

/// One side of a handshake. The client begins, always.
#[derive(Clone)]
pub(crate) struct Side(NqHandshakeCore<Secp256k1x, ChaChaPoly, Sha256, Given>);

impl Side {
    fn new(
        pattern: HandshakePattern,
        prologue: &[u8],
        initiator: bool,
        own: Option<KeyPair<[u8; 33], [u8; 32]>>,
        ephemeral: &[u8; 32],
        theirs: Option<[u8; 33]>,
    ) -> Self {
        let ephemeral = Some(pair(ephemeral));
        Self(NqHandshakeCore::new(pattern, prologue, initiator, own, ephemeral, theirs, None).unwrap())
    }

    /// A client that knows the node's channel key.
    pub(crate) fn client(prologue: &[u8], channel: [u8; 33], own: &[u8; 32], ephemeral: &[u8; 32]) -> Self {
        Self::client_as(prologue, channel, public(own), own, ephemeral)
    }

    /// A client that shows a public key which may not be its own, or none at all.
    pub(crate) fn client_as(
        prologue: &[u8],
        channel: [u8; 33],
        shown: [u8; 33],
        own: &[u8; 32],
        ephemeral: &[u8; 32],
    ) -> Self {
        let own = Some(KeyPair::new(shown, *own));
        Self::new(noise_xk_psk3(), prologue, true, own, ephemeral, Some(channel))
    }

    pub(crate) fn node(prologue: &[u8], channel: &[u8; 32], ephemeral: &[u8; 32]) -> Self {
        Self::new(noise_xk_psk3(), prologue, false, Some(pair(channel)), ephemeral, None)
    }

    /// A resumption: the secret is there from the beginning.
    pub(crate) fn resuming(initiator: bool, prologue: &[u8], psk: &[u8; 32], ephemeral: &[u8; 32]) -> Self {
        let mut side = Self::new(noise_nn_psk0(), prologue, initiator, None, ephemeral, None);
        side.psk(psk);
        side
    }

    pub(crate) fn name(&self) -> String {
        self.0.get_name().to_string()
    }

    pub(crate) fn psk(&mut self, psk: &[u8; 32]) {
        self.0.push_psk(psk);
    }

    /// The next message.
    pub(crate) fn write(&mut self, payload: &[u8]) -> Vec<u8> {
        let mut message = vec![0; self.0.get_next_message_overhead().unwrap() + payload.len()];
        let written = self.0.write_message(payload, &mut message).unwrap();
        assert_eq!(written, message.len());
        message
    }

    /// The payload of the next message, if it opens.
    pub(crate) fn read(&mut self, message: &[u8]) -> Option<Vec<u8>> {
        let mut payload = vec![0; message.len().checked_sub(self.0.get_next_message_overhead().ok()?)?];
        let read = self.0.read_message(message, &mut payload).ok()?;
        assert_eq!(read, payload.len());
        Some(payload)
    }

    pub(crate) fn their_static(&self) -> Option<[u8; 33]> {
        self.0.get_remote_static()
    }

    pub(crate) fn state(&self) -> State {
        let state = self.0.get_state();
        State { chaining_key: state.get_chaining_key(), hash: state.get_hash() }
    }

    pub(crate) fn finish(self) -> Finished {
        assert!(self.0.is_finished());
        let state = self.state();
        let ciphers = self.0.get_state().split().unwrap();
        Finished { state, to_node: ciphers.initiator_to_responder, to_client: ciphers.responder_to_initiator }
    }
}
