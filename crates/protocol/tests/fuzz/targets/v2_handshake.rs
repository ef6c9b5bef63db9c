//! The full handshake between fixed peers, each message changed on its way: anything but a message that was made for
//! this place is refused. And payloads of any form under the right keys, by a client that Noise was written for a
//! second time: read as they are, and never a panic.

use std::sync::LazyLock;

use fabstir_protocol::v2::{
    AwaitingM2, AwaitingM3, Channel, ENCAPSULATION_KEY_LEN, HandshakeError, Hello, Kem as _, Kind, M1,
    SignedDelegation, decode,
};

use super::{
    Bytes, bend, parts, payload,
    peers::{CHANNEL, DELEGATE, PEERS, hello},
    v2_support::{
        noise::{Side, key_of, public},
        portable::{self, Portable},
        reference as r, rng,
    },
};

/// The messages of one handshake.
struct Real {
    m1: Vec<u8>,
    m2: Vec<u8>,
    m3: Vec<u8>,
}

static REAL: LazyLock<[Real; 2]> = LazyLock::new(|| [real("one"), real("two")]);

fn client(label: &str) -> (Vec<u8>, AwaitingM2<Portable>) {
    AwaitingM2::start(&PEERS.verified, &mut rng(&format!("client {label}"))).unwrap()
}

fn answer(m1: &[u8], label: &str) -> Result<(Vec<u8>, AwaitingM3), HandshakeError> {
    let opened = M1::read(m1)?.open(&PEERS.channel, &PEERS.prologue)?;
    opened.respond::<Portable>(&mut rng(&format!("node {label}")))
}

fn finish(
    client: AwaitingM2<Portable>,
    m2: &[u8],
    label: &str,
) -> Result<(Vec<u8>, Channel), HandshakeError> {
    client.finish(m2, &PEERS.client(), &hello(), &mut rng(&format!("m3 {label}")))
}

fn real(label: &str) -> Real {
    let (m1, waiting) = client(label);
    let (m2, node) = answer(&m1, label).unwrap();
    let (m3, channel) = finish(waiting, &m2, label).unwrap();
    let greeted = node.finish(&m3).unwrap();
    assert_eq!(greeted.channel.sid, channel.sid);
    Real { m1, m2, m3 }
}

pub(crate) fn run(data: &[u8]) {
    let mut bytes = Bytes(data);
    let [one, two] = &*REAL;
    let others: Vec<&[u8]> =
        [one, two].into_iter().flat_map(|real| [&real.m1[..], &real.m2, &real.m3]).collect();
    match bytes.byte() % 7 {
        0 => {
            let bent = bend(&one.m1, &others, &mut bytes);
            first(&bent);
        }
        1 => {
            let bent = bend(&one.m2, &others, &mut bytes);
            assert_eq!(finish(client("one").1, &bent, "one").is_ok(), bent == one.m2);
        }
        2 => {
            let bent = bend(&one.m3, &others, &mut bytes);
            let (_, node) = answer(&one.m1, "one").unwrap();
            assert_eq!(node.finish(&bent).is_ok(), bent == one.m3);
        }
        3 => {
            let raw = bytes.rest();
            let kind = Kind::split(raw);
            assert_eq!(kind.is_ok(), raw.len() > 1 && raw[0] == 2 && (1..=6).contains(&raw[1]));
            first(raw);
        }
        4 => third_payload(&mut bytes),
        5 => first_payload(&mut bytes),
        _ => second_payload(&mut bytes),
    }
}

/// A message 1 is answered if it is one of those that were made, under the hint of the key that it was made for.
fn first(frame: &[u8]) {
    let hinted = M1::read(frame).is_ok_and(|m1| m1.hint == PEERS.verified.hint());
    let accepted = hinted && answer(frame, "one").is_ok();
    assert_eq!(accepted, REAL.iter().any(|real| real.m1 == frame));
}

const OWN_EPHEMERAL: [u8; 32] = [9; 32];
const KEM_SEED: [u8; 64] = [10; 64];

/// A second client up to its message 1, and its ML-KEM key.
fn other_client() -> (Side, [u8; ENCAPSULATION_KEY_LEN]) {
    let side = Side::client(&PEERS.prologue, public(&CHANNEL), &DELEGATE, &OWN_EPHEMERAL);
    (side, portable::keygen(KEM_SEED).1)
}

fn m1_of(side: &mut Side, kem_key: &[u8]) -> Vec<u8> {
    r::frame(r::M1, &[&r::hint(&public(&CHANNEL)), &side.write(kem_key)])
}

/// That client once message 2 came, and the message 1 that it had sent.
static GREETING: LazyLock<(Vec<u8>, Side)> = LazyLock::new(|| {
    let (mut side, kem_key) = other_client();
    let m1 = m1_of(&mut side, &kem_key);
    let (m2, _) = answer(&m1, "other").unwrap();
    let ciphertext: [u8; 1088] = side.read(&m2[2..]).unwrap().try_into().unwrap();
    side.psk(&portable::decapsulate(&portable::keygen(KEM_SEED).0, &ciphertext));
    (m1, side)
});

fn third_payload(bytes: &mut Bytes<'_>) {
    let how = bytes.byte();
    let certificate = match how % 4 {
        0 => Vec::new(),
        1 => PEERS.delegation.to_bytes().to_vec(),
        2 => {
            let change = bytes.chunk();
            bend(&PEERS.delegation.to_bytes(), &[], &mut Bytes(change))
        }
        _ => bytes.chunk().to_vec(),
    };
    let frame = bytes.chunk();
    let hello = bytes.rest();
    let payload = payload(&[&certificate, hello], &mut Bytes(frame));
    let (m1, side) = &*GREETING;
    let mut side = side.clone();
    let m3 = r::frame(r::M3, &[&side.write(&payload)]);
    let (_, node) = answer(m1, "other").unwrap();
    let sound = parts(&payload, 2);
    let Ok(mut greeted) = node.finish(&m3) else {
        assert!(sound.is_none(), "a sound payload is refused");
        return;
    };
    let Some([certificate, hello]) = sound.as_deref() else { panic!("an unsound payload is read") };
    assert_eq!(greeted.static_key, PEERS.delegate.public_key());
    assert_eq!(greeted.hello, decode::<Hello>(hello).ok());
    match greeted.delegation {
        Ok(None) => assert!(certificate.is_empty()),
        Ok(Some(delegation)) => assert_eq!(delegation.to_bytes().as_slice(), certificate.as_slice()),
        Err(_) => assert!(SignedDelegation::try_from(certificate.as_slice()).is_err()),
    }
    let finished = side.finish();
    assert_eq!(greeted.channel.sealer.expose_key(), &key_of(&finished.to_client));
    let aad = r::aad(&r::sid(&finished.state), 0);
    let record = r::seal_record(&key_of(&finished.to_node), 0, &aad, &r::record(8, 1, 0, 0, b"{}"));
    greeted.channel.opener.open(&record).unwrap();
}

/// ML-KEM keys of any form: answered if FIPS 203's check passes, by both implementations alike.
fn first_payload(bytes: &mut Bytes<'_>) {
    let (mut side, kem_key) = other_client();
    let mut kem_key = bend(&kem_key, &[], bytes);
    kem_key.resize(ENCAPSULATION_KEY_LEN, 0xff);
    let m1 = m1_of(&mut side, &kem_key);
    let accepted = answer(&m1, "first").is_ok();
    let kem_key: [u8; ENCAPSULATION_KEY_LEN] = kem_key.try_into().unwrap();
    let fast = fabstir_protocol::v2::AwsLc::encapsulate(&kem_key, &mut rng("unused"));
    assert_eq!(accepted, fast.is_ok());
    assert_eq!(accepted, portable::encapsulate(&kem_key, [0; 32]).is_some());
}

/// Ciphertexts of any form, from a node that has the channel key: the client goes on, for decapsulation never fails,
/// and its message 3 opens only where the ciphertext was left as it was.
fn second_payload(bytes: &mut Bytes<'_>) {
    let (m1, waiting) = client("one");
    let mut side = Side::node(&PEERS.prologue, &CHANNEL, &OWN_EPHEMERAL);
    let kem_key: [u8; ENCAPSULATION_KEY_LEN] = side.read(&m1[6..]).unwrap().try_into().unwrap();
    let (ciphertext, secret) = portable::encapsulate(&kem_key, [11; 32]).unwrap();
    let bent = bend(&ciphertext, &[], bytes);
    let m2 = r::frame(r::M2, &[&side.write(&bent)]);
    let finished = finish(waiting, &m2, "one");
    assert_eq!(finished.is_ok(), bent.len() == ciphertext.len());
    if let Ok((m3, _)) = finished {
        side.psk(&secret);
        assert_eq!(side.read(&m3[2..]).is_some(), bent == ciphertext);
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let mut all =
        vec![vec![3, 2, 6, 1], vec![5], vec![5, 1, 0, 0, 255, 1, 0, 1, 255], vec![6], vec![6, 0, 0, 9, 3]];
    for message in 0..3 {
        for edits in [&[][..], &[0, 0, 9, 1], &[4, 0, 50], &[5, 0, 0, 3, 1, 2, 3], &[6, 0, 40, 2, 0, 0, 3]] {
            all.push([&[message], edits].concat());
        }
    }
    all.push([&[3], REAL[1].m1.as_slice()].concat());
    let hello = br#"{"client":"a","shape":"off","ticket":true,"claim":{"session":"00112233445566778899aabbccddeeff","received":[[1,2]]}}"#;
    for how in [
        &[0, 0][..],
        &[1, 0],
        &[2, 4, 0, 0, 9, 1, 0],
        &[3, 2, 1, 2, 0],
        &[1, 4, 1, 0, 0, 2],
        &[1, 4, 8, 0, 0, 7],
    ] {
        all.push([&[4], how, hello.as_slice()].concat());
    }
    all
}
