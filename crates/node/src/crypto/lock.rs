//! How locks are taken.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Takes a lock, also one that somebody held who panicked.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these locks guard is whole between any two statements, so a panic elsewhere has not broken it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
