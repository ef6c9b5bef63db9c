//! A thread of another process that is made to stand still: what hangs from the inside looks the same.

use std::{
    fs,
    sync::mpsc::{self, SyncSender},
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, ensure};
use nix::{
    sys::{
        ptrace::{self, Options},
        wait::{WaitPidFlag, waitpid},
    },
    unistd::Pid,
};

/// Holds a thread. It goes on when this is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    release: Option<SyncSender<()>>,
    keeper: Option<JoinHandle<()>>,
}

impl Held {
    /// Holds the youngest thread of process `pid` whose name is `name`.
    pub(crate) fn thread(pid: u32, name: &str) -> anyhow::Result<Self> {
        let tid = youngest(pid, name)?;
        let (release, released) = mpsc::sync_channel::<()>(1);
        let (tell, told) = mpsc::sync_channel(1);
        // Whoever begins to trace is the only one who may end it.
        let keeper = thread::spawn(move || {
            let held = hold(tid);
            let holds = held.is_ok();
            if tell.send(held).is_ok() && holds {
                let _ = released.recv();
            }
            let _ = ptrace::detach(tid, None);
        });
        let held = Self { release: Some(release), keeper: Some(keeper) };
        told.recv().context("who holds the thread is gone")??;
        Ok(held)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.release = None;
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
    }
}

fn hold(tid: Pid) -> anyhow::Result<()> {
    ptrace::seize(tid, Options::empty()).context("this user may not trace other processes")?;
    ptrace::interrupt(tid)?;
    waitpid(tid, Some(WaitPidFlag::__WALL))?;
    Ok(())
}

fn youngest(pid: u32, name: &str) -> anyhow::Result<Pid> {
    let mut found = None;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?;
        // It may have ended meanwhile.
        let is_it = fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim_end() == name);
        if is_it {
            let tid = task.file_name().to_string_lossy().parse::<i32>()?;
            found = found.max(Some(tid));
        }
    }
    ensure!(found.is_some(), "process {pid} has no thread by the name {name}");
    Ok(Pid::from_raw(found.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn state(pid: u32) -> char {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit(") ").next().unwrap().chars().next().unwrap()
    }

    #[test]
    fn a_thread_stands_still_until_it_is_let_go() {
        let mut child = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap();
        let until = |wanted: char| {
            while state(child.id()) != wanted {
                thread::yield_now();
            }
        };
        until('S');
        // Where tracing is not allowed there is nothing to see.
        if let Ok(held) = Held::thread(child.id(), "sleep") {
            until('t');
            drop(held);
            until('S');
        }
        assert!(Held::thread(child.id(), "another").is_err());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
