//! What the binary does beside serving.

use clap::Subcommand;
use jiff::civil::Date;

use crate::admin::{AdminRequest, Shown};

mod keys;

pub use keys::KeysCommand;

/// A task that is not serving.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// What is done here, with the settings of this call
    #[command(flatten)]
    Here(HereCommand),
    /// What a node that runs is asked, at ADMIN_SOCKET
    #[command(flatten)]
    Admin(AdminCommand),
}

/// What is done here, with the settings of this call.
#[derive(Clone, Debug, Subcommand)]
pub enum HereCommand {
    /// The identity key: make, import, show, rotate, back up
    #[command(subcommand)]
    Keys(KeysCommand),
    /// The settings
    #[command(subcommand)]
    Config(ConfigCommand),
}

/// What is done with the settings.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum ConfigCommand {
    /// Say whether the node would start with these settings: keys and TLS files are read, nothing is served
    Check,
}

/// What a node that runs is asked.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum AdminCommand {
    /// Say how the running node does
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// List the sessions of the running node
    Sessions {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Say who used how much of the running node, by day (UTC)
    Usage {
        /// Of this day alone, like 2026-11-25
        #[arg(long)]
        day: Option<Date>,
        /// As CSV
        #[arg(long, conflicts_with = "json")]
        csv: bool,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Have the running node take nothing new, finish its answers and end
    Drain {
        /// Return when it has ended
        #[arg(long)]
        wait: bool,
    },
    /// Have the running node read again what it can: its identity key, which may be the next one, files of certificates, lists of clients
    #[command(visible_alias = "rotate")]
    Reload,
}

impl AdminCommand {
    /// What is asked of the node, and how its answer is shown.
    pub fn request(self) -> (AdminRequest, Shown) {
        let form = |json, csv| match (json, csv) {
            (true, _) => Shown::Json,
            (false, true) => Shown::Csv,
            (false, false) => Shown::Table,
        };
        match self {
            Self::Status { json } => (AdminRequest::Status, form(json, false)),
            Self::Sessions { json } => (AdminRequest::Sessions, form(json, false)),
            Self::Usage { day, csv, json } => (AdminRequest::Usage(day), form(json, csv)),
            Self::Drain { .. } => (AdminRequest::Drain, Shown::Table),
            Self::Reload => (AdminRequest::Reload, Shown::Table),
        }
    }

    /// Whether to return only when the node has ended.
    pub fn waits(self) -> bool {
        matches!(self, Self::Drain { wait: true })
    }
}
