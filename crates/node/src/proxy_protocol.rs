//! The PROXY protocol (versions 1 and 2): what a trusted proxy says of a connection before the connection begins.
//!
//! Who listens for it never guesses: with [`ProxyProtocol::Require`] every connection begins with a header or is closed.

use std::{
    io,
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use clap::ValueEnum;
use ppp::{HeaderResult, v1, v2};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    time::timeout,
};

use crate::{metrics, peer::TrustedProxies};

/// The longest header of version 1, its end of line included.
const MOST_V1: usize = 107;

/// What a header of version 2 has before its addresses, and what may follow: addresses of a Unix socket are 216 bytes, and
/// proxies add a few fields (a checksum, a name, what TLS they spoke).
const START_V2: usize = 16;
const MOST_AFTER_START_V2: usize = 520;

/// What both versions can be told apart by, and no header is shorter.
const SIGNATURE: usize = v2::PROTOCOL_PREFIX.len();

/// Whether connections begin with a header of the PROXY protocol.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum ProxyProtocol {
    /// None does.
    #[default]
    Off,
    /// Every one does, and comes from a proxy in TRUSTED_PROXIES.
    Require,
}

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Caller {
    /// Who it counts for, where no header of HTTP says more.
    pub(crate) address: SocketAddr,
    /// Whether the headers of HTTP are worth a look. A proxy that names nobody passes them on as it got them.
    pub(crate) may_forward: bool,
}

impl From<SocketAddr> for Caller {
    fn from(address: SocketAddr) -> Self {
        Self { address, may_forward: true }
    }
}

/// Why a connection is nobody's.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("it is not from a proxy in TRUSTED_PROXIES, and PROXY_PROTOCOL=require takes no other")]
    Untrusted,
    #[error("it does not begin with a header of the PROXY protocol: have the proxy send one (send-proxy)")]
    Form,
    #[error(
        "its header is longer than {MOST_V1} bytes, or {START_V2} and {MOST_AFTER_START_V2} of version 2"
    )]
    Length,
    #[error("its header did not come in time")]
    Late,
    #[error("it ended within its header: {0}")]
    Io(#[from] io::Error),
}

impl Refused {
    fn result(&self) -> &'static str {
        match self {
            Self::Untrusted => "untrusted",
            Self::Form | Self::Length | Self::Io(_) => "invalid",
            Self::Late => "timeout",
        }
    }

    /// Says so: aloud once, since it is the operator's to mend, and then to who looks closely.
    fn tell(&self, peer: SocketAddr) {
        static WARNED: AtomicBool = AtomicBool::new(false);
        metrics::proxy_header(self.result());
        if WARNED.swap(true, Ordering::Relaxed) {
            tracing::debug!(event = "proxy_header", %peer, error = %self, "a connection is closed before it began");
        } else {
            tracing::warn!(
                event = "proxy_header", %peer, error = %self,
                "a connection is closed before it began; of the next ones only the metrics and the log at debug say so"
            );
        }
    }
}

impl ProxyProtocol {
    /// Whether a connection from `peer` may begin at all. Before a byte of it is read, and before it is counted.
    pub(crate) fn admits(self, peer: SocketAddr, proxies: &TrustedProxies) -> bool {
        let admitted = match self {
            Self::Off => true,
            Self::Require => proxies.trusts(peer.ip()),
        };
        if !admitted {
            Refused::Untrusted.tell(peer);
        }
        admitted
    }

    /// Takes the header off `stream`, and not a byte more. `None` where there is none within `limit`.
    pub(crate) async fn begin(
        self,
        stream: &mut (impl AsyncRead + Unpin),
        peer: SocketAddr,
        limit: Duration,
    ) -> Option<Caller> {
        if self == Self::Off {
            return Some(peer.into());
        }
        let read = timeout(limit, read(stream)).await.unwrap_or(Err(Refused::Late));
        match read {
            Ok(named) => {
                metrics::proxy_header(if named.is_some() { "named" } else { "unnamed" });
                Some(caller(named, peer))
            }
            Err(refused) => {
                refused.tell(peer);
                None
            }
        }
    }
}

/// Who a proxy at `peer` speaks for: who it named, or itself.
fn caller(named: Option<SocketAddr>, peer: SocketAddr) -> Caller {
    let local = |address: SocketAddr| address.ip().to_canonical().is_loopback();
    match named {
        // Whom another machine calls local is local there, and here as far away as that.
        Some(named) if !local(named) || local(peer) => named.into(),
        Some(_) | None => Caller { address: peer, may_forward: false },
    }
}

/// A header: who it names, if anybody.
async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<SocketAddr>, Refused> {
    let mut header = vec![0; SIGNATURE];
    stream.read_exact(&mut header).await?;
    if header == v2::PROTOCOL_PREFIX {
        read_v2(stream, &mut header).await?;
    } else if header.starts_with(v1::PROTOCOL_PREFIX.as_bytes()) {
        read_v1(stream, &mut header).await?;
    } else {
        return Err(Refused::Form);
    }
    source(&header)
}

/// To the end of the line, byte after byte: what follows is somebody else's to read.
async fn read_v1(stream: &mut (impl AsyncRead + Unpin), header: &mut Vec<u8>) -> Result<(), Refused> {
    while header.last() != Some(&b'\n') {
        if header.len() >= MOST_V1 {
            return Err(Refused::Length);
        }
        header.push(stream.read_u8().await?);
    }
    Ok(())
}

async fn read_v2(stream: &mut (impl AsyncRead + Unpin), header: &mut Vec<u8>) -> Result<(), Refused> {
    header.push(stream.read_u8().await?);
    header.push(stream.read_u8().await?);
    let follows = stream.read_u16().await?;
    header.extend(follows.to_be_bytes());
    let follows = usize::from(follows);
    if follows > MOST_AFTER_START_V2 {
        return Err(Refused::Length);
    }
    header.resize(START_V2.saturating_add(follows), 0);
    let rest = header.get_mut(START_V2..).unwrap_or_default();
    stream.read_exact(rest).await?;
    Ok(())
}

/// Whom a whole header names.
fn source(header: &[u8]) -> Result<Option<SocketAddr>, Refused> {
    if is_unknown(header) {
        return Ok(None);
    }
    match HeaderResult::parse(header) {
        HeaderResult::V1(Ok(header)) => Ok(match header.addresses {
            v1::Addresses::Tcp4(named) => Some((named.source_address, named.source_port).into()),
            v1::Addresses::Tcp6(named) => Some((named.source_address, named.source_port).into()),
            v1::Addresses::Unknown => None,
        }),
        HeaderResult::V2(Ok(header)) => match (header.command, header.protocol) {
            // The proxy itself, which sees whether the node is there. What else it says is to be skipped.
            (v2::Command::Local, _) => Ok(None),
            // Nobody's connection here.
            (v2::Command::Proxy, v2::Protocol::Datagram) => Err(Refused::Form),
            (v2::Command::Proxy, v2::Protocol::Unspecified) => Ok(None),
            (v2::Command::Proxy, v2::Protocol::Stream) => Ok(match header.addresses {
                v2::Addresses::IPv4(named) => Some((named.source_address, named.source_port).into()),
                v2::Addresses::IPv6(named) => Some((named.source_address, named.source_port).into()),
                v2::Addresses::Unix(_) | v2::Addresses::Unspecified => None,
            }),
        },
        HeaderResult::V1(Err(_)) | HeaderResult::V2(Err(_)) => Err(Refused::Form),
    }
}

/// Whether it is version 1's word for nobody: whatever else is in the line, which ppp would read, is to be skipped.
fn is_unknown(header: &[u8]) -> bool {
    let words = [v1::PROTOCOL_PREFIX, v1::UNKNOWN].join(v1::SEPARATOR.encode_utf8(&mut [0]));
    let rest = header.strip_prefix(words.as_bytes()).and_then(|rest| rest.strip_suffix(b"\r\n"));
    rest.is_some_and(|rest| rest.first().is_none_or(u8::is_ascii_whitespace))
}

#[cfg(test)]
mod tests;
