//! A private key in a token, over the token's resets.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use cryptoki::{
    mechanism::{
        Mechanism,
        elliptic_curve::{EcKdf, Ecdh1DeriveParams},
    },
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::Session,
};
use fabstir_protocol::identity::{Agreed, PrivateKey, PublicKey, Signature};
use zeroize::Zeroizing;

use super::{Pin, Pkcs11Uri, Token, TokenError, find_key, lock, module::Hold};
use crate::{KeyCustody, KeyFailure};

/// A private key in a token.
#[derive(Debug)]
pub struct TokenKey {
    opened: Mutex<Arc<Opened>>,
    uri: Pkcs11Uri,
    /// By what the token is unlocked once more; `None` where nobody is there to ask.
    pin: Option<Pin>,
    _hold: Option<Hold>,
    /// It refused the PIN: after some tries a token locks itself.
    refuses: AtomicBool,
    public: PublicKey,
    agrees: bool,
    extractable: bool,
}

/// A token and the key in it, until the token is reset.
#[derive(Debug)]
struct Opened {
    token: Token,
    key: ObjectHandle,
}

impl TokenKey {
    /// Finds the key that `uri` names, and tries it: what it signs and agrees on must belong to its public key.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn open(uri: &Pkcs11Uri, pin: &Pin) -> Result<Self, TokenError> {
        let token = Token::open(uri, pin)?;
        let (key, public, extractable) = token.with_session(|session| find_key(session, uri))?;
        let pin = match pin {
            Pin::File(path) => Some(Pin::File(path.clone())),
            Pin::None => Some(Pin::None),
            Pin::Given(_) | Pin::Prompt => None,
        };
        let hold = pin.is_none().then(|| token.module.hold());
        let opened = Mutex::new(Arc::new(Opened { token, key }));
        let (uri, refuses) = (uri.clone(), AtomicBool::new(false));
        // While it is tried, what the token does not do is not mended by opening it once more.
        let mut found =
            Self { opened, uri, pin: None, _hold: hold, refuses, public, agrees: true, extractable };
        found.sign(&[0x5a; 32]).map_err(of_token)?;
        found.agrees = found.agrees_truly()?;
        found.pin = pin;
        Ok(found)
    }

    /// Whether the token would give the key away.
    pub fn is_extractable(&self) -> bool {
        self.extractable
    }

    /// Uses the key. A token that was reset or came back is unlocked once more, and the key looked for anew.
    fn with_key<T>(
        &self,
        act: impl Fn(&Session, ObjectHandle) -> Result<T, TokenError>,
    ) -> Result<T, TokenError> {
        let opened = Arc::clone(&lock(&self.opened));
        match (opened.token.with_session(|session| act(session, opened.key)), &self.pin) {
            (Err(TokenError::Fault(_) | TokenError::Restarted), Some(pin)) => {
                let opened = self.open_again(&opened, pin)?;
                opened.token.with_session(|session| act(session, opened.key))
            }
            (done, _) => done,
        }
    }

    /// Once for all who met the same fault.
    fn open_again(&self, lost: &Arc<Opened>, pin: &Pin) -> Result<Arc<Opened>, TokenError> {
        let mut opened = lock(&self.opened);
        if Arc::ptr_eq(&opened, lost) {
            if self.refuses.load(Ordering::Relaxed) {
                return Err(TokenError::Pin);
            }
            let found = match self.look(pin) {
                Err(error) if may_come_back(&error) && lost.token.module.restart()? => self.look(pin),
                found => found,
            };
            *opened = Arc::new(found.inspect_err(|error| {
                self.refuses.store(matches!(error, TokenError::Pin), Ordering::Relaxed);
            })?);
        }
        Ok(Arc::clone(&opened))
    }

    /// Unlocks the token, and looks for the key in it.
    fn look(&self, pin: &Pin) -> Result<Opened, TokenError> {
        let token = Token::open(&self.uri, pin)?;
        let (key, public, _) = token.with_session(|session| find_key(session, &self.uri))?;
        if public == self.public { Ok(Opened { token, key }) } else { Err(TokenError::Mismatch) }
    }

    fn agrees_truly(&self) -> Result<bool, TokenError> {
        let other = PrivateKey::random(&mut rand_core::UnwrapErr(getrandom::SysRng));
        match self.derive(&other.public_key()) {
            Ok(x) if Agreed::from_x(&x).has_x_of(&other.agree(&self.public)) => Ok(true),
            Ok(_) => Err(TokenError::Mismatch),
            // It may only sign: version 2 needs no more.
            Err(_) => Ok(false),
        }
    }

    fn derive(&self, their_key: &PublicKey) -> Result<Zeroizing<[u8; 32]>, TokenError> {
        let point = their_key.to_uncompressed_bytes();
        let derived = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::GENERIC_SECRET),
            Attribute::ValueLen(32.into()),
            Attribute::Sensitive(false),
            Attribute::Extractable(true),
            Attribute::Token(false),
        ];
        self.with_key(|session, key| {
            let parameters = Ecdh1DeriveParams::new(EcKdf::null(), &point);
            let agreed = session.derive_key(&Mechanism::Ecdh1Derive(parameters), key, &derived)?;
            let value = session.get_attributes(agreed, &[AttributeType::Value]);
            session.destroy_object(agreed)?;
            let value = value?.into_iter().find_map(|attribute| {
                if let Attribute::Value(value) = attribute { Some(Zeroizing::new(value)) } else { None }
            });
            let x = value.as_ref().and_then(|value| value.as_slice().try_into().ok());
            x.map(Zeroizing::new).ok_or(TokenError::Mismatch)
        })
    }
}

impl KeyCustody for TokenKey {
    fn public_key(&self) -> &PublicKey {
        &self.public
    }

    fn agree(&self, their_key: &PublicKey) -> Result<Agreed, KeyFailure> {
        Ok(Agreed::from_x(&*self.derive(their_key)?))
    }

    fn sign(&self, digest: &[u8; 32]) -> Result<Signature, KeyFailure> {
        let signed = self.with_key(|session, key| Ok(session.sign(&Mechanism::Ecdsa, key, digest)?))?;
        let rs = signed.as_slice().try_into().map_err(|_| KeyFailure::Signature)?;
        // A token does not know which of two points it used, nor that s must be low: both are found by looking.
        Signature::of_token(rs, digest, self.public.address()).map_err(|_| KeyFailure::Signature)
    }

    fn can_agree(&self) -> bool {
        self.agrees
    }

    fn place(&self) -> String {
        let extractable = if self.extractable { ", which would give it away (CKA_EXTRACTABLE)" } else { "" };
        format!("token {}{extractable}", self.uri)
    }
}

fn of_token(failure: KeyFailure) -> TokenError {
    match failure {
        KeyFailure::Token(error) => error,
        KeyFailure::Signature | KeyFailure::Gone => TokenError::Mismatch,
    }
}

/// Whether the module may find what it lost once it is started anew.
fn may_come_back(error: &TokenError) -> bool {
    matches!(error, TokenError::NoToken { .. } | TokenError::NoKey(_) | TokenError::Fault(_))
}
