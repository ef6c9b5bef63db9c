//! Resumption, Noise NNpsk0 with a ticket's secret: one round trip, new keys, nobody's wallet.

use std::fmt;

use rand_core::CryptoRng;

use super::{
    body::{self, Resume, Welcome},
    frame::Kind,
    handshake::{Channel, RESUME_LABEL, Ticket},
    noise::{HandshakeError, HandshakeState, LEN, Pattern, Role, Secp256k1X, TAG_LEN, Token},
    secret::Secret,
};
use crate::identity::PublicKey;

/// The resumption's pattern.
pub(crate) static NN_PSK0: Pattern = Pattern {
    name: "Noise_NNpsk0_secp256k1x_ChaChaPoly_SHA256",
    known_responder: false,
    psk: true,
    messages: &[&[Token::Psk, Token::E], &[Token::E, Token::Ee]],
};

const OVERHEAD: usize = PublicKey::LEN + TAG_LEN;
/// Most bytes of the node's answer: it may list many requests and models.
const MOST: usize = OVERHEAD + body::MAX_PAYLOAD;

fn prologue(id: &[u8; LEN]) -> Vec<u8> {
    [RESUME_LABEL.as_bytes(), id].concat()
}

/// A client that has sent r1. Its ticket is spent.
pub struct AwaitingR2 {
    state: HandshakeState<Secp256k1X>,
}

impl AwaitingR2 {
    /// The first message of a resumption.
    ///
    /// # Errors
    /// [`HandshakeError`] where a primitive fails, or `resume` is too long.
    pub fn start(
        ticket: Ticket,
        resume: &Resume,
        rng: &mut impl CryptoRng,
    ) -> Result<(Vec<u8>, Self), HandshakeError> {
        let mut frame = Kind::R1.head().to_vec();
        frame.extend_from_slice(ticket.id());
        let mut state = HandshakeState::new(&NN_PSK0, Role::Initiator, &prologue(ticket.id()), None, None)?;
        state.set_psk(ticket.psk);
        state.write(&body::pad(&[&body::encode(resume)])?, &mut frame, rng)?;
        Ok((frame, Self { state }))
    }

    /// Reads r2, which takes the place of the welcome.
    ///
    /// # Errors
    /// [`HandshakeError`].
    pub fn finish(mut self, r2: &[u8]) -> Result<(Welcome, Channel), HandshakeError> {
        let body = Kind::R2.expect(r2).ok().filter(|body| body.len() <= MOST).ok_or(HandshakeError)?;
        let payload = self.state.read(body)?;
        let [welcome] = body::unpad(&payload)?;
        let welcome: Welcome = body::decode(welcome)?;
        let mut channel = Channel::new(self.state.finish()?, Role::Initiator);
        channel.sealer.set_shape(welcome.shape);
        Ok((welcome, channel))
    }
}

impl fmt::Debug for AwaitingR2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AwaitingR2(..)")
    }
}

/// An r1 as it came: its length is right, nothing else is known.
#[derive(Clone, Copy, Debug)]
pub struct R1<'a> {
    /// The ticket that it names.
    pub ticket: &'a [u8; LEN],
    message: &'a [u8],
}

impl<'a> R1<'a> {
    /// Looks at the length.
    ///
    /// # Errors
    /// [`HandshakeError`].
    pub fn read(frame: &'a [u8]) -> Result<Self, HandshakeError> {
        let body = Kind::R1.expect(frame).map_err(|_| HandshakeError)?;
        let (ticket, message) = body.split_first_chunk().ok_or(HandshakeError)?;
        if message.len() < OVERHEAD || message.len() > MOST {
            return Err(HandshakeError);
        }
        Ok(Self { ticket, message })
    }

    /// Opens it with the ticket that it names. Does not spend the ticket: one that opened must be given up by the
    /// caller before anything is answered.
    ///
    /// # Errors
    /// [`HandshakeError`].
    pub fn open(&self, ticket: &Ticket) -> Result<OpenedR1, HandshakeError> {
        let mut state = HandshakeState::new(&NN_PSK0, Role::Responder, &prologue(self.ticket), None, None)?;
        state.set_psk(Secret::of(&ticket.psk));
        let payload = state.read(self.message)?;
        let resume = body::unpad(&payload).and_then(|[resume]| body::decode(resume)).ok();
        Ok(OpenedR1 { resume, state })
    }
}

/// An r1 that opened.
pub struct OpenedR1 {
    /// What the client says; `None` where it is malformed, which spends the ticket all the same.
    pub resume: Option<Resume>,
    state: HandshakeState<Secp256k1X>,
}

impl OpenedR1 {
    /// Makes r2.
    ///
    /// # Errors
    /// [`HandshakeError`] where a primitive fails, or `welcome` is too long.
    pub fn respond(
        mut self,
        welcome: &Welcome,
        rng: &mut impl CryptoRng,
    ) -> Result<(Vec<u8>, Channel), HandshakeError> {
        let mut frame = Kind::R2.head().to_vec();
        self.state.write(&body::pad(&[&body::encode(welcome)])?, &mut frame, rng)?;
        let mut channel = Channel::new(self.state.finish()?, Role::Responder);
        channel.sealer.set_shape(welcome.shape);
        Ok((frame, channel))
    }
}

impl fmt::Debug for OpenedR1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenedR1").field("resume", &self.resume).finish_non_exhaustive()
    }
}
