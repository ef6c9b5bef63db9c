//! The session init, from a well-formed frame to an authenticated session. Each step consumes the last.

use std::fmt;

use rand_core::CryptoRng;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::{
    aad::Aad,
    error::{Error, ReplayError},
    ethereum::{Address, personal_message_digest},
    id::{Nonce, SessionId},
    identity::{Agreed, InvalidSignature, KeyMaterial, PrivateKey, PublicKey, Signature, V},
    seal::{OpenError, Sealed, SessionKey},
    v1::{
        data::{ClaimFields, SessionData},
        frame::{self, StringOrNumber},
        session::{ClientSession, Session},
    },
};

/// How far a timestamp may be from the node's clock, in seconds.
pub(crate) const TIMESTAMP_WINDOW: u64 = 300;

/// What an init says in the clear beside its payload; echoed in the ack, used for nothing.
#[derive(Clone, Debug, Default)]
pub struct InitContext {
    /// The client's job.
    pub job_id: Option<StringOrNumber>,
    /// The client's chain.
    pub chain_id: Option<serde_json::Number>,
}

/// A well-formed init frame. Nothing about it has been checked yet.
#[derive(Debug)]
pub struct SessionInit {
    /// The session that it opens.
    pub id: SessionId,
    /// What stands beside the payload.
    pub context: InitContext,
    pub(crate) ephemeral: PublicKey,
    pub(crate) sealed: Sealed,
    pub(crate) aad: Aad,
    pub(crate) signature: Signature,
    /// Whether `saltHex` or `info` was there, which says that the third digest was signed.
    pub(crate) extended: bool,
}

/// An init that opened under the node's key. The sender is still unknown.
#[derive(Debug)]
pub struct Opened {
    init: SessionInit,
    node_key: PublicKey,
    opened_as: Aad,
    agreed_key: SessionKey,
    data: SessionData,
}

/// Who opened a session.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Owner {
    /// The sealed data claimed this address and the signature is by its key.
    Verified(Address),
    /// Nothing was claimed; recovery gave this address, which proves nothing.
    Unclaimed(Address),
}

impl Owner {
    /// The address, vouched for or not.
    pub fn address(&self) -> Address {
        match self {
            Self::Verified(address) | Self::Unclaimed(address) => *address,
        }
    }
}

/// An authenticated init: the only way to a [`Session`].
#[derive(Debug)]
pub struct Established {
    /// The session's name, unique only together with its owner and connection.
    pub id: SessionId,
    /// What the ack echoes.
    pub context: InitContext,
    /// Who opened it.
    pub owner: Owner,
    /// What was sealed.
    pub data: SessionData,
    /// The session itself.
    pub session: Session,
    /// x of the ephemeral key and the nonce: what opens one session and no second one.
    pub(crate) once: [u8; 56],
    pub(crate) key_digest: KeyDigest,
}

/// SHA-256 of a session's key: what tells keys apart where the key itself has no business. Hashing leaves copies of what is
/// hashed on the stack, so it is done here, where all work with the key is, and by whoever calls this on a stack that is
/// wiped.
pub(crate) struct KeyDigest([u8; 32]);

impl KeyDigest {
    fn of(key: &SessionKey) -> Self {
        Self(Sha256::digest(key.expose()).into())
    }

    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyDigest(..)")
    }
}

impl SessionInit {
    /// The key that was made for this init alone.
    pub fn ephemeral(&self) -> &PublicKey {
        &self.ephemeral
    }

    /// Agrees with the ephemeral key once and opens with what comes of it; see [`SessionInit::open_agreed`].
    ///
    /// # Errors
    /// [`OpenError`] where nothing opens; `INVALID_PAYLOAD` where something does that is no session data.
    pub fn open(self, node: &PrivateKey) -> Result<Opened, Error> {
        let agreed = node.agree(&self.ephemeral);
        self.open_agreed(&agreed, &node.public_key()).map_err(|refused| refused.error)
    }

    /// Tries the aad and key material that clients are known to use, the likeliest first, on what `node_key` agreed
    /// on with the ephemeral key.
    ///
    /// # Errors
    /// [`NotOpened`], with the init where another identity of the node may be tried.
    pub fn open_agreed(self, agreed: &Agreed, node_key: &PublicKey) -> Result<Opened, NotOpened> {
        let other = if self.aad == Aad::Empty { Aad::SessionInit } else { Aad::Empty };
        let attempts = [
            (KeyMaterial::X, self.aad),
            (KeyMaterial::Point, self.aad),
            (KeyMaterial::X, other),
            (KeyMaterial::Point, other),
        ];
        let keys = attempts.into_iter().flat_map(|(material, aad)| {
            agreed.derive_each(material).filter_map(move |key| Some((key.ok()?, aad)))
        });
        for (agreed_key, opened_as) in keys {
            if let Ok(plaintext) = agreed_key.open(&self.sealed, opened_as) {
                let data = SessionData::try_from(&plaintext);
                let data = data.map_err(|error| NotOpened { error: error.into(), init: None })?;
                return Ok(Opened { init: self, node_key: *node_key, opened_as, agreed_key, data });
            }
        }
        Err(NotOpened { error: OpenError.into(), init: Some(Box::new(self)) })
    }
}

/// An init that did not open under one identity.
#[derive(Debug)]
pub struct NotOpened {
    /// Why.
    pub error: Error,
    /// The init, where it may open under another identity.
    pub init: Option<Box<SessionInit>>,
}

impl Opened {
    /// Checks the signature against the claim made inside the sealed data. Recovery always yields some
    /// address, so without a claim the owner is marked as unclaimed.
    ///
    /// # Errors
    /// [`InvalidSignature`]: not by the claimed address, or two claims that differ.
    pub fn authenticate(self) -> Result<Established, InvalidSignature> {
        let digests = Digests::of(&self.init, self.opened_as, &self.node_key);
        let signature = &self.init.signature;
        let order = digests.likeliest_first(signature.v(), self.init.extended);
        let owner = match self.claim()? {
            None => Owner::Unclaimed(signature.recover(order[0])?),
            Some(claimed) => {
                let met = order.into_iter().any(|digest| signature.recover(digest) == Ok(claimed));
                if !met {
                    return Err(InvalidSignature);
                }
                Owner::Verified(claimed)
            }
        };
        let mut once = [0; 56];
        let (x, nonce) = once.split_at_mut(32);
        x.copy_from_slice(&self.init.ephemeral.x());
        nonce.copy_from_slice(self.init.sealed.nonce.as_bytes());
        let Self { init, agreed_key, mut data, .. } = self;
        let key_digest = KeyDigest::of(data.session_key.as_ref().unwrap_or(&agreed_key));
        let session = match data.session_key.take() {
            Some(key) => Session::new(key, None),
            None => Session::new(agreed_key, Some(init.sealed.nonce)),
        };
        Ok(Established { id: init.id, context: init.context, owner, data, session, once, key_digest })
    }

    fn claim(&self) -> Result<Option<Address>, InvalidSignature> {
        let recovery = self.data.recovery_public_key.map(|key| key.address());
        match (self.data.client_address, recovery) {
            (Some(one), Some(other)) if one != other => Err(InvalidSignature),
            (one, other) => Ok(one.or(other)),
        }
    }
}

impl Established {
    /// Whether the init was made at this moment.
    ///
    /// # Errors
    /// [`ReplayError::Stale`] for a timestamp more than five minutes away or before `not_before` (the node's
    /// start, where timestamps are required), [`ReplayError::NoTimestamp`] where one is required and missing.
    pub fn check_time(&self, now: u64, not_before: Option<u64>) -> Result<(), ReplayError> {
        match (self.data.timestamp, not_before) {
            (None, None) => Ok(()),
            (None, Some(_)) => Err(ReplayError::NoTimestamp),
            (Some(at), start) => {
                let fresh = at.abs_diff(now) <= TIMESTAMP_WINDOW && start.is_none_or(|start| at >= start);
                if fresh { Ok(()) } else { Err(ReplayError::Stale) }
            }
        }
    }
}

/// The three digests that clients are known to sign.
struct Digests {
    plain: [u8; 32],
    personal: [u8; 32],
    bound: [u8; 32],
}

impl Digests {
    fn of(init: &SessionInit, aad: Aad, node_key: &PublicKey) -> Self {
        let plain: [u8; 32] = Sha256::digest(&init.sealed.ciphertext).into();
        let bound = bound_digest(&init.ephemeral, node_key, &init.sealed.nonce, aad);
        Self { plain, personal: personal_message_digest(&plain), bound }
    }

    fn likeliest_first(&self, v: V, extended: bool) -> [&[u8; 32]; 3] {
        match (extended, v) {
            (true, _) => [&self.bound, &self.plain, &self.personal],
            (false, V::Ethereum) => [&self.personal, &self.plain, &self.bound],
            (false, V::Raw) => [&self.plain, &self.personal, &self.bound],
        }
    }
}

/// The digest of deployed clients: it names both keys and the nonce, but not the ciphertext.
fn bound_digest(ephemeral: &PublicKey, node_key: &PublicKey, nonce: &Nonce, aad: Aad) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(b"E2EEv1|");
    hash.update(ephemeral.to_bytes());
    hash.update(b"|");
    hash.update(node_key.to_bytes());
    hash.update(b"|");
    hash.update([0; 32]);
    hash.update(b"|");
    hash.update(nonce.as_bytes());
    hash.update(b"|");
    if aad != Aad::Empty {
        hash.update(b"|");
        hash.update(aad.to_string());
    }
    hash.finalize().into()
}

/// How a client of a certain make writes its init.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Dialect {
    /// x as key material, aad `session_init`, the plain digest, a random session key.
    GuideRust,
    /// The compressed point, aad `session_init`, `personal_sign`, the agreed key as session key.
    GuideTypescript,
    /// x, no aad, the digest that binds both keys, a random session key.
    Deployed,
}

impl Dialect {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::GuideRust, Self::GuideTypescript, Self::Deployed];
}

/// What a client brings to an init.
#[derive(Debug)]
pub struct ClientHello<'a> {
    /// Whom the session is for; pinned by the client beforehand.
    pub node_key: &'a PublicKey,
    /// Who asks.
    pub client_key: &'a PrivateKey,
    /// The session's name.
    pub id: SessionId,
    /// What stands in the clear beside the payload.
    pub context: InitContext,
    /// How to write it.
    pub dialect: Dialect,
    /// Unix seconds; with it a replay is refused after five minutes whatever the node remembers.
    pub timestamp: Option<u64>,
    /// Whether to say who asks, so that the signature can be checked against it.
    pub claim: bool,
}

impl ClientHello<'_> {
    /// The text of the init frame, and the session that it opens if the node acknowledges it.
    ///
    /// # Errors
    /// [`Error::Seal`] or [`Error::Signature`], neither of which can be met in practice.
    pub fn start(self, rng: &mut impl CryptoRng) -> Result<(String, ClientSession), Error> {
        let ephemeral = PrivateKey::random(rng);
        let agreed: Agreed = ephemeral.agree(self.node_key);
        let client_public = self.client_key.public_key();
        let client_address = client_public.address();
        let (material, aad) = match self.dialect {
            Dialect::GuideRust => (KeyMaterial::X, Aad::SessionInit),
            Dialect::GuideTypescript => (KeyMaterial::Point, Aad::SessionInit),
            Dialect::Deployed => (KeyMaterial::X, Aad::Empty),
        };
        let claim = match self.dialect {
            _ if !self.claim => ClaimFields::None,
            Dialect::GuideRust | Dialect::GuideTypescript => ClaimFields::Address(&client_address),
            Dialect::Deployed => ClaimFields::PublicKey(&client_public),
        };
        let agreed_key = agreed.derive(material)?;
        let own_key = (self.dialect != Dialect::GuideTypescript).then(|| SessionKey::random(rng));
        let json: Zeroizing<String> = SessionKey::session_data_json(own_key.as_ref(), claim, self.timestamp);
        let sealed = agreed_key.seal(Nonce::random(rng), aad, json.as_bytes())?;
        let signature = self.sign(&ephemeral.public_key(), &sealed, aad)?;
        let init = SessionInit {
            id: self.id.clone(),
            context: self.context,
            ephemeral: ephemeral.public_key(),
            sealed,
            aad,
            signature,
            extended: self.dialect == Dialect::Deployed,
        };
        let session = ClientSession::new(self.id, own_key.unwrap_or(agreed_key));
        Ok((frame::encode_init(&init), session))
    }

    fn sign(&self, ephemeral: &PublicKey, sealed: &Sealed, aad: Aad) -> Result<Signature, InvalidSignature> {
        let plain: [u8; 32] = Sha256::digest(&sealed.ciphertext).into();
        match self.dialect {
            Dialect::GuideRust => self.client_key.sign(&plain),
            Dialect::GuideTypescript => {
                Ok(self.client_key.sign(&personal_message_digest(&plain))?.with_v(V::Ethereum))
            }
            Dialect::Deployed => {
                self.client_key.sign(&bound_digest(ephemeral, self.node_key, &sealed.nonce, aad))
            }
        }
    }
}
