//! The files that TLS is made of: how they are read, and how it shows that they have changed.

use std::{
    fs::Metadata,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use fabstir_custody::{Secret, SecretFileError, read_credential};

use super::TlsError;
use crate::{
    config::{CertificateSource, TlsConfig},
    regular,
};

/// Everything in the file of a setting.
pub(super) fn read(setting: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    regular::read(path).map_err(|source| TlsError::File { setting, path: path.into(), source })
}

/// The text of a key, wiped on drop. A group of its own may read it, as services are given such keys; others may not, nor may the
/// group write it.
pub(super) fn read_private(path: &Path) -> Result<Secret, TlsError> {
    read_credential(path).map_err(|error| match error {
        SecretFileError::Io { error: source, .. } => {
            TlsError::File { setting: "TLS_KEY_FILE", path: path.into(), source }
        }
        SecretFileError::Mode { .. } => TlsError::KeyMode { path: path.into() },
        SecretFileError::Kind { .. } | SecretFileError::Exists { .. } => {
            TlsError::KeyKind { path: path.into() }
        }
    })
}

/// What tells a file from the one that was there before: a rewritten one by its times, a replaced one by its number too.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl From<Metadata> for Stamp {
    fn from(about: Metadata) -> Self {
        Self {
            device: about.dev(),
            inode: about.ino(),
            size: about.size(),
            modified: (about.mtime(), about.mtime_nsec()),
            changed: (about.ctime(), about.ctime_nsec()),
        }
    }
}

/// All files of a node's TLS, as they are; a file that cannot be looked at has none.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Stamps(Vec<Option<Stamp>>);

impl Stamps {
    pub(super) fn of(config: &TlsConfig) -> Self {
        Self(files(config).map(|path| path.metadata().ok().map(Stamp::from)).collect())
    }
}

fn files(config: &TlsConfig) -> impl Iterator<Item = &PathBuf> {
    let pair = match &config.certificate {
        CertificateSource::Files { chain, key } => [Some(chain), Some(key)],
        CertificateSource::Acme(_) => [None, None],
    };
    let clients = config.clients.iter().flat_map(|of| [of.ca.as_ref(), of.pins.as_ref(), of.crl.as_ref()]);
    pair.into_iter().chain(clients).flatten()
}
