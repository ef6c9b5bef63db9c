//! What the process takes of its machine, as Prometheus's own clients name it. Where there is no /proc, less.

use std::fs;

use rustix::{
    process::{Resource, getrlimit},
    time::{ClockId, clock_gettime},
};

/// What was measured.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Taken {
    pub(crate) cpu_seconds: f64,
    pub(crate) resident_bytes: Option<u64>,
    pub(crate) open_fds: Option<usize>,
    pub(crate) max_fds: Option<u64>,
    pub(crate) threads: Option<usize>,
}

/// Measures now.
pub(crate) fn taken() -> Taken {
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    let whole = i32::try_from(cpu.tv_sec).map_or(f64::from(i32::MAX), f64::from);
    let part = i32::try_from(cpu.tv_nsec).map_or(0.0, f64::from) / 1e9;
    Taken {
        cpu_seconds: whole + part,
        resident_bytes: resident(),
        // One of them is the folder that is read.
        open_fds: entries("/proc/self/fd").map(|fds| fds.saturating_sub(1)),
        max_fds: getrlimit(Resource::Nofile).current,
        threads: entries("/proc/self/task"),
    }
}

fn resident() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    pages.checked_mul(u64::try_from(rustix::param::page_size()).ok()?)
}

fn entries(folder: &str) -> Option<usize> {
    Some(fs::read_dir(folder).ok()?.count())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_opened_is_counted() {
        let before = taken();
        let files: Vec<_> = (0..100).map(|_| fs::File::open("/proc/self/statm").unwrap()).collect();
        // Other tests of this process open and close files too, but not so many.
        let more = taken().open_fds.unwrap().saturating_sub(before.open_fds.unwrap());
        assert!((50..150).contains(&more), "{more}");
        drop(files);
        assert!(before.resident_bytes.unwrap() > 1 << 20 && before.cpu_seconds > 0.0);
        assert!(before.threads.unwrap() > 0 && before.max_fds.unwrap() >= 64);
    }
}
