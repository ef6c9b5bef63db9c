//! A `.env` file in the working directory: the specification's way to set a node up.

use std::{
    collections::HashMap,
    fmt,
    fs::File,
    io::ErrorKind,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
};

use fabstir_custody::Secret;
use rustix::process::geteuid;

use super::{ConfigError, HOST_PRIVATE_KEY};

/// What some editors put before UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// What a `.env` file sets.
#[derive(Default)]
pub struct EnvFile {
    settings: HashMap<String, String>,
    key: Option<Secret>,
}

impl EnvFile {
    /// Reads `path` if it is there. The key's line is taken out before the rest is read: no buffer of another reader's
    /// has it.
    ///
    /// # Errors
    /// [`ConfigError::EnvFileOfOthers`] where others may write it, [`ConfigError::EnvFileMode`] where it holds the key and
    /// others may read it, [`ConfigError::EnvFile`] where it cannot be read.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let fault =
            |reason: &str| ConfigError::EnvFile { path: path.display().to_string(), reason: reason.into() };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            Err(_) => return Err(fault("it cannot be opened")),
        };
        let about = file.metadata().map_err(|_| fault("it cannot be looked at"))?;
        let (mode, owner) = (about.permissions().mode(), about.uid());
        if about.is_file() && (mode & 0o002 != 0 || ![0, geteuid().as_raw()].contains(&owner)) {
            return Err(ConfigError::EnvFileOfOthers { path: path.display().to_string() });
        }
        let text = Secret::read(file).map_err(|_| fault("it cannot be read, or is too large"))?;
        let (mut rest, mut key) = (Vec::new(), None);
        let bytes = text.as_bytes();
        let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
        for line in bytes.split_inclusive(|&byte| byte == b'\n') {
            match key_in(line) {
                Some(value) => {
                    key = Some(Secret::from_bytes(value));
                    // The lines behind it keep their numbers.
                    rest.push(b'\n');
                }
                None => rest.extend_from_slice(line),
            }
        }
        if key.is_some() && mode & 0o077 != 0 {
            return Err(ConfigError::EnvFileMode { path: path.display().to_string() });
        }
        let settings = dotenvy::from_read_iter(rest.as_slice()).collect::<Result<_, _>>();
        // dotenvy's own error quotes the line, and does not say which it is.
        let settings = settings.map_err(|_| {
            let line = first_broken(&rest);
            fault(&format!("line {line} is not of the form NAME=value, or ends within quotes"))
        })?;
        Ok(Self { settings, key })
    }

    /// The value of `name`.
    pub fn get(&self, name: &str) -> Option<String> {
        self.settings.get(name).cloned()
    }

    /// What is set, by name.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.settings.keys().map(String::as_str)
    }

    /// The node's key, if it stands there. Once.
    pub fn take_key(&mut self) -> Option<Secret> {
        self.key.take()
    }
}

/// The line after the last one up to which all reads well: quotes may go over lines.
fn first_broken(text: &[u8]) -> usize {
    let lines: Vec<&[u8]> = text.split_inclusive(|&byte| byte == b'\n').collect();
    let reads = |count: &usize| {
        let beginning = lines.get(..*count).unwrap_or_default().concat();
        dotenvy::from_read_iter(beginning.as_slice()).all(|setting| setting.is_ok())
    };
    (0..lines.len()).rev().find(reads).unwrap_or(0).saturating_add(1)
}

/// The value of a line that sets the key.
fn key_in(line: &[u8]) -> Option<&[u8]> {
    let line = line.trim_ascii();
    let line = line.strip_prefix(b"export ").unwrap_or(line).trim_ascii_start();
    let value =
        line.strip_prefix(HOST_PRIVATE_KEY.as_bytes())?.trim_ascii_start().strip_prefix(b"=")?.trim_ascii();
    let quoted = |quote: &[u8]| value.strip_prefix(quote)?.split(|&byte| [byte] == *quote).next();
    let bare = || value.split(|&byte| byte == b'#').next().unwrap_or_default().trim_ascii();
    Some(quoted(b"\"").or_else(|| quoted(b"'")).unwrap_or_else(bare))
}

impl fmt::Debug for EnvFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.settings.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d";

    #[test]
    fn an_env_file_with_the_key_must_be_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".env");
        assert_eq!(EnvFile::read(&path).unwrap().get("X"), None);
        std::fs::write(&path, format!("X=1\nHOST_PRIVATE_KEY={KEY}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let refused = EnvFile::read(&path).unwrap_err().to_string();
        assert!(refused.contains("chmod 600") && !refused.contains("59c6"), "{refused}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let mut file = EnvFile::read(&path).unwrap();
        assert_eq!(file.get("X").as_deref(), Some("1"));
        assert!(!format!("{file:?}").contains("59c6"));
        assert_eq!(file.take_key().unwrap().as_text(), Some(KEY));
        assert!(file.get(HOST_PRIVATE_KEY).is_none() && file.take_key().is_none());
        std::fs::write(&path, format!("\u{feff}HOST_PRIVATE_KEY={KEY}\nX=2\n")).unwrap();
        let mut file = EnvFile::read(&path).unwrap();
        assert_eq!((file.get("X").as_deref(), file.take_key().unwrap().as_text()), (Some("2"), Some(KEY)));
    }

    #[test]
    fn a_file_that_others_may_write_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".env");
        std::fs::write(&path, "HOST_PRIVATE_KEY_COMMAND=id\n").unwrap();
        for (mode, admitted) in [(0o644, true), (0o664, true), (0o666, false), (0o602, false)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(EnvFile::read(&path).is_ok(), admitted, "{mode:o}");
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        // Only root gives files away.
        if geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
            assert!(EnvFile::read(&path).unwrap_err().to_string().contains("have this user run commands"));
        }
    }

    #[test]
    fn a_broken_line_is_told_by_its_number_and_not_by_its_words() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".env");
        let key = format!("HOST_PRIVATE_KEY={KEY}");
        for (text, line) in [
            ("API_PASSWORD secret\n".to_owned(), 1),
            (format!("{key}\n# a word\n\nX=1\nAPI_PASSWORD secret\nY=2"), 5),
            (format!("X='one\ntwo'\n{key}\nY='one\nsecret\n"), 4),
        ] {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            let told = EnvFile::read(&path).unwrap_err().to_string();
            assert!(told.contains(&format!("line {line} ")) && !told.contains("secret"), "{told}");
        }
    }

    #[test]
    fn the_key_is_read_as_the_file_may_write_it() {
        for line in [
            "K=v",
            "export K=v",
            "K = v",
            "K=\"v\"",
            "K='v'",
            "K=v # mine",
            "K=\"v\" # mine",
            "K='v'#mine",
            "K=v\r",
        ] {
            let line = line.replace('K', HOST_PRIVATE_KEY);
            assert_eq!(key_in(line.as_bytes()), Some(b"v".as_slice()), "{line}");
        }
        assert_eq!(key_in(b"HOST_PRIVATE_KEY="), Some(b"".as_slice()));
        for line in ["#HOST_PRIVATE_KEY=v", "HOST_PRIVATE_KEY_FILE=v", "X=HOST_PRIVATE_KEY=v"] {
            assert_eq!(key_in(line.as_bytes()), None, "{line}");
        }
    }
}
