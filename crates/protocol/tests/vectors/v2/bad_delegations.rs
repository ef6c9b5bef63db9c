//! Delegations that must be refused, and why.

use fabstir_protocol::{identity::PublicKey, v2::SignedDelegation};

use super::{
    advertisement::certificate_error,
    cases::BadDelegationCase,
    eip712::wire,
    handshake::{NOW, key},
    rejected::{Base, bad_points},
};
use crate::{
    support::{
        hex,
        reference::{self as v1, with_high_s},
        unhex, unhex_array,
    },
    v2_support::{draw, noise::public, reference as r, rng},
};

/// Delegations that do not hold: bent ones first, then good ones in the wrong place.
pub(super) fn make(base: &Base) -> Vec<BadDelegationCase> {
    let own = public(&base.own());
    let node: [u8; 20] = unhex_array(&base.case.node_address[2..]);
    let mut cases = Vec::new();
    let mut add = |error: &str, why: &str, wire: &[u8], delegate: &[u8; 33], node: &[u8; 20], now: u64| {
        cases.push(BadDelegationCase {
            why: why.to_owned(),
            wire: hex(wire),
            delegate: hex(delegate),
            node: format!("0x{}", hex(node)),
            now,
            error: error.to_owned(),
        });
    };
    let wallet: [u8; 32] = draw(&mut rng("rejected|wallet"));
    let address = *key(&wallet).address().as_bytes();
    let day = (NOW - 60, NOW + 86_400);
    let signed = |delegate: &[u8; 33], only: &[u8; 20], times| sign(&wallet, &address, delegate, only, times);
    let good = signed(&own, &node, day);
    let control = SignedDelegation::try_from(good.as_slice()).unwrap();
    assert_eq!(
        control.verify(&own_key(base), node.into(), NOW).map(|wallet| *wallet.as_bytes()),
        Ok(address),
        "the control"
    );
    let bent = |place: usize, change: fn(u8) -> u8| {
        let mut bent = good.clone();
        bent[place] = change(bent[place]);
        bent
    };
    let with_signature = |signature: &[u8]| [&good[..89], signature].concat();

    add("malformed", "of a byte less", &good[..153], &own, &node, NOW);
    add("malformed", "of a byte more", &[good.as_slice(), &[0]].concat(), &own, &node, NOW);
    add("malformed", "of a wallet alone", &good[..20], &own, &node, NOW);
    add("malformed", "whose v is 0 or 1", &bent(153, |v| v - 27), &own, &node, NOW);
    add("malformed", "whose v is 29", &bent(153, |_| 29), &own, &node, NOW);
    add("malformed", "whose v is that of a chain (EIP-155)", &bent(153, |_| 37), &own, &node, NOW);
    let mut raw: [u8; 65] = good[89..].try_into().unwrap();
    raw[64] -= 27;
    let mut high = with_high_s(&raw);
    high[64] += 27;
    add("malformed", "with a high s", &with_signature(&high), &own, &node, NOW);
    add(
        "malformed",
        "whose r is zero",
        &with_signature(&[&[0; 32], &good[121..]].concat()),
        &own,
        &node,
        NOW,
    );
    add(
        "malformed",
        "whose s is zero",
        &with_signature(&[&good[89..121], &[0; 32], &good[153..]].concat()),
        &own,
        &node,
        NOW,
    );
    let order = unhex(v1::ORDER);
    add(
        "malformed",
        "whose r is the order",
        &with_signature(&[&order, &good[121..]].concat()),
        &own,
        &node,
        NOW,
    );
    for (why, key) in bad_points(&own) {
        add("malformed", &format!("with a key {why}"), &signed(&key, &node, day), &own, &node, NOW);
    }

    add("signature", "with another bit in r", &bent(100, |byte| byte ^ 1), &own, &node, NOW);
    add("signature", "with another bit in s", &bent(130, |byte| byte ^ 1), &own, &node, NOW);
    add("signature", "with the other v", &bent(153, |v| 55 - v), &own, &node, NOW);
    add("signature", "with another wallet", &bent(0, |byte| byte ^ 1), &own, &node, NOW);
    add("signature", "with a later end", &bent(88, |byte| byte ^ 1), &own, &node, NOW);
    add("signature", "with an earlier beginning", &bent(80, |byte| byte ^ 1), &own, &node, NOW);
    let mut any = good.clone();
    any[53..73].fill(0);
    add("signature", "for one node, made into one for any", &any, &own, &node, NOW);
    let thief: [u8; 32] = draw(&mut rng("rejected|thief"));
    add(
        "signature",
        "signed by another wallet than it names",
        &sign(&thief, &address, &own, &node, day),
        &own,
        &node,
        NOW,
    );
    add(
        "signature",
        "signed by the delegate itself",
        &sign(&base.own(), &address, &own, &node, day),
        &own,
        &node,
        NOW,
    );
    add(
        "signature",
        "of a chain's domain",
        &sign_on(Some(84532), &wallet, &address, &own, &node, day),
        &own,
        &node,
        NOW,
    );

    let stranger = public(&thief);
    add("other_key", "for another key than speaks", &signed(&stranger, &node, day), &own, &node, NOW);
    let mut twin = own;
    twin[0] ^= 1;
    add("other_key", "for the other point of the same x", &signed(&twin, &node, day), &own, &node, NOW);
    let mut elsewhere = node;
    elsewhere[19] ^= 1;
    add("other_node", "for another node", &signed(&own, &elsewhere, day), &own, &node, NOW);
    add(
        "too_long",
        "of a second more than thirty days",
        &signed(&own, &node, (NOW, NOW + 30 * 86_400 + 1)),
        &own,
        &node,
        NOW,
    );
    add("too_long", "without an end", &signed(&own, &node, (0, u64::MAX)), &own, &node, NOW);
    add("time", "that is over", &signed(&own, &node, (NOW - 86_400, NOW - 301)), &own, &node, NOW);
    add("time", "whose time has not come", &signed(&own, &node, (NOW + 301, NOW + 86_400)), &own, &node, NOW);
    add("time", "shown a second too late", &good, &own, &node, day.1 + 301);
    add("time", "shown a second too early", &good, &own, &node, day.0 - 301);
    add("other_key", "shown by another key", &good, &stranger, &node, NOW);
    add("other_node", "shown to another node", &good, &own, &elsewhere, NOW);
    cases
}

fn own_key(base: &Base) -> PublicKey {
    base.case.client_static_public_key.parse().unwrap()
}

fn sign(
    signer: &[u8; 32],
    wallet: &[u8; 20],
    delegate: &[u8; 33],
    node: &[u8; 20],
    times: (u64, u64),
) -> Vec<u8> {
    sign_on(None, signer, wallet, delegate, node, times)
}

/// Signs whatever is asked for, as the crate would not.
fn sign_on(
    chain_id: Option<u64>,
    signer: &[u8; 32],
    wallet: &[u8; 20],
    delegate: &[u8; 33],
    node: &[u8; 20],
    times: (u64, u64),
) -> Vec<u8> {
    let kind =
        "SessionDelegation(address wallet,bytes delegateKey,address node,uint64 notBefore,uint64 notAfter)";
    let words = [
        r::word(wallet),
        r::keccak(&[delegate]),
        r::word(node),
        r::word(&times.0.to_be_bytes()),
        r::word(&times.1.to_be_bytes()),
    ];
    let (_, digest) = r::typed_digest(&r::domain_separator(chain_id), kind, &words);
    let mut signature = v1::sign(signer, &digest);
    signature[64] += 27;
    wire(wallet, delegate, node, times, &signature)
}

pub(crate) fn run(case: &BadDelegationCase) {
    let (delegate, node) = (case.delegate.parse().unwrap(), case.node.parse().unwrap());
    let verdict = SignedDelegation::try_from(unhex(&case.wire).as_slice())
        .and_then(|signed| signed.verify(&delegate, node, case.now));
    assert_eq!(verdict.map_err(certificate_error), Err(case.error.as_str()), "{}", case.why);
}
