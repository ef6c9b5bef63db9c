//! Where a key comes from.

use std::{fmt, path::PathBuf};

use base16ct::Error as HexError;
use fabstir_protocol::identity::InvalidPrivateKey;
use zeroize::Zeroizing;

use crate::{
    KeyCustody, KeystoreError, LockedKey, Pin, Pkcs11Uri, Secret, SecretFileError, TokenError, TokenKey,
    command::{self, CommandError},
    keystore::open_keystore,
    locked::LockedKeyError,
    read_credential, read_secret_file,
};

/// Where a keystore's password comes from.
#[derive(Debug)]
pub enum Password {
    /// A file that is its owner's alone; the end of its line does not count. An empty file is the empty password.
    File(PathBuf),
    /// A person, at this process's terminal.
    Prompt,
    /// Given.
    Given(Secret),
}

/// Where a private key comes from.
pub enum KeySource {
    /// `0x` and 64 hex digits.
    Text(Secret),
    /// The same in a file that is its owner's alone: 0600 or 0400.
    File(PathBuf),
    /// The same in a file of systemd's credentials.
    Credential(PathBuf),
    /// The same, printed by a command.
    Command(String),
    /// A keystore of version 3.
    Keystore(PathBuf, Password),
    /// A hardware token.
    Token(Box<Pkcs11Uri>, Pin),
}

/// Why a source gives no key. Never holds any part of one.
#[derive(Debug, thiserror::Error)]
pub enum KeySourceError {
    /// The text is no key.
    #[error(transparent)]
    Key(#[from] InvalidPrivateKey),
    /// The file gives none.
    #[error(transparent)]
    File(#[from] SecretFileError),
    /// A file that is there holds no key.
    #[error("{path}: {error}")]
    InFile {
        /// The file.
        path: String,
        /// Why.
        error: InvalidPrivateKey,
    },
    /// The command gives none.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The keystore gives none.
    #[error("{path}: {error}")]
    Keystore {
        /// The file.
        path: String,
        /// Why.
        error: KeystoreError,
    },
    /// The file with the keystore's password gives none.
    #[error("the file with the keystore's password: {0}")]
    PasswordFile(SecretFileError),
    /// Nobody could be asked.
    #[error(
        "the password could not be asked for ({0}): there is no terminal; name a file with the password instead"
    )]
    Prompt(std::io::Error),
    /// The token gives none.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// There is no memory to keep it in.
    #[error("the system gives no memory of its own for the key")]
    Memory,
}

impl From<LockedKeyError> for KeySourceError {
    fn from(error: LockedKeyError) -> Self {
        match error {
            LockedKeyError::Invalid(error) => error.into(),
            LockedKeyError::Memory => Self::Memory,
        }
    }
}

impl KeySource {
    /// Gets the key to where it is used. What is read on the way is wiped.
    ///
    /// # Errors
    /// [`KeySourceError`].
    pub fn load(&self) -> Result<Box<dyn KeyCustody>, KeySourceError> {
        if let Self::Token(uri, pin) = self {
            return Ok(Box::new(TokenKey::open(uri, pin)?));
        }
        let secret = self.secret()?.ok_or(TokenError::NotExtractable)?;
        Ok(Box::new(LockedKey::new(&secret)?))
    }

    /// The secret itself, for a copy that its owner asked for; `None` where it never leaves a token.
    ///
    /// # Errors
    /// [`KeySourceError`].
    pub fn secret(&self) -> Result<Option<Zeroizing<[u8; 32]>>, KeySourceError> {
        let secret = match self {
            Self::Text(text) => digits(text.as_bytes())?,
            Self::File(path) | Self::Credential(path) => {
                let is_credential = matches!(self, Self::Credential(_));
                let text = if is_credential { read_credential(path)? } else { read_secret_file(path)? };
                digits(text.as_bytes())
                    .map_err(|error| KeySourceError::InFile { path: path.display().to_string(), error })?
            }
            Self::Command(command) => digits(command::run(command)?.as_bytes())?,
            Self::Keystore(path, password) => {
                let text = read_secret_file(path)?;
                open_keystore(text.as_bytes(), password.get()?.trim_line())
                    .map_err(|error| KeySourceError::Keystore { path: path.display().to_string(), error })?
            }
            Self::Token(..) => return Ok(None),
        };
        Ok(Some(secret))
    }

    /// Whether somebody at the terminal is asked for a password or a PIN.
    pub fn asks(&self) -> bool {
        match self {
            Self::Keystore(_, password) => matches!(password, Password::Prompt),
            Self::Token(_, pin) => matches!(pin, Pin::Prompt),
            Self::Text(_) | Self::File(_) | Self::Credential(_) | Self::Command(_) => false,
        }
    }

    /// Where that is, for people: nothing secret.
    pub fn describe(&self) -> String {
        match self {
            Self::Text(_) => "given as text".to_owned(),
            Self::File(path) => format!("file {}", path.display()),
            Self::Credential(path) => format!("credential {}", path.display()),
            Self::Command(_) => "a command's output".to_owned(),
            Self::Keystore(path, _) => format!("keystore {}", path.display()),
            Self::Token(uri, _) => format!("token {uri}"),
        }
    }
}

impl fmt::Debug for KeySource {
    /// Without the text, and without the command, which may hold a word that is nobody's business.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeySource({})", self.describe())
    }
}

impl Password {
    /// Gets it.
    ///
    /// # Errors
    /// [`KeySourceError`].
    pub fn get(&self) -> Result<Secret, KeySourceError> {
        match self {
            Self::File(path) => read_secret_file(path).map_err(KeySourceError::PasswordFile),
            Self::Prompt => prompt("password of the keystore: "),
            Self::Given(secret) => Ok(Secret::from_bytes(secret.as_bytes())),
        }
    }
}

/// Asks at the terminal, without showing what is typed.
pub(crate) fn prompt(question: &str) -> Result<Secret, KeySourceError> {
    rpassword::prompt_password(question).map(Secret::from).map_err(KeySourceError::Prompt)
}

/// Reads hex without branches or table look-ups that depend on the digits.
fn digits(text: &[u8]) -> Result<Zeroizing<[u8; 32]>, InvalidPrivateKey> {
    let text = text.trim_ascii();
    if text.is_empty() {
        return Err(InvalidPrivateKey::Empty);
    }
    let digits = text.strip_prefix(b"0x").unwrap_or(text);
    let mut bytes = Zeroizing::new([0; 32]);
    let read = base16ct::mixed::decode(digits, &mut *bytes);
    match read.map(<[u8]>::len) {
        Ok(32) => Ok(bytes),
        Ok(_) | Err(HexError::InvalidEncoding | HexError::InvalidLength) => Err(InvalidPrivateKey::Form),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::{Cost, write_keystore, write_secret_file};

    const KEY: &str = "0x5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a";

    fn address(source: &KeySource) -> String {
        source.load().unwrap().address().to_string()
    }

    #[test]
    fn a_key_is_the_same_whichever_way_it_comes_in() {
        let dir = tempfile::tempdir().unwrap();
        let (file, store, password) =
            (dir.path().join("key"), dir.path().join("keystore.json"), dir.path().join("password"));
        write_secret_file(&file, format!("{KEY}\n").as_bytes()).unwrap();
        let rng = &mut rand_core::UnwrapErr(getrandom::SysRng);
        let (text, _) = write_keystore(&[0x5a; 32], b"", Cost::Light, rng).unwrap();
        write_secret_file(&store, text.as_bytes()).unwrap();
        write_secret_file(&password, b"\n").unwrap();
        let expected = address(&KeySource::Text(KEY.into()));
        let sources = [
            KeySource::File(file),
            KeySource::Command(format!("echo {KEY}")),
            KeySource::Keystore(store.clone(), Password::File(password)),
            KeySource::Keystore(store, Password::Given(Secret::from(""))),
        ];
        for source in sources {
            assert_eq!(address(&source), expected, "{source:?}");
            assert!(!format!("{source:?} {}", source.describe()).contains("5a5a"));
        }
    }

    #[test]
    fn what_is_no_key_is_refused_with_a_sentence_and_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        let open = dir.path().join("open");
        std::fs::write(&open, KEY).unwrap();
        let store = dir.path().join("keystore.json");
        write_secret_file(&store, b"{}").unwrap();
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o644)).unwrap();
        let cases = [
            (KeySource::Text("".into()), "the private key is empty"),
            (KeySource::Text("0xdeadbeef".into()), "64 hex digits"),
            (KeySource::Command("true".into()), "the private key is empty"),
            (KeySource::Command("exit 7".into()), "exit status: 7"),
            (KeySource::File(open), "chmod 600"),
            (KeySource::File(dir.path().join("none")), "No such file"),
            (KeySource::Keystore(store, Password::File(dir.path().join("none"))), "the keystore's password"),
        ];
        for (source, said) in cases {
            let error = source.load().unwrap_err().to_string();
            assert!(error.contains(said) && !error.contains("deadbeef"), "{error}");
        }
    }
}
