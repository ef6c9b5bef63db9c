//! A node and a client of fixed keys.

use std::sync::{Arc, LazyLock};

use fabstir_protocol::{
    identity::{PrivateKey, PublicKey},
    v2::{
        Advertisement, ClientIdentity, Hello, NodeChannelKey, NodeIdentity, NodeKeyRotation,
        SessionDelegation, SignedChannelKey, SignedDelegation, SignedRotation, VerifiedNode, prologue,
    },
};

pub(crate) const NOW: u64 = 1_800_000_000;
pub(crate) const CHAIN: u64 = 84532;
/// The secret keys that noise of another make has to have too.
pub(crate) const CHANNEL: [u8; 32] = [2; 32];
pub(crate) const DELEGATE: [u8; 32] = [4; 32];

pub(crate) struct Peers {
    pub(crate) identity: PrivateKey,
    pub(crate) next_identity: PrivateKey,
    pub(crate) channel: Arc<PrivateKey>,
    pub(crate) wallet: PrivateKey,
    pub(crate) delegate: Arc<PrivateKey>,
    pub(crate) versions: Vec<String>,
    pub(crate) prologue: Vec<u8>,
    pub(crate) certificate: SignedChannelKey,
    pub(crate) rotation: SignedRotation,
    pub(crate) delegation: SignedDelegation,
    pub(crate) for_any_node: SignedDelegation,
    pub(crate) verified: VerifiedNode,
}

pub(crate) static PEERS: LazyLock<Peers> = LazyLock::new(Peers::new);

pub(crate) fn key(bytes: &[u8; 32]) -> PrivateKey {
    PrivateKey::try_from(bytes).unwrap()
}

impl Peers {
    fn new() -> Self {
        let (identity, next_identity, wallet) = (key(&[1; 32]), key(&[5; 32]), key(&[3; 32]));
        let (channel, delegate) = (Arc::new(key(&CHANNEL)), Arc::new(key(&DELEGATE)));
        let versions = vec!["2".to_owned(), "1".to_owned()];
        let made = NodeChannelKey::made_at(NOW, channel.public_key(), 1);
        let signature = identity.sign(&made.digest(CHAIN)).unwrap();
        let certificate = made.with_signature(signature);
        let rotation =
            NodeKeyRotation { from: identity.address(), to: next_identity.address(), not_before: NOW };
        let signature = identity.sign(&rotation.digest(CHAIN)).unwrap();
        let rotation = rotation.with_signature(signature);
        let delegate_to = |node| {
            let delegation = SessionDelegation {
                wallet: wallet.address(),
                delegate_key: delegate.public_key(),
                node,
                not_before: NOW - 60,
                not_after: NOW + 3600,
            };
            delegation.sign(&wallet).unwrap()
        };
        let advertisement = Advertisement {
            e2ee: versions.clone(),
            node: Some(NodeIdentity {
                address: identity.address(),
                chain_id: CHAIN,
                channel_key: channel.public_key(),
                certificate: certificate.clone(),
                rotation: None,
            }),
        };
        Self {
            prologue: prologue(&versions, CHAIN, identity.address()).unwrap(),
            verified: advertisement.verify(identity.address(), NOW).unwrap(),
            delegation: delegate_to(Some(identity.address())),
            for_any_node: delegate_to(None),
            identity,
            next_identity,
            channel,
            wallet,
            delegate,
            versions,
            certificate,
            rotation,
        }
    }

    pub(crate) fn channel_key(&self) -> PublicKey {
        self.channel.public_key()
    }

    pub(crate) fn client(&self) -> ClientIdentity {
        ClientIdentity { key: Arc::clone(&self.delegate), delegation: Some(self.delegation.clone()) }
    }

    /// The node's first frame.
    pub(crate) fn connected(&self, rotation: bool) -> String {
        let node = NodeIdentity {
            address: self.identity.address(),
            chain_id: CHAIN,
            channel_key: self.channel_key(),
            certificate: self.certificate.clone(),
            rotation: rotation.then(|| self.rotation.clone()),
        };
        let advertisement = Advertisement { e2ee: self.versions.clone(), node: Some(node) };
        let mut json = serde_json::to_value(advertisement).unwrap();
        json["type"] = "connected".into();
        json.to_string()
    }
}

pub(crate) fn hello() -> Hello {
    Hello { client: "fuzz/1".to_owned(), ticket: true, ..Hello::default() }
}
