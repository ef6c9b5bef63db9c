//! A `.env` file in the working directory: the specification's way to set a node up.

use std::{collections::HashMap, fmt, path::Path};

use zeroize::Zeroizing;

use super::{ConfigError, HOST_PRIVATE_KEY};

/// What a `.env` file sets. Its secrets are wiped on drop.
#[derive(Default)]
pub struct EnvFile(HashMap<String, Zeroizing<String>>);

impl EnvFile {
    /// Reads `path` if it is there.
    ///
    /// # Errors
    /// [`ConfigError::EnvFileMode`] where it holds the key and others may read it, [`ConfigError::EnvFile`]
    /// where it cannot be read.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let shown = || path.display().to_string();
        let entries = match dotenvy::from_path_iter(path) {
            Ok(entries) => entries,
            Err(error) if error.not_found() => return Ok(Self::default()),
            Err(_) => {
                return Err(ConfigError::EnvFile { path: shown(), reason: "it cannot be opened".into() });
            }
        };
        let mut settings = HashMap::new();
        for entry in entries {
            // dotenvy's own error quotes the line, which may be the key.
            let (name, value) = entry.map_err(|_| ConfigError::EnvFile {
                path: shown(),
                reason: "a line is not of the form NAME=value".into(),
            })?;
            settings.insert(name, Zeroizing::new(value));
        }
        if settings.contains_key(HOST_PRIVATE_KEY) && others_may_read(path) {
            return Err(ConfigError::EnvFileMode { path: shown() });
        }
        Ok(Self(settings))
    }

    /// The value of `name`.
    pub fn get(&self, name: &str) -> Option<String> {
        self.0.get(name).map(|value| String::clone(value))
    }
}

impl fmt::Debug for EnvFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

fn others_may_read(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).is_ok_and(|data| data.permissions().mode() & 0o077 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d";

    #[test]
    fn an_env_file_with_the_key_must_be_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".env");
        assert_eq!(EnvFile::read(&path).unwrap().get("X"), None);
        std::fs::write(&path, format!("X=1\nHOST_PRIVATE_KEY={KEY}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let refused = EnvFile::read(&path).unwrap_err().to_string();
        assert!(refused.contains("chmod 600") && !refused.contains("59c6"), "{refused}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let file = EnvFile::read(&path).unwrap();
        assert_eq!(file.get("X").as_deref(), Some("1"));
        assert!(!format!("{file:?}").contains("59c6"));
        std::fs::write(&path, format!("HOST_PRIVATE_KEY={KEY}'\n")).unwrap();
        assert!(!EnvFile::read(&path).unwrap_err().to_string().contains("59c6"));
    }
}
