//! Regular files that a setting names: nothing that is waited for.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use rustix::fs::OFlags;

/// `OFlags` are bits of an unsigned number, and the standard library takes a signed one.
const NONBLOCK: i32 = OFlags::NONBLOCK.bits().cast_signed();

/// More than any list, certificate or revocation list has.
const MOST: u64 = 64 << 20;

/// Opens a regular file. A pipe is refused: whoever reads one waits for somebody to write, and everything else that is to be
/// read would wait with them.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    // Without waiting: what is there is judged once it is open.
    let file = OpenOptions::new().read(true).custom_flags(NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    Ok(file)
}

/// Everything in a regular file.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let length = file.metadata()?.len();
    if length > MOST {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    // It may be a key: a vector that grows leaves copies behind.
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
    file.take(MOST).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The same as text.
pub(crate) fn read_text(path: &Path) -> io::Result<String> {
    String::from_utf8(read(path)?)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is no text in UTF-8"))
}

#[cfg(test)]
mod tests {
    use std::{fs, process::Command};

    use super::*;

    #[test]
    fn files_are_read_and_nothing_else_is() {
        let dir = tempfile::tempdir().unwrap();
        let (path, pipe) = (dir.path().join("file"), dir.path().join("pipe"));
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        for other in [&pipe, dir.path(), Path::new("/dev/null")] {
            assert_eq!(read(other).unwrap_err().to_string(), "it is no regular file", "{other:?}");
        }
        fs::write(&path, [0xff]).unwrap();
        assert_eq!(read(&path).unwrap(), [0xff]);
        fs::write(&path, [b'k'; 5000]).unwrap();
        let bytes = read(&path).unwrap();
        assert_eq!((bytes.len(), bytes.capacity()), (5000, 5000), "it never grew");
        fs::write(&path, [0xff]).unwrap();
        assert!(read_text(&path).unwrap_err().to_string().contains("UTF-8"));
        File::create(&path).unwrap().set_len(MOST + 1).unwrap();
        assert_eq!(read(&path).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        fs::remove_file(&path).unwrap();
        assert_eq!(read(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
