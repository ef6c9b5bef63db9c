//! What can be typed.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use fabstir_protocol::identity::PublicKey;
use url::Url;

const EXIT_CODES: &str = "\
Exit codes:
    0  ok
    1  refused by the node, or failed there (the code is shown)
    2  wrong usage, or a file that cannot be used
    3  cannot connect
    4  the node's identity is unknown, or has changed
    5  a frame did not open, or the answer was cut off, or the node fell silent
  130  interrupted";

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
    /// Make or show the key that signs your sessions
    #[command(subcommand)]
    Keys(Keys),
    /// Show what an outsider sees of a captured session
    Inspect {
        /// A file that --capture wrote
        file: PathBuf,
    },
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

#[derive(Debug, clap::Args)]
pub(crate) struct Chat {
    #[command(flatten)]
    pub(crate) connection: Connection,
    #[command(flatten)]
    pub(crate) asked: Asked,
}

/// Which node, who asks, and who looks on.
#[derive(Debug, clap::Args)]
pub(crate) struct Connection {
    /// The node: ws://host:port/v1/ws
    #[arg(long, value_name = "URL", value_parser = node_url)]
    pub(crate) node: Url,
    /// The node's public key, 33 bytes in hex; absent: as known_nodes has it
    #[arg(long, value_name = "HEX")]
    pub(crate) node_key: Option<PublicKey>,
    /// The nodes that are known [default: known_nodes in the configuration directory]
    #[arg(long, value_name = "FILE", env = "FABSTIR_KNOWN_NODES")]
    pub(crate) known_nodes: Option<PathBuf>,
    /// Your private key [default: client.key in the configuration directory, made at first use]
    #[arg(long, value_name = "FILE", env = "FABSTIR_KEY_FILE")]
    pub(crate) key_file: Option<PathBuf>,
    /// Write every frame as it is on the wire, for `fabstir inspect`
    #[arg(long, value_name = "FILE")]
    pub(crate) capture: Option<PathBuf>,
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
    /// Print the address and public key of a key
    Show {
        /// Which [default: client.key in the configuration directory]
        #[arg(env = "FABSTIR_KEY_FILE")]
        file: Option<PathBuf>,
    },
}

fn node_url(text: &str) -> Result<Url, &'static str> {
    let url = Url::parse(text).map_err(|_| "not an address like ws://127.0.0.1:8080/v1/ws")?;
    match url.scheme() {
        "ws" if url.has_host() => Ok(url),
        "wss" => Err("wss:// is not spoken: use ws://, for what is sent is sealed before it leaves"),
        _ => Err("not an address like ws://127.0.0.1:8080/v1/ws"),
    }
}
