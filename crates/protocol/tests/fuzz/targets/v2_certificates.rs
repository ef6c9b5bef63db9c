//! What long-lived keys sign: a node's channel key in its first frame, a client's delegation, a change of identity.
//! Changed ones are refused, whatever was changed; what is signed is judged as a second reading of the rules judges it.

use fabstir_protocol::{
    ethereum::Address,
    v2::{
        Advertisement, MAX_DELEGATION_SECONDS, NodeChannelKey, NodeIdentity, NodeKeyRotation,
        SessionDelegation, SignedDelegation, SignedRotation,
    },
};

use super::{
    Bytes, bend,
    peers::{CHAIN, NOW, PEERS},
    v2_support::reference::prologue,
};

/// No time in JSON is so large: not every reader holds it exactly (RFC 8259, section 6).
const LEAST_INEXACT: u64 = 1 << 53;

pub(crate) fn run(data: &[u8]) {
    let mut bytes = Bytes(data);
    match bytes.byte() % 7 {
        0 => delegation(bytes.rest()),
        1 => {
            let real = if bytes.byte() & 1 == 0 { &PEERS.delegation } else { &PEERS.for_any_node };
            delegation(&bend(&real.to_bytes(), &[&PEERS.for_any_node.to_bytes()], &mut bytes));
        }
        2 => advertisement(bytes.rest()),
        3 => {
            let real = PEERS.connected(bytes.byte() & 1 != 0);
            advertisement(&bend(real.as_bytes(), &[], &mut bytes));
        }
        4 => rotation(&mut bytes),
        5 => signed_delegation(&mut bytes),
        _ => signed_channel_key(&mut bytes),
    }
}

fn delegation(wire: &[u8]) {
    let Ok(read) = SignedDelegation::try_from(wire) else { return };
    assert_eq!(read.to_bytes().as_slice(), wire, "two ways to write one delegation");
    let verdict = read.verify(&PEERS.delegate.public_key(), PEERS.identity.address(), NOW);
    let made = [&PEERS.delegation, &PEERS.for_any_node].contains(&&read);
    assert_eq!(verdict.is_ok(), made);
}

fn advertisement(text: &[u8]) {
    let Ok(text) = std::str::from_utf8(text) else { return };
    let Ok(read) = Advertisement::read(text) else { return };
    // What is read is written and read again.
    let mut json = serde_json::to_value(&read).unwrap();
    json["type"] = "connected".into();
    assert_eq!(Advertisement::read(&json.to_string()).as_ref(), Ok(&read));
    judge(&read, NOW);
    if let Some(rotation) = read.node.as_ref().and_then(|node| node.rotation.as_ref()) {
        let verdict = rotation.verify(PEERS.identity.address(), CHAIN, NOW);
        assert_eq!(verdict.is_ok(), *rotation == PEERS.rotation);
    }
}

/// Nothing is accepted but the node's own certificate, and a list of versions is what its bytes say.
fn judge(read: &Advertisement, now: u64) {
    let pinned = PEERS.identity.address();
    let Ok(verified) = read.verify(pinned, now) else {
        let real = Advertisement::read(&PEERS.connected(false)).unwrap();
        assert!(
            now != NOW || read.e2ee != real.e2ee || without_rotation(read) != real,
            "the real one is refused"
        );
        return;
    };
    let node = read.node.as_ref().unwrap();
    assert_eq!((node.address, node.chain_id), (pinned, CHAIN));
    assert_eq!(node.certificate, PEERS.certificate);
    assert_eq!(*verified.channel_key(), PEERS.channel_key());
    assert!(read.e2ee.iter().any(|version| version == "2"));
    let written = fabstir_protocol::v2::prologue(&read.e2ee, CHAIN, pinned).unwrap();
    assert_eq!(written, prologue(&read.e2ee, CHAIN, pinned.as_bytes()));
    assert_eq!(written == PEERS.prologue, read.e2ee == PEERS.versions, "two lists, one prologue");
}

fn without_rotation(read: &Advertisement) -> Advertisement {
    let mut plain = read.clone();
    plain.node.iter_mut().for_each(|node| node.rotation = None);
    plain
}

fn rotation(bytes: &mut Bytes<'_>) {
    let signed_well = bytes.byte() & 1 == 0;
    let not_before = time(bytes);
    let now = time(bytes);
    let (from, to) = (PEERS.identity.address(), PEERS.next_identity.address());
    let rotation = NodeKeyRotation { from, to, not_before };
    let signer = if signed_well { &PEERS.identity } else { &PEERS.next_identity };
    let signed = rotation.clone().with_signature(signer.sign(&rotation.digest(CHAIN)).unwrap());
    let expected = signed_well && not_before < LEAST_INEXACT && u128::from(now) + 300 >= not_before.into();
    assert_eq!(signed.verify(from, CHAIN, now).is_ok(), expected);
    assert!(signed.verify(from, CHAIN + 1, now).is_err());
    let json = serde_json::to_vec(&signed).unwrap();
    let bent = bend(&json, &[], bytes);
    if let Ok(read) = serde_json::from_slice::<SignedRotation>(&bent)
        && read.verify(from, CHAIN, now).is_ok()
    {
        assert!(read == signed && expected, "a changed rotation is accepted");
    }
}

/// A time around now, or any at all.
fn time(bytes: &mut Bytes<'_>) -> u64 {
    match bytes.byte() {
        255 => bytes.u64(),
        how => (NOW + u64::from(how) * 65_536 + u64::from(bytes.u16())).saturating_sub(60 * 65_536),
    }
}

fn in_time(not_before: u64, not_after: u64, now: u64) -> bool {
    let (not_before, not_after, now) = (i128::from(not_before), i128::from(not_after), i128::from(now));
    // What ends before it begins holds at no time, whatever clocks are allowed.
    not_before <= not_after && (not_before - 300..=not_after + 300).contains(&now)
}

fn signed_delegation(bytes: &mut Bytes<'_>) {
    let how = bytes.byte();
    let here = PEERS.identity.address();
    let node = match how & 3 {
        0 => None,
        1 => Some(PEERS.next_identity.address()),
        _ => Some(here),
    };
    let own = PEERS.delegate.public_key();
    let delegate_key = if how & 4 == 0 { own } else { PEERS.channel_key() };
    let (not_before, not_after, now) = (time(bytes), time(bytes), time(bytes));
    let wallet = if how & 8 == 0 { PEERS.wallet.address() } else { Address::from(bytes.array::<20>()) };
    let delegation = SessionDelegation { wallet, delegate_key, node, not_before, not_after };
    let Ok(signed) = delegation.sign(&PEERS.wallet) else {
        assert_ne!(wallet, PEERS.wallet.address());
        return;
    };
    let again = SignedDelegation::try_from(&signed.to_bytes()[..]);
    assert_eq!(again.as_ref(), Ok(&signed));
    let short = not_after.saturating_sub(not_before) <= MAX_DELEGATION_SECONDS;
    let expected = delegate_key == own
        && node.is_none_or(|node| node == here)
        && short
        && in_time(not_before, not_after, now);
    assert_eq!(signed.verify(&own, here, now).is_ok(), expected);
    assert_eq!(signed.check(&own, here, now).is_ok(), expected);
}

fn signed_channel_key(bytes: &mut Bytes<'_>) {
    let how = bytes.byte();
    let (not_before, not_after, now) = (time(bytes), time(bytes), time(bytes));
    let min_version = bytes.u16() % 5;
    let channel_key = if how & 1 == 0 { PEERS.channel_key() } else { PEERS.delegate.public_key() };
    let key = NodeChannelKey { public_key: PEERS.channel_key(), not_before, not_after, min_version };
    let signer = if how & 2 == 0 { &PEERS.identity } else { &PEERS.wallet };
    let certificate = key.clone().with_signature(signer.sign(&key.digest(CHAIN)).unwrap());
    let chain_id = CHAIN + u64::from(how >> 7);
    let versions = usize::from(how >> 2) % 5;
    let e2ee = ["2", "1", "", "a,b", "22222222222222222"].map(str::to_owned)[..versions].to_vec();
    let identity = NodeIdentity {
        address: PEERS.identity.address(),
        chain_id,
        channel_key,
        certificate,
        rotation: None,
    };
    let shown = Advertisement { e2ee, node: Some(identity) };
    let expected = how & 3 == 0
        && (1..=2).contains(&versions)
        && chain_id == CHAIN
        && min_version <= 2
        && not_before.max(not_after) < LEAST_INEXACT
        && not_after.saturating_sub(not_before) <= 25 * 3600 + 300
        && in_time(not_before, not_after, now);
    assert_eq!(shown.verify(PEERS.identity.address(), now).is_ok(), expected);
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let mut all = vec![
        [&[0], PEERS.delegation.to_bytes().as_slice()].concat(),
        [&[0], PEERS.for_any_node.to_bytes().as_slice()].concat(),
        [&[2], PEERS.connected(false).as_bytes()].concat(),
        [&[2], PEERS.connected(true).as_bytes()].concat(),
        b"\x02{\"type\":\"connected\",\"message\":\"old\"}".to_vec(),
        b"\x02{\"type\":\"connected\",\"e2ee\":[\"2\",\"1\"]}".to_vec(),
        b"\x02{\"type\":\"pong\"}".to_vec(),
    ];
    // 60 of 65536 seconds is now.
    let times: [&[u8]; 4] = [
        &[60, 0, 0, 60, 14, 16, 60, 0, 9],
        &[59, 255, 0, 60, 255, 255, 60, 0, 0],
        &[0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255, 255, 60, 0, 0],
        &[60, 1, 44, 60, 14, 16, 60, 0, 0],
    ];
    for times in times {
        for how in [0, 1, 4, 128] {
            all.push([&[4, how], times, &[0, 0, 60, 1]].concat());
            all.push([&[5, how], times].concat());
        }
        // Two versions; another key shown, another signer, another chain; a version to come.
        for how in [8, 9, 10, 136] {
            all.push([&[6, how], times, &[0, 1]].concat());
            all.push([&[6, how], times, &[0, 3]].concat());
        }
    }
    // The signature's last byte in its other forms.
    for last in [0, 1, 28] {
        all.push(vec![1, 0, 1, 0, 153, last]);
    }
    for edits in [&[][..], &[0, 0, 60, 1], &[2, 0, 9, 1, b' '], &[4, 0, 90], &[6, 0, 30, 0, 40, 0, 0]] {
        all.extend([[&[1, 0], edits].concat(), [&[1, 1], edits].concat()]);
        all.extend([[&[3, 0], edits].concat(), [&[3, 1], edits].concat()]);
    }
    all
}
