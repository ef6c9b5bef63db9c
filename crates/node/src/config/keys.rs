//! Where the node's identity key comes from.

use std::{
    num::NonZeroU64,
    path::{Path, PathBuf},
};

use clap::Args;
use fabstir_custody::{KeySource, Password, Pin, Pkcs11Uri, Secret};

use super::{ConfigError, HOST_PRIVATE_KEY};

/// The file that systemd's `LoadCredential=` brings the key by.
pub const CREDENTIAL: &str = "host_private_key";

/// What was typed of keys. None of it is a key.
#[derive(Args, Clone, Debug)]
pub(super) struct KeyArgs {
    /// A file with the private key in hex, its owner's alone (0600 or 0400); by default the systemd credential host_private_key, if there is one
    #[arg(long, value_name = "FILE")]
    host_private_key_file: Option<PathBuf>,
    /// A command that prints the private key in hex, as secrets managers do; run by sh at the start and at each reload
    #[arg(long, value_name = "COMMAND")]
    host_private_key_command: Option<String>,
    /// An Ethereum keystore (version 3) with the private key
    #[arg(long, value_name = "FILE")]
    host_keystore_file: Option<PathBuf>,
    /// A file with the keystore's password, which may be empty; without one it is asked for at the terminal
    #[arg(long, value_name = "FILE")]
    host_keystore_password_file: Option<PathBuf>,
    /// The private key in a hardware token, as RFC 7512 has it: pkcs11:token=...;object=...?module-path=...&pin-source=file:...
    #[arg(long, value_name = "URI")]
    pkcs11_uri: Option<String>,
    /// The token's PKCS #11 module, where the URI names none
    #[arg(long, value_name = "FILE")]
    pkcs11_module: Option<PathBuf>,
    /// The number of the token's slot, where the URI names none
    #[arg(long, value_name = "NUMBER")]
    pkcs11_slot: Option<u64>,
    /// The key's label in the token, where the URI names none
    #[arg(long, value_name = "LABEL")]
    pkcs11_label: Option<String>,
    /// A file with the token's PIN, where the URI names none; without one it is asked for at the terminal
    #[arg(long, value_name = "FILE")]
    pkcs11_pin_file: Option<PathBuf>,
    /// The key before the current one, in hex in a file; it goes on for KEY_OVERLAP_SECONDS from the rotation; by default HOST_PRIVATE_KEY_FILE with .previous behind it
    #[arg(long, value_name = "FILE")]
    previous_private_key_file: Option<PathBuf>,
    /// The same in a token
    #[arg(long, value_name = "URI")]
    previous_pkcs11_uri: Option<String>,
    /// The same in a keystore, with the same password; by default HOST_KEYSTORE_FILE with .previous behind it
    #[arg(long, value_name = "FILE")]
    previous_keystore_file: Option<PathBuf>,
    /// What the key before says of the current one, as `keys rotate` writes it; by default HOST_PRIVATE_KEY_FILE or HOST_KEYSTORE_FILE with .rotation behind it
    #[arg(long, value_name = "FILE")]
    key_rotation_file: Option<PathBuf>,
    /// Seconds that the identity key before goes on beside the next one
    #[arg(long, value_name = "SECONDS", default_value = "604800")]
    pub(super) key_overlap_seconds: NonZeroU64,
}

/// Where the node's keys are.
#[derive(Debug)]
pub struct KeySources {
    /// Who the node is; `None` is plaintext mode.
    pub current: Option<KeySource>,
    /// The setting that says where the current one is.
    pub setting: &'static str,
    /// Who it was.
    pub previous: Option<KeySource>,
    /// The file with what the key before said.
    pub rotation: Option<PathBuf>,
    /// The file that the key is in, where `keys rotate` may put another in its place.
    pub file: Option<PathBuf>,
    args: KeyArgs,
    credentials: Option<PathBuf>,
}

impl KeySources {
    /// Without the key's text, where it came as one: it is wiped, and a text cannot be had again.
    #[must_use]
    pub fn without_text(mut self) -> Self {
        self.current.take_if(|source| matches!(source, KeySource::Text(_)));
        self
    }

    /// Whether following these settings asks somebody at the terminal.
    pub fn ask(&self) -> bool {
        self.current.iter().chain(&self.previous).any(KeySource::asks)
    }

    /// The setting that names a key before, or a statement, where one does: else both are found beside the key's file.
    pub fn names_the_one_before(&self) -> Option<&'static str> {
        let KeyArgs { previous_private_key_file, previous_keystore_file, previous_pkcs11_uri, .. } =
            &self.args;
        let named = [
            ("KEY_ROTATION_FILE", self.args.key_rotation_file.is_some()),
            ("PREVIOUS_PRIVATE_KEY_FILE", previous_private_key_file.is_some()),
            ("PREVIOUS_KEYSTORE_FILE", previous_keystore_file.is_some()),
            ("PREVIOUS_PKCS11_URI", previous_pkcs11_uri.is_some()),
        ];
        named.into_iter().find_map(|(setting, is_set)| is_set.then_some(setting))
    }

    /// The same settings, followed once more: files beside the key's may have come since. `None` where the key came as a
    /// text, which cannot be had again.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn again(&self) -> Result<Option<Self>, ConfigError> {
        if matches!(self.current, None | Some(KeySource::Text(_))) {
            return Ok(None);
        }
        self.args.clone().resolve(None, self.credentials.as_deref()).map(Some)
    }
}

impl KeyArgs {
    /// `text` is the key itself, where it came by the environment; `credentials` is systemd's folder of secrets.
    pub(super) fn resolve(
        self,
        text: Option<Secret>,
        credentials: Option<&Path>,
    ) -> Result<KeySources, ConfigError> {
        self.refuse_lonely()?;
        let args = self.clone();
        let file = self.host_private_key_file.clone().or_else(|| self.host_keystore_file.clone());
        let rotation = self.key_rotation_file.clone().or_else(|| beside(file.as_deref(), ".rotation"));
        let previous = self.previous()?;
        let credential = credentials.map(|folder| folder.join(CREDENTIAL)).filter(|file| file.exists());
        let credential = credential.map(|file| ("CREDENTIALS_DIRECTORY", KeySource::Credential(file)));
        // A unit may name the credential by its path, too.
        let is_named = |(_, source): &(_, KeySource)| matches!(source, KeySource::Credential(path) if file.as_ref() == Some(path));
        let (setting, current) = match (self.current(text)?, credential) {
            (Some((named, _)), Some(credential)) if is_named(&credential) => {
                (Some(named), Some(credential.1))
            }
            (Some((one, _)), Some((other, _))) => return Err(ConfigError::Contradiction { one, other }),
            (set, credential) => set.or(credential).unzip(),
        };
        let setting = setting.unwrap_or(HOST_PRIVATE_KEY);
        Ok(KeySources {
            current,
            setting,
            previous,
            rotation,
            file,
            args,
            credentials: credentials.map(Path::to_owned),
        })
    }

    /// The key before: where that is said, or where `keys rotate` leaves it.
    fn previous(&self) -> Result<Option<KeySource>, ConfigError> {
        let token = self.previous_pkcs11_uri.as_deref().map(|text| uri("PREVIOUS_PKCS11_URI", text));
        let keystore = |file: PathBuf| self.keystore(file);
        let said = one_of([
            ("PREVIOUS_PRIVATE_KEY_FILE", self.previous_private_key_file.clone().map(KeySource::File)),
            ("PREVIOUS_KEYSTORE_FILE", self.previous_keystore_file.clone().map(keystore)),
            ("PREVIOUS_PKCS11_URI", token.transpose()?.map(|uri| self.token(uri))),
        ])?;
        let left = || {
            let file = beside(self.host_private_key_file.as_deref(), ".previous").map(KeySource::File);
            file.or_else(|| beside(self.host_keystore_file.as_deref(), ".previous").map(keystore))
        };
        Ok(said.map(|(_, source)| source).or_else(left))
    }

    /// The one source that is set.
    fn current(self, text: Option<Secret>) -> Result<Option<(&'static str, KeySource)>, ConfigError> {
        let token = self
            .pkcs11_uri
            .as_deref()
            .map(|text| uri("PKCS11_URI", text))
            .transpose()?
            .or_else(|| self.pkcs11_module.as_ref().map(|_| Pkcs11Uri::default()));
        let token = token.map(|uri| self.token(uri));
        let keystore = self.host_keystore_file.clone().map(|file| self.keystore(file));
        one_of([
            (HOST_PRIVATE_KEY, text.map(KeySource::Text)),
            ("HOST_PRIVATE_KEY_FILE", self.host_private_key_file.map(KeySource::File)),
            ("HOST_PRIVATE_KEY_COMMAND", self.host_private_key_command.map(KeySource::Command)),
            ("HOST_KEYSTORE_FILE", keystore),
            ("PKCS11_URI", token),
        ])
    }

    fn keystore(&self, file: PathBuf) -> KeySource {
        KeySource::Keystore(
            file,
            self.host_keystore_password_file.clone().map_or(Password::Prompt, Password::File),
        )
    }

    /// A token, with what the URI leaves open.
    fn token(&self, mut uri: Pkcs11Uri) -> KeySource {
        uri.module = uri.module.or_else(|| self.pkcs11_module.clone());
        uri.slot = uri.slot.or(self.pkcs11_slot);
        uri.object = uri.object.or_else(|| self.pkcs11_label.clone());
        let pin = uri.pin_file.clone().or_else(|| self.pkcs11_pin_file.clone());
        KeySource::Token(Box::new(uri), pin.map_or(Pin::Prompt, Pin::File))
    }

    /// Settings that mean nothing without another one.
    fn refuse_lonely(&self) -> Result<(), ConfigError> {
        let token =
            self.pkcs11_uri.is_some() || self.pkcs11_module.is_some() || self.previous_pkcs11_uri.is_some();
        let needs = [
            (
                "HOST_KEYSTORE_PASSWORD_FILE",
                self.host_keystore_password_file.is_some(),
                "HOST_KEYSTORE_FILE",
                self.host_keystore_file.is_some() || self.previous_keystore_file.is_some(),
            ),
            ("PKCS11_SLOT", self.pkcs11_slot.is_some(), "PKCS11_URI", token),
            ("PKCS11_LABEL", self.pkcs11_label.is_some(), "PKCS11_URI", token),
            ("PKCS11_PIN_FILE", self.pkcs11_pin_file.is_some(), "PKCS11_URI", token),
        ];
        match needs.into_iter().find(|(_, set, _, there)| *set && !there) {
            Some((setting, _, needed, _)) => Err(ConfigError::Needs { setting, needed }),
            None => Ok(()),
        }
    }
}

/// What `keys rotate` has put beside a key's file, where it did.
fn beside(file: Option<&Path>, ending: &str) -> Option<PathBuf> {
    let mut path = file?.as_os_str().to_owned();
    path.push(ending);
    Some(PathBuf::from(path)).filter(|path| path.exists())
}

/// The one source that is set.
fn one_of<const N: usize>(
    sources: [(&'static str, Option<KeySource>); N],
) -> Result<Option<(&'static str, KeySource)>, ConfigError> {
    let mut set = sources.into_iter().filter_map(|(name, source)| Some((name, source?)));
    match (set.next(), set.next()) {
        (Some((one, _)), Some((other, _))) => Err(ConfigError::Contradiction { one, other }),
        (one, _) => Ok(one),
    }
}

/// Read here and not by clap, whose errors repeat what was typed: it may hold a PIN.
fn uri(setting: &'static str, text: &str) -> Result<Pkcs11Uri, ConfigError> {
    text.parse().map_err(|error| ConfigError::Pkcs11Uri { setting, error })
}
