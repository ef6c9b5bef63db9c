//! The key in this process's memory: a page of its own.
#![allow(
    unsafe_code,
    reason = "pages that are locked and left out of dumps are had from the operating system alone"
)]

use std::{fmt, ptr::NonNull};

use fabstir_protocol::identity::{Agreed, InvalidPrivateKey, PrivateKey, PublicKey, Signature, agree};

use crate::{KeyCustody, KeyFailure};

/// How a page is kept from others.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    /// `memfd_secret(2)`: taken out of the kernel's own map too, so that not even a debugger reads it.
    Secret,
    /// Locked into memory, left out of core dumps, between two guard pages.
    Locked,
    /// The same where the limit of locked memory is used up: it may be swapped out.
    Unlocked,
}

/// 32 bytes on a page of their own, wiped on drop.
struct Page {
    bytes: NonNull<[u8; 32]>,
    kind: Kind,
}

// SAFETY: the page belongs to this value alone, and is only read once it is shared.
unsafe impl Send for Page {}
// SAFETY: as above.
unsafe impl Sync for Page {}

impl Page {
    fn holding(secret: &[u8; 32]) -> Option<Self> {
        let page = Self::secret().or_else(Self::locked)?;
        // SAFETY: the page is writable, large enough and not shared yet.
        unsafe {
            page.bytes.as_ptr().copy_from_nonoverlapping(secret, 1);
            if page.kind != Kind::Secret {
                memsec::mprotect(page.bytes, memsec::Prot::ReadOnly);
            }
        }
        Some(page)
    }

    #[cfg(target_os = "linux")]
    fn secret() -> Option<Self> {
        // SAFETY: gives a page of its own, or nothing.
        let bytes = unsafe { memsec::memfd_secret::<[u8; 32]>() }?;
        Some(Self { bytes, kind: Kind::Secret })
    }

    #[cfg(not(target_os = "linux"))]
    fn secret() -> Option<Self> {
        None
    }

    fn locked() -> Option<Self> {
        // SAFETY: gives pages of their own, or nothing.
        let bytes = unsafe { memsec::malloc::<[u8; 32]>() }?;
        // SAFETY: the page is ours. It was locked before, if that was possible: this says whether it was.
        let locked = unsafe { memsec::mlock(bytes.as_ptr().cast(), 32) };
        Some(Self { bytes, kind: if locked { Kind::Locked } else { Kind::Unlocked } })
    }

    fn bytes(&self) -> &[u8; 32] {
        // SAFETY: readable and initialised from `holding` until `drop`.
        unsafe { self.bytes.as_ref() }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: the page is ours and nobody uses it any more. Both ways of freeing wipe it.
        unsafe {
            match self.kind {
                #[cfg(target_os = "linux")]
                Kind::Secret => {
                    memsec::memzero(self.bytes.as_ptr().cast(), 32);
                    memsec::free_memfd_secret(self.bytes);
                }
                #[cfg(not(target_os = "linux"))]
                Kind::Secret => {}
                Kind::Locked | Kind::Unlocked => memsec::free(self.bytes),
            }
        }
    }
}

/// Why a key is not taken in.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum LockedKeyError {
    /// It is none.
    #[error(transparent)]
    Invalid(#[from] InvalidPrivateKey),
    /// The system gives no page.
    #[error("the system gives no memory of its own for the key")]
    Memory,
}

/// A private key in memory: on a page of its own, locked, in no core dump, wiped on drop. Never printed.
pub struct LockedKey {
    page: Page,
    public: PublicKey,
}

impl LockedKey {
    /// Takes a key in. The caller's copy is the caller's to wipe.
    ///
    /// # Errors
    /// [`LockedKeyError`].
    pub fn new(secret: &[u8; 32]) -> Result<Self, LockedKeyError> {
        let public = PrivateKey::try_from(secret)?.public_key();
        let page = Page::holding(secret).ok_or(LockedKeyError::Memory)?;
        Ok(Self { page, public })
    }

    /// The secret, for the file that its owner asked for.
    pub fn expose(&self) -> &[u8; 32] {
        self.page.bytes()
    }
}

impl KeyCustody for LockedKey {
    fn public_key(&self) -> &PublicKey {
        &self.public
    }

    fn agree(&self, their_key: &PublicKey) -> Result<Agreed, KeyFailure> {
        agree(self.page.bytes(), their_key).map_err(|_| KeyFailure::Gone)
    }

    fn sign(&self, digest: &[u8; 32]) -> Result<Signature, KeyFailure> {
        let key = PrivateKey::try_from(self.page.bytes()).map_err(|_| KeyFailure::Gone)?;
        key.sign(digest).map_err(|_| KeyFailure::Signature)
    }

    fn place(&self) -> String {
        let kind = match self.page.kind {
            Kind::Secret => "secret memory (memfd_secret)",
            Kind::Locked => "locked memory",
            Kind::Unlocked => "memory that could not be locked: raise the limit (ulimit -l, LimitMEMLOCK=)",
        };
        kind.to_owned()
    }
}

impl fmt::Debug for LockedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockedKey").field("address", &self.address()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: [u8; 32] = [0x5a; 32];

    #[test]
    fn a_locked_key_does_what_the_key_does() {
        let (locked, plain) = (LockedKey::new(&SECRET).unwrap(), PrivateKey::try_from(&SECRET).unwrap());
        let theirs = PrivateKey::try_from(&[7; 32]).unwrap();
        let material = fabstir_protocol::identity::KeyMaterial::Point;
        let ours = locked.agree(&theirs.public_key()).unwrap().derive(material).unwrap();
        let sealed = ours
            .seal(fabstir_protocol::id::Nonce::from([1; 24]), fabstir_protocol::aad::Aad::Final, b"x")
            .unwrap();
        let other = theirs.agree(&plain.public_key()).derive(material).unwrap();
        assert!(other.open(&sealed, fabstir_protocol::aad::Aad::Final).is_ok());
        assert_eq!(locked.sign(&[3; 32]).unwrap(), plain.sign(&[3; 32]).unwrap());
        assert_eq!(locked.expose(), &SECRET);
        assert!(LockedKey::new(&[0; 32]).is_err());
    }

    #[test]
    fn a_locked_page_is_in_no_dump_and_in_no_swap() {
        // What the kernel says of the page of the fallback; secret pages are in neither by their nature.
        let page = Page::locked().unwrap();
        let address = page.bytes.as_ptr().addr();
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut inside = false;
        let flags = maps.lines().find(|line| {
            if let Some((range, _)) = line.split_once(' ')
                && let Some((from, to)) = range.split_once('-')
                && let (Ok(from), Ok(to)) = (usize::from_str_radix(from, 16), usize::from_str_radix(to, 16))
            {
                inside = (from..to).contains(&address);
            }
            inside && line.starts_with("VmFlags:")
        });
        let flags: Vec<&str> = flags.unwrap().split_whitespace().collect();
        assert!(flags.contains(&"dd"), "left out of dumps: {flags:?}");
        assert!(page.kind == Kind::Unlocked || flags.contains(&"lo"), "locked: {flags:?}");
    }

    #[test]
    fn a_locked_key_does_not_print() {
        let shown = format!("{:?}", LockedKey::new(&SECRET).unwrap());
        assert!(shown.starts_with("LockedKey { address: Address(0x") && shown.ends_with(", .. }"), "{shown}");
        assert!(!shown.contains("5a5a"));
    }
}
