//! What was typed ([`Args`]), and what it means ([`Config`]). The environment is an argument.

use std::{
    collections::HashSet,
    ffi::OsString,
    net::SocketAddr,
    num::{NonZeroU32, NonZeroU64, NonZeroUsize},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{ArgAction, Parser, ValueEnum};
use fabstir_custody::Secret;
use fabstir_protocol::{ethereum::Address, v2::Shape};

use crate::{
    access::{InvalidList, WatchedList},
    channel::ChannelLimits,
    command::Command,
    crypto::{ChannelKeyTimes, StoreLimits, TestKeys},
    peer::{InvalidNetwork, TrustedProxies},
    proxy_protocol::ProxyProtocol,
};

mod contradictions;
mod engine;
mod env_file;
mod error;
mod file;
mod keys;
mod limits;
mod operation;
mod settings;
mod tls;

pub use engine::{
    EngineArgs, EngineConfig, EngineKind, FlashAttentionMode, KvTypeName, ModelSetting, UpstreamSettings,
};
pub use env_file::EnvFile;
pub use error::ConfigError;
pub use file::{At, ConfigFile, ConfigFileError, InFile};
use keys::KeyArgs;
pub use keys::{CREDENTIAL, KeySources};
use limits::{LimitArgs, clients, kibibytes, list, origins};
pub use limits::{Origins, OwnTls};
pub use operation::LogFormat;
use operation::OperationArgs;
pub use settings::{DEFAULT_FILE, Layers, Origin, Setting, Settings, SettingsError, Stray};
use tls::TlsArgs;
pub use tls::{
    AcmeConfig, CertificateSource, ClientAuth, ClientCertificates, Exposure, TlsConfig, TlsSettingsError,
    TlsVersion,
};

/// The one setting that is no flag, because flags show in the process list.
pub const HOST_PRIVATE_KEY: &str = "HOST_PRIVATE_KEY";

/// Settings that keep people out. Empty, say from a failed command substitution, they stop the start.
const RESTRICTING: &[&str] = &[
    "ALLOWED_CLIENTS",
    "ALLOWED_CLIENTS_FILE",
    "DENIED_CLIENTS_FILE",
    "REQUIRE_ENCRYPTION",
    "REQUIRE_INIT_TIMESTAMP",
    "MIN_PROTOCOL",
    "ALLOW_ANONYMOUS",
    "TLS_CLIENT_CA_FILE",
    "TLS_CLIENT_PINS_FILE",
    "TLS_CLIENT_CRL_FILE",
    "TLS_CLIENT_AUTH",
];

const AFTER_HELP: &str = "\
Every flag is also an environment variable: --listen-addr is LISTEN_ADDR; and a line of the configuration file: \
listen_addr = \"...\". A flag wins over the environment, the environment over a file .env in the working directory, \
that over the configuration file. `config show` says what is set where, and `init` makes a key, a configuration file \
and a service of systemd's.

HOST_PRIVATE_KEY, in the environment only: the node's identity, 0x and 64 hex digits; or one of the settings that say \
where it is (a file, a command, a keystore, a hardware token). Without a key the node serves plaintext and refuses \
encrypted frames. Make one with: fabstir-llm-node keys new";

/// Serve a language model over end-to-end encrypted WebSocket sessions.
#[derive(Clone, Debug, Parser)]
#[command(name = "fabstir-llm-node", version, after_help = AFTER_HELP, args_override_self = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// The configuration file, in TOML; by default fabstir-llm-node.toml in the working directory, if it is there
    #[arg(long, value_name = "FILE", global = true)]
    config_file: Option<PathBuf>,
    /// Address and port to listen on
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen_addr: SocketAddr,
    #[command(flatten)]
    tls: TlsArgs,
    #[command(flatten)]
    engine: EngineArgs,
    /// Seconds that an idle session keeps its key
    #[arg(long, value_name = "SECONDS", default_value = "3600")]
    session_key_ttl_seconds: NonZeroU64,
    /// Seconds that a conversation may last in all
    #[arg(long, value_name = "SECONDS", default_value = "86400")]
    session_max_seconds: NonZeroU64,
    /// Seconds that a conversation outlives its connection; 0 ends it with the connection
    #[arg(long, value_name = "SECONDS", default_value = "60")]
    conversation_grace_seconds: u64,
    /// Instructions for the model where a request brings none
    #[arg(long)]
    default_system_prompt: Option<String>,
    /// Oldest version of the protocol that is served: 1, or 2 for forward-secret channels alone
    #[arg(long, default_value = "1", value_parser = clap::value_parser!(u16).range(1..=2))]
    min_protocol: u16,
    /// Whether clients without a wallet may open channels (version 2); by default while no ALLOWED_CLIENTS or file of them is set
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    allow_anonymous: Option<bool>,
    /// Least shaping of version 2's traffic: off lets a client do without, bucket hides lengths whatever it asks for
    #[arg(long, value_enum, default_value = "off")]
    min_shape: LeastShape,
    /// Largest request of version 2, in bytes
    #[arg(long, value_name = "BYTES", default_value = "1048576")]
    max_request_bytes: NonZeroUsize,
    /// Serve plaintext frames although there is a key
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    allow_plaintext: bool,
    /// Refuse to start without a key
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    require_encryption: bool,
    /// Refuse session inits without a timestamp, and those from before the node's start
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    require_init_timestamp: bool,
    /// Accept private keys that are published in documentation
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    allow_test_keys: bool,
    /// Let debuggers and core dumps of this process's owner read its memory
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    allow_debugging: bool,
    /// Challenges that are signed: on (with context), legacy (any, a signing oracle: see docs/api.md), off
    #[arg(long, value_enum, default_value = "on")]
    challenge: ChallengeMode,
    /// Chain of the node's identity, and the one that acks name where the client names none; 0 if not set
    #[arg(long, value_parser = clap::value_parser!(u64).range(..=9_007_199_254_740_991))]
    chain_id: Option<u64>,
    #[command(flatten)]
    keys: KeyArgs,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    operation: OperationArgs,
}

/// The least that is done against the reading of lengths.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum LeastShape {
    /// What the client asks for.
    Off,
    /// Buckets.
    Bucket,
}

/// Which challenges are signed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum ChallengeMode {
    /// Those that name the context.
    On,
    /// Those of old clients too.
    Legacy,
    /// None.
    Off,
}

/// What the node runs with: parsed, complete, built once.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each is explained at the flag of the same name")]
pub struct Config {
    pub listen: SocketAddr,
    /// `None` speaks plain HTTP.
    pub tls: Option<TlsConfig>,
    pub exposure: Exposure,
    pub engine: EngineConfig,
    pub store: StoreLimits,
    pub sweep_interval: Duration,
    /// 1 or 2.
    pub min_protocol: u16,
    pub allow_anonymous: bool,
    pub min_shape: Shape,
    pub channels: ChannelLimits,
    pub channel_key_times: ChannelKeyTimes,
    /// How long the identity before goes on beside the next one.
    pub key_overlap: Duration,
    pub test_keys: TestKeys,
    pub allow_debugging: bool,
    pub max_tokens_per_request: Option<u32>,
    pub default_system_prompt: Option<String>,
    pub allow_plaintext: bool,
    pub require_init_timestamp: bool,
    pub challenge: ChallengeMode,
    pub chain_id: Option<u64>,
    pub allowed_origins: Origins,
    /// `None` admits everybody.
    pub allowed_clients: Option<HashSet<Address>>,
    pub allowed_clients_file: Option<WatchedList>,
    pub denied_clients_file: Option<WatchedList>,
    pub trusted_proxies: TrustedProxies,
    pub proxy_protocol: ProxyProtocol,
    pub max_queued_messages: usize,
    pub max_queued_kibibytes: usize,
    pub max_connections: usize,
    pub max_connections_per_network: usize,
    pub first_message: Duration,
    pub idle_connection: Duration,
    pub max_sessions_per_address: usize,
    pub max_anonymous_sessions_per_network: usize,
    pub max_requests_per_address: usize,
    pub inits_per_minute: NonZeroU32,
    pub inits_per_minute_per_address: NonZeroU32,
    pub messages_per_minute: NonZeroU32,
    pub tokens_per_minute: Option<NonZeroU32>,
    pub challenges_per_minute: NonZeroU32,
    pub max_frame_bytes: usize,
    pub send_timeout: Duration,
    pub drain: Duration,
    /// How long a drain lasts at least.
    pub drain_at_least: Duration,
    /// How long a waiting client is left without a frame.
    pub keep_alive: Duration,
    /// How often an idle connection is pinged; after three silent ones it is closed.
    pub ping_interval: Duration,
    /// How long a request's header may take.
    pub header_timeout: Duration,
    /// Zero waits for ever.
    pub watchdog_engine: Duration,
    pub admin_socket: Option<PathBuf>,
    pub metrics_listen: Option<SocketAddr>,
    pub usage_dir: Option<PathBuf>,
    pub rust_log: String,
    pub log_format: LogFormat,
}

impl Args {
    /// Reads flags, the environment where a flag is missing, and the file that one of them names.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub fn read(
        argv: impl IntoIterator<Item = OsString>,
        env: &impl Fn(&str) -> Option<String>,
    ) -> Result<Self, SettingsError> {
        Settings::read(argv, &Layers::environment(env)).map(|settings| settings.args)
    }

    /// What is to be done instead of serving.
    pub fn take_command(&mut self) -> Option<Command> {
        self.command.take()
    }

    /// Where a node that runs listens for its operator.
    pub fn admin_socket(&self) -> Option<&Path> {
        self.operation.admin_socket.as_deref()
    }

    /// Says what the settings mean together. `key` is [`HOST_PRIVATE_KEY`], which is no flag; `credentials` is systemd's
    /// `CREDENTIALS_DIRECTORY`.
    ///
    /// # Errors
    /// [`ConfigError`]: a setting that means nothing, or two that contradict each other.
    #[expect(clippy::too_many_lines, reason = "a line for each setting")]
    pub fn resolve(
        self,
        key: Option<Secret>,
        credentials: Option<&Path>,
    ) -> Result<(Config, KeySources), ConfigError> {
        let key_overlap = Duration::from_secs(self.keys.key_overlap_seconds.get());
        let keys = self.keys.clone().resolve(key, credentials)?;
        self.refuse_contradictions(keys.current.is_some())?;
        let anonymous = self.allow_anonymous.unwrap_or(!self.limits.has_allow_list());
        let trusted_proxies = self.limits.proxies()?;
        let store = self.store();
        let channels = self.channels();
        let send_timeout = Duration::from_secs(self.limits.send_timeout_seconds.get());
        let most_tokens = self.engine.max_tokens_per_request.map(NonZeroU32::get);
        let config = Config {
            listen: self.listen_addr,
            exposure: self.tls.exposure(),
            tls: self.tls.resolve(self.listen_addr)?,
            engine: self.engine.resolve(send_timeout)?,
            store,
            sweep_interval: Duration::from_secs(1),
            min_protocol: self.min_protocol,
            allow_anonymous: anonymous,
            min_shape: match self.min_shape {
                LeastShape::Off => Shape::Off,
                LeastShape::Bucket => Shape::Bucket,
            },
            channels,
            channel_key_times: ChannelKeyTimes::default(),
            key_overlap,
            allow_debugging: self.allow_debugging,
            test_keys: if self.allow_test_keys { TestKeys::Allowed } else { TestKeys::Refused },
            max_tokens_per_request: most_tokens,
            default_system_prompt: self.default_system_prompt,
            allow_plaintext: self.allow_plaintext,
            require_init_timestamp: self.require_init_timestamp,
            challenge: self.challenge,
            chain_id: self.chain_id,
            allowed_origins: origins(self.limits.allowed_origins)?,
            allowed_clients: clients(&self.limits.allowed_clients)?,
            allowed_clients_file: list(self.limits.allowed_clients_file).map_err(ConfigError::AllowedFile)?,
            denied_clients_file: list(self.limits.denied_clients_file).map_err(ConfigError::DeniedFile)?,
            trusted_proxies,
            proxy_protocol: self.limits.proxy_protocol,
            max_queued_messages: self.limits.max_queued_messages.get(),
            max_queued_kibibytes: kibibytes(self.limits.max_queued_mib),
            max_connections: self.limits.max_connections.get(),
            max_connections_per_network: self.limits.max_connections_per_network.get(),
            first_message: Duration::from_secs(self.limits.first_message_seconds.get()),
            idle_connection: Duration::from_secs(self.limits.idle_connection_seconds.get()),
            max_sessions_per_address: self.limits.max_sessions_per_address.get(),
            max_anonymous_sessions_per_network: self.limits.max_anonymous_sessions_per_network.get(),
            max_requests_per_address: self.limits.max_requests_per_address.get(),
            inits_per_minute: self.limits.inits_per_minute,
            inits_per_minute_per_address: self.limits.inits_per_minute_per_address,
            messages_per_minute: self.limits.messages_per_minute,
            tokens_per_minute: self.limits.tokens_per_minute,
            challenges_per_minute: self.limits.challenges_per_minute,
            max_frame_bytes: self.limits.max_frame_bytes.get(),
            send_timeout,
            drain: Duration::from_secs(self.operation.drain_seconds),
            drain_at_least: Duration::from_secs(self.operation.drain_at_least_seconds),
            keep_alive: Duration::from_secs(20),
            ping_interval: Duration::from_secs(15),
            header_timeout: Duration::from_secs(10),
            watchdog_engine: Duration::from_secs(self.operation.watchdog_engine_seconds),
            admin_socket: self.operation.admin_socket,
            metrics_listen: self.operation.metrics_listen,
            usage_dir: self.operation.usage_dir,
            rust_log: self.operation.rust_log,
            log_format: self.operation.log_format,
        };
        Ok((config, keys))
    }

    fn store(&self) -> StoreLimits {
        StoreLimits {
            sessions: self.limits.max_sessions.get(),
            per_connection: self.limits.max_sessions_per_connection.get(),
            ttl: Duration::from_secs(self.session_key_ttl_seconds.get()),
            session_max: Duration::from_secs(self.session_max_seconds.get()),
            grace: Duration::from_secs(self.conversation_grace_seconds),
        }
    }

    fn channels(&self) -> ChannelLimits {
        ChannelLimits {
            sessions: self.limits.max_sessions.get(),
            max_request_bytes: self.max_request_bytes.get(),
            max_requests: self.limits.max_queued_messages.get().saturating_add(1),
            handshake: Duration::from_secs(10),
            grace: Duration::from_secs(15),
            keep: Duration::from_secs(60),
            ticket: Duration::from_secs(600),
            idle: Duration::from_secs(self.session_key_ttl_seconds.get()),
            longest: Duration::from_secs(self.session_max_seconds.get()),
        }
    }
}

#[cfg(test)]
mod tests;
