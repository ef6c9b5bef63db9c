//! Secrets as bytes, and the files that hold them.

use std::{
    fmt,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, ErrorKind, Read, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, fchown},
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

/// A key is 66 characters, a keystore some hundred, a chain of certificates some thousand; what is far larger is none of them.
const MOST: usize = 64 * 1024;

/// Bytes that nobody prints: a key's digits, a password, a PIN. Wiped on drop.
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// A copy of `bytes`, which are the caller's to wipe.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self(Zeroizing::new(bytes.to_vec()))
    }

    /// All of `reader`, without a copy that is left behind.
    ///
    /// # Errors
    /// Those of reading, and [`ErrorKind::FileTooLarge`] for what is no key, no password and no keystore.
    pub fn read(mut reader: impl Read) -> io::Result<Self> {
        // Never grows: what a vector leaves behind when it moves is not wiped.
        let mut bytes = Zeroizing::new(vec![0; MOST]);
        let mut filled = 0_usize;
        while let Some(room) = bytes.get_mut(filled..).filter(|room| !room.is_empty()) {
            match reader.read(room) {
                Ok(0) => {
                    bytes.truncate(filled);
                    return Ok(Self(bytes));
                }
                Ok(read) => filled = filled.saturating_add(read),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Err(ErrorKind::FileTooLarge.into())
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// As text; `None` where it is none. Secrets are read as they are, so an end of line is still there.
    pub fn as_text(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }

    /// Without the end of line that an editor leaves.
    pub fn trim_line(&self) -> &[u8] {
        let bytes = self.0.strip_suffix(b"\n").unwrap_or(&self.0);
        bytes.strip_suffix(b"\r").unwrap_or(bytes)
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self::from_bytes(text.as_bytes())
    }
}

impl From<String> for Secret {
    /// Takes the text over, without a copy.
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text.into_bytes()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Why a file gives no secret, or takes none.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// It waits for whoever writes, or is somebody's device.
    #[error("{path} is no regular file")]
    Kind {
        /// What is there.
        path: String,
    },
    /// Others may read it, or its mode is none of a secret's.
    #[error("{path} can be read by others, or has another mode than 0600 or 0400; run: chmod 600 {path}")]
    Mode {
        /// The file.
        path: String,
    },
    /// There is one already.
    #[error("{path} is there already; move it away, or choose another name")]
    Exists {
        /// The file.
        path: String,
    },
    /// Another fault.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: String,
        /// What went wrong.
        error: io::Error,
    },
}

fn fault(path: &Path) -> impl Fn(io::Error) -> SecretFileError {
    let path = path.display().to_string();
    move |error| SecretFileError::Io { path: path.clone(), error }
}

/// The secret in `path`, which nobody but its owner may read: 0600 or 0400. Judged on the open file.
///
/// # Errors
/// [`SecretFileError`].
pub fn read_secret_file(path: &Path) -> Result<Secret, SecretFileError> {
    read_if(path, |mode| matches!(mode, 0o600 | 0o400))
}

/// The secret in `path`, which is given to a service: its group may read it, and nobody else. Of systemd's credentials that is
/// how an access-control list for the service's user shows, of Kubernetes' secrets it is the pod's group.
///
/// # Errors
/// [`SecretFileError`].
pub fn read_credential(path: &Path) -> Result<Secret, SecretFileError> {
    read_if(path, |mode| mode & 0o027 == 0)
}

/// Judges the open file, and before it is opened only whether that would wait.
fn read_if(path: &Path, is_private: fn(u32) -> bool) -> Result<Secret, SecretFileError> {
    let shown = || path.display().to_string();
    if !fs::metadata(path).map_err(fault(path))?.is_file() {
        return Err(SecretFileError::Kind { path: shown() });
    }
    let file = File::open(path).map_err(fault(path))?;
    if !is_private(file.metadata().map_err(fault(path))?.mode() & 0o7777) {
        return Err(SecretFileError::Mode { path: shown() });
    }
    Secret::read(file).map_err(fault(path))
}

/// Makes the directory of `path`, for its owner only.
///
/// # Errors
/// [`SecretFileError::Io`].
pub fn make_parent(path: &Path) -> Result<(), SecretFileError> {
    let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) else { return Ok(()) };
    DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(fault(parent))
}

/// Writes a secret to a new file, 0600 from its first moment. Nothing is left where that fails.
///
/// # Errors
/// [`SecretFileError`]; [`SecretFileError::Exists`] where the file is there.
pub fn write_secret_file(path: &Path, secret: &[u8]) -> Result<(), SecretFileError> {
    make_parent(path)?;
    let beside = written_beside(path, secret, path)?;
    // A link that is already there is refused, where a rename would replace it.
    let linked = fs::hard_link(&beside, path);
    let _ = fs::remove_file(&beside);
    linked.map_err(|error| {
        if error.kind() == ErrorKind::AlreadyExists {
            return SecretFileError::Exists { path: path.display().to_string() };
        }
        fault(path)(error)
    })?;
    sync_parent(path)
}

/// Puts a secret in the place of what is in `path`, in one step.
///
/// # Errors
/// [`SecretFileError`]; the file is as before then.
pub fn replace_secret_file(path: &Path, secret: &[u8]) -> Result<(), SecretFileError> {
    put_secret_beside(path, path, secret)
}

/// The same for a file that belongs to another one: who reads `whose` is to read it, too.
///
/// # Errors
/// As [`replace_secret_file`].
pub fn put_secret_beside(whose: &Path, path: &Path, secret: &[u8]) -> Result<(), SecretFileError> {
    make_parent(path)?;
    let beside = written_beside(path, secret, whose)?;
    if let Err(error) = fs::rename(&beside, path) {
        let _ = fs::remove_file(&beside);
        return Err(fault(path)(error));
    }
    sync_parent(path)
}

fn written_beside(path: &Path, secret: &[u8], whose: &Path) -> Result<PathBuf, SecretFileError> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}.new", std::process::id()));
    let beside = PathBuf::from(beside);
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        give_to_the_folders_owner(&file, parent_of(path))?;
        // What takes the place of somebody's file is theirs, too, unless everybody may put files there.
        if fs::metadata(parent_of(path))?.mode() & 0o022 == 0
            && let Ok(before) = fs::symlink_metadata(whose)
            && file.metadata()?.uid() == 0
        {
            fchown(&file, Some(before.uid()), Some(before.gid()))?;
        }
        file.write_all(secret)?;
        file.sync_all()
    };
    write().map_err(|error| {
        let _ = fs::remove_file(&beside);
        fault(path)(error)
    })?;
    Ok(beside)
}

fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// What root puts into somebody's folder of secrets is theirs: a service that runs as them is to read it.
fn give_to_the_folders_owner(file: &File, folder: &Path) -> io::Result<()> {
    let (ours, folders) = (file.metadata()?, fs::metadata(folder)?);
    // Where others may write, the owner says nothing: /tmp is root's.
    if ours.uid() != 0 || folders.uid() == 0 || folders.mode() & 0o022 != 0 {
        return Ok(());
    }
    fchown(file, Some(folders.uid()), Some(folders.gid()))
}

fn sync_parent(path: &Path) -> Result<(), SecretFileError> {
    File::open(parent_of(path)).and_then(|folder| folder.sync_all()).map_err(fault(path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_secret_file_is_its_owners_alone_from_birth_and_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deeper/key");
        write_secret_file(&path, b"one").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        assert!(matches!(write_secret_file(&path, b"two"), Err(SecretFileError::Exists { .. })));
        assert_eq!(read_secret_file(&path).unwrap().as_bytes(), b"one");
        replace_secret_file(&path, b"three\n").unwrap();
        assert_eq!(read_secret_file(&path).unwrap().trim_line(), b"three");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_file_that_others_may_read_gives_no_secret() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(&path, "secret words").unwrap();
        for (mode, private) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false), (0o444, false)]
        {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let read = read_secret_file(&path);
            assert_eq!(read.is_ok(), private, "{mode:o}");
            let shown = format!("{read:?}");
            assert!(!shown.contains("words"), "{shown}");
            assert!(private || shown.contains("Mode"), "{shown}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, vec![b'x'; MOST + 1]).unwrap();
        assert!(read_secret_file(&path).is_err());
    }

    #[test]
    fn what_root_puts_into_somebodys_folder_is_theirs() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("theirs");
        fs::create_dir(&folder).unwrap();
        // Nobody else can give a folder away, and then there is nothing to see.
        if std::os::unix::fs::chown(&folder, Some(65_534), Some(65_534)).is_err() {
            return;
        }
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
        let path = folder.join("key");
        let owner = || fs::metadata(&path).map(|data| (data.uid(), data.gid(), data.mode() & 0o777)).unwrap();
        write_secret_file(&path, b"one").unwrap();
        assert_eq!(owner(), (65_534, 65_534, 0o600));
        replace_secret_file(&path, b"two").unwrap();
        assert_eq!(owner(), (65_534, 65_534, 0o600));
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
        replace_secret_file(&path, b"three").unwrap();
        assert_eq!(owner().0, 0, "a folder that everybody may write to is nobody's");
    }

    #[test]
    fn what_root_puts_in_the_place_of_somebodys_file_is_theirs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(&path, "before").unwrap();
        // Only root gives files away.
        if fs::metadata(&path).unwrap().uid() == 0 {
            std::os::unix::fs::chown(&path, Some(65534), Some(65534)).unwrap();
        }
        let owner = fs::metadata(&path).unwrap().uid();
        replace_secret_file(&path, b"after").unwrap();
        let about = fs::metadata(&path).unwrap();
        assert_eq!(
            (about.uid(), about.mode() & 0o777, fs::read(&path).unwrap()),
            (owner, 0o600, b"after".to_vec())
        );
    }

    #[test]
    fn a_secret_is_in_a_regular_file_of_one_of_two_modes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        write_secret_file(&path, b"x").unwrap();
        let with = |mode: u32| {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            (read_secret_file(&path).is_ok(), read_credential(&path).is_ok())
        };
        assert_eq!((with(0o600), with(0o400)), ((true, true), (true, true)));
        for mode in [0o700, 0o500, 0o4600, 0o1600, 0o644, 0o604, 0o660] {
            assert!(!with(mode).0, "{mode:o}");
        }
        assert_eq!((with(0o440), with(0o444), with(0o460)), ((false, true), (false, false), (false, false)));
        // A pipe would be waited for: nobody writes to it.
        let pipe = dir.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        for other in [pipe.as_path(), dir.path(), Path::new("/dev/null")] {
            let (path, (sender, read)) = (other.to_owned(), std::sync::mpsc::sync_channel(1));
            std::thread::spawn(move || sender.send(read_secret_file(&path)));
            let refused =
                read.recv_timeout(std::time::Duration::from_secs(20)).unwrap().unwrap_err().to_string();
            assert!(refused.ends_with("is no regular file"), "{refused}");
        }
    }
}
