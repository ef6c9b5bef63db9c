//! A session to measure with.

use fabstir_protocol::{
    id::SessionId,
    identity::PrivateKey,
    v1::{ClientFrame, ClientHello, ClientSession, Dialect, Established, Inbound, InitContext},
};
use rand_core::CryptoRng;

/// The text of an init, and the session that it opens.
pub(crate) fn init(node: &PrivateKey, dialect: Dialect, rng: &mut impl CryptoRng) -> (String, ClientSession) {
    let hello = ClientHello {
        node_key: &node.public_key(),
        client_key: &PrivateKey::random(rng),
        id: SessionId::try_from("1").unwrap(),
        context: InitContext::default(),
        dialect,
        timestamp: None,
        claim: true,
    };
    hello.start(rng).unwrap()
}

/// From the text of the frame to an authenticated session.
pub(crate) fn open(node: &PrivateKey, frame: &str) -> Established {
    let Ok(Inbound { frame: ClientFrame::SessionInit(id, raw), .. }) = Inbound::decode(frame) else {
        panic!()
    };
    raw.read(id).unwrap().open(node).unwrap().authenticate().unwrap()
}
