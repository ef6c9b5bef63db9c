//! Who uses the node, and how much: an account for every session, a line for every client and day. Never what was said.

mod account;
mod files;
mod usage;

use std::{
    collections::HashMap,
    io,
    path::Path,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

pub use account::{Account, Client, EndReason, SessionLine, Standing};
pub use usage::{Counts, DayOfUsage, UsageLine};

use crate::crypto::lock;
use files::Files;
use usage::Usage;

/// How often the usage is written down.
pub(crate) const WRITE_EVERY: Duration = Duration::from_secs(60);

/// Every account that is open, and the usage of the days.
#[derive(Debug, Default)]
pub struct Ledger {
    open: Mutex<HashMap<u64, Weak<Account>>>,
    next: AtomicU64,
    usage: Usage,
    files: Option<Files>,
}

impl Ledger {
    /// A ledger whose usage is kept in `dir`, with what earlier processes wrote there.
    ///
    /// # Errors
    /// Where the folder cannot be made or read.
    pub fn in_folder(dir: &Path) -> io::Result<Self> {
        let files = Files::open(dir)?;
        let usage = Usage::default();
        for (day, client, counts) in files.read(usage::first_day(today()))? {
            usage.recall(day, &client, &counts);
        }
        Ok(Self { usage, files: Some(files), ..Self::default() })
    }

    /// Opens an account: from here on it ends with exactly one `session_end`.
    pub fn open(self: &Arc<Self>, account: &Arc<Account>) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        account.enter(self, number);
        lock(&self.open).insert(number, Arc::downgrade(account));
    }

    /// An account is closed.
    fn close(&self, number: u64) {
        lock(&self.open).remove(&number);
    }

    /// Whether every account is closed.
    pub fn is_settled(&self) -> bool {
        lock(&self.open).is_empty()
    }

    /// The open accounts, the oldest first.
    pub fn sessions(&self) -> Vec<SessionLine> {
        // The accounts outlive the lock: the last one to go would want it.
        let mut accounts: Vec<(u64, Arc<Account>)> = Vec::new();
        for (number, account) in &*lock(&self.open) {
            accounts.extend(account.upgrade().map(|account| (*number, account)));
        }
        accounts.sort_by_key(|(number, _)| *number);
        accounts.iter().map(|(_, account)| account.line()).collect()
    }

    /// The usage of `day`, or of all days that are remembered.
    pub fn usage(&self, day: Option<jiff::civil::Date>) -> Vec<DayOfUsage> {
        self.usage.days(day)
    }

    /// Counts an answer of a client's.
    fn count(&self, client: &Client, counts: &Counts) {
        self.usage.add(today(), &client.to_string(), counts, self.files.is_some());
    }

    /// Writes down what was not written yet; without a folder there is nothing to write. Blocks.
    pub fn write(&self) {
        let Some(files) = &self.files else { return };
        for (day, lines) in self.usage.take_unwritten() {
            let (left, result) = files.append(day, lines);
            self.usage.give_back(day, left);
            if let Err(error) = result {
                tracing::warn!(%day, %error, "the usage could not be written: free the disk or make USAGE_DIR writable, it is tried again");
            }
        }
    }
}

/// The day, in UTC. Of the system's clock: bills follow the calendar, whoever sets it.
fn today() -> jiff::civil::Date {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let second = i64::try_from(since.as_secs()).unwrap_or(0);
    let at = jiff::Timestamp::from_second(second).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    at.to_zoned(jiff::tz::TimeZone::UTC).date()
}
