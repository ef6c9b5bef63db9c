//! What the binary does beside serving.

use std::{
    ffi::OsString,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use clap::{CommandFactory as _, Subcommand};
use fabstir_custody::Secret;
use fabstir_manual::ManualCommand;
use jiff::civil::Date;

use crate::{
    admin::{self, AdminRequest, Shown},
    config::{Args, Config, ConfigError, KeySources, Layers, Origin, Settings, Stray},
};

mod config;
mod init;
mod keys;
mod top;

pub use config::ConfigCommand;
pub use init::InitCommand;
pub use keys::KeysCommand;
pub use top::TopCommand;

/// A task that is not serving.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// What is done here, with the settings of this call
    #[command(flatten)]
    Here(HereCommand),
    /// What a node that runs is asked, at ADMIN_SOCKET
    #[command(flatten)]
    Admin(AdminCommand),
    /// What a shell and `man` say of this program, whatever is set
    #[command(flatten)]
    Manual(ManualCommand),
}

impl Command {
    /// What was asked for, where that needs no setting: a shell that reads completions at its start must not fall over a `.env`.
    #[must_use]
    pub fn without_settings(argv: impl IntoIterator<Item = OsString>) -> Option<ManualCommand> {
        let mut settings = Settings::read(argv, &Layers::environment(&|_| None)).ok()?;
        match settings.args.take_command() {
            Some(Self::Manual(command)) => Some(command),
            Some(Self::Here(_) | Self::Admin(_)) | None => None,
        }
    }

    /// What a node that runs was asked, and where, where that is all that can be read: a slip in the settings that it does
    /// not run with yet must not take its desk away.
    #[must_use]
    pub fn whatever_is_set(
        argv: impl IntoIterator<Item = OsString>,
        set: &dyn Fn(&str) -> Option<String>,
    ) -> Option<(AdminCommand, Option<PathBuf>)> {
        let socket = |name: &str| set(name).filter(|_| name == "ADMIN_SOCKET");
        let mut settings = Settings::read(argv, &Layers::environment(&socket)).ok()?;
        match settings.args.take_command() {
            Some(Self::Admin(command)) => Some((command, settings.args.admin_socket().map(Path::to_owned))),
            Some(Self::Here(_) | Self::Manual(_)) | None => None,
        }
    }
}

/// Writes completions or man pages of this program.
///
/// # Errors
/// Where they cannot be written.
pub fn describe(command: ManualCommand) -> anyhow::Result<()> {
    Ok(command.run(Args::command(), &mut io::stdout().lock())?)
}

/// What is done here, with the settings of this call.
#[derive(Clone, Debug, Subcommand)]
pub enum HereCommand {
    /// The identity key: make, import, show, rotate, back up
    #[command(subcommand)]
    Keys(KeysCommand),
    /// The settings: show where each is set, check them
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Make what a node starts with: a key, a configuration file and a service of systemd's
    Init(InitCommand),
}

/// What a call of the binary brings with it.
#[derive(Debug)]
pub struct Call {
    /// What was set.
    pub settings: Settings,
    /// The identity key itself, where it came as a text, and from where.
    pub key: Option<(Secret, Origin)>,
    /// systemd's folder of secrets.
    pub credentials: Option<PathBuf>,
    /// Variables that may be misspelt.
    pub strays: Vec<Stray>,
}

impl Call {
    /// What the settings mean.
    ///
    /// # Errors
    /// [`ConfigError`]
    pub fn resolve(self) -> Result<(Config, KeySources), ConfigError> {
        let key = self.key.map(|(key, _)| key);
        self.settings.args.resolve(key, self.credentials.as_deref())
    }
}

impl HereCommand {
    /// Does it.
    ///
    /// # Errors
    /// What went wrong, in words for whoever typed the command.
    pub fn run(self, call: Call) -> anyhow::Result<()> {
        match self {
            Self::Keys(command) => {
                let (config, sources) = call.resolve()?;
                command.run(&config, &sources)
            }
            Self::Config(command) => command.run(call),
            Self::Init(command) => command.run(&call),
        }
    }
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
    /// Print the metrics of the running node, in Prometheus's format
    Metrics,
    /// Show the running node on one screen: sessions, queue, slots, tokens, limits hit
    Top(TopCommand),
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
    /// Asks the node that listens at `socket`, and shows what it answers.
    ///
    /// # Errors
    /// What went wrong, in words for whoever typed the command.
    pub async fn run(self, socket: Option<&Path>) -> anyhow::Result<()> {
        if let Self::Top(top) = self {
            return top.run(socket).await;
        }
        let Some((request, shown)) = self.request() else { return Ok(()) };
        let socket = socket.map(Path::to_owned).or_else(admin::usual_socket);
        let answer = admin::ask(socket.as_deref(), request, shown).await?;
        writeln!(io::stdout(), "{}", answer.trim_end())?;
        if let Some(socket) = socket.as_deref().filter(|_| self.waits()) {
            admin::wait_until_gone(socket).await;
        }
        Ok(())
    }

    /// What is asked of the node once, and how its answer is shown.
    fn request(self) -> Option<(AdminRequest, Shown)> {
        let form = |json, csv| match (json, csv) {
            (true, _) => Shown::Json,
            (false, true) => Shown::Csv,
            (false, false) => Shown::Table,
        };
        Some(match self {
            Self::Status { json } => (AdminRequest::Status, form(json, false)),
            Self::Sessions { json } => (AdminRequest::Sessions, form(json, false)),
            Self::Usage { day, csv, json } => (AdminRequest::Usage(day), form(json, csv)),
            Self::Metrics => (AdminRequest::Metrics, Shown::Table),
            Self::Drain { .. } => (AdminRequest::Drain, Shown::Table),
            Self::Reload => (AdminRequest::Reload, Shown::Table),
            Self::Top(_) => return None,
        })
    }

    /// Whether to return only when the node has ended.
    fn waits(self) -> bool {
        matches!(self, Self::Drain { wait: true })
    }
}
