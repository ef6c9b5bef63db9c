//! What long-lived keys sign: digests, signatures, and the forms on the wire.

use std::collections::BTreeMap;

use fabstir_protocol::{
    ethereum::Address,
    identity::{PrivateKey, PublicKey, Signature},
    v2::{NodeChannelKey, NodeKeyRotation, SessionDelegation, SignedDelegation},
};

use serde_json::Value;

use super::{
    cases::{DelegationCase, DomainCase, FieldCase, SignedCase, TypedData},
    handshake::{NOW, key},
    number,
};
use crate::{
    support::{
        hex,
        reference::{public, sign},
        unhex, unhex_array,
    },
    v2_support::{draw, reference as r, rng},
};

/// The largest number that JavaScript writes exactly.
const SAFE: u64 = (1 << 53) - 1;

fn field(name: &str, kind: &str, value: impl Into<String>) -> FieldCase {
    FieldCase { name: name.to_owned(), r#type: kind.to_owned(), value: value.into() }
}

fn number_field(name: &str, value: u64) -> FieldCase {
    field(name, if name == "minVersion" { "uint16" } else { "uint64" }, value.to_string())
}

/// What `encodeData` makes of a field.
fn word(field: &FieldCase) -> [u8; 32] {
    match field.r#type.as_str() {
        "bytes" => r::keccak(&[&unhex(&field.value)]),
        "address" => r::word(&unhex(&field.value)),
        _ => r::word(&number(&field.value).to_be_bytes()),
    }
}

/// Hashed and signed by hand; `wire` is the crate's form, given the signature.
fn case(
    name: &str,
    primary_type: &str,
    chain_id: Option<u64>,
    fields: Vec<FieldCase>,
    private: &[u8; 32],
    wire: impl FnOnce(Signature) -> String,
) -> SignedCase {
    let list: Vec<String> = fields.iter().map(|field| format!("{} {}", field.r#type, field.name)).collect();
    let kind = format!("{primary_type}({})", list.join(","));
    let words: Vec<[u8; 32]> = fields.iter().map(word).collect();
    let domain = r::domain_separator(chain_id);
    let (hash, digest) = r::typed_digest(&domain, &kind, &words);
    let mut signature = sign(private, &digest);
    signature[64] += 27;
    let domain_case = DomainCase {
        name: "Fabstir E2EE".to_owned(),
        version: "2".to_owned(),
        chain_id: chain_id.map(|chain_id| chain_id.to_string()),
    };
    SignedCase {
        name: name.to_owned(),
        primary_type: primary_type.to_owned(),
        domain: domain_case,
        fields,
        private_key: hex(private),
        signer: key(private).address().to_string(),
        domain_separator: hex(domain),
        struct_hash: hex(hash),
        digest: hex(digest),
        signature: hex(signature),
        wire: wire(Signature::try_from(signature.as_slice()).unwrap()),
        typed_data: None,
    }
}

fn channel_key(name: &str, chain_id: u64, times: (u64, u64), min_version: u16) -> SignedCase {
    let rng = &mut rng(&format!("eip712|{name}"));
    let (identity, channel): ([u8; 32], [u8; 32]) = (draw(rng), draw(rng));
    let (not_before, not_after) = times;
    let fields = vec![
        field("publicKey", "bytes", format!("0x{}", hex(public(&channel)))),
        number_field("notBefore", not_before),
        number_field("notAfter", not_after),
        number_field("minVersion", min_version.into()),
    ];
    let certified =
        NodeChannelKey { public_key: key(&channel).public_key(), not_before, not_after, min_version };
    case(name, "NodeChannelKey", Some(chain_id), fields, &identity, |signature| {
        serde_json::to_string(&certified.with_signature(signature)).unwrap()
    })
}

fn delegation(name: &str, for_any: bool, times: (u64, u64)) -> SignedCase {
    let rng = &mut rng(&format!("eip712|{name}"));
    let (wallet, delegate, node): ([u8; 32], [u8; 32], [u8; 20]) = (draw(rng), draw(rng), draw(rng));
    let (not_before, not_after) = times;
    let node = if for_any { [0; 20] } else { node };
    let fields = vec![
        field("wallet", "address", key(&wallet).address().to_string()),
        field("delegateKey", "bytes", format!("0x{}", hex(public(&delegate)))),
        field("node", "address", format!("0x{}", hex(node))),
        number_field("notBefore", not_before),
        number_field("notAfter", not_after),
    ];
    let mut case = case(name, "SessionDelegation", None, fields, &wallet, |signature| {
        let address = *key(&wallet).address().as_bytes();
        hex(wire(&address, &public(&delegate), &node, times, &signature.to_bytes()))
    });
    let asked = SessionDelegation {
        wallet: key(&wallet).address(),
        delegate_key: key(&delegate).public_key(),
        node: (!for_any).then(|| Address::from(node)),
        not_before,
        not_after,
    };
    case.typed_data = (not_after <= SAFE).then(|| sorted(&asked.typed_data()));
    case
}

/// JSON with the keys of every object in their order, whatever order the build keeps them in.
fn sorted(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let fields: BTreeMap<_, _> = fields.iter().collect();
            let field = |(name, value): (&String, &Value)| {
                format!("{}:{}", Value::from(name.as_str()), sorted(value))
            };
            format!("{{{}}}", fields.into_iter().map(field).collect::<Vec<_>>().join(","))
        }
        Value::Array(list) => format!("[{}]", list.iter().map(sorted).collect::<Vec<_>>().join(",")),
        other => other.to_string(),
    }
}

/// A delegation's bytes, laid out by hand.
pub(crate) fn wire(
    wallet: &[u8; 20],
    delegate: &[u8; 33],
    node: &[u8; 20],
    (not_before, not_after): (u64, u64),
    signature: &[u8],
) -> Vec<u8> {
    let parts: [&[u8]; 6] =
        [wallet, delegate, node, &not_before.to_be_bytes(), &not_after.to_be_bytes(), signature];
    parts.concat()
}

fn rotation(name: &str, chain_id: u64, not_before: u64) -> SignedCase {
    let rng = &mut rng(&format!("eip712|{name}"));
    let (from, to): ([u8; 32], [u8; 32]) = (draw(rng), draw(rng));
    let rotation = NodeKeyRotation { from: key(&from).address(), to: key(&to).address(), not_before };
    let fields = vec![
        field("from", "address", rotation.from.to_string()),
        field("to", "address", rotation.to.to_string()),
        number_field("notBefore", not_before),
    ];
    case(name, "NodeKeyRotation", Some(chain_id), fields, &from, |signature| {
        serde_json::to_string(&rotation.with_signature(signature)).unwrap()
    })
}

fn signed() -> Vec<SignedCase> {
    let day = (NOW - 300, NOW + 90_000);
    let mut cases = Vec::new();
    for chain_id in [0, 1, 84532, SAFE, SAFE + 1, u64::MAX] {
        cases.push(channel_key(&format!("a channel key on chain {chain_id}"), chain_id, day, 1));
        cases.push(rotation(&format!("a rotation on chain {chain_id}"), chain_id, NOW));
    }
    for min_version in [0, 2, u16::MAX] {
        let name = format!("a channel key of a node that speaks nothing below {min_version}");
        cases.push(channel_key(&name, 84532, day, min_version));
    }
    for (what, times) in [
        ("at the beginning of time", (0, 0)),
        ("to the largest number of JavaScript", (SAFE - 1, SAFE)),
        ("beyond it", (SAFE + 2, SAFE + 4)),
        ("to the end of time", (u64::MAX - 1, u64::MAX)),
    ] {
        cases.push(channel_key(&format!("a channel key {what}"), 84532, times, 1));
        cases.push(delegation(&format!("a delegation {what}"), false, times));
        cases.push(rotation(&format!("a rotation {what}"), 84532, times.0));
    }
    cases.push(delegation("a delegation for one node", false, (NOW, NOW + 86_400)));
    cases.push(delegation("a delegation for any node", true, (NOW, NOW + 86_400)));
    // Both parities of a compressed key, and both values of v.
    for number in 0..6 {
        cases.push(delegation(&format!("delegation {number}"), number % 2 == 0, (NOW, NOW + 2_592_000)));
    }
    cases
}

/// Delegations that hold, at the edges of what holds.
fn delegations() -> Vec<DelegationCase> {
    let mut cases = Vec::new();
    let mut add = |name: &str, for_any: bool, times: (u64, u64), now: u64| {
        let rng = &mut rng(&format!("delegation|{name}"));
        let (wallet, delegate, node): ([u8; 32], [u8; 32], [u8; 20]) = (draw(rng), draw(rng), draw(rng));
        let only = (!for_any).then(|| Address::from(node));
        let delegation = SessionDelegation {
            wallet: key(&wallet).address(),
            delegate_key: key(&delegate).public_key(),
            node: only,
            not_before: times.0,
            not_after: times.1,
        };
        cases.push(DelegationCase {
            name: name.to_owned(),
            wire: hex(delegation.sign(&key(&wallet)).unwrap().to_bytes()),
            delegate: hex(public(&delegate)),
            node: format!("0x{}", hex(node)),
            now,
            wallet: key(&wallet).address().to_string(),
        });
    };
    let day = (NOW, NOW + 86_400);
    add("in its time, for this node", false, day, NOW + 100);
    add("in its time, for any node", true, day, NOW + 100);
    add("five minutes early", false, day, NOW - 300);
    add("five minutes late", false, day, NOW + 86_400 + 300);
    add("thirty days to the second", false, (NOW, NOW + 30 * 86_400), NOW);
    add("of one second", false, (NOW, NOW), NOW);
    add("at the beginning of time", false, (0, 300), 0);
    cases
}

pub(crate) fn make() -> TypedData {
    let about = [
        "What is signed in version 2 of the protocol (docs/protocol.md, part 2), by EIP-712. Bytes are lower-case hex; \
numbers of 64 bits, and all that is in a message, are text.",
        "signed: the type's fields in their order with the message's values. Signatures are RFC 6979, low s: r, s, and v \
as 27/28, by private_key over digest. wire: what is sent, which is JSON for NodeChannelKey and NodeKeyRotation, and for \
SessionDelegation wallet 20, delegateKey 33, node 20, notBefore and notAfter 8 each, signature 65. typed_data: what \
a wallet is asked to sign (eth_signTypedData_v4); null where JSON would round its numbers.",
        "delegations: what a node of the address `node` accepts at `now` from a client whose static key is `delegate`, as \
a session of `wallet`.",
    ];
    TypedData { about: about.map(str::to_owned).to_vec(), signed: signed(), delegations: delegations() }
}

fn value<'a>(case: &'a SignedCase, name: &str) -> &'a str {
    &case.fields.iter().find(|field| field.name == name).unwrap().value
}

fn key_value(case: &SignedCase, name: &str) -> PublicKey {
    value(case, name).parse().unwrap()
}

fn address_value(case: &SignedCase, name: &str) -> Address {
    value(case, name).parse().unwrap()
}

/// Whether its numbers are such as every language holds; what has others can be signed, and is malformed on the wire.
fn readable(case: &SignedCase) -> bool {
    let numbers = case.fields.iter().filter(|field| field.r#type.starts_with("uint"));
    numbers.map(|field| number(&field.value)).all(|number| number < 1 << 53)
}

fn read_back<T: serde::de::DeserializeOwned>(case: &SignedCase) -> Option<T> {
    serde_json::from_str(&case.wire).ok()
}

/// The crate's digest, the wire as the crate writes it, and whether it is read back.
fn as_the_crate_has_it(case: &SignedCase, signature: Signature) -> ([u8; 32], String) {
    let chain_id = case.domain.chain_id.as_deref().map(number);
    let time = |name| number(value(case, name));
    match case.primary_type.as_str() {
        "NodeChannelKey" => {
            let certified = NodeChannelKey {
                public_key: key_value(case, "publicKey"),
                not_before: time("notBefore"),
                not_after: time("notAfter"),
                min_version: value(case, "minVersion").parse().unwrap(),
            };
            let digest = certified.digest(chain_id.unwrap());
            let signed = certified.with_signature(signature);
            assert_eq!(read_back(case), readable(case).then(|| signed.clone()));
            (digest, serde_json::to_string(&signed).unwrap())
        }
        "NodeKeyRotation" => {
            let rotation = NodeKeyRotation {
                from: address_value(case, "from"),
                to: address_value(case, "to"),
                not_before: time("notBefore"),
            };
            let digest = rotation.digest(chain_id.unwrap());
            let signed = rotation.with_signature(signature);
            assert_eq!(read_back(case), readable(case).then(|| signed.clone()));
            (digest, serde_json::to_string(&signed).unwrap())
        }
        _ => {
            assert_eq!(chain_id, None);
            let node = address_value(case, "node");
            let delegation = SessionDelegation {
                wallet: address_value(case, "wallet"),
                delegate_key: key_value(case, "delegateKey"),
                node: (node != Address::ZERO).then_some(node),
                not_before: time("notBefore"),
                not_after: time("notAfter"),
            };
            let digest = delegation.digest();
            let signed = delegation.with_signature(signature).unwrap();
            assert_eq!(SignedDelegation::try_from(unhex(&case.wire).as_slice()).unwrap(), signed);
            (digest, hex(signed.to_bytes()))
        }
    }
}

pub(crate) fn run_signed(case: &SignedCase) {
    let name = &case.name;
    let private: PrivateKey = case.private_key.parse().unwrap();
    let signature = Signature::try_from(unhex(&case.signature).as_slice()).unwrap();
    let (digest, wire) = as_the_crate_has_it(case, signature);
    assert_eq!((hex(digest), wire), (case.digest.clone(), case.wire.clone()), "{name}");
    assert_eq!(private.sign(&digest).unwrap().with_v(signature.v()), signature, "{name}");
    assert_eq!(signature.recover(&digest).unwrap().to_string(), case.signer, "{name}");
    assert_eq!(private.address().to_string(), case.signer, "{name}");
}

pub(crate) fn run_delegation(case: &DelegationCase) {
    let signed = SignedDelegation::try_from(unhex(&case.wire).as_slice()).unwrap();
    let delegate = case.delegate.parse().unwrap();
    let wallet = signed.verify(&delegate, Address::from(unhex_array(&case.node[2..])), case.now);
    assert_eq!(wallet.unwrap().to_string(), case.wallet, "{}", case.name);
}
