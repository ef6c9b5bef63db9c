//! How the node is run and watched.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, ValueEnum};

/// What was typed of running it.
#[derive(Args, Clone, Debug)]
pub(super) struct OperationArgs {
    /// Seconds that running answers get to finish on SIGTERM
    #[arg(long, value_name = "SECONDS", default_value = "30")]
    pub(super) drain_seconds: u64,
    /// Seconds that a drain lasts at least: until a balancer has seen it, who comes is told so and not turned away
    #[arg(long, value_name = "SECONDS", default_value = "0")]
    pub(super) drain_at_least_seconds: u64,
    /// Seconds that the engine may be out of order before systemd's watchdog is left to end the process; 0 leaves it to the engine
    #[arg(long, value_name = "SECONDS", default_value = "300")]
    pub(super) watchdog_engine_seconds: u64,
    /// A path for the socket at which the node listens for its operator; without one it does not
    #[arg(long, value_name = "PATH", global = true)]
    pub(super) admin_socket: Option<PathBuf>,
    /// Address and port for the metrics alone; by default LISTEN_ADDR serves them, to this machine only
    #[arg(long, value_name = "ADDRESS")]
    pub(super) metrics_listen: Option<SocketAddr>,
    /// A folder in which the usage of each day is kept; without one it is known since the start
    #[arg(long, value_name = "FOLDER")]
    pub(super) usage_dir: Option<PathBuf>,
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
