use super::*;
use crate::{
    id::SessionId,
    identity::PrivateKey,
    v1::{ClientFrame, ClientHello, Dialect, Inbound, handshake::InitContext},
};

fn rng() -> impl CryptoRng {
    rand_core::UnwrapErr(getrandom::SysRng)
}

struct Fixture {
    node: PrivateKey,
    client: PrivateKey,
    memory: InitMemory,
}

impl Fixture {
    fn new(limits: InitMemoryLimits) -> Self {
        let (node, client) = (PrivateKey::random(&mut rng()), PrivateKey::random(&mut rng()));
        Self { node, client, memory: InitMemory::new(ProcessSecret::random(&mut rng()), limits) }
    }

    fn init(&self, timestamp: Option<u64>) -> String {
        let hello = ClientHello {
            node_key: &self.node.public_key(),
            client_key: &self.client,
            id: SessionId::try_from("1").unwrap(),
            context: InitContext::default(),
            dialect: Dialect::Deployed,
            timestamp,
            claim: true,
        };
        hello.start(&mut rng()).unwrap().0
    }

    fn established(&self, frame: &str) -> Established {
        let ClientFrame::SessionInit(id, raw) = Inbound::decode(frame).unwrap().frame else {
            panic!("an init was expected")
        };
        raw.read(id).unwrap().open(&self.node).unwrap().authenticate().unwrap()
    }

    fn admit(&mut self, frame: &str, conversation: u64, now: u64) -> Result<(), NotRemembered> {
        let established = self.established(frame);
        self.memory.admit(&established, conversation, here(), now)
    }
}

fn here() -> Network {
    Network::from(IpAddr::from([127, 0, 0, 1]))
}

fn hour() -> InitMemoryLimits {
    InitMemoryLimits::standard(3600)
}

#[test]
fn what_is_printed_of_a_memory_is_how_much_it_holds() {
    let secret = ProcessSecret([7; 32]);
    let memory = InitMemory::new(secret, InitMemoryLimits::standard(3600));
    assert_eq!(format!("{memory:?}"), "InitMemory { inits: 0, .. }");
}

#[test]
fn an_init_opens_one_session_while_its_conversation_lives_and_the_ttl_after() {
    let mut fixture = Fixture::new(hour());
    let frame = fixture.init(None);
    fixture.admit(&frame, 1, 0).unwrap();
    assert_eq!(fixture.admit(&frame, 2, 1_000_000), Err(ReplayError::Init.into()));
    fixture.memory.conversation_ended(1, 1_000_000);
    assert_eq!(fixture.admit(&frame, 2, 1_003_599), Err(ReplayError::Init.into()));
    assert_eq!(fixture.admit(&frame, 2, 1_003_600), Ok(()));
}

#[test]
fn an_init_is_remembered_for_ten_minutes_whatever_the_ttl() {
    let mut fixture = Fixture::new(InitMemoryLimits { keep_seconds: 1, ..hour() });
    let frame = fixture.init(None);
    fixture.admit(&frame, 1, 0).unwrap();
    fixture.memory.conversation_ended(1, 0);
    assert_eq!(fixture.admit(&frame, 2, 599), Err(ReplayError::Init.into()));
    assert_eq!(fixture.admit(&frame, 2, 600), Ok(()));
}

#[test]
fn an_init_is_remembered_for_five_minutes_past_its_timestamp() {
    let mut fixture = Fixture::new(InitMemoryLimits { keep_seconds: 1, ..hour() });
    let frame = fixture.init(Some(1000));
    fixture.admit(&frame, 1, 0).unwrap();
    fixture.memory.conversation_ended(1, 0);
    assert_eq!(fixture.established(&frame).check_time(1300, None), Ok(()), "it is still fresh");
    assert_eq!(fixture.admit(&frame, 2, 1300), Err(ReplayError::Init.into()));
    assert_eq!(fixture.admit(&frame, 2, 1301), Ok(()));
}

#[test]
fn a_full_memory_refuses_the_new_and_keeps_the_old() {
    let mut fixture = Fixture::new(InitMemoryLimits { per_network: 1, ..hour() });
    let (first, second) = (fixture.init(None), fixture.init(None));
    fixture.admit(&first, 1, 0).unwrap();
    assert_eq!(fixture.admit(&second, 2, 0), Err(MemoryFull.into()));
    assert_eq!(fixture.admit(&first, 3, 0), Err(ReplayError::Init.into()));
    let elsewhere = Network::from(IpAddr::from([127, 0, 0, 2]));
    let established = fixture.established(&second);
    assert_eq!(fixture.memory.admit(&established, 2, elsewhere, 0), Ok(()));
}

#[test]
fn what_is_forgotten_makes_room_for_others_of_its_network() {
    let mut fixture = Fixture::new(InitMemoryLimits { per_network: 1, keep_seconds: 1, ..hour() });
    let (first, second) = (fixture.init(None), fixture.init(None));
    fixture.admit(&first, 1, 0).unwrap();
    fixture.memory.conversation_ended(1, 0);
    assert_eq!(fixture.admit(&second, 2, 599), Err(MemoryFull.into()));
    assert_eq!(fixture.admit(&second, 2, 600), Ok(()));
    assert_eq!(fixture.memory.len(), 1);
}

#[test]
fn what_is_forgotten_makes_room_for_itself_alone() {
    let mut fixture = Fixture::new(InitMemoryLimits { per_network: 2, keep_seconds: 1, ..hour() });
    for conversation in [1, 2] {
        let frame = fixture.init(None);
        fixture.admit(&frame, conversation, 0).unwrap();
    }
    fixture.memory.conversation_ended(1, 0);
    let (third, fourth) = (fixture.init(None), fixture.init(None));
    assert_eq!(fixture.admit(&third, 3, 600), Ok(()));
    assert_eq!(fixture.admit(&fourth, 4, 600), Err(MemoryFull.into()));
    for conversation in [2, 3] {
        fixture.memory.conversation_ended(conversation, 600);
    }
    fixture.memory.forget_expired(10_000);
    assert!(fixture.memory.is_empty() && fixture.memory.per_network.is_empty());
}

#[test]
fn to_ask_whether_an_init_is_new_takes_no_note_of_it() {
    let mut fixture = Fixture::new(hour());
    let frame = fixture.init(None);
    let established = fixture.established(&frame);
    for _ in 0..2 {
        assert_eq!(fixture.memory.refuse_seen(&established, 0), Ok(()));
    }
    fixture.admit(&frame, 1, 0).unwrap();
    assert_eq!(fixture.memory.refuse_seen(&established, 0), Err(ReplayError::Init));
}

#[test]
fn one_ipv6_network_is_a_64() {
    let net = |text: &str| Network::from(text.parse::<IpAddr>().unwrap());
    assert_eq!(net("2001:db8::1"), net("2001:db8::ffff:1"));
    assert_ne!(net("2001:db8::1"), net("2001:db8:0:1::1"));
    assert_eq!(net("::ffff:10.0.0.1"), net("10.0.0.1"));
    assert_ne!(net("10.0.0.1"), net("10.0.0.2"));
}
