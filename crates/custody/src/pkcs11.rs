//! A key in a hardware token, by PKCS #11 version 3.1: it signs and agrees there, and never leaves.

mod key;
mod module;
mod uri;

use std::{
    fmt, mem,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use cryptoki::{
    context::Pkcs11,
    error::{Error as CryptokiError, RvError},
    mechanism::Mechanism,
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::{Session, UserType},
    slot::Slot,
    types::RawAuthPin,
};
use fabstir_protocol::identity::{PrivateKey, PublicKey};

use module::Module;

pub use key::TokenKey;
pub use uri::{InvalidUri, Pkcs11Uri};

use crate::{Secret, SecretFileError, read_secret_file};

/// secp256k1 as the DER of its object identifier, 1.3.132.0.10 (SEC 2, section A.2).
const SECP256K1: [u8; 7] = [0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x0a];
/// What stands before an uncompressed point in a DER OCTET STRING.
const OCTETS: [u8; 2] = [0x04, 0x41];
/// Sessions with a token that are kept for the next who need one.
const KEPT: usize = 16;

/// How a token is unlocked.
#[derive(Debug)]
pub enum Pin {
    /// By what stands in a file that is its owner's alone.
    File(PathBuf),
    /// By what is given.
    Given(Secret),
    /// By what a person types at this process's terminal.
    Prompt,
    /// By the token itself: a pad on it, or no login at all.
    None,
}

/// Why a token does not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The module is not there or is none.
    #[error("the PKCS #11 module {path} cannot be loaded: {error}")]
    Module {
        /// The shared library.
        path: String,
        /// Why.
        error: CryptokiError,
    },
    /// Nobody said which.
    #[error("no PKCS #11 module is named: add module-path=/path/of/the/module.so to the URI")]
    NoModule,
    /// Another module has been loaded.
    #[error("one process speaks to one PKCS #11 module, and another one is loaded already")]
    OtherModule,
    /// No slot has the token.
    #[error("no token is like {uri}; there are: {there}")]
    NoToken {
        /// What was looked for.
        uri: String,
        /// What there is.
        there: String,
    },
    /// Several tokens match.
    #[error("several tokens are like {uri}: {there}; add token=, serial= or slot-id=")]
    SeveralTokens {
        /// What was looked for.
        uri: String,
        /// What there is.
        there: String,
    },
    /// The PIN is wrong.
    #[error("the token refuses the PIN; it locks itself after some tries")]
    Pin,
    /// The file of the PIN gives none.
    #[error(transparent)]
    PinFile(#[from] SecretFileError),
    /// Nobody could be asked.
    #[error("the PIN could not be asked for: name a file with it")]
    Prompt,
    /// No private key on secp256k1 matches.
    #[error("the token has no private key on secp256k1 like {0}")]
    NoKey(String),
    /// More than one does.
    #[error("the token has several private keys like {0}: add object= or id=")]
    SeveralKeys(String),
    /// Only a private key is there.
    #[error("the token has no public key beside the private one; import it too, with the same id")]
    NoPublicKey,
    /// The key does not belong to the public one, or the token computes something else.
    #[error("what the token computes does not belong to its public key")]
    Mismatch,
    /// The secret was asked for.
    #[error("a token's key does not leave it: use the token maker's way of backing it up")]
    NotExtractable,
    /// The module was started anew meanwhile, which ends what it had given out.
    #[error("the PKCS #11 module was started anew meanwhile: try again")]
    Restarted,
    /// A name that is taken.
    #[error("the token has a key like {0} already")]
    Exists(String),
    /// A fault of the token's, in its own words.
    #[error(transparent)]
    Fault(#[from] CryptokiError),
}

/// A token, unlocked.
pub struct Token {
    module: &'static Module,
    /// Which of the module's lives the slot and the sessions are of.
    life: u64,
    slot: Slot,
    /// The first holds the login, which ends with the last session of this process.
    kept: Mutex<Kept>,
}

/// Sessions with a token.
struct Kept {
    anchor: Option<Session>,
    idle: Vec<Session>,
}

impl Token {
    /// Finds the token that `uri` names, and logs in.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn open(uri: &Pkcs11Uri, pin: &Pin) -> Result<Self, TokenError> {
        let module = Module::load(uri.module.as_deref().ok_or(TokenError::NoModule)?)?;
        let alive = module.alive();
        let slot = find_slot(module.pkcs11(), uri)?;
        let anchor = module.pkcs11().open_rw_session(slot)?;
        log_in(&anchor, pin)?;
        let kept = Mutex::new(Kept { anchor: Some(anchor), idle: Vec::new() });
        Ok(Self { module, life: alive.number(), slot, kept })
    }

    /// Makes a key in the token that cannot leave it, and its public half beside it.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn generate(&self, uri: &Pkcs11Uri) -> Result<PublicKey, TokenError> {
        self.with_session(|session| {
            refuse_taken(session, uri)?;
            let (public, private) = (public_template(uri, None), private_template(uri, None));
            let (public, _) = session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private)?;
            point_of(session, public)?.ok_or(TokenError::NoPublicKey)
        })
    }

    /// Takes a key into the token, from where it cannot be had again.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn import(&self, uri: &Pkcs11Uri, secret: &[u8; 32]) -> Result<PublicKey, TokenError> {
        let public = PrivateKey::try_from(secret).map_err(|_| TokenError::Mismatch)?.public_key();
        self.with_session(|session| {
            refuse_taken(session, uri)?;
            let private = session.create_object(&private_template(uri, Some(secret)))?;
            match session.create_object(&public_template(uri, Some(&public))) {
                Ok(_) => Ok(public),
                Err(error) => {
                    // Half a pair is of no use to anybody.
                    let _ = session.destroy_object(private);
                    Err(error.into())
                }
            }
        })
    }

    /// Does something by a session of its own, which is kept for the next.
    fn with_session<T>(&self, act: impl Fn(&Session) -> Result<T, TokenError>) -> Result<T, TokenError> {
        let alive = self.module.alive();
        if alive.number() != self.life {
            return Err(TokenError::Restarted);
        }
        let open = || self.module.pkcs11().open_rw_session(self.slot);
        let kept = lock(&self.kept).idle.pop();
        let fresh = kept.is_none();
        let session = kept.map_or_else(open, Ok)?;
        match act(&session) {
            // A session that was kept may have ended meanwhile: the token was reset, or pulled out and put back.
            Err(TokenError::Fault(error)) if !fresh && has_ended(&error) => {
                lock(&self.kept).idle.clear();
                act(&open()?)
            }
            done => {
                let mut kept = lock(&self.kept);
                if kept.idle.len() < KEPT {
                    kept.idle.push(session);
                }
                done
            }
        }
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        let alive = self.module.alive();
        if alive.number() != self.life {
            let mut kept = lock(&self.kept);
            let anchor = kept.anchor.take();
            // The module has ended them, and gives their numbers to others: to close them would close somebody else's.
            kept.idle.drain(..).chain(anchor).for_each(mem::forget);
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("slot", &self.slot).finish_non_exhaustive()
    }
}

fn find_slot(pkcs11: &Pkcs11, uri: &Pkcs11Uri) -> Result<Slot, TokenError> {
    let (mut matching, mut there) = (Vec::new(), Vec::new());
    for slot in pkcs11.get_slots_with_initialized_token()? {
        let info = pkcs11.get_token_info(slot)?;
        let (label, serial) = (info.label(), info.serial_number());
        there.push(format!("token={label} serial={serial} slot-id={}", slot.id()));
        let is = |wanted: &Option<String>, has: &str| wanted.as_deref().is_none_or(|wanted| wanted == has);
        if is(&uri.token, label)
            && is(&uri.serial, serial)
            && uri.slot.is_none_or(|wanted| wanted == slot.id())
        {
            matching.push(slot);
        }
    }
    let (named, there) = (uri.to_string(), there.join(", "));
    match matching.as_slice() {
        [slot] => Ok(*slot),
        [] => Err(TokenError::NoToken { uri: named, there }),
        _ => Err(TokenError::SeveralTokens { uri: named, there }),
    }
}

fn log_in(session: &Session, pin: &Pin) -> Result<(), TokenError> {
    let secret = match pin {
        Pin::None => return Ok(()),
        Pin::File(path) => read_secret_file(path)?,
        Pin::Given(secret) => Secret::from_bytes(secret.as_bytes()),
        Pin::Prompt => crate::source::prompt("PIN of the token: ").map_err(|_| TokenError::Prompt)?,
    };
    let pin = RawAuthPin::new(Box::new(secret.trim_line().to_vec()));
    match session.login_with_raw(UserType::User, &pin) {
        Ok(()) | Err(CryptokiError::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(()),
        Err(CryptokiError::Pkcs11(RvError::PinIncorrect | RvError::PinLenRange | RvError::PinInvalid, _)) => {
            Err(TokenError::Pin)
        }
        Err(error) => Err(error.into()),
    }
}

fn has_ended(error: &CryptokiError) -> bool {
    matches!(
        error,
        CryptokiError::Pkcs11(
            RvError::SessionHandleInvalid
                | RvError::SessionClosed
                | RvError::DeviceRemoved
                | RvError::TokenNotPresent,
            _
        )
    )
}

/// What tells a key from the token's others.
fn named(uri: &Pkcs11Uri) -> impl Iterator<Item = Attribute> {
    let label = uri.object.as_ref().map(|label| Attribute::Label(label.as_bytes().to_vec()));
    label.into_iter().chain(uri.id.clone().map(Attribute::Id))
}

fn keys(session: &Session, class: ObjectClass, uri: &Pkcs11Uri) -> Result<Vec<ObjectHandle>, TokenError> {
    let template: Vec<_> =
        [Attribute::Class(class), Attribute::KeyType(KeyType::EC), Attribute::EcParams(SECP256K1.to_vec())]
            .into_iter()
            .chain(named(uri))
            .collect();
    Ok(session.find_objects(&template)?)
}

fn refuse_taken(session: &Session, uri: &Pkcs11Uri) -> Result<(), TokenError> {
    let taken = keys(session, ObjectClass::PRIVATE_KEY, uri)?;
    if taken.is_empty() { Ok(()) } else { Err(TokenError::Exists(uri.to_string())) }
}

fn find_key(session: &Session, uri: &Pkcs11Uri) -> Result<(ObjectHandle, PublicKey, bool), TokenError> {
    let key = match keys(session, ObjectClass::PRIVATE_KEY, uri)?.as_slice() {
        [key] => *key,
        [] => return Err(TokenError::NoKey(uri.to_string())),
        _ => return Err(TokenError::SeveralKeys(uri.to_string())),
    };
    let attributes = session.get_attributes(key, &[AttributeType::Id, AttributeType::Extractable])?;
    let id = attributes
        .iter()
        .find_map(|attribute| if let Attribute::Id(id) = attribute { Some(id.clone()) } else { None });
    let extractable = attributes.iter().any(|attribute| matches!(attribute, Attribute::Extractable(true)));
    let beside = Pkcs11Uri { id: id.filter(|id| !id.is_empty()), ..uri.clone() };
    let public = match keys(session, ObjectClass::PUBLIC_KEY, &beside)?.as_slice() {
        [public, ..] => point_of(session, *public)?,
        [] => point_of(session, key)?,
    };
    Ok((key, public.ok_or(TokenError::NoPublicKey)?, extractable))
}

/// The public key of an object; `None` where it shows none.
fn point_of(session: &Session, object: ObjectHandle) -> Result<Option<PublicKey>, TokenError> {
    let attributes = session.get_attributes(object, &[AttributeType::EcPoint])?;
    let point = attributes
        .into_iter()
        .find_map(|attribute| if let Attribute::EcPoint(point) = attribute { Some(point) } else { None });
    // An OCTET STRING around the point, as the standard has it, or the point itself, as some tokens do.
    let bare = |point: &[u8]| PublicKey::try_from(point.strip_prefix(&OCTETS).unwrap_or(point)).ok();
    Ok(point.and_then(|point| bare(&point)))
}

fn private_template(uri: &Pkcs11Uri, secret: Option<&[u8; 32]>) -> Vec<Attribute> {
    let mut template = vec![
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(true),
        Attribute::Derive(true),
    ];
    if let Some(secret) = secret {
        template.extend([
            Attribute::Class(ObjectClass::PRIVATE_KEY),
            Attribute::KeyType(KeyType::EC),
            Attribute::EcParams(SECP256K1.to_vec()),
            Attribute::Value(secret.to_vec()),
        ]);
    }
    template.extend(named(uri));
    template
}

fn public_template(uri: &Pkcs11Uri, public: Option<&PublicKey>) -> Vec<Attribute> {
    let mut template = vec![
        Attribute::Token(true),
        Attribute::Private(false),
        Attribute::Verify(true),
        Attribute::EcParams(SECP256K1.to_vec()),
    ];
    if let Some(public) = public {
        let point = [OCTETS.as_slice(), &public.to_uncompressed_bytes()].concat();
        template.extend([
            Attribute::Class(ObjectClass::PUBLIC_KEY),
            Attribute::KeyType(KeyType::EC),
            Attribute::EcPoint(point),
        ]);
    }
    template.extend(named(uri));
    template
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
