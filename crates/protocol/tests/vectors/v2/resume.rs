//! Resumptions: of a full handshake, of a resumption, and of tickets out of nowhere.

use fabstir_protocol::v2::{
    AwaitingR2, Limits, ModelEntry, OpenedR1, R1, Received, Resume, Shape, Ticket, Welcome, encode,
};

use super::{
    cases::{HandshakeCase, ResumeCase, Resumptions},
    handshake::{end, ended, state},
};
use crate::{
    support::{Script, hex, unhex, unhex_array},
    v2_support::{draw, noise::Side, reference as r, rng},
};

struct Recipe {
    name: &'static str,
    resume: Resume,
    welcome: Welcome,
}

fn welcome() -> Welcome {
    Welcome {
        node: "fabstir-llm-node/0.1".to_owned(),
        shape: Shape::Bucket,
        ticket: true,
        limits: Limits {
            max_request_bytes: 1 << 20,
            max_requests: 16,
            grace_seconds: 15,
            keep_seconds: 60,
            ticket_seconds: 600,
        },
        models: vec![ModelEntry { id: "a-model".to_owned(), sha256: hex([0x5a; 32]), context_window: 8192 }],
        known: Some(vec![1, 2]),
    }
}

fn recipes() -> Vec<Recipe> {
    let received = |most| (1..=most).map(|request| Received(request, request * 11)).collect();
    let resume = |most| Resume { received: received(most), shape: Shape::Bucket };
    let many = |name: &str, many: u32| Welcome {
        node: name.to_owned(),
        known: Some((0..many).collect()),
        ..welcome()
    };
    vec![
        Recipe { name: "after a handshake", resume: resume(2), welcome: welcome() },
        Recipe { name: "after a resumption", resume: resume(1), welcome: welcome() },
        Recipe {
            name: "nothing came and nothing is known",
            resume: Resume { received: Vec::new(), shape: Shape::Off },
            welcome: Welcome {
                shape: Shape::Off,
                ticket: false,
                known: Some(Vec::new()),
                models: Vec::new(),
                ..welcome()
            },
        },
        Recipe { name: "messages that take larger buckets", resume: resume(200), welcome: many("n", 300) },
        Recipe { name: "an agreement that begins with a zero", resume: resume(1), welcome: welcome() },
    ]
}

/// Where a case's ticket comes from.
fn ticket(name: &str) -> (Option<String>, [u8; 32], [u8; 32]) {
    let of = |after: &str, id: &str, psk: &str| (Some(after.to_owned()), unhex_array(id), unhex_array(psk));
    match name {
        "after a handshake" => {
            let before = HandshakeCase::named("a delegate for this node");
            of(&before.name, &before.end.ticket_id, &before.end.ticket_psk)
        }
        "after a resumption" => {
            let before = ResumeCase::named("after a handshake");
            of(&before.name, &before.end.ticket_id, &before.end.ticket_psk)
        }
        _ => {
            let rng = &mut rng(&format!("ticket|{name}"));
            (None, draw(rng), draw(rng))
        }
    }
}

fn case(recipe: &Recipe) -> ResumeCase {
    let rng = &mut rng(&format!("resume|{}", recipe.name));
    let (after, id, psk) = ticket(recipe.name);
    let client_ephemeral = draw(rng);
    let mut node_ephemeral: [u8; 32] = draw(rng);
    if recipe.name == "an agreement that begins with a zero" {
        node_ephemeral = super::handshake::with_a_zero(rng, &client_ephemeral);
    }
    let prologue = r::resume_prologue(&id);
    let mut client = Side::resuming(true, &prologue, &psk, &client_ephemeral);
    let mut node = Side::resuming(false, &prologue, &psk, &node_ephemeral);
    let (resume, welcome) = (encode(&recipe.resume), encode(&recipe.welcome));
    let one = client.write(&r::payload(&[&resume]));
    assert_eq!(node.read(&one).unwrap(), r::payload(&[&resume]));
    let mut states = vec![state(&client.state())];
    let two = node.write(&r::payload(&[&welcome]));
    assert_eq!(client.read(&two).unwrap(), r::payload(&[&welcome]));
    states.push(state(&client.state()));
    assert_eq!(node.state(), client.state());
    let text = |json: &[u8]| String::from_utf8(json.to_vec()).unwrap();
    ResumeCase {
        name: recipe.name.to_owned(),
        after,
        ticket_id: hex(id),
        ticket_psk: hex(psk),
        client_ephemeral_key: hex(client_ephemeral),
        node_ephemeral_key: hex(node_ephemeral),
        resume: text(&resume),
        welcome: text(&welcome),
        prologue: hex(prologue),
        r1: hex(r::frame(r::R1, &[&id, &one])),
        r2: hex(r::frame(r::R2, &[&two])),
        states,
        end: end(&client.finish()),
    }
}

pub(crate) fn make() -> Resumptions {
    let about = [
        "Resumptions of version 2 of the protocol (docs/protocol.md, part 2), with every input of both sides. Bytes are \
lower-case hex; resume and welcome are the exact JSON that is sealed.",
        "The ticket is that of the case named by `after`, in handshake.json or here, or out of nowhere. With \
client_ephemeral_key and resume the client makes r1; with node_ephemeral_key and welcome the node makes r2. Frames are \
whole: 02, the kind, and of r1 the ticket's id.",
        "states: ck and h of Noise after each message. end: as in handshake.json, with the next ticket.",
    ];
    Resumptions { about: about.map(str::to_owned).to_vec(), cases: recipes().iter().map(case).collect() }
}

impl ResumeCase {
    /// The case of a name, made anew: nothing waits for the files.
    pub(crate) fn named(name: &str) -> Self {
        case(recipes().iter().find(|recipe| recipe.name == name).unwrap())
    }

    pub(crate) fn ticket(&self) -> Ticket {
        Ticket::of(unhex_array(&self.ticket_id), &unhex_array(&self.ticket_psk))
    }

    pub(crate) fn client(&self) -> (Vec<u8>, AwaitingR2) {
        let resume: Resume = serde_json::from_str(&self.resume).unwrap();
        let rng = &mut Script::of(&[&unhex(&self.client_ephemeral_key)]);
        AwaitingR2::start(self.ticket(), &resume, rng).unwrap()
    }

    pub(crate) fn node(&self, r1: &[u8]) -> OpenedR1 {
        R1::read(r1).unwrap().open(&self.ticket()).unwrap()
    }
}

pub(crate) fn run(case: &ResumeCase) {
    let name = &case.name;
    let (r1, awaiting) = case.client();
    assert_eq!(hex(&r1), case.r1, "{name}");
    assert_eq!(hex(R1::read(&r1).unwrap().ticket), case.ticket_id, "{name}");
    let opened = case.node(&r1);
    assert_eq!(*encode(&opened.resume), *case.resume.as_bytes(), "{name}");
    let welcome: Welcome = serde_json::from_str(&case.welcome).unwrap();
    let (r2, theirs) =
        opened.respond(&welcome, &mut Script::of(&[&unhex(&case.node_ephemeral_key)])).unwrap();
    assert_eq!(hex(&r2), case.r2, "{name}");
    let (heard, ours) = awaiting.finish(&r2).unwrap();
    assert_eq!(heard, welcome, "{name}");
    ended(&ours, false, &case.end);
    ended(&theirs, true, &case.end);
}
