//! A list of clients in a file: one a line, an Ethereum address or a delegate key, then whatever label; `#` begins a comment.

use std::{
    collections::HashSet,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use fabstir_protocol::{ethereum::Address, identity::PublicKey};

use crate::regular;

/// Clients by address and by key.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct ClientList {
    addresses: HashSet<Address>,
    keys: HashSet<[u8; 33]>,
}

/// Why a file is no list.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[expect(missing_docs, reason = "the message of each says it")]
pub enum InvalidList {
    #[error("{path} cannot be read: {reason}")]
    Unreadable { path: String, reason: String },
    #[error(
        "{path}, line {line}: not an Ethereum address (0x and 40 hex digits) or a delegate key (66 hex digits)"
    )]
    Line { path: String, line: usize },
}

impl ClientList {
    fn read(text: &str) -> Result<Self, usize> {
        let mut list = Self::default();
        for (at, line) in text.lines().enumerate() {
            let said = line.split_once('#').map_or(line, |(said, _)| said);
            if let Some(value) = said.split_whitespace().next() {
                list.add(value).ok_or_else(|| at.saturating_add(1))?;
            }
        }
        Ok(list)
    }

    /// Who has a delegate's key has the key of an address too, which is how version 1 would know them.
    fn add(&mut self, value: &str) -> Option<()> {
        if let Ok(address) = value.parse() {
            self.addresses.insert(address);
            return Some(());
        }
        let digits = value.strip_prefix("0x").unwrap_or(value);
        let key = (digits.len() == 66).then(|| digits.parse::<PublicKey>().ok()).flatten()?;
        self.addresses.insert(key.address());
        self.keys.insert(key.to_bytes());
        Some(())
    }

    /// Whether it names the address, or a key of it.
    pub fn has_address(&self, address: &Address) -> bool {
        self.addresses.contains(address)
    }

    /// Whether it names the key.
    pub fn has_key(&self, key: &PublicKey) -> bool {
        self.keys.contains(&key.to_bytes())
    }

    fn len(&self) -> usize {
        self.addresses.len()
    }
}

/// What tells one state of a file from the next without reading it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Stamp {
    changed: Option<SystemTime>,
    bytes: u64,
    inode: u64,
}

impl Stamp {
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        Ok(Self { changed: metadata.modified().ok(), bytes: metadata.len(), inode: metadata.ino() })
    }
}

/// The last good list of a file that may change.
#[derive(Clone, Debug)]
pub struct WatchedList {
    path: PathBuf,
    list: Arc<ClientList>,
    /// Of what was read last, or could not be.
    judged: Option<Stamp>,
    /// Of what was seen last: what is being written is not read.
    seen: Option<Stamp>,
    /// Looks in a row at which it was being written.
    restless: u8,
}

/// Looks after which a file is read although it does not come to rest: who keeps writing to a list must not keep it from being
/// heeded.
const MOST_RESTLESS: u8 = 3;

impl WatchedList {
    /// Reads a file for the first time.
    ///
    /// # Errors
    /// [`InvalidList`].
    pub fn open(path: PathBuf) -> Result<Self, InvalidList> {
        let stamp = Stamp::of(&path).ok();
        let list = Arc::new(read(&path)?);
        Ok(Self { path, list, judged: stamp, seen: stamp, restless: 0 })
    }

    /// Who is on it.
    pub fn list(&self) -> &ClientList {
        &self.list
    }

    /// Reads the file if it has changed since it was judged, and not since the last look. Whether the list changed.
    ///
    /// # Errors
    /// As [`WatchedList::reload`].
    pub(super) fn look(&mut self) -> Result<bool, InvalidList> {
        let stamp = Stamp::of(&self.path).ok();
        let at_rest = std::mem::replace(&mut self.seen, stamp) == stamp;
        self.restless = if at_rest { 0 } else { self.restless.saturating_add(1) };
        if at_rest && stamp != self.judged {
            return self.reload();
        }
        if self.restless < MOST_RESTLESS {
            return Ok(false);
        }
        self.restless = 0;
        let judged = self.judged;
        self.reload().or_else(|_| {
            // A line that is not whole yet is no fault of anybody's: what is wrong once it rests is said then.
            self.judged = judged;
            Ok(false)
        })
    }

    /// Reads the file. Whether the list changed.
    ///
    /// # Errors
    /// [`InvalidList`]; the list stays what it was then.
    pub(super) fn reload(&mut self) -> Result<bool, InvalidList> {
        // Before reading: what is written after this is seen by the next look.
        self.judged = Stamp::of(&self.path).ok();
        let list = read(&self.path)?;
        let changed = list != *self.list;
        if changed {
            let (file, clients) = (self.path.display(), list.len());
            tracing::info!(
                event = "config",
                what = "lists of clients",
                "list of clients read: {file}, clients: {clients}"
            );
            self.list = Arc::new(list);
        }
        Ok(changed)
    }
}

fn read(path: &Path) -> Result<ClientList, InvalidList> {
    let shown = || path.display().to_string();
    let text = regular::read_text(path)
        .map_err(|error| InvalidList::Unreadable { path: shown(), reason: error.to_string() })?;
    // Some editors begin a file with a mark that nobody sees.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    ClientList::read(text).map_err(|line| InvalidList::Line { path: shown(), line })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: &str = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8";
    /// Of the address above.
    const KEY: &str = "02ba5734d8f7091719471e7f7ed6b9df170dc70cc661ca05e688601ad984f068b0";

    #[test]
    fn a_line_is_a_client_a_label_and_a_comment() {
        let text = format!("# ours\n\n  {ADDRESS}  alice, of sales # since May\r\n{KEY} a laptop\n0x{KEY}\n");
        let list = ClientList::read(&text).unwrap();
        assert!(list.has_address(&ADDRESS.parse().unwrap()));
        assert!(list.has_key(&KEY.parse().unwrap()));
        assert_eq!(ClientList::read("").unwrap(), ClientList::default());
        assert_eq!(ClientList::read("# nobody\n").unwrap(), ClientList::default());
    }

    #[test]
    fn a_list_that_is_written_to_all_the_time_is_heeded_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("denied");
        fs::write(&path, "").unwrap();
        let mut list = WatchedList::open(path.clone()).unwrap();
        let address = ADDRESS.parse().unwrap();
        let heeded = (1..=9).find(|round| {
            fs::write(&path, format!("{ADDRESS}\n{}{}", "# more\n".repeat(*round), "0x12")).unwrap();
            let whole = *round > 4;
            if whole {
                fs::write(&path, format!("{ADDRESS}\n{}", "# more\n".repeat(*round))).unwrap();
            }
            list.look().unwrap();
            list.list().has_address(&address)
        });
        assert_eq!(heeded, Some(6), "at the third look at which it was whole, or was not");
        // Three looks at which it is not whole say nothing; at rest it is judged, and so is a file that has gone.
        for round in 0..3 {
            fs::write(&path, format!("{}0x12", "# more\n".repeat(20 + round))).unwrap();
            assert_eq!(list.look(), Ok(false), "{round}");
        }
        assert!(matches!(list.look(), Err(InvalidList::Line { .. })), "it rests, and is broken");
        fs::remove_file(&path).unwrap();
        assert_eq!(list.look(), Ok(false), "it may be on its way back");
        assert!(matches!(list.look(), Err(InvalidList::Unreadable { .. })));
        assert!(list.list().has_address(&address), "and what was read last goes on");
    }

    #[test]
    fn a_pipe_is_no_list_and_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        assert!(WatchedList::open(path).unwrap_err().to_string().contains("no regular file"));
    }

    #[test]
    fn who_is_named_by_a_key_is_named_by_its_address_too() {
        let list = ClientList::read(KEY).unwrap();
        let key: PublicKey = KEY.parse().unwrap();
        assert!(list.has_address(&key.address()));
    }

    #[test]
    fn a_line_that_names_nobody_is_told_by_its_number() {
        let off_curve = format!("02{}", "0".repeat(64));
        let uncompressed = format!("04{}", "1".repeat(128));
        // A digit was changed: the checksum of capitals says so.
        let mistyped = ADDRESS.replace("C51812", "c51812");
        for wrong in ["0x12", "alice", &off_curve, &uncompressed, &mistyped, "\u{feff}0x"] {
            assert_eq!(ClientList::read(&format!("{ADDRESS}\n# x\n{wrong} label\n")), Err(3), "{wrong}");
        }
    }

    fn written(text: &str) -> (tempfile::TempDir, WatchedList) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list");
        fs::write(&path, text).unwrap();
        let list = WatchedList::open(path).unwrap();
        (folder, list)
    }

    #[test]
    fn a_file_is_read_again_once_it_changes_no_more() {
        let (_folder, mut watched) = written("");
        assert_eq!(watched.look(), Ok(false));
        fs::write(&watched.path, ADDRESS).unwrap();
        assert_eq!(watched.look(), Ok(false), "it may still be written to");
        assert_eq!(watched.look(), Ok(true));
        assert!(watched.list().has_address(&ADDRESS.parse().unwrap()));
        assert_eq!(watched.look(), Ok(false), "once");
    }

    #[test]
    fn a_file_put_in_the_place_of_another_of_the_same_length_is_seen() {
        let (folder, mut watched) = written(ADDRESS);
        let other = folder.path().join("other");
        fs::write(&other, KEY.get(..40).unwrap()).unwrap();
        let padded = format!("0x{}", KEY.get(2..42).unwrap());
        fs::write(&other, &padded).unwrap();
        let times =
            fs::FileTimes::new().set_modified(fs::metadata(&watched.path).unwrap().modified().unwrap());
        fs::File::options().write(true).open(&other).unwrap().set_times(times).unwrap();
        fs::rename(&other, &watched.path).unwrap();
        watched.look().unwrap();
        assert_eq!(watched.look(), Ok(true));
        assert!(watched.list().has_address(&padded.parse().unwrap()));
    }

    #[test]
    fn what_cannot_be_read_changes_nothing_until_it_can() {
        let (_folder, mut watched) = written(ADDRESS);
        let is_listed = |watched: &WatchedList| watched.list().has_address(&ADDRESS.parse().unwrap());
        for wrong in ["nonsense\n", ""] {
            if wrong.is_empty() {
                fs::remove_file(&watched.path).unwrap();
            } else {
                fs::write(&watched.path, wrong).unwrap();
            }
            assert_eq!(watched.look(), Ok(false));
            assert!(watched.look().is_err(), "told once it is at rest");
            assert_eq!(watched.look(), Ok(false), "and once");
            assert!(watched.reload().is_err(), "and to who asks");
            assert!(is_listed(&watched));
        }
        fs::write(&watched.path, "# nobody\n").unwrap();
        assert_eq!(watched.reload(), Ok(true));
        assert!(!is_listed(&watched));
    }
}
