//! The module through which this process speaks to tokens, loaded once and started anew where it has lost them.

use std::{
    path::{Path, PathBuf},
    sync::{
        Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    error::Result,
};

use super::{TokenError, lock};

/// Between two starts anew: every use of a key that is away would ask for one.
const PATIENCE: Duration = Duration::from_secs(5);

/// A module that is loaded. There is one in a process, for PKCS #11 knows one initialisation of it.
#[derive(Debug)]
pub(super) struct Module {
    path: PathBuf,
    pkcs11: Pkcs11,
    life: RwLock<Life>,
    /// Of keys that nobody can unlock once more: they would not outlast a start of the module.
    holds: AtomicUsize,
}

/// Keeps the module from being started anew until it is dropped.
#[derive(Debug)]
pub(super) struct Hold(&'static Module);

/// Between a start of the module and its next: what it has given out is worth nothing after.
#[derive(Debug)]
pub(super) struct Life {
    number: u64,
    /// When the module was started anew.
    begun: Option<Instant>,
}

impl Module {
    /// The module at `path`.
    pub(super) fn load(path: &Path) -> std::result::Result<&'static Self, TokenError> {
        static LOADED: OnceLock<Mutex<Option<&'static Module>>> = OnceLock::new();
        let mut loaded = lock(LOADED.get_or_init(Mutex::default));
        match *loaded {
            Some(module) if module.path == path => return Ok(module),
            Some(_) => return Err(TokenError::OtherModule),
            None => {}
        }
        let fault = |error| TokenError::Module { path: path.display().to_string(), error };
        let pkcs11 = Pkcs11::new(path).map_err(fault)?;
        start(&pkcs11).map_err(fault)?;
        let life = RwLock::new(Life { number: 0, begun: None });
        let module = Self { path: path.to_owned(), pkcs11, life, holds: AtomicUsize::new(0) };
        // For the life of the process, which ends its use of the module.
        let module: &'static Self = Box::leak(Box::new(module));
        *loaded = Some(module);
        Ok(module)
    }

    pub(super) fn pkcs11(&self) -> &Pkcs11 {
        &self.pkcs11
    }

    /// Keeps the module from being started anew while a session of its is in use.
    pub(super) fn alive(&self) -> RwLockReadGuard<'_, Life> {
        self.life.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the module as it is while somebody has a key of it that cannot be unlocked once more.
    pub(super) fn hold(&'static self) -> Hold {
        self.holds.fetch_add(1, Ordering::SeqCst);
        Hold(self)
    }

    /// Starts the module anew, once nobody uses it: some look for tokens only then. Whether that was done.
    ///
    /// # Errors
    /// The module's own.
    pub(super) fn restart(&self) -> Result<bool> {
        let mut life = self.life.write().unwrap_or_else(PoisonError::into_inner);
        let recent = life.begun.is_some_and(|begun| begun.elapsed() < PATIENCE);
        if recent || self.holds.load(Ordering::SeqCst) > 0 {
            return Ok(false);
        }
        *life = Life { number: life.number.wrapping_add(1), begun: Some(Instant::now()) };
        // One that has been ended already is what is wanted.
        let _ = self.pkcs11.clone().finalize();
        start(&self.pkcs11).map(|()| true)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.holds.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Life {
    pub(super) fn number(&self) -> u64 {
        self.number
    }
}

fn start(pkcs11: &Pkcs11) -> Result<()> {
    pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))
}
