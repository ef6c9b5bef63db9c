//! The output of a command of the operator's, as secrets managers give it.

use std::{
    io,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use crate::Secret;

/// How long a command may take: it may have to ask a server.
const PATIENCE: Duration = Duration::from_secs(30);
const STEP: Duration = Duration::from_millis(10);
/// How long what it printed may take to be read once it has ended.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Why a command gives no secret.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It did not start, or was not heard.
    #[error("it could not be run: {0}")]
    Io(io::Error),
    /// It said that it failed.
    #[error("it ended with {0}; what it said of that is above")]
    Failed(ExitStatus),
    /// Its output does not end.
    #[error(
        "it ended, and something that it started still holds its output: redirect that (>/dev/null 2>&1)"
    )]
    Held,
    /// It took too long, and was ended.
    #[error("it did not end within {} seconds", PATIENCE.as_secs())]
    Slow,
}

impl From<io::Error> for CommandError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Runs `command` by `sh -c` and takes what it prints. What it says of errors goes where this process's own go.
pub(crate) fn run(command: &str) -> Result<Secret, CommandError> {
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(command).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut child = shell.spawn()?;
    let Some(output) = child.stdout.take() else {
        return Err(io::Error::from(io::ErrorKind::BrokenPipe).into());
    };
    // A pipe is read with this thread's time limit by a thread of its own, which ends with the pipe.
    let (tell, told) = mpsc::sync_channel(1);
    thread::spawn(move || tell.send(Secret::read(output)));
    let status = wait(&mut child)?;
    let secret = told.recv_timeout(LAST_WORDS).map_err(|_| CommandError::Held)??;
    if status.success() { Ok(secret) } else { Err(CommandError::Failed(status)) }
}

fn wait(child: &mut Child) -> Result<ExitStatus, CommandError> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if begun.elapsed() >= PATIENCE {
            child.kill()?;
            child.wait()?;
            return Err(CommandError::Slow);
        }
        thread::sleep(STEP);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commands_output_is_taken_and_its_failure_is_said() {
        assert_eq!(run("printf abc").unwrap().as_bytes(), b"abc");
        assert!(matches!(run("printf abc; exit 3"), Err(CommandError::Failed(_))));
        let shown = format!("{:?}", run("printf secretwords"));
        assert!(!shown.contains("secretwords"));
    }

    #[test]
    fn a_command_whose_child_keeps_its_output_is_not_waited_for() {
        assert!(matches!(run("echo abc; sleep 20 & exit 0"), Err(CommandError::Held)));
        let redirected = run("echo abc; sleep 3 >/dev/null 2>&1 & exit 0").unwrap();
        assert_eq!(redirected.as_bytes(), b"abc\n");
    }

    #[test]
    fn a_command_that_prints_without_end_is_refused() {
        assert!(matches!(run("yes"), Err(CommandError::Io(_) | CommandError::Failed(_))));
    }
}
