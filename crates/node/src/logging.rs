//! The log. Goes to stdout, as the specification's own commands expect; without colour off a terminal, and with sd-daemon(3)'s
//! mark of its level to systemd's journal.

use std::{
    env,
    io::{self, IsTerminal as _, Write},
    os::fd::AsFd,
};

use strsim::osa_distance;
use tracing::{Level, Metadata};
use tracing_subscriber::{
    EnvFilter, Layer as _,
    filter::{LevelFilter, ParseError, filter_fn},
    fmt::{MakeWriter, writer::BoxMakeWriter},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use crate::config::{Config, LogFormat};

/// Dependencies that write what passes through them at `debug` and `trace`. Capped at `info`, whatever the filter
/// says and however exactly.
const CAPPED: &[&str] = &[
    "tungstenite",
    "tokio_tungstenite",
    "hyper",
    "hyper_util",
    "h2",
    "reqwest",
    "rustls",
    "rustls_acme",
    "async_web_client",
];

/// What the log can be limited to.
const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

/// llama.cpp reports a hundred lines at every start. They are shown to who asks for them by this name.
const LLAMA: &str = "llama-cpp-2";

/// Why a filter cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidFilter {
    /// It is none.
    #[error(transparent)]
    Form(#[from] ParseError),
    /// Taken as the name of a part of the program, it would silence all others.
    #[error("{word} is no level; did you mean {level}?")]
    Level {
        /// What was written.
        word: String,
        /// What was meant.
        level: &'static str,
    },
}

/// The filter that `directives` asks for.
fn filter(directives: &str) -> Result<EnvFilter, InvalidFilter> {
    for word in directives.split(',').map(str::trim).filter(|word| word.parse::<LevelFilter>().is_err()) {
        let like = |level: &&str| osa_distance(&word.to_ascii_lowercase(), level) <= 2;
        if let Some(level) = LEVELS.iter().copied().find(like) {
            return Err(InvalidFilter::Level { word: word.to_owned(), level });
        }
    }
    let filter = EnvFilter::builder().parse(directives)?;
    if directives.contains(LLAMA) {
        return Ok(filter);
    }
    Ok(filter.add_directive(format!("{LLAMA}=warn").parse()?))
}

/// Whether what a target says at a level may be written at all.
fn may_be_written(target: &str, level: Level) -> bool {
    let of = |capped: &&str| {
        target == *capped || target.strip_prefix(*capped).is_some_and(|rest| rest.starts_with("::"))
    };
    level <= Level::INFO || !CAPPED.iter().any(of)
}

/// Whether the log could be started so.
///
/// # Errors
/// Where `RUST_LOG` cannot be read.
pub fn check(config: &Config) -> Result<(), InvalidFilter> {
    filter(&config.rust_log).map(|_| ())
}

/// What begins a line about a fault in systemd's journal, so that `journalctl -p err` shows it; nothing elsewhere.
pub fn mark_of_a_fault(stream: impl AsFd) -> &'static str {
    if is_the_journal(stream) { mark(Level::ERROR) } else { "" }
}

/// Whether what is written there is systemd's to keep: systemd says of which stream (JOURNAL_STREAM, systemd.exec(5)).
fn is_the_journal(stream: impl AsFd) -> bool {
    let Ok(named) = env::var("JOURNAL_STREAM") else { return false };
    rustix::fs::fstat(stream).is_ok_and(|about| named == format!("{}:{}", about.st_dev, about.st_ino))
}

/// syslog's number of a level, as sd-daemon(3) writes it.
fn mark(level: Level) -> &'static str {
    match level {
        Level::ERROR => "<3>",
        Level::WARN => "<4>",
        Level::INFO => "<6>",
        Level::DEBUG | Level::TRACE => "<7>",
    }
}

/// Standard output, each line under its level's mark.
struct Journal;

/// A line for it.
struct Marked(&'static str);

impl<'a> MakeWriter<'a> for Journal {
    type Writer = Marked;

    fn make_writer(&'a self) -> Marked {
        Marked(mark(Level::INFO))
    }

    fn make_writer_for(&'a self, about: &Metadata<'_>) -> Marked {
        Marked(mark(*about.level()))
    }
}

impl Write for Marked {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // In one piece: what other threads write stands before or behind it.
        io::stdout().lock().write_all(&[self.0.as_bytes(), line].concat())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush()
    }
}

/// Starts logging.
///
/// # Errors
/// Where `RUST_LOG` cannot be read.
pub fn start(config: &Config) -> Result<(), InvalidFilter> {
    let colour = io::stdout().is_terminal();
    let writer = if is_the_journal(io::stdout()) {
        BoxMakeWriter::new(Journal)
    } else {
        BoxMakeWriter::new(io::stdout)
    };
    // Where the log's reader has gone, the complaint about it would go the same way, and panic.
    let lines =
        tracing_subscriber::fmt::layer().with_ansi(colour).log_internal_errors(false).with_writer(writer);
    let lines = match config.log_format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let cap = filter_fn(|event| may_be_written(event.target(), *event.level()));
    tracing_subscriber::registry().with(lines).with(filter(&config.rust_log)?).with(cap).init();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_dependencies_say_of_what_passes_through_them_is_not_written() {
        for target in ["tungstenite", "tungstenite::protocol", "hyper_util::client::legacy"] {
            assert!(!may_be_written(target, Level::DEBUG) && !may_be_written(target, Level::TRACE));
            assert!(may_be_written(target, Level::INFO) && may_be_written(target, Level::ERROR));
        }
        assert!(may_be_written("fabstir_llm_node::crypto", Level::TRACE));
        assert!(may_be_written("hyperion", Level::TRACE));
    }

    #[test]
    fn a_filter_that_cannot_be_read_is_refused() {
        assert!(filter("info,fabstir_llm_node::crypto=debug").is_ok());
        assert!(filter("=nonsense=").is_err());
        for (written, meant) in [("infoo", "info"), ("warn,dbug", "debug"), ("wan", "warn")] {
            let said = filter(written).unwrap_err().to_string();
            assert!(said.ends_with(&format!("did you mean {meant}?")), "{said}");
        }
        for good in [
            "",
            "off",
            "INFO",
            "3",
            "fabstir_llm_node",
            "fabstir_llm_node::tls=debug,warn",
            "[request]=trace",
        ] {
            assert!(filter(good).is_ok(), "{good}");
        }
    }
}
