//! BOLT-8's published handshake (appendix A of that document), byte for byte, through the same state machine: its
//! name, its Diffie-Hellman, no pre-shared key, and a version byte before each act.

use sha2::{Digest as _, Sha256};

use super::*;

/// BOLT-8 takes the SHA-256 of the compressed point.
enum Bolt8 {}

impl SharedSecret for Bolt8 {
    fn shared(ours: &PrivateKey, theirs: &PublicKey) -> Secret {
        Secret::of(&Sha256::digest(ours.agree(theirs).point()).into())
    }
}

static XK: Pattern = Pattern {
    name: "Noise_XK_secp256k1_ChaChaPoly_SHA256",
    known_responder: true,
    psk: false,
    messages: &[&[Token::E, Token::Es], &[Token::E, Token::Ee], &[Token::S, Token::Se]],
};

/// Gives the same 32 bytes as often as it is asked.
struct Fixed([u8; 32]);

impl rand_core::TryRng for Fixed {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        unreachable!("keys are filled in one piece")
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        unreachable!("keys are filled in one piece")
    }

    fn try_fill_bytes(&mut self, to: &mut [u8]) -> Result<(), Self::Error> {
        to.copy_from_slice(&self.0);
        Ok(())
    }
}

impl rand_core::TryCryptoRng for Fixed {}

fn key(byte: u8) -> Arc<PrivateKey> {
    Arc::new(PrivateKey::try_from(&[byte; 32]).unwrap())
}

fn hex(text: &str) -> Vec<u8> {
    const_hex::decode(text).unwrap()
}

const ACT_ONE: &str =
    "00036360e856310ce5d294e8be33fc807077dc56ac80d95d9cd4ddbd21325eff73f70df6086551151f58b8afe6c195782c6a";
const ACT_TWO: &str =
    "0002466d7fcae563e5cb09a0d1870bb580344804617879a14949cf22285f1bae3f276e2470b93aac583c9ef6eafca3f730ae";
const ACT_THREE: &str = "00b9e3a702e93e3a9948c2ed6e5fd7590a6e1c3a0344cfc9d5b57357049aa22355361aa02e55a8fc28fef5bd6d71ad0c38228dc68b1c466263b47fdf31e560e139ba";
/// What the initiator sends with, and receives with.
const SK: &str = "969ab31b4d288cedf6218839b27a3e2140827047f2c0f01bf5c04435d43511a9";
const RK: &str = "bb9020b8965f4df047e07f955f3c4b88418984aadc5cdb35096b9ea8fa5c3442";

fn initiator() -> HandshakeState<Bolt8> {
    let responder = key(0x21).public_key();
    assert_eq!(responder.to_string(), "028d7500dd4c12685d1f568b4c2b5048e8534b873319f3a8daa612b469132ec7f7");
    HandshakeState::new(&XK, Role::Initiator, b"lightning", Some(key(0x11)), Some(responder)).unwrap()
}

fn responder() -> HandshakeState<Bolt8> {
    HandshakeState::new(&XK, Role::Responder, b"lightning", Some(key(0x21)), None).unwrap()
}

fn act(state: &mut HandshakeState<Bolt8>, ephemeral: u8) -> String {
    let mut out = vec![0];
    state.write(&[], &mut out, &mut Fixed([ephemeral; 32])).unwrap();
    const_hex::encode(out)
}

fn read(state: &mut HandshakeState<Bolt8>, text: &str) -> Result<(), HandshakeError> {
    let bytes = hex(text);
    state.read(&bytes[1..]).map(|payload| assert!(payload.is_empty()))
}

#[test]
fn the_initiator_says_what_bolt_8_says() {
    let mut state = initiator();
    assert_eq!(act(&mut state, 0x12), ACT_ONE);
    read(&mut state, ACT_TWO).unwrap();
    assert_eq!(act(&mut state, 0x12), ACT_THREE);
    let finished = state.finish().unwrap();
    assert_eq!(const_hex::encode(finished.send.expose_key()), SK);
    assert_eq!(const_hex::encode(finished.receive.expose_key()), RK);
}

#[test]
fn the_responder_says_what_bolt_8_says() {
    let mut state = responder();
    read(&mut state, ACT_ONE).unwrap();
    assert_eq!(act(&mut state, 0x22), ACT_TWO);
    read(&mut state, ACT_THREE).unwrap();
    assert_eq!(state.their_static(), Some(key(0x11).public_key()));
    let finished = state.finish().unwrap();
    assert_eq!(const_hex::encode(finished.receive.expose_key()), SK);
    assert_eq!(const_hex::encode(finished.send.expose_key()), RK);
}

/// The bad acts of the appendix: too short, a key that is none, a tag that is not right.
#[test]
fn what_bolt_8_refuses_is_refused() {
    let with = |text: &str, at: usize, to: &str| format!("{}{to}{}", &text[..at], &text[at + to.len()..]);
    let short = |text: &str| text[..text.len() - 2].to_owned();
    let last = |text: &str| with(text, text.len() - 2, if text.ends_with("6a") { "6b" } else { "af" });
    for bad in [short(ACT_ONE), with(ACT_ONE, 2, "01"), last(ACT_ONE)] {
        assert!(read(&mut responder(), &bad).is_err(), "{bad}");
    }
    for bad in [short(ACT_TWO), with(ACT_TWO, 2, "04"), last(ACT_TWO)] {
        let mut state = initiator();
        act(&mut state, 0x12);
        assert!(read(&mut state, &bad).is_err(), "{bad}");
    }
    let bad_key = "00bfe3a702e93e3a9948c2ed6e5fd7590a6e1c3a0344cfc9d5b57357049aa2235536ad09a8ee351870c2bb7f78b754a26c6cef79a98d25139c856d7efd252c2ae73c";
    for bad in [short(ACT_THREE), last(ACT_THREE), bad_key.to_owned()] {
        let mut state = responder();
        read(&mut state, ACT_ONE).unwrap();
        act(&mut state, 0x22);
        assert!(read(&mut state, &bad).is_err(), "{bad}");
    }
}

#[test]
fn nothing_is_said_or_heard_out_of_turn() {
    let mut state = initiator();
    assert!(read(&mut state, ACT_TWO).is_err(), "before act one");
    assert!(initiator().finish().is_err(), "before the end");
    let mut state = responder();
    assert!(state.write(&[], &mut Vec::new(), &mut Fixed([0x22; 32])).is_err(), "before act one");
}

/// Noise, section 5.1: 2^64-1 is reserved, and a counter never wraps.
#[test]
fn the_last_counter_is_never_used() {
    let mut cipher = CipherState::at(&[7; 32], u64::MAX - 1);
    cipher.seal(&[], &mut [1]).unwrap();
    assert!(cipher.seal(&[], &mut [1]).is_err());
    assert!(cipher.seal(&[], &mut [1]).is_err());
    let mut sealer = CipherState::at(&[7; 32], u64::MAX);
    assert!(sealer.seal(&[], &mut [1]).is_err());
    assert!(sealer.open(&[], &[0; 17]).is_err());
}

/// REKEY is ENCRYPT(k, 2^64-1, "", 32 zeros) cut to 32 bytes, by another implementation.
#[test]
fn rekey_is_the_one_of_the_specification() {
    use chacha20poly1305::{ChaCha20Poly1305, KeyInit as _, aead::Aead as _};
    let mut cipher = CipherState::at(&[9; 32], 5);
    cipher.rekey().unwrap();
    let mut nonce = [0xff; 12];
    nonce[..4].fill(0);
    let sealed = ChaCha20Poly1305::new(&[9; 32].into()).encrypt(&nonce.into(), &[0_u8; 32][..]).unwrap();
    assert_eq!(cipher.expose_key().as_slice(), &sealed[..32]);
    assert_eq!(cipher.counter(), 5, "the counter stays");
}

#[test]
fn no_state_prints_a_secret() {
    let mut state = initiator();
    act(&mut state, 0x12);
    assert_eq!(format!("{state:?}"), format!("HandshakeState {{ pattern: {:?}, done: 1, .. }}", XK.name));
    assert_eq!(format!("{:?}", CipherState::at(&[7; 32], 3)), "CipherState { n: 3, .. }");
    assert_eq!(format!("{:?}", Secret::of(&[7; 32])), "Secret(..)");
    let key = || CipherState::at(&[7; 32], 0);
    let finished =
        Finished { send: key(), receive: key(), hash: [7; 32], chaining_key: Secret::of(&[7; 32]) };
    assert_eq!(format!("{finished:?}"), "Finished(..)");
}
