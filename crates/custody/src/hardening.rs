//! What the process itself is kept from.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// What was had of the operating system.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Hardening {
    /// Nothing of the process is written to disk when it crashes.
    pub no_core_dumps: bool,
    /// Other processes of the same user, debuggers included, do not read its memory.
    pub not_dumpable: bool,
}

/// Keeps the memory of this process out of core dumps, and from other processes of the same user. Root reads it all
/// the same.
pub fn harden() -> Hardening {
    let nothing = Rlimit { current: Some(0), maximum: Some(0) };
    Hardening { no_core_dumps: setrlimit(Resource::Core, nothing).is_ok(), not_dumpable: not_dumpable() }
}

#[cfg(target_os = "linux")]
fn not_dumpable() -> bool {
    set_dumpable_behavior(DumpableBehavior::NotDumpable).is_ok()
}

#[cfg(not(target_os = "linux"))]
fn not_dumpable() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use rustix::process::{dumpable_behavior, getrlimit};

    use super::*;

    #[test]
    fn a_hardened_process_is_not_dumpable_and_leaves_no_core() {
        assert_eq!(harden(), Hardening { no_core_dumps: true, not_dumpable: true });
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
        assert_eq!(getrlimit(Resource::Core), Rlimit { current: Some(0), maximum: Some(0) });
    }
}
