//! What must be refused, and where: by somebody who knows the keys and breaks one rule.

use fabstir_protocol::{
    ethereum::Address,
    v2::{AwsLc, Hint, M1, R1},
};

use super::{
    advertisement::certificate_error,
    bad_delegations, bad_records,
    cases::{HandshakeCase, MessageCase, Rejected, ResumeCase},
    handshake::NOW,
    orders,
};
use crate::{
    support::{Script, hex, reference::FIELD, unhex, unhex_array},
    v2_support::{
        draw,
        noise::{Side, public},
        portable::{self, Portable},
        reference as r, rng,
    },
};

const HANDSHAKE: &str = "a delegate for this node";
const RESUMPTION: &str = "after a handshake";

/// The cases of one message, each another frame in its place.
struct Cases {
    of: &'static str,
    list: Vec<MessageCase>,
}

impl Cases {
    fn new(of: &'static str) -> Self {
        Self { of, list: Vec::new() }
    }

    fn add(&mut self, refused_at: &str, why: &str, frame: impl AsRef<[u8]>) {
        self.list.push(MessageCase {
            why: why.to_owned(),
            case: self.of.to_owned(),
            frame: hex(frame),
            refused_at: refused_at.to_owned(),
            error: None,
        });
    }

    /// What every message has in common: a head, a length, and a tag over it all. `fixed` begins what is not to be
    /// flipped because it names something, `at` is where it does not open.
    fn common(&mut self, read: &str, at: &str, frame: &[u8], fixed: usize) {
        let with = |place: usize, byte: u8| {
            let mut bent = frame.to_vec();
            bent[place] = byte;
            bent
        };
        self.add(read, "no bytes", []);
        self.add(read, "half a head", &frame[..1]);
        self.add(read, "a head and nothing else", &frame[..2]);
        self.add(read, "another first byte", with(0, 1));
        self.add(read, "a kind that is not known", with(1, 7));
        self.add(read, "kind 0", with(1, 0));
        self.add(read, "the kind of a record", with(1, r::RECORD));
        let other = if frame[1] == r::M1 { r::M2 } else { r::M1 };
        self.add(read, "the kind of another message", with(1, other));
        let flip = |place: usize| with(place, frame[place] ^ 1);
        self.add(at, "a bit of the ephemeral or static key flipped", flip(fixed + 20));
        self.add(at, "a bit of the payload flipped", flip(frame.len() - 40));
        self.add(at, "the first bit of the tag flipped", flip(frame.len() - 16));
        self.add(at, "the last bit of the tag flipped", flip(frame.len() - 1));
    }

    /// Keys that are none where a message begins with one.
    fn ephemerals(&mut self, at: &str, frame: &[u8], start: usize) {
        let with = |key: [u8; 33]| {
            let mut bent = frame.to_vec();
            bent[start..start + 33].copy_from_slice(&key);
            bent
        };
        let good: [u8; 33] = frame[start..start + 33].try_into().unwrap();
        for (why, key) in bad_points(&good) {
            self.add(at, &format!("an ephemeral key {why}"), with(key));
        }
        let mut twin = good;
        twin[0] ^= 1;
        self.add(at, "the other point of the same x", with(twin));
    }
}

/// Encodings that are no compressed point.
pub(super) fn bad_points(good: &[u8; 33]) -> Vec<(&'static str, [u8; 33])> {
    let with_first = |byte: u8| {
        let mut key = *good;
        key[0] = byte;
        key
    };
    let mut field = [2; 33];
    field[1..].copy_from_slice(&unhex(FIELD));
    vec![
        ("off the curve", off_curve()),
        ("whose x is the prime of the field", field),
        ("of zeros", [0; 33]),
        ("that begins like an uncompressed one", with_first(4)),
        ("with the first byte of a hybrid form", with_first(6)),
    ]
}

/// The smallest x that no point has.
fn off_curve() -> [u8; 33] {
    let candidate = |x: u8| {
        let mut key = [0; 33];
        (key[0], key[32]) = (2, x);
        key
    };
    (1..=u8::MAX).map(candidate).find(|key| k256::PublicKey::from_sec1_bytes(key).is_err()).unwrap()
}

/// A handshake to break, from inside.
pub(super) struct Base {
    pub(super) case: HandshakeCase,
    prologue: Vec<u8>,
    kem_public: [u8; 1184],
    ciphertext: [u8; 1088],
    secret: [u8; 32],
    m1: Vec<u8>,
    m2: Vec<u8>,
    m3: Vec<u8>,
}

impl Base {
    fn new() -> Self {
        let case = HandshakeCase::named(HANDSHAKE);
        let (_, kem_public) = portable::keygen(unhex_array(&case.kem_seed));
        let (ciphertext, secret) = portable::encapsulate(&kem_public, unhex_array(&case.kem_m)).unwrap();
        let [prologue, m1, m2, m3] = [&case.prologue, &case.m1, &case.m2, &case.m3].map(|text| unhex(text));
        Self { prologue, kem_public, ciphertext, secret, m1, m2, m3, case }
    }

    fn channel(&self) -> [u8; 33] {
        unhex_array(&self.case.channel_public_key)
    }

    pub(super) fn own(&self) -> [u8; 32] {
        unhex_array(&self.case.client_static_key)
    }

    fn client(&self, prologue: &[u8], channel: [u8; 33], shown: [u8; 33]) -> Side {
        Side::client_as(prologue, channel, shown, &self.own(), &unhex_array(&self.case.client_ephemeral_key))
    }

    /// Message 1 of a client that is wrong about something.
    fn one(&self, prologue: &[u8], channel: [u8; 33], payload: &[u8]) -> Vec<u8> {
        let mut client = self.client(prologue, channel, public(&self.own()));
        r::frame(r::M1, &[&r::hint(&self.channel()), &client.write(payload)])
    }

    /// Message 2 of a node that answers with something else.
    fn two(&self, payload: &[u8]) -> Vec<u8> {
        let (channel, ephemeral) = (&self.case.channel_key, &self.case.node_ephemeral_key);
        let mut node = Side::node(&self.prologue, &unhex_array(channel), &unhex_array(ephemeral));
        node.read(&self.m1[6..]).unwrap();
        r::frame(r::M2, &[&node.write(payload)])
    }

    /// Message 3 of a client that shows a key, has a secret, and says something.
    fn three(&self, shown: [u8; 33], secret: &[u8; 32], payload: &[u8]) -> Vec<u8> {
        let mut client = self.client(&self.prologue, self.channel(), shown);
        client.write(&self.kem_public);
        client.read(&self.m2[2..]).unwrap();
        client.psk(secret);
        r::frame(r::M3, &[&client.write(payload)])
    }

    /// The same with everything right but the payload.
    fn saying(&self, payload: &[u8]) -> Vec<u8> {
        self.three(public(&self.own()), &self.secret, payload)
    }

    fn delegation(&self) -> Vec<u8> {
        unhex(&self.case.delegation)
    }
}

fn m1(base: &Base) -> Vec<MessageCase> {
    let mut cases = Cases::new(HANDSHAKE);
    assert_eq!(base.one(&base.prologue, base.channel(), &base.kem_public), base.m1, "the control");
    cases.common("read", "open", &base.m1, 6);
    cases.ephemerals("open", &base.m1, 6);
    cases.add("read", "a byte too few", &base.m1[..base.m1.len() - 1]);
    cases.add("read", "a byte too many", [base.m1.as_slice(), &[0]].concat());
    let mut hint = base.m1.clone();
    hint[2] ^= 1;
    cases.add("hint", "the hint of a key that the node does not have", hint);

    let address: [u8; 20] = unhex_array(&base.case.node_address[2..]);
    let versions = |list: &[&str]| list.iter().map(|&version| version.to_owned()).collect::<Vec<_>>();
    let usual = versions(&["2", "1"]);
    let mut nobody = address;
    nobody[0] ^= 1;
    for (why, prologue) in [
        ("made for another chain", r::prologue(&usual, 1, &address)),
        ("made for another node", r::prologue(&usual, 84532, &nobody)),
        ("made after somebody took version 1 from the list", r::prologue(&versions(&["2"]), 84532, &address)),
        ("made after somebody added to the list", r::prologue(&versions(&["3", "2", "1"]), 84532, &address)),
        ("made after somebody turned the list round", r::prologue(&versions(&["1", "2"]), 84532, &address)),
        ("made without a prologue", Vec::new()),
    ] {
        cases.add("open", why, base.one(&prologue, base.channel(), &base.kem_public));
    }
    let stranger = public(&draw(&mut rng("rejected|another channel key")));
    cases.add("open", "made for another channel key", base.one(&base.prologue, stranger, &base.kem_public));
    let resumed = unhex(&ResumeCase::named(RESUMPTION).r1);
    cases.add("read", "the first message of a resumption", resumed);
    // FIPS 203, section 7.2: coefficients of 12 bits below 3329, two in three bytes.
    for (why, at, value) in [
        ("whose first coefficient is the modulus", 0, 3329_u16),
        ("whose first coefficient is the largest of 12 bits", 0, 4095),
        ("whose last coefficient is the modulus", 766, 3329),
    ] {
        let mut key = base.kem_public;
        let [low, high] = value.to_le_bytes();
        // The last is the second of its three bytes' two.
        let three = &mut key[at / 2 * 3..][..3];
        if at == 0 {
            (three[0], three[1]) = (low, (three[1] & 0xf0) | high);
        } else {
            (three[1], three[2]) = ((three[1] & 0x0f) | (low << 4), (low >> 4) | (high << 4));
        }
        cases.add(
            "respond",
            &format!("an encapsulation key {why}"),
            base.one(&base.prologue, base.channel(), &key),
        );
    }
    cases.list
}

fn m2(base: &Base) -> Vec<MessageCase> {
    let mut cases = Cases::new(HANDSHAKE);
    assert_eq!(base.two(&base.ciphertext), base.m2, "the control");
    cases.common("finish", "finish", &base.m2, 2);
    cases.ephemerals("finish", &base.m2, 2);
    cases.add("finish", "a byte too few", &base.m2[..base.m2.len() - 1]);
    cases.add("finish", "a byte too many", [base.m2.as_slice(), &[0]].concat());
    cases.add("finish", "a ciphertext of a byte less, well sealed", base.two(&base.ciphertext[1..]));
    cases.add(
        "finish",
        "a ciphertext of a byte more, well sealed",
        base.two(&[base.ciphertext.as_slice(), &[0]].concat()),
    );
    cases.add("finish", "no ciphertext, well sealed", base.two(&[]));
    cases.add(
        "finish",
        "the answer to another client",
        unhex(&HandshakeCase::named("a delegate for any node").m2),
    );
    cases.add("finish", "the client's own message", &base.m1);
    cases.list
}

fn m3(base: &Base) -> Vec<MessageCase> {
    let mut cases = Cases::new(HANDSHAKE);
    cases.common("handshake", "handshake", &base.m3, 2);
    cases.add("handshake", "a byte too few", &base.m3[..base.m3.len() - 1]);
    cases.add("handshake", "a byte too many", [base.m3.as_slice(), &[0]].concat());
    cases.add("handshake", "the static key and nothing else", &base.m3[..2 + 49]);
    cases.add(
        "handshake",
        "message 3 of another handshake",
        unhex(&HandshakeCase::named("a delegate for any node").m3),
    );
    let (own, hello) = (public(&base.own()), base.case.hello.as_bytes().to_vec());
    let good = r::payload(&[&base.delegation(), &hello]);
    assert_eq!(base.saying(&good), base.m3, "the control");
    let mut wrong = base.secret;
    wrong[0] ^= 1;
    cases.add("handshake", "under another secret of ML-KEM", base.three(own, &wrong, &good));
    cases.add("handshake", "under a secret of zeros", base.three(own, &[0; 32], &good));
    let victim = public(&draw(&mut rng("rejected|somebody else")));
    cases.add("handshake", "with the static key of somebody else", base.three(victim, &base.secret, &good));
    for (why, key) in bad_points(&own) {
        cases.add("handshake", &format!("a static key {why}"), base.three(key, &base.secret, &good));
    }
    for (why, payload) in bad_payloads(&[&base.delegation(), &hello]) {
        cases.add("handshake", why, base.saying(&payload));
    }
    for (why, hello) in bad_hellos() {
        cases.add("hello", why, base.saying(&r::payload(&[&base.delegation(), &hello])));
    }
    let mut list = cases.list;
    for one in bad_delegations::make(base) {
        // Those that are wrong whenever and wherever they are shown.
        if one.now == NOW
            && one.node == base.case.node_address
            && one.delegate == base.case.client_static_public_key
        {
            let mut cases = Cases::new(HANDSHAKE);
            cases.add(
                "delegation",
                &format!("a delegation {}", one.why),
                base.saying(&r::payload(&[&unhex(&one.wire), &hello])),
            );
            list.extend(
                cases.list.into_iter().map(|case| MessageCase { error: Some(one.error.clone()), ..case }),
            );
        }
    }
    list
}

/// Payloads that are sealed well and padded badly.
fn bad_payloads(given: &[&[u8]]) -> Vec<(&'static str, Vec<u8>)> {
    let bytes = r::parts(given);
    let of = |length| r::to_length(bytes.clone(), length);
    let with = |place: usize, byte: u8| {
        let mut bent = of(512);
        bent[place] = byte;
        bent
    };
    let first = given[0].len();
    let second = 2 + first;
    vec![
        ("no payload", Vec::new()),
        ("no padding", bytes.clone()),
        ("a payload that is half the smallest bucket", vec![0; 256]),
        ("padding that ends before the bucket", of(511)),
        ("padding that ends behind the bucket", of(513)),
        ("padding to a larger bucket than is needed", of(1024)),
        ("padding to the largest bucket", of(4096)),
        ("padding beyond the largest bucket", of(8192)),
        ("padding whose first byte is not zero", with(bytes.len(), 1)),
        ("padding whose last byte is not zero", with(511, 0x80)),
        ("a first length beyond the end", with(0, 2)),
        ("a last length beyond the end", with(if given.len() == 1 { 0 } else { second }, 2)),
        ("a length that is a byte short, so that padding begins with text", {
            let mut bent = of(512);
            let place = if given.len() == 1 { 0 } else { second };
            bent[place + 1] = bent[place + 1].wrapping_sub(1);
            bent
        }),
    ]
}

fn bad_hellos() -> Vec<(&'static str, Vec<u8>)> {
    let texts = [
        ("no hello", ""),
        ("a hello that is no JSON", "hello"),
        ("a hello that is a string", "\"fabstir/0.1\""),
        ("a hello that is null", "null"),
        ("half a hello", "{\"client\":\"fabstir/0.1\""),
        ("more behind the hello", "{\"client\":\"fabstir/0.1\"} {}"),
        ("a hello without a client", "{\"shape\":\"bucket\",\"ticket\":true}"),
        ("a client that is null", "{\"client\":null}"),
        ("a client that is a number", "{\"client\":1}"),
        ("a hello that is a list", "[\"fabstir/0.1\",\"bucket\",true,null]"),
        ("a claim that is a list", "{\"client\":\"\",\"claim\":[\"a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5\",[]]}"),
        (
            "a claim of a session in upper case",
            "{\"client\":\"\",\"claim\":{\"session\":\"A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5\",\"received\":[]}}",
        ),
        ("a ticket that is text", "{\"client\":\"\",\"ticket\":\"true\"}"),
        ("a claim without a session", "{\"client\":\"\",\"claim\":{\"received\":[]}}"),
        (
            "a claim of a session whose name is too short",
            "{\"client\":\"\",\"claim\":{\"session\":\"a5\",\"received\":[]}}",
        ),
        (
            "a claim without what was received",
            "{\"client\":\"\",\"claim\":{\"session\":\"a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5\"}}",
        ),
        (
            "a claim with a request below zero",
            "{\"client\":\"\",\"claim\":{\"session\":\"a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5\",\"received\":[[-1,0]]}}",
        ),
        (
            "a claim with a request of 33 bits",
            "{\"client\":\"\",\"claim\":{\"session\":\"a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5\",\"received\":[[4294967296,0]]}}",
        ),
        (
            "a claim with half a pair",
            "{\"client\":\"\",\"claim\":{\"session\":\"a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5\",\"received\":[[1]]}}",
        ),
    ];
    let mut hellos: Vec<_> = texts.map(|(why, text)| (why, text.as_bytes().to_vec())).into();
    hellos.push(("a hello that is not UTF-8", b"{\"client\":\"\xff\"}".to_vec()));
    hellos
}

/// A resumption to break, from inside.
struct Resumed {
    case: ResumeCase,
    id: [u8; 32],
    psk: [u8; 32],
    r1: Vec<u8>,
    r2: Vec<u8>,
}

impl Resumed {
    fn new() -> Self {
        let case = ResumeCase::named(RESUMPTION);
        let (id, psk) = (unhex_array(&case.ticket_id), unhex_array(&case.ticket_psk));
        let [r1, r2] = [&case.r1, &case.r2].map(|text| unhex(text));
        Self { case, id, psk, r1, r2 }
    }

    fn one(&self, prologue: &[u8], psk: &[u8; 32], payload: &[u8]) -> Vec<u8> {
        let ephemeral = unhex_array(&self.case.client_ephemeral_key);
        let mut client = Side::resuming(true, prologue, psk, &ephemeral);
        r::frame(r::R1, &[&self.id, &client.write(payload)])
    }

    fn two(&self, payload: &[u8]) -> Vec<u8> {
        let ephemeral = unhex_array(&self.case.node_ephemeral_key);
        let mut node = Side::resuming(false, &r::resume_prologue(&self.id), &self.psk, &ephemeral);
        node.read(&self.r1[34..]).unwrap();
        r::frame(r::R2, &[&node.write(payload)])
    }
}

fn r1(base: &Resumed) -> Vec<MessageCase> {
    let mut cases = Cases::new(RESUMPTION);
    cases.common("read", "open", &base.r1, 34);
    cases.ephemerals("open", &base.r1, 34);
    cases.add("read", "half a ticket", &base.r1[..20]);
    cases.add("read", "a ticket and nothing else", &base.r1[..34]);
    cases.add("read", "a message without a tag", &base.r1[..34 + 48]);
    cases.add("open", "a byte too few", &base.r1[..base.r1.len() - 1]);
    cases.add("open", "a byte too many", [base.r1.as_slice(), &[0]].concat());
    let mut unknown = base.r1.clone();
    unknown[2] ^= 1;
    cases.add("ticket", "a ticket that the node does not know", unknown);
    let resume = base.case.resume.as_bytes();
    let good = r::payload(&[resume]);
    let prologue = r::resume_prologue(&base.id);
    assert_eq!(base.one(&prologue, &base.psk, &good), base.r1, "the control");
    let mut wrong = base.psk;
    wrong[31] ^= 1;
    cases.add("open", "under another secret", base.one(&prologue, &wrong, &good));
    let other = r::resume_prologue(&wrong);
    cases.add("open", "with another ticket in the prologue", base.one(&other, &base.psk, &good));
    cases.add("open", "with the ticket alone as the prologue", base.one(&base.id, &base.psk, &good));
    cases.add("open", "without a prologue", base.one(&[], &base.psk, &good));
    for (why, payload) in bad_payloads(&[resume]) {
        // The largest there is fits in r1; one beyond it does not.
        let at = if payload.len() > 4096 { "read" } else { "resume" };
        cases.add(at, why, base.one(&prologue, &base.psk, &payload));
    }
    for (why, text) in [
        ("nothing said", ""),
        ("what is said is no JSON", "resume"),
        ("what is said has no list", "{}"),
        ("a list that is null", "{\"received\":null}"),
        ("a list with half a pair", "{\"received\":[[1]]}"),
        ("a list with a number of 33 bits", "{\"received\":[[1,4294967296]]}"),
        ("what is said is a list", "[[],\"bucket\"]"),
    ] {
        cases.add("resume", why, base.one(&prologue, &base.psk, &r::payload(&[text.as_bytes()])));
    }
    cases.list
}

fn r2(base: &Resumed) -> Vec<MessageCase> {
    let mut cases = Cases::new(RESUMPTION);
    assert_eq!(base.two(&r::payload(&[base.case.welcome.as_bytes()])), base.r2, "the control");
    cases.common("finish", "finish", &base.r2, 2);
    cases.ephemerals("finish", &base.r2, 2);
    cases.add("finish", "a byte too few", &base.r2[..base.r2.len() - 1]);
    cases.add("finish", "a byte too many", [base.r2.as_slice(), &[0]].concat());
    cases.add(
        "finish",
        "the answer to another resumption",
        unhex(&ResumeCase::named("after a resumption").r2),
    );
    cases.add("finish", "the client's own message", &base.r1);
    for (why, payload) in bad_payloads(&[base.case.welcome.as_bytes()]) {
        cases.add("finish", why, base.two(&payload));
    }
    for (why, text) in [
        ("nothing said", ""),
        ("a welcome that is no JSON", "welcome"),
        ("a welcome without its fields", "{}"),
        ("a welcome whose shape is a number", &base.case.welcome.replace("\"bucket\"", "2")),
    ] {
        cases.add("finish", why, base.two(&r::payload(&[text.as_bytes()])));
    }
    cases.list
}

pub(crate) fn make() -> Rejected {
    let about = [
        "What version 2 of the protocol refuses (docs/protocol.md, part 2), each for one reason only. Bytes are lower-case \
hex; numbers of 64 bits are decimal text.",
        "m1, m2, m3: in the handshake of handshake.json that `case` names, everything is as written there until this \
message, which is `frame` instead. The node refuses m1 at `read` (length and kind), `hint` (no such channel key), `open` \
(point and tag), or `respond` (the encapsulation key); the client refuses m2; the node refuses m3 in the `handshake`, or \
the channel opens and the `hello` is none, or the `delegation` does not hold, with `error`.",
        "r1, r2: likewise in resume.json. The node refuses r1 at `read`, `ticket` (no such ticket) or `open`; the client \
refuses r2.",
        "records: under `key`, at `counter`, in `direction` of `sid`, the frame does not open, and nothing opens after it.",
        "delegations: a node of the address `node` refuses `wire` at `now` from a client whose static key is `delegate`, \
with `error`.",
        "orders: opened records in the order in which they come, on a fresh channel, to a `node` whose requests have up to \
1000 bytes, or to a `client` that has sent the requests `sent`. All are taken but the last, which ends the connection.",
    ];
    let (base, resumed) = (Base::new(), Resumed::new());
    Rejected {
        about: about.map(str::to_owned).to_vec(),
        m1: m1(&base),
        m2: m2(&base),
        m3: m3(&base),
        r1: r1(&resumed),
        r2: r2(&resumed),
        records: bad_records::make(),
        delegations: bad_delegations::make(&base),
        orders: orders::make(),
    }
}

pub(crate) fn run_m1(case: &MessageCase) {
    let of = HandshakeCase::named(&case.case);
    let frame = unhex(&case.frame);
    let refused_at = match M1::read(&frame) {
        Err(_) => "read",
        Ok(m1) if m1.hint != Hint::of(&of.channel_public_key.parse().unwrap()) => "hint",
        Ok(m1) => {
            let rng = &mut Script::seeded("an answer");
            let open = || m1.open(&of.channel(), &unhex(&of.prologue));
            match (open(), open()) {
                (Ok(one), Ok(other)) => match (one.respond::<Portable>(rng), other.respond::<AwsLc>(rng)) {
                    (Err(_), Err(_)) => "respond",
                    _ => "nowhere",
                },
                _ => "open",
            }
        }
    };
    assert_eq!(refused_at, case.refused_at, "{}", case.why);
}

pub(crate) fn run_m2(case: &MessageCase) {
    let of = HandshakeCase::named(&case.case);
    let (_, awaiting) = of.client();
    let none = &mut Script::seeded("nothing more");
    let finished = awaiting.finish(&unhex(&case.frame), &of.identity(), &of.hello(), none);
    assert!(finished.is_err(), "{}", case.why);
    assert_eq!(case.refused_at, "finish", "{}", case.why);
}

pub(crate) fn run_m3(case: &MessageCase) {
    let of = HandshakeCase::named(&case.case);
    let (_, awaiting) = of.node(&unhex(&of.m1));
    let address: Address = of.node_address.parse().unwrap();
    let (refused_at, error) = match awaiting.finish(&unhex(&case.frame)) {
        Err(_) => ("handshake", None),
        Ok(greeted) => {
            let verdict = greeted.delegation.and_then(|signed| match signed {
                Some(signed) => signed.verify(&greeted.static_key, address, of.now).map(Some),
                None => Ok(None),
            });
            match (verdict, greeted.hello) {
                (Err(error), Some(_)) => ("delegation", Some(certificate_error(error))),
                (Ok(Some(_)), None) => ("hello", None),
                _ => ("nowhere, or twice", None),
            }
        }
    };
    assert_eq!((refused_at, error), (case.refused_at.as_str(), case.error.as_deref()), "{}", case.why);
}

pub(crate) fn run_r1(case: &MessageCase) {
    let of = ResumeCase::named(&case.case);
    let frame = unhex(&case.frame);
    let refused_at = match R1::read(&frame) {
        Err(_) => "read",
        Ok(r1) if r1.ticket != of.ticket().id() => "ticket",
        Ok(r1) => match r1.open(&of.ticket()) {
            Err(_) => "open",
            // The ticket is spent by it all the same.
            Ok(opened) if opened.resume.is_none() => "resume",
            Ok(_) => "nowhere",
        },
    };
    assert_eq!(refused_at, case.refused_at, "{}", case.why);
}

pub(crate) fn run_r2(case: &MessageCase) {
    let of = ResumeCase::named(&case.case);
    let (_, awaiting) = of.client();
    let finished = awaiting.finish(&unhex(&case.frame));
    assert!(finished.is_err(), "{}", case.why);
    assert_eq!(case.refused_at, "finish", "{}", case.why);
}
