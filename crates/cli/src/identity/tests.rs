use fabstir_protocol::identity::PrivateKey;

use super::*;

fn proof(key: &PrivateKey, challenge: &[u8; 32]) -> Proof {
    let digest = Sha256::new()
        .chain_update(b"fabstir node challenge|")
        .chain_update(key.address().as_bytes())
        .chain_update(challenge)
        .finalize();
    let bytes = key.sign(&digest.into()).unwrap().to_bytes();
    Proof {
        signature: const_hex::encode(&bytes[..64]),
        recid: bytes[64],
        public_key: key.public_key().to_string(),
        address: key.address().to_string(),
    }
}

#[test]
fn a_proof_holds_for_its_challenge_and_its_key_only() {
    let (key, other) = (fabstir_client::random_key(), fabstir_client::random_key());
    let good = proof(&key, &[7; 32]);
    assert_eq!(good.verify(&[7; 32]), Some(key.public_key()));
    assert_eq!(good.verify(&[8; 32]), None);
    let public_key = other.public_key().to_string();
    assert_eq!(Proof { public_key, ..proof(&key, &[7; 32]) }.verify(&[7; 32]), None);
    let address = other.address().to_string();
    assert_eq!(Proof { address, ..proof(&key, &[7; 32]) }.verify(&[7; 32]), None);
}

#[test]
fn a_version_that_a_node_has_given_up_is_refused_until_its_certificate_ends() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("known_nodes");
    fs::write(&file, "example.org:80 # mine").unwrap();
    let url: Url = "ws://example.org/v1/ws".parse().unwrap();
    let place = Place::of(&url).unwrap();
    let pin = Pin::Address(Address::from([7; 20]));
    let pinned = Pinned { pin, file: file.clone(), url, roots: Roots::default(), place, line: None };
    let refused = |version| KnownNodes::read(&file).unwrap().refuse_too_old(&pinned.place, version).is_err();
    let now = crate::delegate::unix_now();
    assert!(!refused(1));
    pinned.remember_least(Least { version: 2, until: now + 100 }).unwrap();
    assert!(refused(1) && !refused(2));
    pinned.remember_least(Least { version: 2, until: now - 100 }).unwrap();
    assert!(!refused(1), "the certificate has ended");
    assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), 2, "one note a node");
}

#[test]
fn an_address_has_its_words() {
    let words = |last: u8| {
        let mut bytes = [0; 20];
        bytes[19] = last;
        safety_words(&Address::from(bytes))
    };
    assert_eq!(words(1), words(1));
    assert_ne!(words(1), words(2));
    // Of the key 1; the TypeScript package has the same.
    let known = "0x7e5f4552091a69125d5dfcb7b8c2659029395bdf".parse().unwrap();
    assert_eq!(safety_words(&known), "tourist chat hover street trap fork");
}

#[test]
fn what_is_remembered_is_found_and_a_spoilt_line_is_no_unknown_node() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("deeper/known_nodes");
    let place = Place::of(&"ws://example.org:8080/v1/ws".parse().unwrap()).unwrap();
    let key = Pin::Key(fabstir_client::random_key().public_key());
    assert_eq!(KnownNodes::read(&file).unwrap().find(&place).unwrap(), None);
    fs::create_dir(directory.path().join("deeper")).unwrap();
    fs::write(&file, "# mine").unwrap();
    remember(&file, &place, &key).unwrap();
    assert_eq!(KnownNodes::read(&file).unwrap().find(&place).unwrap(), Some((key, 2)));
    fs::write(&file, "example.org:8080 02ff").unwrap();
    assert!(KnownNodes::read(&file).unwrap().find(&place).is_err());
}
