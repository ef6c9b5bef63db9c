//! Any bit of anything flipped. What still opens is listed here, each with why.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a test is meant to panic, and to do so on what it does not expect"
)]

mod support;

use fabstir_protocol::{
    Code,
    id::SessionId,
    identity::PrivateKey,
    v1::{ClientFrame, ClientSession, Established, Inbound, Owner, Reply, Session},
};
use support::{
    fixed, hex,
    node::{Node, Outcome, code},
    reference::{self as r, Make, Material, Object, Recipe},
    unhex,
};

fn node() -> Node {
    Node::new(PrivateKey::try_from(&r::node_key()).unwrap())
}

/// Reads an init as if it were the first one ever.
fn establish(frame: &str) -> Result<Established, Code> {
    let inbound = Inbound::decode(frame).map_err(|refusal| code(refusal.error))?;
    match inbound.frame {
        ClientFrame::SessionInit(id, raw) => node().established(id, raw),
        _ => Err(Code::UnknownMessageType),
    }
}

fn owner(frame: &str) -> Result<Owner, Code> {
    establish(frame).map(|established| established.owner)
}

fn verified(recipe: &Recipe) -> Owner {
    Owner::Verified(r::address_text(&recipe.client).parse().unwrap())
}

/// The payload with each single bit of `field` flipped.
fn flips<'a>(payload: &'a Object, field: &'a str) -> impl Iterator<Item = (usize, Object)> + 'a {
    let bytes = unhex(&payload.text(field));
    (0..bytes.len() * 8).map(move |bit| {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        (bit, payload.clone().set_text(field, &hex(flipped)))
    })
}

fn flipped_inits(recipe: &Recipe, field: &str) -> Vec<(usize, Result<Owner, Code>)> {
    let payload = recipe.payload();
    flips(&payload, field).map(|(bit, p)| (bit, owner(&recipe.frame_with(&p).json()))).collect()
}

fn all_are(recipe: &Recipe, field: &str, expected: Code) {
    let outcomes = flipped_inits(recipe, field);
    assert!(!outcomes.is_empty());
    for (bit, outcome) in outcomes {
        assert_eq!(outcome, Err(expected), "{:?}, bit {bit} of {field}", recipe.make);
    }
}

#[test]
fn no_flipped_bit_of_an_inits_ciphertext_opens() {
    for make in Make::ALL {
        all_are(&Recipe::new(make, "tamper"), "ciphertextHex", Code::DecryptionFailed);
    }
}

#[test]
fn no_flipped_bit_of_an_inits_nonce_opens() {
    for make in Make::ALL {
        all_are(&Recipe::new(make, "tamper"), "nonceHex", Code::DecryptionFailed);
    }
}

#[test]
fn no_flipped_bit_of_an_inits_aad_opens() {
    for make in [Make::GuideRust, Make::GuideTypescript] {
        all_are(&Recipe::new(make, "tamper"), "aadHex", Code::DecryptionFailed);
    }
}

#[test]
fn no_flipped_bit_of_a_signature_meets_its_claim() {
    for make in Make::ALL {
        all_are(&Recipe::new(make, "tamper"), "signatureHex", Code::InvalidSignature);
    }
}

#[test]
fn no_flipped_bit_of_the_salt_is_taken() {
    all_are(&Recipe::new(Make::Deployed, "tamper"), "saltHex", Code::InvalidPayload);
}

/// Bits of the ephemeral key, but for the one of its parity: bit 0 of the tag.
#[test]
fn no_flipped_bit_of_an_ephemeral_keys_x_opens() {
    for make in Make::ALL {
        for (bit, outcome) in flipped_inits(&Recipe::new(make, "tamper"), "ephPubHex").into_iter().skip(1) {
            let tag = bit < 8;
            let refused = matches!(outcome, Err(Code::InvalidPayload))
                || (!tag && matches!(outcome, Err(Code::DecryptionFailed)));
            assert!(refused, "{make:?}, bit {bit}: {outcome:?}");
        }
    }
}

#[test]
fn no_flipped_bit_of_an_uncompressed_ephemeral_key_opens() {
    for make in Make::ALL {
        let recipe = Recipe::new(make, "tamper");
        let whole = hex(r::uncompressed(&r::point_of(&recipe.ephemeral)));
        let payload = recipe.payload().set_text("ephPubHex", &whole);
        assert_eq!(owner(&recipe.frame_with(&payload).json()), Ok(verified(&recipe)));
        for (bit, flipped) in flips(&payload, "ephPubHex") {
            let outcome = owner(&recipe.frame_with(&flipped).json());
            assert_eq!(outcome, Err(Code::InvalidPayload), "{make:?}, bit {bit}");
        }
    }
}

fn with_flipped_parity(recipe: &Recipe) -> Result<Owner, Code> {
    flipped_inits(recipe, "ephPubHex").remove(0).1
}

/// P and -P share their x, and digests 1 and 2 do not name the point. The memory of inits keeps x, not P.
#[test]
fn a_flipped_parity_opens_under_digests_1_and_2() {
    for (digest, v) in [(1, 0), (2, 27)] {
        let recipe = Recipe { digest, v, ..Recipe::new(Make::GuideRust, "tamper") };
        assert_eq!(with_flipped_parity(&recipe), Ok(verified(&recipe)), "digest {digest}");
    }
}

#[test]
fn a_flipped_parity_does_not_meet_a_claim_under_digest_3() {
    assert_eq!(with_flipped_parity(&Recipe::new(Make::Deployed, "tamper")), Err(Code::InvalidSignature));
}

#[test]
fn a_flipped_parity_does_not_open_where_the_point_is_the_key_material() {
    for digest in [1, 2, 3] {
        let material = Material::Point;
        let recipe = Recipe { material, digest, ..Recipe::new(Make::GuideRust, "tamper") };
        assert_eq!(with_flipped_parity(&recipe), Err(Code::DecryptionFailed));
    }
}

/// aadHex of an init says which of two is tried first, no more: what was sealed decides.
#[test]
fn an_emptied_aad_of_an_init_still_opens_as_what_was_sealed() {
    for make in Make::ALL {
        for aad in ["", "session_init"] {
            let recipe = Recipe::new(make, "tamper");
            let frame = recipe.changed(|p| p.set_text("aadHex", &hex(aad)));
            assert_eq!(owner(&frame), Ok(verified(&recipe)), "{make:?}, sent as {aad:?}");
        }
    }
}

#[test]
fn the_case_of_hex_and_0x_change_nothing() {
    for make in Make::ALL {
        let recipe = Recipe::new(make, "tamper");
        for field in ["ephPubHex", "ciphertextHex", "signatureHex", "nonceHex", "aadHex"] {
            let upper = recipe.changed(|p| p.map_text(field, |t| t.replace("0x", "").to_uppercase()));
            let prefixed = recipe.changed(|p| p.map_text(field, |t| format!("0x{}", t.replace("0x", ""))));
            assert_eq!(owner(&upper), Ok(verified(&recipe)), "{make:?}, {field}");
            assert_eq!(owner(&prefixed), Ok(verified(&recipe)), "{make:?}, {field}");
        }
    }
}

/// Recovery always yields somebody: that is why an owner who claims nothing is marked so.
#[test]
fn a_flipped_signature_without_a_claim_is_somebody_elses_and_unclaimed() {
    for make in Make::ALL {
        let recipe = Recipe::new(make, "tamper").claiming(false);
        let signer = verified(&recipe).address();
        let mut accepted = 0;
        for (bit, outcome) in flipped_inits(&recipe, "signatureHex") {
            match outcome {
                Ok(Owner::Unclaimed(somebody)) => {
                    assert_ne!(somebody, signer, "{make:?}, bit {bit}");
                    accepted += 1;
                }
                other => assert_eq!(other, Err(Code::InvalidSignature), "{make:?}, bit {bit}"),
            }
        }
        assert!(accepted > 100, "{accepted}");
    }
}

/// One more encoding of a signature would be one more init for a memory that kept signatures.
#[test]
fn the_other_s_of_a_signature_is_refused() {
    for make in Make::ALL {
        let recipe = Recipe::new(make, "tamper");
        let mut raw = recipe.signature();
        raw[64] -= recipe.v;
        let mut high = r::with_high_s(&raw);
        high[64] += recipe.v;
        let frame = recipe.changed(|p| p.set_text("signatureHex", &hex(high)));
        assert_eq!(owner(&frame), Err(Code::InvalidSignature), "{make:?}");
    }
}

/// v 0/1 and 27/28 say the same of the point; with a claim the other digests are tried as well.
#[test]
fn the_form_of_v_is_no_part_of_what_is_authenticated() {
    for make in Make::ALL {
        let recipe = Recipe::new(make, "tamper");
        let mut signature = recipe.signature();
        signature[64] = if signature[64] < 27 { signature[64] + 27 } else { signature[64] - 27 };
        let frame = recipe.changed(|p| p.set_text("signatureHex", &hex(signature)));
        assert_eq!(owner(&frame), Ok(verified(&recipe)), "{make:?}");
    }
}

#[test]
fn no_cut_of_an_inits_ciphertext_opens() {
    let recipe = Recipe::new(Make::GuideRust, "tamper");
    let whole = recipe.ciphertext();
    for length in 0..whole.len() {
        let head = recipe.changed(|p| p.set_text("ciphertextHex", &hex(&whole[..length])));
        let tail = recipe.changed(|p| p.set_text("ciphertextHex", &hex(&whole[whole.len() - length..])));
        assert_eq!(owner(&head), Err(Code::DecryptionFailed), "the first {length} bytes");
        assert_eq!(owner(&tail), Err(Code::DecryptionFailed), "the last {length} bytes");
    }
}

/// Every bit of the text, not only of its hex. What opens all the same has the same owner and the same key;
/// only the session id, which nothing covers in v1, may be another.
#[test]
fn a_flipped_bit_of_an_init_frame_changes_neither_owner_nor_key() {
    for make in Make::ALL {
        let recipe = Recipe::new(make, "tamper");
        let message = recipe.message(0, &fixed("message"), b"hello").json();
        for text in text_flips(&recipe.frame()) {
            let Ok(established) = establish(&text) else { continue };
            assert_eq!(established.owner, verified(&recipe), "{text}");
            assert_eq!(open(&mut { established.session }, &message), Ok(b"hello".to_vec()), "{text}");
        }
    }
}

#[test]
fn a_flipped_bit_of_a_message_frame_changes_no_word() {
    let recipe = Recipe::new(Make::Deployed, "tamper");
    let message = recipe.message(0, &fixed("message"), b"hello").json();
    let init = recipe.frame();
    let mut opened = 0;
    for text in text_flips(&message) {
        let mut node = node();
        node.receive(&init, 0).unwrap();
        if let Ok(Outcome::Message(plaintext)) = node.receive(&text, 0) {
            assert_eq!(plaintext.as_bytes(), b"hello", "{text}");
            opened += 1;
        }
    }
    assert!(opened > 0, "a letter of hex in the other case opens");
}

/// `text` with each single bit flipped, where that is still UTF-8.
fn text_flips(text: &str) -> impl Iterator<Item = String> + '_ {
    (0..text.len() * 8).filter_map(move |bit| {
        let mut bytes = text.as_bytes().to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        String::from_utf8(bytes).ok()
    })
}

fn open(session: &mut Session, frame: &str) -> Result<Vec<u8>, Code> {
    match Inbound::decode(frame).map_err(|refusal| code(refusal.error))?.frame {
        ClientFrame::Message(_, raw) => {
            let payload = raw.read().map_err(code)?;
            session.open(&payload).map(|plaintext| plaintext.as_bytes().to_vec()).map_err(code)
        }
        other => panic!("{other:?} is no message"),
    }
}

#[test]
fn no_flipped_bit_of_a_message_opens_and_the_message_opens_afterwards() {
    for make in Make::ALL {
        let recipe = Recipe::new(make, "tamper");
        let mut session = establish(&recipe.frame()).unwrap().session;
        let text = b"a message of some length";
        let payload = r::sealed(&recipe.session_key(), "message_5", &fixed("five"), text);
        for field in ["ciphertextHex", "nonceHex", "aadHex"] {
            for (bit, flipped) in flips(&payload, field) {
                let outcome = open(&mut session, &r::message_with("42", &flipped).json());
                assert_eq!(outcome, Err(Code::DecryptionFailed), "{make:?}, bit {bit} of {field}");
            }
        }
        assert_eq!(open(&mut session, &r::message_with("42", &payload).json()), Ok(text.to_vec()));
    }
}

#[test]
fn no_cut_of_a_message_opens() {
    let recipe = Recipe::new(Make::Deployed, "tamper");
    let mut session = establish(&recipe.frame()).unwrap().session;
    let payload = r::sealed(&recipe.session_key(), "message_0", &fixed("zero"), b"some words");
    let whole = payload.text("ciphertextHex");
    for digits in (0..whole.len()).step_by(2) {
        let cut = payload.clone().set_text("ciphertextHex", &whole[..digits]);
        let outcome = open(&mut session, &r::message_with("42", &cut).json());
        assert_eq!(outcome, Err(Code::DecryptionFailed), "the first {} bytes", digits / 2);
    }
    assert!(open(&mut session, &r::message_with("42", &payload).json()).is_ok());
}

#[test]
fn no_flipped_bit_of_an_answer_opens_and_the_answer_opens_afterwards() {
    let key: [u8; 32] = fixed("answer");
    let session = ClientSession::with_key(
        SessionId::try_from("42").unwrap(),
        fabstir_protocol::seal::SessionKey::take(&mut key.clone()).unwrap(),
    );
    let chunk = r::sealed(&key, "chunk_0", &fixed("chunk"), b"some words");
    let end = r::sealed(&key, "final", &fixed("end"), b"stop");
    let opens_chunk = |payload: &Object| {
        let Ok(Reply::Chunk { payload, .. }) = Reply::decode(&r::chunk_with("42", payload, 0).json()) else {
            panic!("a chunk was expected")
        };
        session.open_chunk(&mut session.answer(), &payload).is_ok()
    };
    let opens_end = |payload: &Object| {
        let Ok(Reply::Response { payload, .. }) = Reply::decode(&r::response_with("42", payload).json())
        else {
            panic!("an end was expected")
        };
        session.open_final(session.answer(), &payload).is_ok()
    };
    for field in ["ciphertextHex", "nonceHex", "aadHex"] {
        assert!(flips(&chunk, field).all(|(_, flipped)| !opens_chunk(&flipped)), "{field}");
        assert!(flips(&end, field).all(|(_, flipped)| !opens_end(&flipped)), "{field}");
    }
    assert!(opens_chunk(&chunk) && opens_end(&end));
}
