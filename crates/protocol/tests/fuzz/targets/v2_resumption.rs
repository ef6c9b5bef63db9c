//! Resumption between a client and a node that keeps tickets as the protocol has it: one that opened is burnt. Messages
//! changed, replayed, under another ticket, with payloads of any form: no ticket serves twice, and nothing but the
//! untouched message opens.

use std::collections::{BTreeMap, BTreeSet};

use fabstir_protocol::v2::{
    AwaitingR2, Channel, Flags, HandshakeError, Kind, ModelEntry, R1, Received, RecordType, Resume, Shape,
    Ticket, Welcome, decode,
};
use rand_chacha::ChaCha20Rng;

use super::{
    Bytes, bend, parts, payload,
    v2_support::{noise::Side, reference as r, rng},
};

const MOST_OPERATIONS: usize = 8;

fn copy(ticket: &Ticket) -> Ticket {
    Ticket::of(*ticket.id(), ticket.expose_psk())
}

struct World {
    rng: ChaCha20Rng,
    /// The client's tickets, and the node's by their ids.
    ours: Vec<Ticket>,
    theirs: BTreeMap<[u8; 32], Ticket>,
    burnt: BTreeSet<[u8; 32]>,
    spent: Vec<Vec<u8>>,
    sids: BTreeSet<[u8; 32]>,
}

impl World {
    fn new() -> Self {
        let ours: Vec<Ticket> = [1, 2].map(|byte| Ticket::of([byte; 32], &[byte + 8; 32])).into();
        let theirs = ours.iter().map(|ticket| (*ticket.id(), copy(ticket))).collect();
        let (burnt, sids) = (BTreeSet::new(), BTreeSet::new());
        Self { rng: rng("resumption"), ours, theirs, burnt, spent: Vec::new(), sids }
    }

    /// What a node does with an r1.
    fn receive(
        &mut self,
        r1: &[u8],
        welcome: &Welcome,
    ) -> Result<(Resume, Vec<u8>, Channel), HandshakeError> {
        let read = R1::read(r1)?;
        let ticket = self.theirs.get(read.ticket).ok_or(HandshakeError)?;
        let opened = read.open(ticket)?;
        assert!(self.burnt.insert(*read.ticket), "a ticket serves twice");
        self.theirs.remove(read.ticket);
        let resume = opened.resume.clone().ok_or(HandshakeError)?;
        let (r2, channel) = opened.respond(welcome, &mut self.rng)?;
        Ok((resume, r2, channel))
    }

    /// A whole resumption, its messages changed as the bytes say.
    fn resume(&mut self, which: usize, bend_r1: &[u8], bend_r2: &[u8]) {
        let Some(ticket) = self.ours.get(which).map(copy) else { return };
        let resume = Resume { received: vec![Received(1, 4), Received(2, 0)], shape: Shape::Off };
        let (r1, waiting) = AwaitingR2::start(copy(&ticket), &resume, &mut self.rng).unwrap();
        let others: Vec<Vec<u8>> = self.spent.clone();
        let others: Vec<&[u8]> = others.iter().map(Vec::as_slice).collect();
        let bent = bend(&r1, &others, &mut Bytes(bend_r1));
        let welcome = Welcome { known: Some(vec![1]), ..Welcome::default() };
        let received = self.receive(&bent, &welcome);
        assert_eq!(received.is_ok(), bent == r1);
        let Ok((heard, r2, mut node)) = received else { return };
        self.ours.remove(which);
        self.spent.push(r1);
        assert_eq!(heard, resume);
        let bent = bend(&r2, &others, &mut Bytes(bend_r2));
        let finished = waiting.finish(&bent);
        assert_eq!(finished.is_ok(), bent == r2);
        // A client that got no r2 has lost its ticket: the node's new one can never be met.
        let Ok((heard, mut client)) = finished else { return };
        assert_eq!(heard, welcome);
        agree(&mut client, &mut node);
        assert!(self.sids.insert(*client.sealer.expose_key()), "two resumptions, one key");
        assert!(!self.burnt.contains(client.ticket.id()));
        self.theirs.insert(*node.ticket.id(), node.ticket);
        self.ours.push(client.ticket);
    }

    /// Every r1 that was taken, again.
    fn replay(&mut self) {
        for r1 in self.spent.clone() {
            assert!(self.receive(&r1, &Welcome::default()).is_err());
        }
    }

    /// One ticket's r1 under another's name and secret.
    fn cross(&mut self) {
        let [one, two] = self.ours.as_slice() else { return };
        let (mut r1, _) = AwaitingR2::start(copy(one), &Resume::default(), &mut self.rng).unwrap();
        assert!(R1::read(&r1).unwrap().open(two).is_err());
        r1[2..34].copy_from_slice(two.id());
        assert!(R1::read(&r1).unwrap().open(two).is_err());
    }

    /// A payload of any form in an r1, by somebody who has a ticket.
    fn first_payload(&mut self, bytes: &mut Bytes<'_>) {
        let Some(ticket) = self.ours.first().map(copy) else { return };
        let frame = bytes.chunk();
        let json = bytes.chunk();
        let payload = payload(&[json], &mut Bytes(frame));
        let prologue = r::resume_prologue(ticket.id());
        let mut side = Side::resuming(true, &prologue, ticket.expose_psk(), &[9; 32]);
        let r1 = r::frame(r::R1, &[ticket.id(), &side.write(&payload)]);
        let opened = R1::read(&r1).and_then(|r1| r1.open(&ticket)).ok().and_then(|opened| opened.resume);
        let expected = parts(&payload, 1).and_then(|parts| decode::<Resume>(&parts[0]).ok());
        assert_eq!(opened, expected);
    }

    /// A payload of any form in an r2, by a node.
    fn second_payload(&mut self, bytes: &mut Bytes<'_>) {
        let Some(ticket) = self.ours.first().map(copy) else { return };
        let frame = bytes.chunk();
        let json = bytes.chunk();
        let payload = payload(&[json], &mut Bytes(frame));
        let (r1, waiting) = AwaitingR2::start(copy(&ticket), &Resume::default(), &mut self.rng).unwrap();
        let prologue = r::resume_prologue(ticket.id());
        let mut side = Side::resuming(false, &prologue, ticket.expose_psk(), &[9; 32]);
        side.read(&r1[34..]).unwrap();
        let r2 = r::frame(r::R2, &[&side.write(&payload)]);
        let heard = waiting.finish(&r2).map(|(welcome, _)| welcome).ok();
        let expected = parts(&payload, 1).and_then(|parts| decode::<Welcome>(&parts[0]).ok());
        assert_eq!(heard, expected);
    }

    /// A welcome that may be too long to be written.
    fn long_welcome(&mut self, models: u16) {
        let Some(ticket) = self.ours.first().map(copy) else { return };
        let model = ModelEntry { id: "m".repeat(100), sha256: String::new(), context_window: 1 };
        let welcome = Welcome { models: vec![model; usize::from(models % 64)], ..Welcome::default() };
        let (r1, waiting) = AwaitingR2::start(copy(&ticket), &Resume::default(), &mut self.rng).unwrap();
        let fits = fabstir_protocol::v2::encode(&welcome).len() + 2 <= 4096;
        let received = self.receive(&r1, &welcome);
        self.ours.remove(0);
        self.spent.push(r1);
        assert_eq!(received.is_ok(), fits);
        if let Ok((_, r2, _)) = received {
            assert_eq!(waiting.finish(&r2).unwrap().0, welcome);
        }
    }
}

fn agree(client: &mut Channel, node: &mut Channel) {
    assert_eq!(client.sid, node.sid);
    assert_eq!(
        (client.ticket.id(), client.ticket.expose_psk()),
        (node.ticket.id(), node.ticket.expose_psk())
    );
    let frame = client.sealer.seal(RecordType::Request, Flags::LAST, 2, 0, b"again").unwrap();
    assert_eq!(*node.opener.open(&frame).unwrap().body, *b"again");
    let frame = node.sealer.seal(RecordType::Text, Flags::NONE, 2, 0, b"yes").unwrap();
    assert_eq!(*client.opener.open(&frame).unwrap().body, *b"yes");
}

pub(crate) fn run(data: &[u8]) {
    let mut bytes = Bytes(data);
    let mut world = World::new();
    for _ in 0..MOST_OPERATIONS {
        if !bytes.more() {
            break;
        }
        match bytes.byte() % 8 {
            0 => world.resume(usize::from(bytes.byte() & 1), &[], &[]),
            1 => {
                let edits = bytes.chunk();
                world.resume(0, edits, &[]);
            }
            2 => {
                let edits = bytes.chunk();
                world.resume(0, &[], edits);
            }
            3 => world.replay(),
            4 => world.cross(),
            5 => world.first_payload(&mut bytes),
            6 => world.second_payload(&mut bytes),
            _ => match bytes.byte() & 1 {
                0 => world.long_welcome(bytes.u16()),
                _ => {
                    let raw = bytes.chunk();
                    assert!(
                        R1::read(raw).is_err() || Kind::split(raw).is_ok_and(|(kind, _)| kind == Kind::R1)
                    );
                    assert!(world.receive(raw, &Welcome::default()).is_err());
                }
            },
        }
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let resume = br#"{"received":[[1,2]],"shape":"off"}"#;
    let welcome = br#"{"node":"n","shape":"bucket","ticket":true,"limits":{"max_request_bytes":1,"max_requests":1,"grace_seconds":1,"keep_seconds":1,"ticket_seconds":1},"models":[{"id":"m","context_window":5}],"known":[1]}"#;
    let with = |kind: u8, frame: &[u8], json: &[u8]| {
        let length = |part: &[u8]| [&[u8::try_from(part.len()).unwrap()], part].concat();
        [&[kind], length(frame).as_slice(), &length(json)].concat()
    };
    let mut all = vec![
        vec![0, 0, 0, 1, 3, 0, 0, 3],
        vec![4, 0, 0, 4, 3],
        vec![1, 0, 3],
        vec![1, 4, 0, 0, 70, 1, 1, 4, 0, 0, 3, 2],
        vec![2, 0, 3],
        vec![2, 4, 0, 0, 70, 1, 3, 0, 0],
        vec![0, 0, 1, 7, 6, 0, 2, 4, 0, 0, 0, 3],
        vec![7, 0, 0, 3, 7, 0, 0, 60, 3],
        vec![7, 1, 3, 2, 4, 0],
    ];
    for frame in [&[0][..], &[1, 0, 0, 1], &[2, 0, 0, 2], &[4, 0, 0, 1], &[8, 0, 0, 1]] {
        all.push(with(5, frame, resume));
        all.push(with(6, frame, welcome));
    }
    all
}
