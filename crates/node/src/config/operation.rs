//! How the node is run and watched.

use clap::{Args, ValueEnum};

/// What was typed of running it.
#[derive(Args, Clone, Debug)]
pub(super) struct OperationArgs {
    /// Seconds that running answers get to finish on SIGTERM
    #[arg(long, value_name = "SECONDS", default_value = "30")]
    pub(super) drain_seconds: u64,
    /// What is logged, as tracing's EnvFilter has it
    #[arg(long, default_value = "info")]
    pub(super) rust_log: String,
    /// How it is logged
    #[arg(long, value_enum, default_value = "text")]
    pub(super) log_format: LogFormat,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}
