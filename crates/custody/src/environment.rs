//! A secret that came by the environment, taken out of it.
#![allow(unsafe_code, reason = "the environment's own memory is had by its address alone")]

use std::ffi::{CStr, c_char};

use zeroize::Zeroize as _;

use crate::Secret;

unsafe extern "C" {
    static environ: *const *const c_char;
}

/// Takes the value of `name` out of the environment, and overwrites it there: what `/proc/PID/environ` shows afterwards
/// is zeros. What started this process (a shell, a service manager) has its own copy, which is not this one's to
/// wipe. `None` where it is not set.
///
/// To be called before there is a second thread.
pub fn take_from_environment(name: &str) -> Option<Secret> {
    let mut taken = None;
    // SAFETY: `environ` is a list of pointers to strings that ends in null, or null; no other thread changes it yet.
    let entries = unsafe { environ };
    for at in 0.. {
        // SAFETY: as above; the loop ends at the null.
        let entry = if entries.is_null() { entries.cast() } else { unsafe { *entries.add(at) } };
        if entry.is_null() {
            break;
        }
        // SAFETY: each entry is a string that ends in a null, and stays where it is.
        let text = unsafe { CStr::from_ptr(entry) }.to_bytes();
        let value = text.strip_prefix(name.as_bytes()).and_then(|rest| rest.strip_prefix(b"="));
        if let Some(value) = value {
            taken.get_or_insert_with(|| Secret::from_bytes(value));
            let (start, length) = (value.as_ptr().cast_mut(), value.len());
            // SAFETY: the value's bytes are in the process's own stack or heap, writable, and nobody reads them now.
            unsafe { std::slice::from_raw_parts_mut(start, length) }.zeroize();
        }
    }
    taken
}
