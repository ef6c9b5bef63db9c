//! The log. Goes to stdout, as the specification's own commands expect; without colour off a terminal.

use std::io::IsTerminal as _;

use tracing_subscriber::{EnvFilter, filter::ParseError};

use crate::config::{Config, LogFormat};

/// Dependencies that would write what passes through them. Capped, whatever the filter says.
const CAPPED: &[&str] =
    &["tungstenite=info", "tokio_tungstenite=info", "hyper=info", "hyper_util=info", "h2=info"];

/// llama.cpp reports a hundred lines at every start. They are shown to who asks for them by this name.
const LLAMA: &str = "llama-cpp-2";

/// The filter that `directives` asks for, with the caps on top.
///
/// # Errors
/// Where `directives` is not in the language of `EnvFilter`.
pub fn filter(directives: &str) -> Result<EnvFilter, ParseError> {
    let mut filter = EnvFilter::builder().parse(directives)?;
    for cap in CAPPED {
        filter = filter.add_directive(cap.parse()?);
    }
    if !directives.contains(LLAMA) {
        filter = filter.add_directive(format!("{LLAMA}=warn").parse()?);
    }
    Ok(filter)
}

/// Starts logging.
///
/// # Errors
/// Where `RUST_LOG` cannot be read.
pub fn start(config: &Config) -> Result<(), ParseError> {
    let colour = std::io::stdout().is_terminal();
    // Where the log's reader has gone, the complaint about it would go the same way, and panic.
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter(&config.rust_log)?)
        .with_ansi(colour)
        .log_internal_errors(false);
    match config.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    Ok(())
}
