//! Keys, agreements, digests, signatures and seals, one by one.

use fabstir_protocol::{
    aad::Aad,
    ethereum::personal_message_digest,
    id::{Index, Nonce},
    identity::{KeyMaterial, PrivateKey, PublicKey, Signature, V},
    seal::SessionKey,
};
use sha2::{Digest, Sha256};
use sha3::Keccak256;

use crate::{
    cases::{AgreementCase, Derivations, DigestCase, KeyCase, SealCase},
    support::{fixed, hex, reference as r, unhex, unhex_array},
};

const ONE: [u8; 32] = {
    let mut one = [0; 32];
    one[31] = 1;
    one
};

pub(crate) fn make() -> Derivations {
    let about = [
        "Steps of version 1 of the protocol (docs/protocol.md, part 1), one at a time. Bytes are lower-case hex.",
        "keys: an address is the last 20 bytes of the Keccak-256 of the uncompressed point without its 04.",
        "agreements: point is the shared point, compressed; each key is HKDF-SHA256 of its x (32 bytes) or of the \
point (33), no salt, empty info, 32 bytes.",
        "digests: 1 is sha256(ciphertext), 2 its personal_sign (EIP-191), 3 the bound digest. Signatures are RFC \
6979, low s: r, s, and v as 0/1 for digests 1 and 3, as 27/28 for digest 2.",
        "seals: XChaCha20-Poly1305; aad is text.",
    ];
    Derivations {
        about: about.map(str::to_owned).to_vec(),
        keys: keys(),
        agreements: agreements(),
        digests: digests(),
        seals: seals(),
    }
}

fn keys() -> Vec<KeyCase> {
    let mut last: [u8; 32] = unhex_array(r::ORDER);
    last[31] -= 1;
    let keys =
        [("one", ONE), ("the largest", last), ("the node", fixed("node")), ("the client", fixed("client"))];
    keys.map(|(name, private)| {
        let point = r::point_of(&private);
        KeyCase {
            name: name.to_owned(),
            spec: "1.2".to_owned(),
            private_key: hex(private),
            public_key: hex(r::compressed(&point)),
            uncompressed: hex(r::uncompressed(&point)),
            address: r::address_text(&private),
            checksum_address: checksum(&r::address(&point)),
        }
    })
    .into()
}

/// EIP-55, spelled out.
fn checksum(address: &[u8; 20]) -> String {
    let lower = hex(address);
    let hash = Keccak256::digest(&lower);
    let nibble = |i: usize| (hash[i / 2] >> (4 * (1 - i % 2))) & 15;
    let cased =
        lower.chars().enumerate().map(|(i, c)| if nibble(i) > 7 { c.to_ascii_uppercase() } else { c });
    format!("0x{}", cased.collect::<String>())
}

fn agreements() -> Vec<AgreementCase> {
    let ephemeral = r::public(&fixed("agreement|ephemeral"));
    let mut twin = ephemeral;
    twin[0] ^= 1;
    let theirs = [
        ("a compressed point", ephemeral.to_vec()),
        ("the same point, uncompressed", r::uncompressed(&r::parse(&ephemeral)).to_vec()),
        ("its negative: the same x, another point", twin.to_vec()),
        ("the generator", r::public(&ONE).to_vec()),
    ];
    theirs
        .map(|(name, their_key)| {
            let point = r::agree(&r::node_key(), &their_key);
            AgreementCase {
                name: name.to_owned(),
                spec: "1.2".to_owned(),
                private_key: hex(r::node_key()),
                their_public_key: hex(their_key),
                point: hex(point),
                key_from_x: hex(r::derive(&point, r::Material::X)),
                key_from_point: hex(r::derive(&point, r::Material::Point)),
            }
        })
        .into()
}

fn digests() -> Vec<DigestCase> {
    let (eph, node) = (r::public(&fixed("digest|ephemeral")), r::public(&r::node_key()));
    let nonce: [u8; 24] = fixed("digest|nonce");
    [("without aad", ""), ("with the aad of the guide", "session_init")]
        .map(|(name, aad)| {
            let ciphertext = r::seal(&fixed("digest|key"), &nonce, aad.as_bytes(), b"{}");
            let digests = [
                r::digest_plain(&ciphertext),
                r::digest_personal(&ciphertext),
                r::digest_bound(&eph, &node, &nonce, aad.as_bytes()),
            ];
            let [one, mut two, three] = digests.map(|digest| r::sign(&r::client_key(), &digest));
            two[64] += 27;
            DigestCase {
                name: name.to_owned(),
                spec: "1.2".to_owned(),
                private_key: hex(r::client_key()),
                ephemeral_public_key: hex(eph),
                node_public_key: hex(node),
                nonce: hex(nonce),
                aad: aad.to_owned(),
                ciphertext: hex(ciphertext),
                digest_1: hex(digests[0]),
                digest_2: hex(digests[1]),
                digest_3: hex(digests[2]),
                signature_1: hex(one),
                signature_2: hex(two),
                signature_3: hex(three),
            }
        })
        .into()
}

fn seals() -> Vec<SealCase> {
    let aads =
        ["", "session_init", "message_0", "message_18446744073709551615", "chunk_0", "chunk_7", "final"];
    let texts = ["", "hello", "Grüße, 世界"];
    let pairs = aads.into_iter().flat_map(|aad| texts.map(|text| (aad, text)));
    pairs
        .map(|(aad, text)| {
            let (key, nonce) = (fixed("seal|key"), fixed(&format!("seal|{aad}|{text}")));
            SealCase {
                name: format!("{text:?} as {aad:?}"),
                spec: "1.6".to_owned(),
                key: hex(key),
                nonce: hex(nonce),
                aad: aad.to_owned(),
                plaintext: text.to_owned(),
                sealed: hex(r::seal(&key, &nonce, aad.as_bytes(), text.as_bytes())),
            }
        })
        .collect()
}

pub(crate) fn run(file: &Derivations) {
    file.keys.iter().for_each(run_key);
    file.agreements.iter().for_each(run_agreement);
    file.digests.iter().for_each(run_digest);
    file.seals.iter().for_each(run_seal);
}

fn run_key(case: &KeyCase) {
    let key: PrivateKey = case.private_key.parse().unwrap();
    let public = key.public_key();
    assert_eq!(public.to_string(), case.public_key, "{}", case.name);
    assert_eq!(PublicKey::try_from(unhex(&case.uncompressed).as_slice()), Ok(public), "{}", case.name);
    assert_eq!(key.address().to_string(), case.address, "{}", case.name);
    assert_eq!(key.address().to_checksum(), case.checksum_address, "{}", case.name);
    assert_eq!(key.to_secret_hex().as_str(), format!("0x{}", case.private_key), "{}", case.name);
}

fn run_agreement(case: &AgreementCase) {
    let ours: PrivateKey = case.private_key.parse().unwrap();
    let theirs: PublicKey = case.their_public_key.parse().unwrap();
    let agreed = ours.agree(&theirs);
    let derived = |material| hex(agreed.derive(material).unwrap().expose());
    assert_eq!(derived(KeyMaterial::X), case.key_from_x, "{}", case.name);
    assert_eq!(derived(KeyMaterial::Point), case.key_from_point, "{}", case.name);
}

fn run_digest(case: &DigestCase) {
    let key: PrivateKey = case.private_key.parse().unwrap();
    let plain: [u8; 32] = Sha256::digest(unhex(&case.ciphertext)).into();
    assert_eq!(hex(plain), case.digest_1, "{}", case.name);
    assert_eq!(hex(personal_message_digest(&plain)), case.digest_2, "{}", case.name);
    // The third digest is no part of the crate's face: the sessions of v1-accepted.json run through it.
    let cases = [
        (&case.digest_1, &case.signature_1, V::Raw),
        (&case.digest_2, &case.signature_2, V::Ethereum),
        (&case.digest_3, &case.signature_3, V::Raw),
    ];
    for (digest, signature, v) in cases {
        let digest: [u8; 32] = unhex_array(digest);
        assert_eq!(hex(key.sign(&digest).unwrap().with_v(v).to_bytes()), *signature, "{}", case.name);
        let read = Signature::try_from(unhex(signature).as_slice()).unwrap();
        assert_eq!((read.v(), read.recover(&digest)), (v, Ok(key.address())), "{}", case.name);
    }
}

fn run_seal(case: &SealCase) {
    let key = SessionKey::take(&mut unhex_array(&case.key)).unwrap();
    let aad = aad(&case.aad);
    let nonce = Nonce::from(unhex_array::<24>(&case.nonce));
    let sealed = key.seal(nonce, aad, case.plaintext.as_bytes()).unwrap();
    assert_eq!(hex(&sealed.ciphertext), case.sealed, "{}", case.name);
    assert_eq!(key.open(&sealed, aad).unwrap().as_bytes(), case.plaintext.as_bytes(), "{}", case.name);
}

fn aad(text: &str) -> Aad {
    let index = |digits: &str| Index::new(digits.parse().unwrap());
    match text {
        "" => Aad::Empty,
        "session_init" => Aad::SessionInit,
        "final" => Aad::Final,
        _ if text.starts_with("chunk_") => Aad::Chunk(index(&text[6..])),
        _ => Aad::Message(index(&text[8..])),
    }
}

/// Numbers that others have published.
#[test]
fn the_reference_agrees_with_published_numbers() {
    assert_eq!(checksum(&r::address(&r::point_of(&ONE))), "0x7E5F4552091A69125d5DfCb7b8C2659029395Bdf");
    // The RFC 6979 vector for secp256k1 that Bitcoin's libraries share.
    let digest = Sha256::digest(b"Satoshi Nakamoto").into();
    let expected = "934b1ea10a4b3c1757e2b0c017d0b6143ce3c9a7e6a4a49860d7a6ab210ee3d8\
2442ce9d2b916064108014783e923ec36b49743e2ffa1c4496f01a512aafd9e5";
    assert_eq!(hex(&r::sign(&ONE, &digest)[..64]), expected);
}
