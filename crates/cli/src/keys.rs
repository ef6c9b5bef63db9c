//! The key that signs a client's sessions.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, ErrorKind, Read as _, Write},
    path::{Path, PathBuf},
};

use fabstir_protocol::identity::PrivateKey;
use zeroize::Zeroizing;

use crate::{
    args::Keys,
    delegate,
    failure::{Exit, Failure},
};

/// A key is 64 digits, `0x` and a newline, a delegate's file some hundred bytes; what is far larger is neither.
const MAX_FILE: u64 = 2048;
/// Most of a TLS key with the certificates beside it.
const MAX_CHAIN: u64 = 1 << 16;

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
    let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) else { return Ok(()) };
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(parent).map_err(|error| Failure::file(parent, error))
}

fn default_path() -> Result<PathBuf, Failure> {
    config_file("client.key")
}

fn read(path: &Path) -> Result<PrivateKey, Failure> {
    read_secret(path)?.parse().map_err(|error| Failure::file(path, error))
}

/// The text of a file that is its owner's alone.
pub(crate) fn read_secret(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let file = File::open(path).map_err(|error| {
        if error.kind() != ErrorKind::NotFound {
            return Failure::file(path, error);
        }
        Failure::file(path, format_args!("no such key; run: fabstir keys new --out {}", path.display()))
    })?;
    read_owned(path, file, MAX_FILE)
}

/// The same of a key that this program does not make.
pub(crate) fn read_private(path: &Path) -> Result<Zeroizing<String>, Failure> {
    read_owned(path, File::open(path).map_err(|error| Failure::file(path, error))?, MAX_CHAIN)
}

fn read_owned(path: &Path, file: File, most: u64) -> Result<Zeroizing<String>, Failure> {
    check_mode(path, &file)?;
    let room = usize::try_from(most).unwrap_or_default();
    let mut text = Zeroizing::new(String::with_capacity(room));
    file.take(most).read_to_string(&mut text).map_err(|error| Failure::file(path, error))?;
    Ok(text)
}

#[cfg(unix)]
fn check_mode(path: &Path, file: &File) -> Result<(), Failure> {
    use std::os::unix::fs::MetadataExt as _;
    let mode = file.metadata().map_err(|error| Failure::file(path, error))?.mode();
    if mode & 0o077 == 0 {
        return Ok(());
    }
    let shown = path.display();
    Err(Failure::file(path, format_args!("others can read this private key; run: chmod 600 {shown}")))
}

#[cfg(not(unix))]
fn check_mode(_: &Path, _: &File) -> Result<(), Failure> {
    Ok(())
}

/// Writes a key where there is none; with `force` also where there is one, which is replaced in one step.
fn write_new(path: &Path, key: &PrivateKey, force: bool) -> Result<(), Failure> {
    make_parent(path)?;
    if !force {
        return create(path, key).map_err(|error| {
            if error.kind() != ErrorKind::AlreadyExists {
                return Failure::file(path, error);
            }
            Failure::file(path, "there is a key already; --force replaces it, and it is lost")
        });
    }
    let text = secret_line(key);
    replace(path, text.as_bytes())
}

/// Writes a secret file, in the place of the one that is there, in one step.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let beside = write_beside(path, bytes)?;
    fs::rename(&beside, path).map_err(|error| {
        // What could not be put in place is of no use to anybody.
        let _ = fs::remove_file(&beside);
        Failure::file(path, error)
    })
}

/// Writes a secret file where there is none, in one step. Of several calls side by side one writes it, and to the others
/// it is there.
pub(crate) fn write_once(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let beside = write_beside(path, bytes)?;
    let linked = fs::hard_link(&beside, path);
    let _ = fs::remove_file(&beside);
    match linked {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(Failure::file(path, error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn write_beside(path: &Path, bytes: &[u8]) -> Result<PathBuf, Failure> {
    make_parent(path)?;
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}", std::process::id()));
    let beside = PathBuf::from(beside);
    create_with(&beside, bytes).map_err(|error| Failure::file(&beside, error))?;
    Ok(beside)
}

fn secret_line(key: &PrivateKey) -> Zeroizing<String> {
    let mut line = Zeroizing::new(String::with_capacity(67));
    line.push_str(&key.to_secret_hex());
    line.push('\n');
    line
}

fn create(path: &Path, key: &PrivateKey) -> io::Result<()> {
    create_with(path, secret_line(key).as_bytes())
}

fn create_with(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
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
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing stays beside it");
    }
}
