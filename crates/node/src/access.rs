//! Who may open sessions: the lists, and the files that they are read from again when those change.

use std::{collections::HashSet, sync::Mutex};

use fabstir_protocol::{ethereum::Address, identity::PublicKey, v1::Owner};
use tokio::sync::watch;

use crate::{config::Config, crypto::lock};

mod list;

pub use list::{ClientList, InvalidList, WatchedList};

/// What became of the files of clients.
#[derive(Debug, Default)]
pub struct Refreshed {
    /// Whether anybody's standing may have changed.
    pub changed: bool,
    /// Files that cannot be used; what they said before goes on.
    pub faults: Vec<InvalidList>,
}

/// Who may open sessions, at this moment. What is denied is denied, whatever allows it.
#[derive(Debug)]
pub struct Access {
    /// ALLOWED_CLIENTS.
    named: Option<HashSet<Address>>,
    anonymous: bool,
    files: Mutex<Files>,
    /// One reads at a time: what was read first must not take the place of what was read last.
    reading: Mutex<()>,
    changes: watch::Sender<u64>,
}

#[derive(Debug)]
struct Files {
    allowed: Option<WatchedList>,
    denied: Option<WatchedList>,
}

impl Files {
    fn each(&mut self) -> impl Iterator<Item = &mut WatchedList> {
        self.allowed.iter_mut().chain(self.denied.iter_mut())
    }
}

impl Access {
    /// As the settings have it.
    pub fn new(config: &Config) -> Self {
        let (allowed, denied) = (config.allowed_clients_file.clone(), config.denied_clients_file.clone());
        Self {
            named: config.allowed_clients.clone(),
            anonymous: config.allow_anonymous,
            files: Mutex::new(Files { allowed, denied }),
            reading: Mutex::default(),
            changes: watch::Sender::new(0),
        }
    }

    /// Whether a client of version 1 may have a session. A listed address cannot be recovered without its key, so an
    /// unclaimed one serves as well.
    pub fn admits_owner(&self, owner: &Owner) -> bool {
        let files = lock(&self.files);
        let address = owner.address();
        !files.denied.as_ref().is_some_and(|list| list.list().has_address(&address))
            && self.is_allowed(&files, |list| list.has_address(&address), &address)
    }

    /// Whether a wallet's delegate may have a session.
    pub fn admits_delegate(&self, wallet: &Address, key: &PublicKey) -> bool {
        let files = lock(&self.files);
        let has = |list: &ClientList| list.has_address(wallet) || list.has_key(key);
        !files.denied.as_ref().is_some_and(|list| has(list.list())) && self.is_allowed(&files, has, wallet)
    }

    /// Whether somebody with no more than this key may have a session.
    pub fn admits_anonymous(&self, key: &PublicKey) -> bool {
        let files = lock(&self.files);
        let has = |list: &WatchedList| list.list().has_key(key);
        let named = files.allowed.as_ref().is_some_and(has);
        !files.denied.as_ref().is_some_and(has) && (self.anonymous || named)
    }

    fn is_allowed(&self, files: &Files, has: impl Fn(&ClientList) -> bool, address: &Address) -> bool {
        match (&self.named, &files.allowed) {
            (None, None) => true,
            (named, file) => {
                named.as_ref().is_some_and(|named| named.contains(address))
                    || file.as_ref().is_some_and(|file| has(file.list()))
            }
        }
    }

    /// Looks whether a file has changed, and reads it once it no longer does.
    pub fn look(&self) -> Refreshed {
        self.refresh(WatchedList::look)
    }

    /// Reads the files now.
    pub fn reload(&self) -> Refreshed {
        self.refresh(WatchedList::reload)
    }

    fn refresh(&self, one: fn(&mut WatchedList) -> Result<bool, InvalidList>) -> Refreshed {
        let _reading = lock(&self.reading);
        // Not under the other lock: a file may be slow.
        let mut files = {
            let files = lock(&self.files);
            Files { allowed: files.allowed.clone(), denied: files.denied.clone() }
        };
        // All of them, whatever the first one says.
        let mut refreshed = Refreshed::default();
        for list in files.each() {
            match one(list) {
                Ok(changed) => refreshed.changed |= changed,
                Err(fault) => refreshed.faults.push(fault),
            }
        }
        *lock(&self.files) = files;
        if refreshed.changed {
            self.changes.send_modify(|version| *version = version.wrapping_add(1));
        }
        refreshed
    }

    /// Whether there are files to look at.
    pub fn has_files(&self) -> bool {
        let files = lock(&self.files);
        files.allowed.is_some() || files.denied.is_some()
    }

    /// Tells of every change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}
