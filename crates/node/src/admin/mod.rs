//! The operator's own way to a node that runs: ADMIN_SOCKET, a Unix socket that nobody else may use, HTTP and JSON on it.

mod client;
mod server;
mod socket;

use std::time::Duration;

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

pub use client::{AdminError, Shown, ask, usual_socket, wait_until_gone};
pub(crate) use client::{fetch, harmless};
pub use server::serve;
pub use socket::{AdminSocket, SocketError};

use crate::ledger::{DayOfUsage, SessionLine};
use crate::reload::Reloaded;

/// How long the node may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// The same where the node may wait for a token, a command, many files.
const PATIENCE_FOR_FILES: Duration = Duration::from_secs(60);

/// What an operator may ask of a node. One more is one more here, with a route and a method, and an arm in the server's
/// `answer`: the compiler names the places.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AdminRequest {
    /// How it does.
    Status,
    /// Who is there.
    Sessions,
    /// Who used how much, in a day or in all that are remembered.
    Usage(Option<Date>),
    /// What is counted and measured.
    Metrics,
    /// Take nothing new, finish what runs, and end.
    Drain,
    /// Read again what can be.
    Reload,
}

/// A request is a method and a path.
pub(crate) struct Route {
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
}

impl AdminRequest {
    /// Every one of them, as it stands on the socket.
    pub(crate) const ALL: [Self; 6] =
        [Self::Status, Self::Sessions, Self::Usage(None), Self::Metrics, Self::Drain, Self::Reload];

    /// How long its answer may take.
    fn patience(self) -> Duration {
        match self {
            Self::Status | Self::Sessions | Self::Metrics | Self::Drain => PATIENCE,
            Self::Usage(_) | Self::Reload => PATIENCE_FOR_FILES,
        }
    }

    pub(crate) fn route(self) -> Route {
        let (method, path) = match self {
            Self::Status => ("GET", "/status"),
            Self::Sessions => ("GET", "/sessions"),
            Self::Usage(_) => ("GET", "/usage"),
            Self::Metrics => ("GET", "/metrics"),
            Self::Drain => ("POST", "/drain"),
            Self::Reload => ("POST", "/reload"),
        };
        Route { method, path }
    }

    /// The path with what else is asked.
    pub(crate) fn target(self) -> String {
        let path = self.route().path;
        match self {
            Self::Usage(Some(day)) => format!("{path}?day={day}"),
            Self::Status
            | Self::Sessions
            | Self::Usage(None)
            | Self::Metrics
            | Self::Drain
            | Self::Reload => path.to_owned(),
        }
    }
}

/// How the node does.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Status {
    /// Its version.
    pub version: String,
    /// `serving`, `draining`, `engine not ready`, or `key not ready`.
    pub state: String,
    /// Its process.
    pub pid: u32,
    /// Seconds since the start.
    pub uptime_seconds: u64,
    /// Its address, where it has a key.
    pub address: Option<String>,
    /// The models, by name.
    pub models: Vec<String>,
    /// Sockets that are open.
    pub connections: usize,
    /// Sessions that are open.
    pub sessions: usize,
    /// Requests that wait for the engine.
    pub waiting: usize,
    /// Requests that are being answered.
    pub running: usize,
    /// Times that the engine was started again.
    pub engine_restarts: u64,
}

/// What the node answers.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AdminAnswer {
    /// How it does.
    Status(Status),
    /// Who is there.
    Sessions(Vec<SessionLine>),
    /// Who used how much.
    Usage(Vec<DayOfUsage>),
    /// What is counted and measured, in Prometheus's text format.
    Metrics(String),
    /// It drains, for so many seconds at most.
    Draining {
        /// DRAIN_SECONDS.
        seconds: u64,
    },
    /// What was read again.
    Reloaded(Vec<Reloaded>),
    /// It does not.
    Refused {
        /// Why.
        message: String,
    },
}
