//! The identity key, in its operator's hands.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use fabstir_custody::{
    Cost, KeyCustody, KeySource, LockedKey, Password, Pin, Pkcs11Uri, Secret, Token, TokenKey, is_keystore,
    open_keystore, read_secret_file, write_keystore, write_secret_file,
};
use fabstir_protocol::{ethereum::Address, identity::PrivateKey};
use rand_core::Rng as _;
use zeroize::Zeroizing;

use crate::{
    config::{Config, KeySources},
    node,
};

mod rotation;

use rotation::{refuse_in_overlap, rotate};

/// What is done with the key.
#[derive(Clone, Debug, Subcommand)]
pub enum KeysCommand {
    /// Make a key where there is none yet
    New {
        /// Where
        #[command(flatten)]
        to: To,
    },
    /// Put a key that there is into a file, a keystore or a token
    Import {
        /// A file with the key in hex, or a keystore; - asks for the key at the terminal
        #[arg(long, value_name = "FILE")]
        from: PathBuf,
        /// A file with the password of that keystore; without one it is asked for
        #[arg(long, value_name = "FILE")]
        from_password_file: Option<PathBuf>,
        /// Where
        #[command(flatten)]
        to: To,
    },
    /// Show the addresses and public keys that the settings lead to
    Show,
    /// Make the next key, and let the current one say that it is the next
    Rotate {
        /// Where the next key is made: a file, or pkcs11:...; by default the file or keystore of the current one, which is moved aside
        #[arg(long, value_name = "FILE-OR-URI")]
        to: Option<Place>,
        /// Where to write what the current key says of the next; by default the next key's file with .rotation behind it
        #[arg(long, value_name = "FILE")]
        statement: Option<PathBuf>,
        /// Write the next key as a keystore
        #[arg(long, requires = "to")]
        keystore: bool,
        /// A file with that keystore's password; without one it is asked for, twice
        #[arg(long, value_name = "FILE", requires = "keystore")]
        password_file: Option<PathBuf>,
        /// Although the key was rotated a short time ago: who pins the one before that is refused from now on
        #[arg(long)]
        force: bool,
    },
    /// Copy the key into a keystore under a password, and open that to be sure
    Backup {
        /// The keystore to write
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
        /// A file with the password; without one it is asked for, twice
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
}

/// Where a key is put.
#[derive(Args, Clone, Debug)]
pub struct To {
    /// A file, or a token: pkcs11:token=...;object=...;id=%01?module-path=...&pin-source=file:...
    #[arg(long, value_name = "FILE-OR-URI")]
    to: Place,
    /// Write a keystore (Ethereum's version 3) instead of bare hex
    #[arg(long)]
    keystore: bool,
    /// A file with the keystore's password; without one it is asked for, twice
    #[arg(long, value_name = "FILE", requires = "keystore")]
    password_file: Option<PathBuf>,
}

/// A file, or a token.
#[derive(Clone, Debug)]
pub enum Place {
    /// A file.
    File(PathBuf),
    /// A key in a token.
    Token(Box<Pkcs11Uri>),
}

impl FromStr for Place {
    type Err = fabstir_custody::InvalidUri;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.starts_with("pkcs11:") {
            return Ok(Self::Token(Box::new(text.parse()?)));
        }
        Ok(Self::File(text.into()))
    }
}

impl KeysCommand {
    /// Does it.
    ///
    /// # Errors
    /// What went wrong, in words for whoever typed the command.
    pub fn run(self, config: &Config, sources: &KeySources) -> anyhow::Result<()> {
        let mut out = io::stdout().lock();
        match self {
            Self::New { to } => describe(&mut out, "key", to.make()?.as_ref()),
            Self::Import { from, from_password_file, to } => {
                let secret = secret_from(&from, from_password_file)?;
                describe(&mut out, "key", to.put(&secret)?.as_ref())
            }
            Self::Show => show(&mut out, sources),
            Self::Rotate { to, statement, keystore, password_file, force } => {
                let to = to.map(|to| To { to, keystore, password_file });
                let may_follow = |sources: &KeySources, current: Address| {
                    if force { Ok(()) } else { refuse_in_overlap(config, sources, current) }
                };
                rotate(&mut out, config, sources, (to, statement), may_follow)
            }
            Self::Backup { to, password_file } => back_up(&mut out, sources, &to, password_file),
        }
    }
}

pub(super) fn describe(out: &mut impl Write, what: &str, key: &dyn KeyCustody) -> anyhow::Result<()> {
    writeln!(out, "{what:<11} {}", key.place())?;
    writeln!(out, "address     {}", key.address().to_checksum())?;
    Ok(writeln!(out, "public key  {}", key.public_key())?)
}

fn fresh() -> Zeroizing<[u8; 32]> {
    let mut secret = Zeroizing::new([0; 32]);
    // Almost always at once: nearly all of 2^256 are below the order of the group.
    while PrivateKey::try_from(&*secret).is_err() {
        node::rng().fill_bytes(&mut *secret);
    }
    secret
}

impl To {
    pub(super) fn new(to: Place, keystore: bool, password_file: Option<PathBuf>) -> Self {
        Self { to, keystore, password_file }
    }

    /// The folder of a key in a file, where it is not there yet.
    pub(super) fn new_folder(&self) -> Option<&Path> {
        match &self.to {
            Place::File(path) => path.parent().filter(|folder| !folder.exists()),
            Place::Token(_) => None,
        }
    }

    /// A new key at this place. A token makes its own.
    pub(super) fn make(&self) -> anyhow::Result<Box<dyn KeyCustody>> {
        match &self.to {
            Place::Token(uri) => {
                let pin = pin(uri);
                Token::open(uri, &pin)?.generate(uri)?;
                Ok(Box::new(TokenKey::open(uri, &pin)?))
            }
            Place::File(_) => self.put(&fresh()),
        }
    }

    fn put(&self, secret: &[u8; 32]) -> anyhow::Result<Box<dyn KeyCustody>> {
        match &self.to {
            Place::Token(uri) => {
                let pin = pin(uri);
                Token::open(uri, &pin)?.import(uri, secret)?;
                Ok(Box::new(TokenKey::open(uri, &pin)?))
            }
            Place::File(path) if self.keystore => {
                write_store(path, secret, self.password_file.clone())?;
                Ok(Box::new(LockedKey::new(secret)?))
            }
            Place::File(path) => {
                write_secret_file(path, digits(secret).as_bytes())?;
                Ok(Box::new(LockedKey::new(secret)?))
            }
        }
    }
}

fn pin(uri: &Pkcs11Uri) -> Pin {
    uri.pin_file.clone().map_or(Pin::Prompt, Pin::File)
}

/// A key as it stands in a file.
fn digits(secret: &[u8; 32]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(67));
    text.push_str("0x");
    text.push_str(&Zeroizing::new(base16ct::lower::encode_string(secret)));
    text.push('\n');
    text
}

/// The key in a file of either kind, or typed.
fn secret_from(path: &Path, password: Option<PathBuf>) -> anyhow::Result<Zeroizing<[u8; 32]>> {
    let source = if path == Path::new("-") {
        KeySource::Text(Secret::from(rpassword::prompt_password("private key in hex: ")?))
    } else if is_keystore(read_secret_file(path)?.as_bytes()) {
        KeySource::Keystore(path.to_owned(), password.map_or(Password::Prompt, Password::File))
    } else {
        KeySource::File(path.to_owned())
    };
    source.secret()?.context("the key cannot be had from there")
}

fn write_store(path: &Path, secret: &[u8; 32], password: Option<PathBuf>) -> anyhow::Result<()> {
    let password = match password {
        Some(file) => Password::File(file).get()?,
        None => new_password()?,
    };
    let text = keystore_of(secret, &password)?;
    write_secret_file(path, text.as_bytes())?;
    let read = open_keystore(read_secret_file(path)?.as_bytes(), password.trim_line())?;
    if *read != *secret {
        bail!("{}: what was written is not what was to be written; remove it", path.display());
    }
    Ok(())
}

fn keystore_of(secret: &[u8; 32], password: &Secret) -> anyhow::Result<Secret> {
    Ok(write_keystore(secret, password.trim_line(), Cost::Standard, &mut node::rng())?.0)
}

fn new_password() -> anyhow::Result<Secret> {
    let ask = |question: &str| rpassword::prompt_password(question).map(Secret::from);
    let first = ask("password for the keystore: ").context(
        "the password cannot be asked for: there is no terminal; name a file with --password-file",
    )?;
    if first.as_bytes() != ask("once more: ")?.as_bytes() {
        bail!("the two passwords differ; nothing was written");
    }
    Ok(first)
}

fn show(out: &mut impl Write, sources: &KeySources) -> anyhow::Result<()> {
    let Some(source) = &sources.current else { bail!("no key is set: see HOST_PRIVATE_KEY in --help") };
    writeln!(out, "source      {}", source.describe())?;
    describe(out, "kept in", source.load()?.as_ref())?;
    if let Some(previous) = &sources.previous {
        writeln!(out, "\nbefore      {}", previous.describe())?;
        describe(out, "kept in", previous.load()?.as_ref())?;
    }
    if let Some(rotation) = &sources.rotation {
        writeln!(out, "rotation    {}", rotation.display())?;
    }
    Ok(())
}

fn back_up(
    out: &mut impl Write,
    sources: &KeySources,
    to: &Path,
    password: Option<PathBuf>,
) -> anyhow::Result<()> {
    let source = sources.current.as_ref().context("no key is set: see HOST_PRIVATE_KEY in --help")?;
    let secret = source.secret()?.context(
        "a token's key does not leave it: use the token maker's way of backing it up, or import the same key into two tokens",
    )?;
    write_store(to, &secret, password)?;
    let key = LockedKey::new(&secret)?;
    writeln!(out, "keystore    {}", to.display())?;
    writeln!(out, "address     {}", key.address().to_checksum())?;
    Ok(writeln!(out, "opened once more: it holds the key")?)
}
