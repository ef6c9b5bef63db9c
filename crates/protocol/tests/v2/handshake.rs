//! Handshakes: whole ones, bent ones, and who each side takes the other for.

use std::sync::Arc;

use fabstir_protocol::{
    identity::PrivateKey,
    v2::{
        Advertisement, AdvertisementError, AwaitingM2, AwaitingR2, AwsLc, CertificateError, Claim,
        ClientIdentity, Flags, M1, NodeChannelKey, NodeKeyRotation, R1, Received, RecordType, Resume, Shape,
        SignedChannelKey, SignedDelegation, Welcome,
    },
};

use crate::support::{CHAIN, Client, NOW, Node, channels, hello, rng};

#[test]
fn both_sides_end_with_the_same_channel_and_know_each_other() {
    let (node, client) = (Node::new(), Client::new());
    let (mut ours, mut theirs) = channels(&node, &client.identity(&node), &hello());
    assert_eq!(ours.sid, theirs.channel.sid);
    assert_eq!(theirs.static_key, client.key.public_key());
    let delegation = theirs.delegation.unwrap().unwrap();
    assert_eq!(delegation.verify(&theirs.static_key, node.address(), NOW), Ok(client.wallet.address()));
    assert_eq!(theirs.hello, Some(hello()));
    assert_eq!(ours.ticket.id(), theirs.channel.ticket.id());
    assert_eq!(ours.ticket.expose_psk(), theirs.channel.ticket.expose_psk());
    let frame = ours.sealer.seal(RecordType::Request, Flags::LAST, 1, 0, b"hello").unwrap();
    assert_eq!(*theirs.channel.opener.open(&frame).unwrap().body, *b"hello");
    let frame = theirs.channel.sealer.seal(RecordType::Text, Flags::NONE, 1, 0, b"hi").unwrap();
    assert_eq!(*ours.opener.open(&frame).unwrap().body, *b"hi");
}

#[test]
fn the_sizes_are_those_of_the_specification() {
    let (node, client) = (Node::new(), Client::new());
    let (m1, waiting) = AwaitingM2::<AwsLc>::start(&node.verified(), &mut rng()).unwrap();
    let (m2, _) = node.answer(&m1).unwrap();
    let identity = client.identity(&node);
    let (m3, mut channel) = waiting.finish(&m2, &identity, &hello(), &mut rng()).unwrap();
    assert_eq!((m1.len(), m2.len(), m3.len()), (2 + 4 + 1233, 2 + 1137, 2 + 65 + 512));
    let frame = channel.sealer.seal(RecordType::Request, Flags::LAST, 1, 0, b"four").unwrap();
    assert_eq!(frame.len(), 2 + 32 + 16);
}

#[test]
fn an_anonymous_client_shows_a_key_and_no_wallet() {
    let node = Node::new();
    let key = Arc::new(PrivateKey::random(&mut rng()));
    let (_, greeted) = channels(&node, &ClientIdentity { key: Arc::clone(&key), delegation: None }, &hello());
    assert_eq!(greeted.static_key, key.public_key());
    assert_eq!(greeted.delegation, Ok(None));
}

/// Every single-bit flip of every message of both handshakes, without a socket: none is accepted.
#[test]
fn no_flipped_bit_of_a_handshake_is_accepted() {
    let (node, client) = (Node::new(), Client::new());
    let identity = client.identity(&node);
    let flips = |frame: &[u8]| -> Vec<Vec<u8>> {
        let bits = 0..frame.len() * 8;
        let flip = |bit: usize| {
            let mut bent = frame.to_vec();
            bent[bit / 8] ^= 1 << (bit % 8);
            bent
        };
        bits.map(flip).collect()
    };
    let mut counted = [0_usize; 5];
    let (m1, _) = AwaitingM2::<AwsLc>::start(&node.verified(), &mut rng()).unwrap();
    for bent in flips(&m1) {
        // The hint chooses among the node's keys: under any other, and under none, there is no handshake.
        let hint = M1::read(&bent).is_ok_and(|m1| m1.hint != node.verified().hint());
        assert!(hint || node.answer(&bent).is_err());
        counted[0] += 1;
    }
    for bit in 0..m2_bits(&node) {
        let (m1, waiting) = AwaitingM2::<AwsLc>::start(&node.verified(), &mut rng()).unwrap();
        let (mut m2, _) = node.answer(&m1).unwrap();
        m2[bit / 8] ^= 1 << (bit % 8);
        assert!(waiting.finish(&m2, &identity, &hello(), &mut rng()).is_err(), "bit {bit} of m2");
        counted[1] += 1;
    }
    for bit in 0..(2 + 65 + 512) * 8 {
        let (m1, waiting) = AwaitingM2::<AwsLc>::start(&node.verified(), &mut rng()).unwrap();
        let (m2, awaiting) = node.answer(&m1).unwrap();
        let (mut m3, _) = waiting.finish(&m2, &identity, &hello(), &mut rng()).unwrap();
        m3[bit / 8] ^= 1 << (bit % 8);
        assert!(awaiting.finish(&m3).is_err(), "bit {bit} of m3");
        counted[2] += 1;
    }
    let (ours, theirs) = channels(&node, &identity, &hello());
    let (r1, _) = AwaitingR2::start(ours.ticket, &Resume::default(), &mut rng()).unwrap();
    for bent in flips(&r1) {
        let opened = R1::read(&bent).and_then(|r1| {
            // A changed id names no ticket.
            if r1.ticket == theirs.channel.ticket.id() {
                r1.open(&theirs.channel.ticket)
            } else {
                Err(R1::read(&[]).unwrap_err())
            }
        });
        assert!(opened.is_err());
        counted[3] += 1;
    }
    for bit in 0..(2 + 33 + 512 + 16) * 8 {
        let (ours, theirs) = channels(&node, &identity, &hello());
        let (r1, waiting) = AwaitingR2::start(ours.ticket, &Resume::default(), &mut rng()).unwrap();
        let opened = R1::read(&r1).unwrap().open(&theirs.channel.ticket).unwrap();
        let (mut r2, _) = opened.respond(&Welcome::default(), &mut rng()).unwrap();
        r2[bit / 8] ^= 1 << (bit % 8);
        assert!(waiting.finish(&r2).is_err(), "bit {bit} of r2");
        counted[4] += 1;
    }
    println!(
        "flips refused: m1 {}, m2 {}, m3 {}, r1 {}, r2 {}",
        counted[0], counted[1], counted[2], counted[3], counted[4]
    );
}

fn m2_bits(node: &Node) -> usize {
    let (m1, _) = AwaitingM2::<AwsLc>::start(&node.verified(), &mut rng()).unwrap();
    node.answer(&m1).unwrap().0.len() * 8
}

#[test]
fn a_replayed_message_meets_a_fresh_ephemeral_and_ends_there() {
    let (node, client) = (Node::new(), Client::new());
    let (m1, waiting) = AwaitingM2::<AwsLc>::start(&node.verified(), &mut rng()).unwrap();
    let (m2, first) = node.answer(&m1).unwrap();
    let (m3, _) = waiting.finish(&m2, &client.identity(&node), &hello(), &mut rng()).unwrap();
    first.finish(&m3).unwrap();
    // Message 1 again is answered, at the price of an answer; message 3 again opens nothing.
    let (again, second) = node.answer(&m1).unwrap();
    assert_ne!(again, m2);
    assert!(second.finish(&m3).is_err());
}

#[test]
fn a_stripped_list_of_versions_breaks_message_1() {
    let node = Node::new();
    let mut seen = node.advertisement();
    seen.e2ee.pop();
    let verified = seen.verify(node.address(), NOW).unwrap();
    let (m1, _) = AwaitingM2::<AwsLc>::start(&verified, &mut rng()).unwrap();
    assert!(node.answer(&m1).is_err());
}

#[test]
fn a_node_without_the_kem_secret_cannot_go_on() {
    // Message 2 of a node that encapsulated to another key: m3 does not open, and the client has no welcome.
    let (node, client) = (Node::new(), Client::new());
    let (one, _) = AwaitingM2::<AwsLc>::start(&node.verified(), &mut rng()).unwrap();
    let (_, other) = AwaitingM2::<AwsLc>::start(&node.verified(), &mut rng()).unwrap();
    let (m2, awaiting) = node.answer(&one).unwrap();
    assert!(other.finish(&m2, &client.identity(&node), &hello(), &mut rng()).is_err());
    drop(awaiting);
}

#[test]
fn what_the_node_shows_must_be_by_the_pinned_identity_and_of_this_time() {
    let (node, other) = (Node::new(), Node::new());
    let verify = |seen: &Advertisement| seen.verify(node.address(), NOW).map(|_| ());
    let shown = node.advertisement();
    assert_eq!(verify(&shown), Ok(()));
    assert_eq!(verify(&other.advertisement()), Err(AdvertisementError::OtherIdentity(other.address())));
    // The right address over another identity's certificate.
    let mut forged = other.advertisement();
    forged.node.as_mut().unwrap().address = node.address();
    assert_eq!(verify(&forged), Err(CertificateError::Signature.into()));
    // A certificate of the node's, for another channel key than the one shown.
    let mut swapped = node.advertisement();
    swapped.node.as_mut().unwrap().channel_key = other.channel.public_key();
    assert_eq!(verify(&swapped), Err(CertificateError::OtherKey.into()));
    let mut chain = node.advertisement();
    chain.node.as_mut().unwrap().chain_id = 1;
    assert_eq!(verify(&chain), Err(CertificateError::Signature.into()));
    let mut old = node.advertisement();
    old.e2ee = vec!["1".into()];
    assert_eq!(verify(&old), Err(AdvertisementError::NoVersion2));
    for (now, expected) in [
        (NOW - 300, Ok(())),
        (NOW - 601, Err(AdvertisementError::Certificate(CertificateError::Time))),
        (NOW + 25 * 3600 + 300, Ok(())),
        (NOW + 25 * 3600 + 301, Err(AdvertisementError::Certificate(CertificateError::Time))),
    ] {
        assert_eq!(shown.verify(node.address(), now).map(|_| ()), expected, "{now}");
    }
    let newer = NodeChannelKey::made_at(NOW, node.channel.public_key(), 3);
    let mut newer_node = node.advertisement();
    newer_node.node.as_mut().unwrap().certificate = node.certify(newer);
    assert_eq!(verify(&newer_node), Err(CertificateError::Version.into()));
    let long = NodeChannelKey {
        not_after: NOW + 1_000_000,
        ..NodeChannelKey::made_at(NOW, node.channel.public_key(), 1)
    };
    let mut long_lived = node.advertisement();
    long_lived.node.as_mut().unwrap().certificate = node.certify(long);
    assert_eq!(verify(&long_lived), Err(CertificateError::TooLong.into()));
}

#[test]
fn a_time_that_json_cannot_hold_is_no_time() {
    const BEYOND: u64 = 1 << 53;
    let node = Node::new();
    let verify = |key: NodeChannelKey| node.certify(key).verify(node.address(), CHAIN, NOW).map(|_| ());
    let made = || NodeChannelKey::made_at(NOW, node.channel.public_key(), 1);
    assert_eq!(verify(made()), Ok(()));
    assert_eq!(verify(NodeChannelKey { not_before: BEYOND, ..made() }), Err(CertificateError::Malformed));
    assert_eq!(verify(NodeChannelKey { not_after: BEYOND, ..made() }), Err(CertificateError::Malformed));
    // The largest that it can hold is one, if one that is far away.
    assert_eq!(verify(NodeChannelKey { not_before: BEYOND - 1, ..made() }), Err(CertificateError::Time));
    assert_eq!(verify(NodeChannelKey { not_after: BEYOND - 1, ..made() }), Err(CertificateError::TooLong));
    let next = PrivateKey::random(&mut rng()).address();
    let rotation = |not_before| {
        let made = NodeKeyRotation { from: node.address(), to: next, not_before };
        let signature = node.identity.sign(&made.digest(CHAIN)).unwrap();
        made.with_signature(signature).verify(node.address(), CHAIN, NOW)
    };
    assert_eq!(rotation(NOW), Ok(next));
    assert_eq!(rotation(BEYOND), Err(CertificateError::Malformed));
    assert_eq!(rotation(BEYOND - 1), Err(CertificateError::Time));
}

#[test]
fn who_waits_for_an_answer_is_printed_by_name_alone() {
    let (node, client) = (Node::new(), Client::new());
    let (m1, waiting) = AwaitingM2::<AwsLc>::start(&node.verified(), &mut rng()).unwrap();
    assert_eq!(format!("{waiting:?}"), "AwaitingM2(..)");
    let hint = M1::read(&m1).unwrap().hint;
    assert_eq!(format!("{hint:?}"), format!("Hint({})", const_hex::encode(hint.as_bytes())));
    let opened = M1::read(&m1).unwrap().open(&node.channel, &node.prologue()).unwrap();
    assert!(format!("{opened:?}").starts_with("OpenedM1"), "{opened:?}");
    let (ours, theirs) = channels(&node, &client.identity(&node), &hello());
    let (r1, waiting) = AwaitingR2::start(ours.ticket, &Resume::default(), &mut rng()).unwrap();
    assert_eq!(format!("{waiting:?}"), "AwaitingR2(..)");
    let opened = R1::read(&r1).unwrap().open(&theirs.channel.ticket).unwrap();
    assert!(format!("{opened:?}").starts_with("OpenedR1"), "{opened:?}");
}

#[test]
fn a_node_names_so_many_versions_of_such_a_length() {
    let written = |versions: &[&str]| {
        let versions: Vec<_> = versions.iter().map(|version| (*version).to_owned()).collect();
        fabstir_protocol::v2::prologue(&versions, CHAIN, Node::new().address()).is_some()
    };
    assert!(written(&["2"; 8]) && !written(&["2"; 9]));
    assert!(written(&["sixteen-letters."]) && !written(&["seventeen-letters"]));
    for version in ["", "2,1", "2 ", "\u{e9}"] {
        assert!(!written(&[version]), "{version:?}");
    }
}

#[test]
fn who_writes_hex_in_capitals_is_told_what_was_expected() {
    let certificate = Node::new().certify(NodeChannelKey::made_at(NOW, Node::new().channel.public_key(), 1));
    let mut json = serde_json::to_value(certificate).unwrap();
    for (field, what) in [("publicKey", "a public key"), ("signature", "a signature")] {
        let written = json[field].take();
        json[field] = written.as_str().unwrap().to_uppercase().into();
        let refused = serde_json::from_value::<SignedChannelKey>(json.clone()).unwrap_err().to_string();
        assert!(refused.contains(&format!("{what} in lower-case hex was expected")), "{refused}");
        json[field] = written;
    }
}

#[test]
fn a_first_frame_is_read_as_it_is_written_and_has_one_form() {
    let node = Node::new();
    let mut json = serde_json::to_value(node.advertisement()).unwrap();
    json["type"] = "connected".into();
    json["message"] = "a node".into();
    let text = json.to_string();
    assert_eq!(Advertisement::read(&text).unwrap(), node.advertisement());
    let upper = text.replace(
        &node.channel.public_key().to_string(),
        &node.channel.public_key().to_string().to_uppercase(),
    );
    assert_eq!(Advertisement::read(&upper), Err(AdvertisementError::Malformed));
    assert_eq!(
        Advertisement::read("{\"type\":\"connected\",\"message\":\"old\"}"),
        Err(AdvertisementError::NoVersion2)
    );
    assert_eq!(Advertisement::read("{\"type\":\"pong\"}"), Err(AdvertisementError::Malformed));
    assert_eq!(Advertisement::read("[]"), Err(AdvertisementError::Malformed));
}

#[test]
fn a_delegation_is_for_one_key_one_node_and_a_time() {
    let (node, other, client) = (Node::new(), Node::new(), Client::new());
    let key = client.key.public_key();
    let one = client.delegation_to(key, Some(node.address()));
    assert_eq!(SignedDelegation::try_from(&one.to_bytes()[..]), Ok(one.clone()));
    assert_eq!(one.verify(&key, node.address(), NOW), Ok(client.wallet.address()));
    assert_eq!(one.verify(&node.channel.public_key(), node.address(), NOW), Err(CertificateError::OtherKey));
    assert_eq!(one.verify(&key, other.address(), NOW), Err(CertificateError::OtherNode));
    assert_eq!(one.verify(&key, node.address(), NOW + 3901), Err(CertificateError::Time));
    assert_eq!(one.verify(&key, node.address(), NOW - 361), Err(CertificateError::Time));
    let any = client.delegation_to(key, None);
    assert_eq!(any.verify(&key, other.address(), NOW), Ok(client.wallet.address()));
    let mut long = one.delegation().clone();
    long.not_after = long.not_before + 30 * 24 * 3600 + 1;
    let long = long.sign(&client.wallet).unwrap();
    assert_eq!(long.verify(&key, node.address(), NOW), Err(CertificateError::TooLong));
    // Somebody else's signature does not make it somebody else's session.
    let mut stolen = one.delegation().clone();
    stolen.wallet = node.address();
    let digest = stolen.digest();
    let forged = stolen.clone().with_signature(client.wallet.sign(&digest).unwrap());
    assert_eq!(forged, Err(CertificateError::Signature));
    // Every bit of it counts.
    let bytes = one.to_bytes();
    for bit in 0..bytes.len() * 8 {
        let mut bent = bytes;
        bent[bit / 8] ^= 1 << (bit % 8);
        let verdict =
            SignedDelegation::try_from(&bent[..]).and_then(|bent| bent.verify(&key, node.address(), NOW));
        assert!(verdict.is_err(), "bit {bit}");
    }
}

#[test]
fn a_rotation_is_by_the_identity_that_is_left() {
    let (old, new) = (Node::new(), Node::new());
    let rotation = NodeKeyRotation { from: old.address(), to: new.address(), not_before: NOW };
    let signature = old.identity.sign(&rotation.digest(CHAIN)).unwrap();
    let signed = rotation.clone().with_signature(signature);
    assert_eq!(signed.verify(old.address(), CHAIN, NOW), Ok(new.address()));
    assert_eq!(signed.verify(new.address(), CHAIN, NOW), Err(CertificateError::OtherKey));
    assert_eq!(signed.verify(old.address(), CHAIN, NOW - 301), Err(CertificateError::Time));
    assert_eq!(signed.verify(old.address(), 1, NOW), Err(CertificateError::Signature));
    // A client that has pinned the old one is told where the node went, and does not go there.
    let mut shown = new.advertisement();
    shown.node.as_mut().unwrap().rotation = Some(signed.clone());
    let verdict = |shown: &Advertisement| shown.verify(old.address(), NOW).map(|_| ());
    assert_eq!(verdict(&shown), Err(AdvertisementError::Moved(new.address())));
    shown.node.as_mut().unwrap().rotation = None;
    assert_eq!(verdict(&shown), Err(AdvertisementError::OtherIdentity(new.address())));
    let forged = rotation.clone().with_signature(new.identity.sign(&rotation.digest(CHAIN)).unwrap());
    assert_eq!(forged.verify(old.address(), CHAIN, NOW), Err(CertificateError::Signature));
}

#[test]
fn a_ticket_resumes_under_new_keys_with_a_new_ticket() {
    let (node, client) = (Node::new(), Client::new());
    let (ours, theirs) = channels(&node, &client.identity(&node), &hello());
    let before = (*ours.sealer.expose_key(), *ours.ticket.id());
    let resume = Resume { received: vec![Received(1, 4)], shape: Shape::Off };
    let (r1, waiting) = AwaitingR2::start(ours.ticket, &resume, &mut rng()).unwrap();
    let opened = R1::read(&r1).unwrap().open(&theirs.channel.ticket).unwrap();
    assert_eq!(opened.resume.as_ref(), Some(&resume));
    let welcome = Welcome { known: Some(vec![1]), ..Welcome::default() };
    let (r2, mut on_node) = opened.respond(&welcome, &mut rng()).unwrap();
    let (heard, mut on_client) = waiting.finish(&r2).unwrap();
    assert_eq!(heard, welcome);
    assert_eq!(on_client.sid, on_node.sid);
    assert_ne!(on_client.sid, ours.sid);
    assert_ne!((*on_client.sealer.expose_key(), *on_client.ticket.id()), before);
    assert_eq!(on_client.ticket.expose_psk(), on_node.ticket.expose_psk());
    let frame = on_client.sealer.seal(RecordType::Request, Flags::LAST, 2, 0, b"again").unwrap();
    assert_eq!(*on_node.opener.open(&frame).unwrap().body, *b"again");
}

#[test]
fn a_claim_is_read_as_it_is_written() {
    let (node, client) = (Node::new(), Client::new());
    let (ours, _) = channels(&node, &client.identity(&node), &hello());
    let mut again = hello();
    again.claim = Some(Claim { session: ours.sid, received: vec![Received(3, 9)] });
    let (_, greeted) = channels(&node, &client.identity(&node), &again);
    assert_eq!(greeted.hello, Some(again));
}

#[test]
fn no_secret_prints() {
    let (node, client) = (Node::new(), Client::new());
    let (ours, theirs) = channels(&node, &client.identity(&node), &hello());
    let shown = format!("{ours:?} {theirs:?} {:?}", client.identity(&node));
    for secret in [ours.sealer.expose_key(), ours.ticket.expose_psk(), theirs.channel.sealer.expose_key()] {
        assert!(!shown.contains(&const_hex::encode(secret)));
        assert!(!shown.contains(&format!("{secret:?}")));
    }
    assert!(shown.contains("Ticket(..)") && shown.contains("PrivateKey(..)"));
}
