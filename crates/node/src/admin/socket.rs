//! The socket itself: nobody else's from its first moment to its last.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use tokio::net::{UnixListener, UnixStream};

/// Why there is no admin socket.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the message of each says it")]
pub enum SocketError {
    #[error("ADMIN_SOCKET: another node answers at {0}: give each node a path of its own")]
    InUse(PathBuf),
    #[error("ADMIN_SOCKET: {0} is there and is no socket: move it away, or name another path")]
    NoSocket(PathBuf),
    #[error("ADMIN_SOCKET: {path}: {cause}")]
    Io { path: PathBuf, cause: io::Error },
}

/// A socket that listens. Its file goes with it, unless another node has put its own there by then.
#[derive(Debug)]
pub struct AdminSocket {
    pub(super) listener: UnixListener,
    path: PathBuf,
    inode: (u64, u64),
}

impl AdminSocket {
    /// Listens at `path`. What a dead process left there makes way.
    ///
    /// # Errors
    /// [`SocketError`], which says what to do.
    pub async fn bind(path: &Path) -> Result<Self, SocketError> {
        let failed = |cause| SocketError::Io { path: path.to_owned(), cause };
        make_way(path).await?;
        // Made where nobody else can go, and moved into place when it has its mode: there is no moment at which others
        // could connect.
        let room = path.with_file_name(format!(".fabstir-admin-{}", std::process::id()));
        let _ = fs::remove_dir_all(&room);
        DirBuilder::new().mode(0o700).create(&room).map_err(failed)?;
        let made = bind_in(&room, path);
        let _ = fs::remove_dir_all(&room);
        made.map_err(failed)
    }
}

fn bind_in(room: &Path, path: &Path) -> io::Result<AdminSocket> {
    let made = room.join("s");
    let listener = UnixListener::bind(&made)?;
    fs::set_permissions(&made, Permissions::from_mode(0o600))?;
    let inode = inode(&made)?;
    fs::rename(&made, path)?;
    Ok(AdminSocket { listener, path: path.to_owned(), inode })
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Refuses where somebody answers, or where something else is.
async fn make_way(path: &Path) -> Result<(), SocketError> {
    let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(()) };
    if !metadata.file_type().is_socket() {
        return Err(SocketError::NoSocket(path.to_owned()));
    }
    match UnixStream::connect(path).await {
        Ok(_) => Err(SocketError::InUse(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(cause) => Err(SocketError::Io { path: path.to_owned(), cause }),
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        if inode(&self.path).is_ok_and(|there| there == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_this_users_alone_and_goes_with_the_node() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let socket = AdminSocket::bind(&path).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left");
        UnixStream::connect(&path).await.unwrap();
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_socket_that_answers_is_not_taken_away_from_its_node() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let _held = AdminSocket::bind(&path).await.unwrap();
        assert!(matches!(AdminSocket::bind(&path).await, Err(SocketError::InUse(_))));
        UnixStream::connect(&path).await.unwrap();
    }

    #[tokio::test]
    async fn what_a_dead_process_left_makes_way_and_nothing_else_does() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        // The file of a listener that was dropped stays, as that of a process that was killed.
        drop(UnixListener::bind(&path).unwrap());
        let socket = AdminSocket::bind(&path).await.unwrap();
        UnixStream::connect(&path).await.unwrap();
        drop(socket);
        fs::write(&path, "a letter").unwrap();
        assert!(matches!(AdminSocket::bind(&path).await, Err(SocketError::NoSocket(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "a letter");
    }

    #[tokio::test]
    async fn a_successor_keeps_its_socket_when_the_one_before_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let before = AdminSocket::bind(&path).await.unwrap();
        fs::remove_file(&path).unwrap();
        let _after = AdminSocket::bind(&path).await.unwrap();
        drop(before);
        UnixStream::connect(&path).await.unwrap();
    }
}
