//! Who may come, how many, and how much of each.

use std::{
    collections::HashSet,
    num::{NonZeroU32, NonZeroU64, NonZeroUsize},
    path::PathBuf,
};

use clap::Args;
use fabstir_protocol::ethereum::Address;

use super::ConfigError;
use crate::{
    access::{InvalidList, WatchedList},
    peer::{self, ProxyHeader, TrustedProxies},
    proxy_protocol::ProxyProtocol,
};

/// What was typed of limits.
#[derive(Args, Clone, Debug)]
pub(super) struct LimitArgs {
    /// Origins whose pages may connect, beside the node's own; comma-separated
    #[arg(long, value_delimiter = ',', value_name = "ORIGINS")]
    pub(super) allowed_origins: Vec<String>,
    /// Ethereum addresses of the clients that may open sessions; comma-separated, all if not set
    #[arg(long, value_delimiter = ',', value_name = "ADDRESSES")]
    pub(super) allowed_clients: Vec<String>,
    /// File of clients that may open sessions, beside ALLOWED_CLIENTS: an address or a delegate key a line, # for comments; read again when it changes
    #[arg(long, value_name = "FILE")]
    pub(super) allowed_clients_file: Option<PathBuf>,
    /// File of clients that may not, whatever allows them; of the same form, read again when it changes, and their sessions end
    #[arg(long, value_name = "FILE")]
    pub(super) denied_clients_file: Option<PathBuf>,
    /// Proxies that are believed who sent a request: addresses and networks like 10.0.0.0/8; comma-separated
    #[arg(long, value_delimiter = ',', value_name = "NETWORKS")]
    pub(super) trusted_proxies: Vec<String>,
    /// Header by which they say so; x-forwarded-for if not set
    #[arg(long, value_enum)]
    pub(super) proxy_header: Option<ProxyHeader>,
    /// Whether connections begin with a header of the PROXY protocol (1 or 2) that says who comes: off, or require, and then from TRUSTED_PROXIES alone
    #[arg(long, value_enum, default_value = "off")]
    pub(super) proxy_protocol: ProxyProtocol,
    /// Messages of one session that may wait for its running answer
    #[arg(long, default_value = "8")]
    pub(super) max_queued_messages: NonZeroUsize,
    /// Memory, in MiB, for the requests of all sessions that wait or are being answered
    #[arg(long, value_name = "MIB", default_value = "64")]
    pub(super) max_queued_mib: NonZeroU32,
    /// Sockets that may be open
    #[arg(long, default_value = "1024")]
    pub(super) max_connections: NonZeroUsize,
    /// Sockets that one network (IPv4 address, IPv6 /64) may have open
    #[arg(long, default_value = "128")]
    pub(super) max_connections_per_network: NonZeroUsize,
    /// Seconds that a WebSocket may be open before its first message
    #[arg(long, value_name = "SECONDS", default_value = "120")]
    pub(super) first_message_seconds: NonZeroU64,
    /// Seconds that a WebSocket may be open without a session
    #[arg(long, value_name = "SECONDS", default_value = "600")]
    pub(super) idle_connection_seconds: NonZeroU64,
    /// Sessions that may be held
    #[arg(long, default_value = "10000")]
    pub(super) max_sessions: NonZeroUsize,
    /// Sessions of one connection
    #[arg(long, default_value = "64")]
    pub(super) max_sessions_per_connection: NonZeroUsize,
    /// Sessions of one client address
    #[arg(long, default_value = "1000")]
    pub(super) max_sessions_per_address: NonZeroUsize,
    /// Sessions of one network whose clients have proved no address
    #[arg(long, default_value = "1000")]
    pub(super) max_anonymous_sessions_per_network: NonZeroUsize,
    /// Requests of one client address, or of one network's clients without one, that may wait or be answered at once
    #[arg(long, default_value = "64")]
    pub(super) max_requests_per_address: NonZeroUsize,
    /// Session inits that one network (IPv4 address, IPv6 /64) may send in a minute
    #[arg(long, default_value = "600")]
    pub(super) inits_per_minute: NonZeroU32,
    /// Session inits that one client address may send in a minute
    #[arg(long, default_value = "300")]
    pub(super) inits_per_minute_per_address: NonZeroU32,
    /// Messages that one session may send in a minute
    #[arg(long, default_value = "1200")]
    pub(super) messages_per_minute: NonZeroU32,
    /// Tokens, of prompts and answers together, that one client address, or one network's clients without one, may use in a minute; no limit if not set
    #[arg(long)]
    pub(super) tokens_per_minute: Option<NonZeroU32>,
    /// Challenges that one network may have signed in a minute
    #[arg(long, default_value = "30")]
    pub(super) challenges_per_minute: NonZeroU32,
    /// Largest frame, in bytes
    #[arg(long, value_name = "BYTES", default_value = "1048576")]
    pub(super) max_frame_bytes: NonZeroUsize,
    /// Seconds that a client may leave its answers unread
    #[arg(long, value_name = "SECONDS", default_value = "30")]
    pub(super) send_timeout_seconds: NonZeroU64,
}

/// Whether the node ends TLS itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum OwnTls {
    Yes,
    No,
}

/// Which pages may connect, beside the node's own.
#[derive(Clone, Debug, Default)]
pub struct Origins(HashSet<String>);

impl Origins {
    /// Whether `origin` may talk to a node that was addressed as `host`, and that speaks TLS itself or may have it in front.
    /// Programs that are no browsers send no origin.
    pub fn admit(&self, origin: Option<&str>, host: Option<&str>, tls: OwnTls) -> bool {
        let Some(origin) = origin else { return true };
        // A page in the clear may be anybody's on the way, and is not that of a node that is never in the clear.
        let own = |(scheme, authority)| Some(authority) == host && (tls == OwnTls::No || scheme == "https");
        origin.split_once("://").is_some_and(own) || self.0.contains(origin)
    }
}

pub(super) fn kibibytes(mebibytes: NonZeroU32) -> usize {
    let most = tokio::sync::Semaphore::MAX_PERMITS;
    usize::try_from(mebibytes.get()).unwrap_or(most).saturating_mul(1024).min(most)
}

pub(super) fn clients(listed: &[String]) -> Result<Option<HashSet<Address>>, ConfigError> {
    let read = |text: &String| text.trim().parse().map_err(|_| ConfigError::ClientAddress(text.clone()));
    let addresses: HashSet<Address> = listed.iter().map(read).collect::<Result<_, _>>()?;
    Ok((!addresses.is_empty()).then_some(addresses))
}

impl LimitArgs {
    /// Whether anybody is to be kept out for not being on a list.
    pub(super) fn has_allow_list(&self) -> bool {
        !self.allowed_clients.is_empty() || self.allowed_clients_file.is_some()
    }

    pub(super) fn proxies(&self) -> Result<TrustedProxies, ConfigError> {
        let says_who = [
            ("PROXY_PROTOCOL", self.proxy_protocol == ProxyProtocol::Require),
            ("PROXY_HEADER", self.proxy_header.is_some()),
        ];
        let believed = !self.trusted_proxies.is_empty();
        if let Some((setting, _)) = says_who.into_iter().find(|(_, set)| *set && !believed) {
            return Err(ConfigError::Needs { setting, needed: "TRUSTED_PROXIES" });
        }
        let networks = self.trusted_proxies.iter().map(|text| peer::network(text));
        Ok(TrustedProxies::new(networks.collect::<Result<_, _>>()?, self.proxy_header.unwrap_or_default()))
    }
}

pub(super) fn list(file: Option<PathBuf>) -> Result<Option<WatchedList>, InvalidList> {
    file.map(WatchedList::open).transpose()
}

pub(super) fn origins(listed: Vec<String>) -> Result<Origins, ConfigError> {
    let is_origin = |text: &str| {
        text.split_once("://").is_some_and(|(scheme, host)| {
            !scheme.is_empty() && !host.is_empty() && !host.contains(['/', '?', '#', '*', ' '])
        })
    };
    match listed.iter().find(|text| !is_origin(text.trim())) {
        Some(wrong) => Err(ConfigError::Origin(wrong.clone())),
        None => Ok(Origins(listed.iter().map(|text| text.trim().to_owned()).collect())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_the_nodes_own_or_listed() {
        let origins = origins(vec!["https://app.example".into()]).unwrap();
        let admit = |origin, host| origins.admit(origin, host, OwnTls::No);
        assert!(admit(None, Some("node:8080")));
        assert!(admit(Some("http://node:8080"), Some("node:8080")));
        assert!(admit(Some("https://app.example"), Some("node:8080")));
        assert!(!admit(Some("https://evil.example"), Some("node:8080")));
        assert!(!admit(Some("null"), None));
        assert!(origins.admit(Some("https://node"), Some("node"), OwnTls::Yes));
        assert!(!origins.admit(Some("http://node"), Some("node"), OwnTls::Yes));
    }
}
