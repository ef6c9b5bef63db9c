//! 32 bytes that nobody else may know.

use std::{fmt, ops::Deref};

use zeroize::{Zeroize, ZeroizeOnDrop};

use super::noise::LEN;

/// A key, a chaining key, a shared secret. On the heap, so that moving its owner leaves no copies behind; wiped on
/// drop, never printed.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(crate) struct Secret(Box<[u8; LEN]>);

impl Secret {
    pub(crate) fn zero() -> Self {
        Self(Box::new([0; LEN]))
    }

    pub(crate) fn of(bytes: &[u8; LEN]) -> Self {
        let mut secret = Self::zero();
        secret.0.copy_from_slice(bytes);
        secret
    }

    pub(crate) fn as_mut(&mut self) -> &mut [u8; LEN] {
        &mut self.0
    }
}

impl Deref for Secret {
    type Target = [u8; LEN];

    fn deref(&self) -> &[u8; LEN] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}
