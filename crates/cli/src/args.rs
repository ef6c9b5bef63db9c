//! What can be typed.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Parser, Subcommand};
use fabstir_manual::ManualCommand;
use fabstir_protocol::{ethereum::Address, v2::MAX_DELEGATION_SECONDS};
use url::Url;

use crate::identity::Pin;

const EXIT_CODES: &str = "\
Exit codes:
    0  ok
    1  refused by the node, or failed there (the code is shown)
    2  wrong usage, or a file that cannot be used
    3  cannot connect
    4  the node's identity is unknown, or has changed
    5  a frame did not open, or the answer was cut off, or the node fell silent
  130  interrupted";

const ATTACK: &str = "\
The node is asked some thousand short questions, so let it be one of your own that nobody else uses.
It must answer alike each time: ENGINE=echo, or a model at temperature 0.
INITS_PER_MINUTE=6000 and SESSION_KEY_TTL_SECONDS=600 in the node's settings save waiting. docs/attacks.md says what is done.

Exit code 0: no attack was accepted. With --reference: every attack that must succeed there did.";

/// Ask a node over an end-to-end encrypted session.
#[derive(Debug, Parser)]
#[command(name = "fabstir", version, after_help = EXIT_CODES)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Ask one question; the answer streams to standard output
    #[command(after_help = EXIT_CODES)]
    Ask(Ask),
    /// Converse in one session
    #[command(after_help = EXIT_CODES)]
    Chat(Chat),
    /// Serve OpenAI's and Anthropic's API to the programs of this machine; what they ask goes sealed to the node
    Proxy(Proxy),
    /// Check the way to a node step by step, and say what is wrong with it
    #[command(after_help = EXIT_CODES)]
    Doctor(Doctor),
    /// Make, show or delegate the key that signs your sessions
    #[command(subcommand)]
    Keys(Keys),
    /// Play somebody in the middle, between clients of this program's and a node of your own
    #[command(after_help = ATTACK)]
    Attack(Attack),
    /// Show what an outsider sees of a captured session
    Inspect {
        /// A file that --capture wrote
        file: PathBuf,
    },
    #[command(flatten)]
    Manual(ManualCommand),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Ask {
    #[command(flatten)]
    pub(crate) connection: Connection,
    #[command(flatten)]
    pub(crate) asked: Asked,
    /// Write one JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
    /// After the answer, write tokens and times to standard error
    #[arg(long)]
    pub(crate) stats: bool,
    /// What to ask; absent or `-`: read from standard input
    pub(crate) prompt: Option<String>,
}

/// Whom to attack, and how.
#[derive(Debug, clap::Args)]
pub(crate) struct Attack {
    /// The node: ws://host:port/v1/ws
    #[arg(long, value_name = "URL", value_parser = plain_url, required_unless_present = "reference")]
    pub(crate) node: Option<Url>,
    /// The node's identity: its address or, which version 1 needs, its public key
    #[arg(long, value_name = "HEX", required_unless_present = "reference")]
    pub(crate) node_key: Option<Pin>,
    /// Version of the protocol
    #[arg(long, value_name = "N", default_value = "2", value_parser = clap::value_parser!(u8).range(1..=2))]
    pub(crate) protocol: u8,
    /// Attack the guide's protocol as it was before it was mended, in this process: it must fall
    #[arg(long, conflicts_with_all = ["node", "node_key", "protocol"])]
    pub(crate) reference: bool,
    /// Only attacks of this class; may be given several times
    #[arg(long, value_name = "CLASS")]
    pub(crate) class: Vec<String>,
    /// Attacks side by side
    #[arg(long, value_name = "N", default_value = "4", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) parallel: u8,
    /// Write each attack and what came of it
    #[arg(long)]
    pub(crate) list: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Chat {
    #[command(flatten)]
    pub(crate) connection: Connection,
    #[command(flatten)]
    pub(crate) asked: Asked,
}

/// What to check.
#[derive(Debug, clap::Args)]
pub(crate) struct Doctor {
    #[command(flatten)]
    pub(crate) connection: Connection,
    /// Where the proxy of this machine listens, if it runs
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8787")]
    pub(crate) proxy: SocketAddr,
    /// Write one JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
}

/// Where the proxy listens, and for whom.
#[derive(Debug, clap::Args)]
pub(crate) struct Proxy {
    /// The node: ws://host:port/v1/ws; may be given several times, and the first that can be reached is asked
    #[arg(long, value_name = "URL", value_parser = node_url, required_unless_present = "env")]
    pub(crate) node: Vec<Url>,
    /// The identities of the nodes, in their order: address (0x and 40 hex digits) or public key (33 bytes in hex); absent:
    /// as known_nodes has it
    #[arg(long, value_name = "HEX")]
    pub(crate) node_key: Vec<Pin>,
    #[command(flatten)]
    pub(crate) how: Access,
    /// Where to listen, on this machine alone
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8787")]
    pub(crate) listen: SocketAddr,
    /// Ask for no token: every program and every user of this machine may then ask in your name
    #[arg(long)]
    pub(crate) no_auth: bool,
    /// Print the settings by which their clients find the proxy, and end: eval "$(fabstir proxy --env)"
    #[arg(long, conflicts_with = "node")]
    pub(crate) env: bool,
}

/// Which node, who asks, and who looks on.
#[derive(Debug, clap::Args)]
pub(crate) struct Connection {
    /// The node: ws://host:port/v1/ws, or wss://
    #[arg(long, value_name = "URL", value_parser = node_url)]
    pub(crate) node: Url,
    /// The node's identity: its address (0x and 40 hex digits) or its public key (33 bytes in hex); absent: as known_nodes has it
    #[arg(long, value_name = "HEX")]
    pub(crate) node_key: Option<Pin>,
    #[command(flatten)]
    pub(crate) how: Access,
}

/// What is believed of a node, who asks, and who looks on.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Access {
    /// Believe a node that is not known, and remember it, without asking
    #[arg(long)]
    pub(crate) trust_first_use: bool,
    /// The nodes that are known [default: known_nodes in the configuration directory]
    #[arg(long, value_name = "FILE", env = "FABSTIR_KNOWN_NODES")]
    pub(crate) known_nodes: Option<PathBuf>,
    /// Whom to believe where the address is wss://: certificates of authorities in PEM [default: those of this machine]
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// What to show to a node that asks for a certificate (mutual TLS): the certificate in PEM, and its key where --client-key-file
    /// has not got it
    #[arg(long, value_name = "FILE")]
    pub(crate) client_cert_file: Option<PathBuf>,
    /// The key of --client-cert-file in PEM
    #[arg(long, value_name = "FILE", requires = "client_cert_file")]
    pub(crate) client_key_file: Option<PathBuf>,
    /// Your wallet's private key [default: client.key in the configuration directory, made at first use]
    #[arg(long, value_name = "FILE", env = "FABSTIR_KEY_FILE")]
    pub(crate) key_file: Option<PathBuf>,
    /// A key that your wallet delegated to, made by `fabstir keys delegate`, instead of the wallet's own
    #[arg(long, value_name = "FILE", env = "FABSTIR_DELEGATE", conflicts_with = "key_file")]
    pub(crate) delegate: Option<PathBuf>,
    /// Show no wallet: a fresh key for this session alone
    #[arg(long, conflicts_with_all = ["key_file", "delegate"])]
    pub(crate) anonymous: bool,
    /// Version of the protocol. 1 has no forward secrecy, and is for nodes that have nothing newer
    #[arg(long, value_name = "N", default_value = "2", value_parser = clap::value_parser!(u8).range(1..=2))]
    pub(crate) protocol: u8,
    /// How lengths are hidden: bucket rounds them up, off does not
    #[arg(long, value_enum, default_value = "bucket")]
    pub(crate) shape: ShapeName,
    /// Write every frame as it is on the wire, for `fabstir inspect`
    #[arg(long, value_name = "FILE")]
    pub(crate) capture: Option<PathBuf>,
}

/// How lengths are hidden.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub(crate) enum ShapeName {
    Bucket,
    Off,
}

/// How to answer. What is not given is the node's choice.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Asked {
    /// What the model is told before the conversation
    #[arg(long)]
    pub(crate) system: Option<String>,
    /// Most tokens of an answer
    #[arg(long, value_name = "N")]
    pub(crate) max_tokens: Option<u32>,
    /// 0 is greedy
    #[arg(long, value_name = "T")]
    pub(crate) temperature: Option<f32>,
    /// The same seed gives the same answer
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u32>,
    /// The model
    #[arg(long)]
    pub(crate) model: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Keys {
    /// Make a key
    New {
        /// Where [default: client.key in the configuration directory]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Replace a key that is there: it is lost
        #[arg(long)]
        force: bool,
        /// Print the private key too
        #[arg(long)]
        show_private: bool,
    },
    /// Make a key for this machine that speaks for your wallet, for a time: the wallet signs once, not every session
    Delegate(Delegate),
    /// Print the address and public key of a key
    Show {
        /// Which [default: client.key in the configuration directory]
        #[arg(env = "FABSTIR_KEY_FILE")]
        file: Option<PathBuf>,
    },
}

/// Who signs, for how long, for whom.
#[derive(Debug, clap::Args)]
pub(crate) struct Delegate {
    /// Your wallet's private key
    #[arg(long, value_name = "FILE")]
    pub(crate) wallet: Option<PathBuf>,
    /// Your wallet's keystore (Ethereum's version 3)
    #[arg(long, value_name = "FILE", conflicts_with = "wallet")]
    pub(crate) keystore: Option<PathBuf>,
    /// A file with the keystore's password
    #[arg(long, value_name = "FILE", requires = "keystore")]
    pub(crate) password_file: Option<PathBuf>,
    /// Your wallet's address, where it signs elsewhere: the typed data to sign is printed
    #[arg(long, value_name = "ADDRESS", conflicts_with_all = ["wallet", "keystore"])]
    pub(crate) address: Option<Address>,
    /// The signature that was made elsewhere of what an earlier call printed
    #[arg(long, value_name = "HEX", conflicts_with_all = ["wallet", "keystore", "address", "lifetime", "node"])]
    pub(crate) signature: Option<String>,
    /// How long it lasts, at most 30d: 12h, 7d
    #[arg(long = "for", value_name = "TIME", default_value = "1d", value_parser = lifetime)]
    pub(crate) lifetime: u64,
    /// The only node that may be spoken to with it
    #[arg(long, value_name = "ADDRESS", required_unless_present_any = ["any_node", "signature"])]
    pub(crate) node: Option<Address>,
    /// Let it speak to any node
    #[arg(long, conflicts_with = "node")]
    pub(crate) any_node: bool,
    /// Where [default: delegate.json in the configuration directory]
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Replace a delegate that is there: it is lost
    #[arg(long)]
    pub(crate) force: bool,
}

fn lifetime(text: &str) -> Result<u64, &'static str> {
    const FORM: &str = "not a time like 12h or 7d";
    let unit = text.chars().last().ok_or(FORM)?;
    let seconds: u64 = match unit {
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(FORM),
    };
    let number: u64 = text.strip_suffix(unit).and_then(|number| number.parse().ok()).ok_or(FORM)?;
    let seconds = number.checked_mul(seconds).filter(|seconds| *seconds > 0).ok_or(FORM)?;
    if seconds > MAX_DELEGATION_SECONDS { Err("longer than 30 days") } else { Ok(seconds) }
}

fn node_url(text: &str) -> Result<Url, &'static str> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "ws" | "wss") && url.has_host());
    url.ok_or("not an address like ws://127.0.0.1:8080/v1/ws or wss://host/v1/ws")
}

/// Whoever stands in the middle of TLS must first end it.
fn plain_url(text: &str) -> Result<Url, &'static str> {
    node_url(text)
        .ok()
        .filter(|url| url.scheme() == "ws")
        .ok_or("not an address like ws://127.0.0.1:8080/v1/ws")
}
