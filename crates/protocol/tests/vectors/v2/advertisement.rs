//! A node's first frame: what a client makes of it, and why it goes no further.

use fabstir_protocol::{
    ethereum::Address,
    identity::PrivateKey,
    v2::{
        Advertisement, AdvertisementError, CertificateError, NodeChannelKey, NodeIdentity, NodeKeyRotation,
        SignedRotation,
    },
};

use super::{
    cases::{Advertisements, RefusedCase, RotationCase, ShownCase},
    handshake::{NOW, connected, key},
    number,
};
use crate::{
    support::{
        hex,
        reference::{point_of, uncompressed, with_high_s},
        unhex, unhex_array,
    },
    v2_support::{draw, reference as r, rng},
};

/// How the files name an error.
pub(crate) fn certificate_error(error: CertificateError) -> &'static str {
    match error {
        CertificateError::Malformed => "malformed",
        CertificateError::Signature => "signature",
        CertificateError::Time => "time",
        CertificateError::TooLong => "too_long",
        CertificateError::OtherKey => "other_key",
        CertificateError::OtherNode => "other_node",
        CertificateError::Version => "version",
    }
}

fn error_name(error: AdvertisementError) -> String {
    match error {
        AdvertisementError::Malformed => "malformed".to_owned(),
        AdvertisementError::NoVersion2 => "no_version_2".to_owned(),
        AdvertisementError::OtherIdentity(_) => "other_identity".to_owned(),
        AdvertisementError::Moved(_) => "moved".to_owned(),
        AdvertisementError::Certificate(error) => format!("certificate_{}", certificate_error(error)),
    }
}

/// A node that is the same in every case but for what the case is about.
struct Node {
    identity: [u8; 32],
    channel: [u8; 32],
    chain_id: u64,
    versions: Vec<String>,
    certified: NodeChannelKey,
    rotation: Option<SignedRotation>,
}

impl Node {
    fn new() -> Self {
        let rng = &mut rng("advertisement");
        let (identity, channel): ([u8; 32], [u8; 32]) = (draw(rng), draw(rng));
        let certified = NodeChannelKey::made_at(NOW, key(&channel).public_key(), 1);
        let versions = ["2", "1"].map(str::to_owned).into();
        Self { identity, channel, chain_id: 84532, versions, certified, rotation: None }
    }

    fn versions(self, versions: &[&str]) -> Self {
        Self { versions: versions.iter().map(|&version| version.to_owned()).collect(), ..self }
    }

    fn chain(self, chain_id: u64) -> Self {
        Self { chain_id, ..self }
    }

    fn certified(mut self, change: impl FnOnce(&mut NodeChannelKey)) -> Self {
        change(&mut self.certified);
        self
    }

    fn address(&self) -> Address {
        key(&self.identity).address()
    }

    fn shown(&self) -> Advertisement {
        let signature = key(&self.identity).sign(&self.certified.digest(self.chain_id)).unwrap();
        let node = NodeIdentity {
            address: self.address(),
            chain_id: self.chain_id,
            channel_key: key(&self.channel).public_key(),
            certificate: self.certified.clone().with_signature(signature),
            rotation: self.rotation.clone(),
        };
        Advertisement { e2ee: self.versions.clone(), node: Some(node) }
    }

    fn frame(&self) -> String {
        connected(self.shown())
    }

    fn signature(&self) -> String {
        let signature = key(&self.identity).sign(&self.certified.digest(self.chain_id)).unwrap();
        let mut bytes = signature.to_bytes();
        bytes[64] += 27;
        hex(bytes)
    }
}

/// Another node, which signs for itself.
fn other() -> PrivateKey {
    key(&draw(&mut rng("advertisement|another identity")))
}

fn accepted() -> Vec<ShownCase> {
    let mut cases = Vec::new();
    let mut add = |name: &str, node: &Node, now: u64, frame: String| {
        let channel_key = key(&node.channel).public_key();
        cases.push(ShownCase {
            name: name.to_owned(),
            pinned: node.address().to_string(),
            now,
            frame,
            channel_key: channel_key.to_string(),
            hint: hex(r::hint(&channel_key.to_bytes())),
            not_after: node.certified.not_after,
            min_version: node.certified.min_version,
            prologue: hex(r::prologue(&node.versions, node.chain_id, node.address().as_bytes())),
        });
    };
    let mut plain = |name: &str, node: &Node| add(name, node, NOW, node.frame());
    plain("as a node writes it", &Node::new());
    plain("one version", &Node::new().versions(&["2"]));
    plain("another order", &Node::new().versions(&["1", "2"]));
    plain(
        "eight versions, one of sixteen characters",
        &Node::new().versions(&["9", "8", "7", "6", "5", "2", "~!", "0123456789abcdef"]),
    );
    plain("a version twice", &Node::new().versions(&["2", "2"]));
    plain("chain 0", &Node::new().chain(0));
    plain("chain 1", &Node::new().chain(1));
    plain("the largest chain that JSON carries everywhere", &Node::new().chain((1 << 53) - 1));
    plain("a node that speaks everything", &Node::new().certified(|one| one.min_version = 0));
    plain("a node that speaks version 2 only", &Node::new().certified(|one| one.min_version = 2));
    plain("a short certificate", &Node::new().certified(|one| (one.not_before, one.not_after) = (NOW, NOW)));
    let mut moved = Node::new();
    let rotation = NodeKeyRotation { from: other().address(), to: moved.address(), not_before: NOW };
    let signature = other().sign(&rotation.digest(moved.chain_id)).unwrap();
    moved.rotation = Some(rotation.with_signature(signature));
    plain("with a rotation, which is another matter", &moved);

    let node = Node::new();
    let frame = node.frame();
    add("five minutes before its time", &node, NOW - 600, frame.clone());
    add("five minutes after its time", &node, NOW + 90_300, frame.clone());
    add(
        "fields that are not known",
        &node,
        NOW,
        frame.replacen("\"e2ee\"", "\"more\":{\"e2ee\":1},\"e2ee\"", 1),
    );
    add(
        "a field of the node that is not known",
        &node,
        NOW,
        frame.replacen("\"address\"", "\"region\":[],\"address\"", 1),
    );
    add("no greeting", &node, NOW, frame.replacen("\"message\":\"welcome\",", "", 1));
    add(
        "a rotation that is null",
        &node,
        NOW,
        frame.replacen("\"address\"", "\"rotation\":null,\"address\"", 1),
    );
    add("white space", &node, NOW, frame.replace(",\"", " ,\n\t\"").replace("\":", "\" : "));
    cases
}

fn rejected() -> Vec<RefusedCase> {
    let mut cases = Vec::new();
    let pinned = Node::new().address();
    let mut add = |name: &str, error: &str, now: u64, frame: String| {
        cases.push(RefusedCase {
            name: name.to_owned(),
            pinned: pinned.to_string(),
            now,
            frame,
            error: error.to_owned(),
        });
    };
    let node = Node::new();
    let frame = node.frame();
    let key = key(&node.channel).public_key().to_string();
    add("the address without 0x", "malformed", NOW, frame.replacen("\"0x", "\"", 1));
    add("keys with 0x", "malformed", NOW, frame.replace(&key, &format!("0x{key}")));
    add("a chain that JavaScript rounds", "malformed", NOW, Node::new().chain(1 << 53).frame());
    let backwards = Node::new().certified(|one| (one.not_before, one.not_after) = (NOW + 100, NOW - 100));
    add("an end before its beginning", "certificate_time", NOW, backwards.frame());
    for (name, frame) in texts(&node, &frame) {
        add(name, "malformed", NOW, frame);
    }
    for (name, versions) in unwritable() {
        let versions: Vec<&str> = versions.iter().map(String::as_str).collect();
        add(name, "malformed", NOW, Node::new().versions(&versions).frame());
    }

    add("a node of before version 2", "no_version_2", NOW, r#"{"type":"connected"}"#.to_owned());
    add("a list that is null", "no_version_2", NOW, frame.replacen(r#"["2","1"]"#, "null", 1));
    add("an empty list", "no_version_2", NOW, Node::new().versions(&[]).frame());
    add("version 1 only", "no_version_2", NOW, Node::new().versions(&["1"]).frame());
    add("nothing that is 2", "no_version_2", NOW, Node::new().versions(&["2.0", "02", "22", "v2"]).frame());
    let bare = connected(Advertisement { node: None, ..node.shown() });
    add("no identity", "no_version_2", NOW, bare);

    let mut stranger = node.shown();
    stranger.node.as_mut().unwrap().address = other().address();
    add("another address over the same certificate", "other_identity", NOW, connected(stranger));
    let theirs = Node { identity: draw(&mut rng("advertisement|another identity")), ..Node::new() };
    add("another node", "other_identity", NOW, theirs.frame());

    let mut forged = theirs.shown();
    forged.node.as_mut().unwrap().address = pinned;
    add("signed by another identity", "certificate_signature", NOW, connected(forged));
    let bent = |from: &str, to: &str| {
        let bent = frame.replacen(from, to, 1);
        assert_ne!(bent, frame);
        bent
    };
    let moved =
        |name: &str, from: u64, to: u64| bent(&format!("\"{name}\":{from}"), &format!("\"{name}\":{to}"));
    let NodeChannelKey { not_before, not_after, .. } = node.certified;
    for (name, frame) in [
        ("another chain than the one that is signed", moved("chainId", 84532, 1)),
        ("another beginning", moved("notBefore", not_before, not_before + 1)),
        ("another end", moved("notAfter", not_after, not_after + 1)),
        ("another lowest version", moved("minVersion", 1, 0)),
        ("another parity of the certified key", flipped_parity(&node)),
        ("another v", bent(&node.signature(), &with_v(&node, |v| 55 - v))),
    ] {
        add(name, "certificate_signature", NOW, frame);
    }

    let mut swapped = node.shown();
    swapped.node.as_mut().unwrap().channel_key = other().public_key();
    add("a certificate for another channel key", "certificate_other_key", NOW, connected(swapped));
    add("a second too early", "certificate_time", NOW - 601, frame.clone());
    add("a second too late", "certificate_time", NOW + 90_301, frame.clone());
    let long = Node::new().certified(|one| one.not_after = one.not_before + 90_301);
    add("a second too long", "certificate_too_long", NOW, long.frame());
    let endless = Node::new().certified(|one| (one.not_before, one.not_after) = (0, (1 << 53) - 1));
    add("without an end", "certificate_too_long", NOW, endless.frame());
    for version in [3, u16::MAX] {
        let newer = Node::new().certified(|one| one.min_version = version);
        add(
            &format!("a node that speaks nothing below {version}"),
            "certificate_version",
            NOW,
            newer.frame(),
        );
    }
    cases
}

fn with_v(node: &Node, change: impl FnOnce(u8) -> u8) -> String {
    let mut bytes = unhex(&node.signature());
    bytes[64] = change(bytes[64]);
    hex(bytes)
}

/// The same x in the certificate and above it, another point.
fn flipped_parity(node: &Node) -> String {
    let key = key(&node.channel).public_key().to_string();
    let twin = if key.starts_with("02") { "03" } else { "02" };
    node.frame().replace(&key, &format!("{twin}{}", &key[2..]))
}

/// Versions of which there is a 2, and no prologue.
fn unwritable() -> Vec<(&'static str, Vec<String>)> {
    let with = |other: &str| vec!["2".to_owned(), other.to_owned()];
    vec![
        ("nine versions", ["2", "3", "4", "5", "6", "7", "8", "9", "1"].map(str::to_owned).into()),
        ("a version of seventeen characters", with("0123456789abcdefg")),
        ("a version of no characters", with("")),
        ("a version with a comma", with("1,3")),
        ("a version with a space", with("1 3")),
        ("a version with a line end", with("1\n")),
        ("a version that is not ASCII", with("é")),
    ]
}

/// What is no first frame.
fn texts(node: &Node, frame: &str) -> Vec<(&'static str, String)> {
    let bent = |from: &str, to: &str| {
        let bent = frame.replacen(from, to, 1);
        assert_ne!(bent, frame, "{from}");
        bent
    };
    let public = key(&node.channel).public_key();
    let (key, signature) = (public.to_string(), node.signature());
    let certificate = &frame[frame.find("\"certificate\"").unwrap()..frame.len() - 2];
    let missing = |name: &str| {
        let start = frame.rfind(&format!(",\"{name}\"")).unwrap();
        let length = frame[start + 1..].find([',', '}']).unwrap() + 1;
        [&frame[..start], &frame[start + length..]].concat()
    };
    let upper = |text: &str| bent(text, &text.to_uppercase());
    let off_curve = format!("02{}", hex([0xff; 32]));
    let high: [u8; 65] = {
        let mut raw: [u8; 65] = unhex_array(&signature);
        raw[64] -= 27;
        let mut high = with_high_s(&raw);
        high[64] += 27;
        high
    };
    let uncompressed = hex(uncompressed(&point_of(&node.channel)));
    vec![
        ("nothing", String::new()),
        ("no JSON", "connected".to_owned()),
        ("an array", "[]".to_owned()),
        ("a string", "\"connected\"".to_owned()),
        ("half a frame", frame[..frame.len() - 1].to_owned()),
        ("more behind the frame", format!("{frame} {{}}")),
        ("no type", bent("\"type\":\"connected\",", "")),
        ("another type", bent("\"connected\"", "\"pong\"")),
        ("a type that is null", bent("\"connected\"", "null")),
        ("a list that is text", bent(r#"["2","1"]"#, "\"2,1\"")),
        ("a list of numbers", bent(r#"["2","1"]"#, "[2,1]")),
        (
            "an identity that is text",
            format!(r#"{{"type":"connected","e2ee":["2"],"node":"{}"}}"#, node.address()),
        ),
        ("no address", bent(&format!("\"address\":\"{}\",", node.address()), "")),
        ("no chain", bent("\"chainId\":84532,", "")),
        ("a rotation that is none", bent("\"address\"", "\"rotation\":{},\"address\"")),
        ("no channel key", bent(&format!("\"channelKey\":\"{key}\","), "")),
        ("no certificate", bent(&format!(",{certificate}"), "")),
        ("a certificate that is null", bent(certificate, "\"certificate\":null")),
        ("a certificate without a beginning", missing("notBefore")),
        ("a certificate without an end", missing("notAfter")),
        ("a certificate without a lowest version", missing("minVersion")),
        ("a certificate without a signature", missing("signature")),
        ("a certificate with a field more", bent("\"minVersion\"", "\"more\":1,\"minVersion\"")),
        ("a chain that is text", bent("\"chainId\":84532", "\"chainId\":\"84532\"")),
        ("a chain below zero", bent("\"chainId\":84532", "\"chainId\":-1")),
        ("a chain that is no whole number", bent("\"chainId\":84532", "\"chainId\":84532.5")),
        ("a lowest version of more than 16 bits", bent("\"minVersion\":1", "\"minVersion\":65536")),
        (
            "a time below zero",
            bent(&format!("\"notBefore\":{}", node.certified.not_before), "\"notBefore\":-1"),
        ),
        (
            "a time that is text",
            bent(&format!("\"notAfter\":{}", node.certified.not_after), "\"notAfter\":\"1\""),
        ),
        ("a channel key in upper case", upper(&key)),
        ("a signature in upper case", upper(&signature)),
        ("an address in mixed case", bent(&node.address().to_string(), &node.address().to_checksum())),
        (
            "an address that is too short",
            bent(&node.address().to_string(), &node.address().to_string()[..40]),
        ),
        ("a channel key that is too short", bent(&key, &key[..64])),
        ("a channel key off the curve", bent(&key, &off_curve)),
        ("a channel key with another first byte", bent(&key, &format!("04{}", &key[2..]))),
        ("a channel key that is uncompressed", bent(&key, &uncompressed)),
        ("a signature that is too short", bent(&signature, &signature[..128])),
        ("a signature with a v of 0 or 1", bent(&signature, &with_v(node, |v| v - 27))),
        ("a signature with a v of 29", bent(&signature, &with_v(node, |_| 29))),
        ("a signature with a high s", bent(&signature, &hex(high))),
        ("a signature of zeros", bent(&signature, &format!("{}1b", "00".repeat(64)))),
    ]
}

fn rotations() -> Vec<RotationCase> {
    let rng = &mut rng("rotation");
    let (old, new): ([u8; 32], [u8; 32]) = (draw(rng), draw(rng));
    let (old, new) = (key(&old), key(&new));
    let rotation = NodeKeyRotation { from: old.address(), to: new.address(), not_before: NOW };
    let by = |signer: &PrivateKey, rotation: &NodeKeyRotation| {
        let signature = signer.sign(&rotation.digest(84532)).unwrap();
        serde_json::to_string(&rotation.clone().with_signature(signature)).unwrap()
    };
    let good = by(&old, &rotation);
    let case =
        |name: &str, pinned: &PrivateKey, chain_id: u64, now: u64, rotation: String, error: Option<&str>| {
            RotationCase {
                name: name.to_owned(),
                pinned: pinned.address().to_string(),
                chain_id: chain_id.to_string(),
                now,
                rotation,
                to: error.is_none().then(|| new.address().to_string()),
                error: error.map(str::to_owned),
            }
        };
    let reverse = NodeKeyRotation { from: new.address(), to: old.address(), not_before: NOW };
    vec![
        case("a rotation", &old, 84532, NOW, good.clone(), None),
        case("five minutes early", &old, 84532, NOW - 300, good.clone(), None),
        case("years later", &old, 84532, NOW + 100_000_000, good.clone(), None),
        case("a second too early", &old, 84532, NOW - 301, good.clone(), Some("time")),
        case("of another identity than the pinned one", &new, 84532, NOW, good.clone(), Some("other_key")),
        case("the other way round", &old, 84532, NOW, by(&new, &reverse), Some("other_key")),
        case("signed by the new identity", &old, 84532, NOW, by(&new, &rotation), Some("signature")),
        case("on another chain", &old, 1, NOW, good.clone(), Some("signature")),
        case(
            "to another identity than is signed",
            &old,
            84532,
            NOW,
            good.replace(&new.address().to_string(), &other().address().to_string()),
            Some("signature"),
        ),
        case("with a field more", &old, 84532, NOW, good.replacen('{', "{\"more\":1,", 1), Some("malformed")),
        case(
            "in mixed case",
            &old,
            84532,
            NOW,
            good.replace(&new.address().to_string(), &new.address().to_checksum()),
            Some("malformed"),
        ),
    ]
}

pub(crate) fn make() -> Advertisements {
    let about = [
        "A node's first frame in version 2 of the protocol (docs/protocol.md, part 2), as the exact text on the wire, read \
by a client that has pinned the identity `pinned`, at `now`. Bytes are lower-case hex.",
        "accepted: what the client knows then. prologue: of the handshake that follows.",
        "rejected: why it does not begin one. malformed; no_version_2; other_identity: shows another than the pinned one; \
certificate_signature, _other_key, _time, _too_long, _version.",
        "rotations: the field node.rotation, as JSON text, with the node's chain. to: the new identity, which a person is \
asked about; else error: malformed, other_key, signature, time.",
    ];
    Advertisements {
        about: about.map(str::to_owned).to_vec(),
        accepted: accepted(),
        rejected: rejected(),
        rotations: rotations(),
    }
}

pub(crate) fn run_accepted(case: &ShownCase) {
    let name = &case.name;
    let shown = Advertisement::read(&case.frame).unwrap();
    let node = shown.node.as_ref().unwrap();
    let verified = shown.verify(case.pinned.parse().unwrap(), case.now).unwrap();
    assert_eq!(verified.channel_key().to_string(), case.channel_key, "{name}");
    assert_eq!(hex(verified.hint().as_bytes()), case.hint, "{name}");
    assert_eq!((verified.not_after, verified.min_version), (case.not_after, case.min_version), "{name}");
    assert_eq!(verified.address.to_string(), case.pinned, "{name}");
    let prologue = fabstir_protocol::v2::prologue(&shown.e2ee, node.chain_id, node.address);
    assert_eq!(hex(prologue.unwrap()), case.prologue, "{name}");
}

pub(crate) fn run_rejected(case: &RefusedCase) {
    let shown = Advertisement::read(&case.frame);
    let refused = shown.and_then(|shown| shown.verify(case.pinned.parse().unwrap(), case.now)).unwrap_err();
    assert_eq!(error_name(refused), case.error, "{}", case.name);
}

pub(crate) fn run_rotation(case: &RotationCase) {
    let signed: Result<SignedRotation, _> = serde_json::from_str(&case.rotation);
    let verified = signed
        .map_err(|_| CertificateError::Malformed)
        .and_then(|signed| signed.verify(case.pinned.parse().unwrap(), number(&case.chain_id), case.now));
    assert_eq!(verified.ok().map(|to| to.to_string()), case.to, "{}", case.name);
    assert_eq!(verified.err().map(certificate_error), case.error.as_deref(), "{}", case.name);
}
