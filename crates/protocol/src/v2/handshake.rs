//! The full handshake, Noise XKpsk3 with an ML-KEM secret as the pre-shared key: three messages, the first prompt
//! right behind the third. Each step consumes the last.

use std::{fmt, sync::Arc};

use rand_core::CryptoRng;

use super::{
    advertisement::VerifiedNode,
    body::{self, Hello},
    certificate::{CertificateError, SignedDelegation},
    frame::{Hint, Kind},
    kem::{CIPHERTEXT_LEN, ENCAPSULATION_KEY_LEN, Kem},
    noise::{Finished, HandshakeError, HandshakeState, LEN, Pattern, Role, Secp256k1X, TAG_LEN, Token},
    record::{Direction, Opener, Sealer, Sid},
    secret::Secret,
};
use crate::identity::{PrivateKey, PublicKey};

/// The label under which the secrets of a resumption are derived, and with the ticket's id the resumption's prologue.
pub const RESUME_LABEL: &str = "fabstir-e2ee/2 resume";

/// The full handshake's pattern.
pub(crate) static XK_PSK3: Pattern = Pattern {
    name: "Noise_XKpsk3_secp256k1x_ChaChaPoly_SHA256",
    known_responder: true,
    psk: true,
    messages: &[&[Token::E, Token::Es], &[Token::E, Token::Ee], &[Token::S, Token::Se, Token::Psk]],
};

const M1_LEN: usize = Hint::LEN + PublicKey::LEN + ENCAPSULATION_KEY_LEN + TAG_LEN;
const M2_LEN: usize = PublicKey::LEN + CIPHERTEXT_LEN + TAG_LEN;
const M3_OVERHEAD: usize = PublicKey::LEN + TAG_LEN + TAG_LEN;

/// An open channel: a key for each direction, its name, and what resumes it.
#[derive(Debug)]
pub struct Channel {
    /// Seals what this side sends.
    pub sealer: Sealer,
    /// Opens what the other side sends.
    pub opener: Opener,
    /// The handshake's name.
    pub sid: Sid,
    /// What both sides can resume with, once.
    pub ticket: Ticket,
}

/// What resumes a session, once. The secret is another than the channel's keys; wiped on drop.
pub struct Ticket {
    id: [u8; LEN],
    pub(super) psk: Secret,
}

impl Ticket {
    /// The name, which is sent in the clear.
    pub fn id(&self) -> &[u8; LEN] {
        &self.id
    }

    /// The secret, for the vectors.
    #[doc(hidden)]
    pub fn expose_psk(&self) -> &[u8; LEN] {
        &self.psk
    }

    /// A ticket of known parts, for the vectors.
    #[doc(hidden)]
    pub fn of(id: [u8; LEN], psk: &[u8; LEN]) -> Self {
        Self { id, psk: Secret::of(psk) }
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ticket(..)")
    }
}

impl Channel {
    pub(super) fn new(finished: Finished, role: Role) -> Self {
        let [id, psk] = finished.derive(RESUME_LABEL.as_bytes());
        let sid = Sid::of(&finished.hash);
        let (ours, theirs) = match role {
            Role::Initiator => (Direction::ToNode, Direction::ToClient),
            Role::Responder => (Direction::ToClient, Direction::ToNode),
        };
        Self {
            sealer: Sealer::new(finished.send, sid, ours),
            opener: Opener::new(finished.receive, sid, theirs),
            sid,
            ticket: Ticket { id: *id, psk },
        }
    }
}

/// Who a client is: the key that it proves in message 3, and what its wallet says of that key.
#[derive(Clone, Debug)]
pub struct ClientIdentity {
    /// The static key: a delegate key, or a fresh one of somebody who stays anonymous.
    pub key: Arc<PrivateKey>,
    /// The wallet's word for it.
    pub delegation: Option<SignedDelegation>,
}

/// A client that has sent message 1.
pub struct AwaitingM2<K: Kem> {
    state: HandshakeState<Secp256k1X>,
    kem: K::DecapsulationKey,
}

impl<K: Kem> AwaitingM2<K> {
    /// Message 1 to a node that was verified.
    ///
    /// # Errors
    /// [`HandshakeError`] where randomness or a primitive fails.
    pub fn start(node: &VerifiedNode, rng: &mut impl CryptoRng) -> Result<(Vec<u8>, Self), HandshakeError> {
        let role = Role::Initiator;
        let mut state = HandshakeState::new(&XK_PSK3, role, &node.prologue, None, Some(node.channel_key))?;
        let (kem, public) = K::generate(rng)?;
        let mut frame = Kind::M1.head().to_vec();
        frame.extend_from_slice(node.hint().as_bytes());
        state.write(&public, &mut frame, rng)?;
        Ok((frame, Self { state, kem }))
    }

    /// Reads message 2 and makes message 3. The node has proved its channel key by then, and nothing yet of the
    /// ML-KEM secret: the session is open when its welcome opens, and not before.
    ///
    /// # Errors
    /// [`HandshakeError`].
    pub fn finish(
        mut self,
        m2: &[u8],
        identity: &ClientIdentity,
        hello: &Hello,
        rng: &mut impl CryptoRng,
    ) -> Result<(Vec<u8>, Channel), HandshakeError> {
        let body = Kind::M2.expect(m2).ok().filter(|body| body.len() == M2_LEN).ok_or(HandshakeError)?;
        let payload = self.state.read(body)?;
        let ciphertext = payload.as_slice().try_into().map_err(|_| HandshakeError)?;
        self.state.set_psk(K::decapsulate(&self.kem, ciphertext)?.0);
        self.state.set_static(Arc::clone(&identity.key));
        let certificate = identity.delegation.as_ref().map(SignedDelegation::to_bytes);
        let certificate = certificate.as_ref().map_or(&[][..], |bytes| bytes);
        let payload = body::pad(&[certificate, &body::encode(hello)])?;
        let mut frame = Kind::M3.head().to_vec();
        self.state.write(&payload, &mut frame, rng)?;
        let mut channel = Channel::new(self.state.finish()?, Role::Initiator);
        channel.sealer.set_shape(hello.shape);
        Ok((frame, channel))
    }
}

impl<K: Kem> fmt::Debug for AwaitingM2<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AwaitingM2(..)")
    }
}

/// Message 1 as it came: its length is right, nothing else is known.
#[derive(Clone, Copy, Debug)]
pub struct M1<'a> {
    /// Which channel key it is for.
    pub hint: Hint,
    message: &'a [u8],
}

impl<'a> M1<'a> {
    /// Looks at the length, and at nothing that costs anything.
    ///
    /// # Errors
    /// [`HandshakeError`].
    pub fn read(frame: &'a [u8]) -> Result<Self, HandshakeError> {
        let body = Kind::M1.expect(frame).ok().filter(|body| body.len() == M1_LEN).ok_or(HandshakeError)?;
        let (hint, message) = body.split_first_chunk().ok_or(HandshakeError)?;
        Ok(Self { hint: Hint::from(*hint), message })
    }

    /// Opens it under the channel key that the hint names: one agreement, whatever was sent.
    ///
    /// # Errors
    /// [`HandshakeError`].
    pub fn open(&self, channel_key: &Arc<PrivateKey>, prologue: &[u8]) -> Result<OpenedM1, HandshakeError> {
        let ours = Some(Arc::clone(channel_key));
        let mut state = HandshakeState::new(&XK_PSK3, Role::Responder, prologue, ours, None)?;
        let payload = state.read(self.message)?;
        let kem_key = payload.as_slice().try_into().map(Box::new).map_err(|_| HandshakeError)?;
        Ok(OpenedM1 { state, kem_key })
    }
}

/// A message 1 that opened: it was made for this node, on this connection's terms. It may be a replay.
pub struct OpenedM1 {
    state: HandshakeState<Secp256k1X>,
    kem_key: Box<[u8; ENCAPSULATION_KEY_LEN]>,
}

impl OpenedM1 {
    /// Makes message 2.
    ///
    /// # Errors
    /// [`HandshakeError`] for an encapsulation key that fails FIPS 203's check.
    pub fn respond<K: Kem>(
        mut self,
        rng: &mut impl CryptoRng,
    ) -> Result<(Vec<u8>, AwaitingM3), HandshakeError> {
        let (ciphertext, secret) = K::encapsulate(&self.kem_key, rng)?;
        let mut frame = Kind::M2.head().to_vec();
        self.state.write(&ciphertext, &mut frame, rng)?;
        self.state.set_psk(secret.0);
        Ok((frame, AwaitingM3 { state: self.state }))
    }
}

impl fmt::Debug for OpenedM1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OpenedM1(..)")
    }
}

/// A node that has sent message 2.
#[derive(Debug)]
pub struct AwaitingM3 {
    state: HandshakeState<Secp256k1X>,
}

/// Who is at the other end, by message 3. The key is proved; the rest is for the node to judge.
#[derive(Debug)]
pub struct Greeted {
    /// The static key that was proved.
    pub static_key: PublicKey,
    /// What the wallet says of it, as it was sent.
    pub delegation: Result<Option<SignedDelegation>, CertificateError>,
    /// What the client wants; `None` where it is malformed.
    pub hello: Option<Hello>,
    /// The channel, on which every refusal goes out from here on.
    pub channel: Channel,
}

impl AwaitingM3 {
    /// Reads message 3. From here on both sides have proved their keys, and the client the ML-KEM secret.
    ///
    /// # Errors
    /// [`HandshakeError`].
    pub fn finish(mut self, m3: &[u8]) -> Result<Greeted, HandshakeError> {
        let most = M3_OVERHEAD.saturating_add(body::MAX_PAYLOAD);
        let body = Kind::M3.expect(m3).ok().filter(|body| body.len() <= most).ok_or(HandshakeError)?;
        let payload = self.state.read(body)?;
        let static_key = self.state.their_static().ok_or(HandshakeError)?;
        let [certificate, hello] = body::unpad(&payload)?;
        let delegation = match certificate {
            [] => Ok(None),
            bytes => SignedDelegation::try_from(bytes).map(Some),
        };
        let hello = body::decode(hello).ok();
        let channel = Channel::new(self.state.finish()?, Role::Responder);
        Ok(Greeted { static_key, delegation, hello, channel })
    }
}
