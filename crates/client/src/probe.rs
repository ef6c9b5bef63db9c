//! The way to a node, step by step: for who wants to know where it ends.

use std::{fmt, sync::Arc};

use futures_util::StreamExt as _;
use rustls::{ProtocolVersion, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::{MaybeTlsStream, tungstenite::Message};
use url::Url;

use crate::{
    Error, Roots,
    dial::{Socket, address, not_connected, upgrade},
};

/// The address of a node, in its form.
///
/// # Errors
/// [`Error::Address`].
pub fn url(text: &str) -> Result<Url, Error> {
    address(text)
}

/// A connection, and nothing said on it.
///
/// # Errors
/// [`Error::Connect`], [`Error::Address`].
pub async fn tcp(url: &Url) -> Result<TcpStream, Error> {
    let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
        return Err(Error::Address(url.as_str().to_owned()));
    };
    // An IPv6 address stands in brackets there.
    let host = host.trim_matches(['[', ']']);
    TcpStream::connect((host, port)).await.map_err(|error| Error::Connect(error.to_string()))
}

/// Bytes to a node and back, over TLS where the address is `wss://`: for who carries what others seal.
///
/// # Errors
/// [`Error::Connect`], [`Error::Tls`].
pub async fn stream(
    url: &Url,
    roots: &Roots,
) -> Result<impl AsyncRead + AsyncWrite + Send + Unpin + use<>, Error> {
    let stream = tcp(url).await?;
    if url.scheme() != "wss" {
        return Ok(MaybeTlsStream::Plain(stream));
    }
    let name = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let name = ServerName::try_from(name).map_err(|_| Error::Address(url.as_str().to_owned()))?;
    let tls = TlsConnector::from(Arc::new(roots.tls()?)).connect(name, stream).await;
    tls.map(MaybeTlsStream::Rustls).map_err(|error| not_connected(&error.into()))
}

/// A WebSocket by which nothing of the protocol was said.
pub struct Upgraded(Socket);

impl Upgraded {
    /// TLS, where the address is `wss://`, and the upgrade.
    ///
    /// # Errors
    /// [`Error::Tls`], [`Error::Connect`].
    pub async fn over(stream: TcpStream, url: &Url, roots: &Roots) -> Result<Self, Error> {
        upgrade(stream, url, roots).await.map(Self)
    }

    /// The TLS that it is inside of; `None` where the address is `ws://`.
    pub fn tls(&self) -> Option<Tls> {
        let MaybeTlsStream::Rustls(stream) = self.0.get_ref() else { return None };
        let (_, connection) = stream.get_ref();
        let version = match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "1.3",
            // Nothing older is spoken here.
            Some(_) | None => "1.2",
        };
        let group = connection.negotiated_key_exchange_group();
        Some(Tls {
            version,
            group: group.map_or_else(|| "unknown".to_owned(), |group| format!("{:?}", group.name())),
            certificate: connection.peer_certificates().and_then(<[_]>::first).map(|first| first.to_vec()),
        })
    }

    /// The node's first frame, unread; the connection is closed after it.
    ///
    /// # Errors
    /// [`Error::Connect`], and [`Error::Protocol`] where it is no text.
    pub async fn first_frame(mut self) -> Result<String, Error> {
        loop {
            match self.0.next().await {
                Some(Ok(Message::Text(text))) => {
                    // Nothing depends on the peer's hearing it.
                    let _ = self.0.close(None).await;
                    return Ok(text.as_str().to_owned());
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Binary(_))) => return Err(Error::Protocol),
                Some(Ok(Message::Close(_)) | Err(_)) | None => {
                    return Err(Error::Connect("it closed the connection".into()));
                }
            }
        }
    }
}

/// What two sides of TLS have agreed on.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Its version, as in 1.3.
    pub version: &'static str,
    /// How the keys came about: X25519MLKEM768 resists who records now and has a quantum computer later.
    pub group: String,
    /// The certificate that was shown, in DER.
    pub certificate: Option<Vec<u8>>,
}

impl fmt::Debug for Upgraded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Upgraded(..)")
    }
}
