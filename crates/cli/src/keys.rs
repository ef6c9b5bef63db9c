//! The key that signs a client's sessions.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use fabstir_custody::{SecretFileError, read_secret_file, replace_secret_file, write_secret_file};
use fabstir_protocol::identity::PrivateKey;
use zeroize::Zeroizing;

use crate::{
    args::Keys,
    delegate,
    failure::{Exit, Failure},
};

pub(crate) fn run(command: Keys) -> Result<Exit, Failure> {
    let mut out = io::stdout().lock();
    match command {
        Keys::New { out: path, force, show_private } => {
            let path = path.map_or_else(default_path, Ok)?;
            let key = fabstir_client::random_key();
            write_new(&path, &key, force)?;
            writeln!(out, "key file    {}", path.display())?;
            describe(&mut out, &key)?;
            if show_private {
                writeln!(out, "private key {}", key.to_secret_hex().as_str())?;
            }
        }
        Keys::Delegate(command) => return delegate::run(&command),
        Keys::Show { file } => {
            let path = file.map_or_else(default_path, Ok)?;
            describe(&mut out, &read(&path)?)?;
        }
    }
    Ok(Exit::Ok)
}

fn describe(out: &mut impl Write, key: &PrivateKey) -> io::Result<()> {
    writeln!(out, "address     {}", key.address().to_checksum())?;
    writeln!(out, "public key  {}", key.public_key())
}

/// The key to sign with: the one named, or the usual one, which is made at first use.
pub(crate) fn client_key(named: Option<&Path>) -> Result<PrivateKey, Failure> {
    if let Some(path) = named {
        return read(path);
    }
    let path = default_path()?;
    if !path.exists() {
        write_new(&path, &fabstir_client::random_key(), false)?;
    }
    read(&path)
}

/// A file in fabstir's configuration directory.
pub(crate) fn config_file(name: &str) -> Result<PathBuf, Failure> {
    let directories = directories::ProjectDirs::from("", "", "fabstir");
    let directories =
        directories.ok_or_else(|| Failure::new(Exit::Usage, "there is no home directory; name the files"))?;
    Ok(directories.config_dir().join(name))
}

/// Makes the directory of `path`, for its owner only.
pub(crate) fn make_parent(path: &Path) -> Result<(), Failure> {
    Ok(fabstir_custody::make_parent(path)?)
}

fn default_path() -> Result<PathBuf, Failure> {
    config_file("client.key")
}

fn read(path: &Path) -> Result<PrivateKey, Failure> {
    read_secret(path)?.parse().map_err(|error| Failure::file(path, error))
}

/// The text of a file that is its owner's alone.
pub(crate) fn read_secret(path: &Path) -> Result<Zeroizing<String>, Failure> {
    if !path.exists() {
        let how = format_args!("no such key; run: fabstir keys new --out {}", path.display());
        return Err(Failure::file(path, how));
    }
    read_private(path)
}

/// The same of a key that this program does not make.
pub(crate) fn read_private(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let secret = read_secret_file(path)?;
    let text = secret.as_text().ok_or_else(|| Failure::file(path, "it is not text"))?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// Writes a key where there is none; with `force` also where there is one, which is replaced in one step.
fn write_new(path: &Path, key: &PrivateKey, force: bool) -> Result<(), Failure> {
    let text = secret_line(key);
    if force {
        return replace(path, text.as_bytes());
    }
    write_secret_file(path, text.as_bytes()).map_err(|error| match error {
        SecretFileError::Exists { .. } => {
            Failure::file(path, "there is a key already; --force replaces it, and it is lost")
        }
        SecretFileError::Kind { .. } | SecretFileError::Mode { .. } | SecretFileError::Io { .. } => {
            error.into()
        }
    })
}

/// Writes a secret file, in the place of the one that is there, in one step.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    Ok(replace_secret_file(path, bytes)?)
}

/// Writes a secret file where there is none, in one step. Of several calls side by side one writes it, and to the others
/// it is there.
pub(crate) fn write_once(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    match write_secret_file(path, bytes) {
        Ok(()) | Err(SecretFileError::Exists { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn secret_line(key: &PrivateKey) -> Zeroizing<String> {
    let mut line = Zeroizing::new(String::with_capacity(67));
    line.push_str(&key.to_secret_hex());
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_that_write_at_once_the_first_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep/secret");
        write_once(&path, b"first").unwrap();
        write_once(&path, b"second").unwrap();
        assert_eq!(read_secret(&path).unwrap().as_str(), "first");
        replace(&path, b"third").unwrap();
        assert_eq!(read_secret(&path).unwrap().as_str(), "third");
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing stays beside it");
    }
}
