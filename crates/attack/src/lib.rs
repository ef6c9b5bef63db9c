//! Somebody in the middle. A proxy between a client and a node does one thing to what they say, and a runner sees
//! what comes of it: refused, harmless, or accepted. Nothing may be accepted. docs/attacks.md.
//!
//! The proxy listens on loopback and connects to the one node that it is told; it has no keys but its own.

mod forgery;
mod plan;
mod proxy;
mod reference;
mod report;
mod run;
mod step;
mod talk;
mod tamper;
mod wire;

pub use forgery::{Forgery, IMPOSTORS_WORDS, Impostor};
pub use plan::{version_1, version_2};
pub use proxy::{Log, Plan, Proxy};
pub use reference::{FALLS, Reference};
pub use report::{Count, Ended, Report, Verdict};
pub use run::{Ledger, Suite, SuiteError};
pub use step::{Act, Again, Byte, Class, Demand, Edit, Keep, Source, Step};
pub use talk::{Expected, Pace, Said, Subject, Target};
pub use wire::{Frame, Kind, Place, Recording, Seen, Way};

fn rng() -> impl rand_core::CryptoRng {
    rand_core::UnwrapErr(getrandom::SysRng)
}

fn unix_now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
