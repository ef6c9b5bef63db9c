//! A node and a client that have everything but a network.

use std::sync::Arc;

use fabstir_protocol::{
    ethereum::Address,
    identity::{PrivateKey, PublicKey},
    v2::{
        Advertisement, AwaitingM2, AwsLc, Channel, ClientIdentity, Greeted, HandshakeError, Hello, M1,
        NodeChannelKey, NodeIdentity, SessionDelegation, SignedDelegation, VerifiedNode, prologue,
    },
};
use rand_core::UnwrapErr;

pub(crate) const NOW: u64 = 1_800_000_000;
pub(crate) const CHAIN: u64 = 84532;

pub(crate) fn rng() -> UnwrapErr<getrandom::SysRng> {
    UnwrapErr(getrandom::SysRng)
}

pub(crate) struct Node {
    pub(crate) identity: PrivateKey,
    pub(crate) channel: Arc<PrivateKey>,
    pub(crate) versions: Vec<String>,
}

impl Node {
    pub(crate) fn new() -> Self {
        Self {
            identity: PrivateKey::random(&mut rng()),
            channel: Arc::new(PrivateKey::random(&mut rng())),
            versions: vec!["2".into(), "1".into()],
        }
    }

    pub(crate) fn address(&self) -> Address {
        self.identity.address()
    }

    pub(crate) fn certify(&self, key: NodeChannelKey) -> fabstir_protocol::v2::SignedChannelKey {
        let signature = self.identity.sign(&key.digest(CHAIN)).unwrap();
        key.with_signature(signature)
    }

    pub(crate) fn advertisement(&self) -> Advertisement {
        let key = self.channel.public_key();
        let certificate = self.certify(NodeChannelKey::made_at(NOW, key, 1));
        let identity = NodeIdentity {
            address: self.address(),
            chain_id: CHAIN,
            channel_key: key,
            certificate,
            rotation: None,
        };
        Advertisement { e2ee: self.versions.clone(), node: Some(identity) }
    }

    pub(crate) fn verified(&self) -> VerifiedNode {
        self.advertisement().verify(self.address(), NOW).unwrap()
    }

    pub(crate) fn prologue(&self) -> Vec<u8> {
        prologue(&self.versions, CHAIN, self.address()).unwrap()
    }

    /// Answers message 1.
    pub(crate) fn answer(
        &self,
        m1: &[u8],
    ) -> Result<(Vec<u8>, fabstir_protocol::v2::AwaitingM3), HandshakeError> {
        M1::read(m1)?.open(&self.channel, &self.prologue())?.respond::<AwsLc>(&mut rng())
    }
}

pub(crate) struct Client {
    pub(crate) wallet: PrivateKey,
    pub(crate) key: Arc<PrivateKey>,
}

impl Client {
    pub(crate) fn new() -> Self {
        Self { wallet: PrivateKey::random(&mut rng()), key: Arc::new(PrivateKey::random(&mut rng())) }
    }

    pub(crate) fn delegation_to(&self, key: PublicKey, node: Option<Address>) -> SignedDelegation {
        let delegation = SessionDelegation {
            wallet: self.wallet.address(),
            delegate_key: key,
            node,
            not_before: NOW - 60,
            not_after: NOW + 3600,
        };
        delegation.sign(&self.wallet).unwrap()
    }

    pub(crate) fn identity(&self, node: &Node) -> ClientIdentity {
        let delegation = self.delegation_to(self.key.public_key(), Some(node.address()));
        ClientIdentity { key: Arc::clone(&self.key), delegation: Some(delegation) }
    }
}

pub(crate) fn hello() -> Hello {
    Hello { client: "test/1".into(), ticket: true, ..Hello::default() }
}

/// A handshake without anybody in between.
pub(crate) fn channels(node: &Node, identity: &ClientIdentity, hello: &Hello) -> (Channel, Greeted) {
    let (m1, waiting) = AwaitingM2::<AwsLc>::start(&node.verified(), &mut rng()).unwrap();
    let (m2, awaiting) = node.answer(&m1).unwrap();
    let (m3, channel) = waiting.finish(&m2, identity, hello, &mut rng()).unwrap();
    (channel, awaiting.finish(&m3).unwrap())
}
