//! From an address to a channel: the socket, the node's first frame, the handshake.

use std::{sync::Arc, time::Duration};

use fabstir_protocol::{
    v1::Reply,
    v2::{
        Advertisement, AdvertisementError, Answers, AwaitingM2, AwaitingR2, AwsLc, Channel, FromNode, Hello,
        Kind, Resume, Ticket, VerifiedNode, Welcome,
    },
};
use futures_util::{SinkExt as _, StreamExt as _};
use rustls::{AlertDescription, CertificateError};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_tungstenite::{
    Connector, MaybeTlsStream, WebSocketStream, client_async_tls_with_config,
    tungstenite::{self, Message, protocol::WebSocketConfig},
};
use url::Url;

use crate::{Config, Direction, Error, Frame, Roots, answer::Capture, probe::tcp, rng};

pub(crate) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Largest frame that is taken from a node.
const MAX_FRAME_BYTES: usize = 4 << 20;

/// The address of a node.
pub(crate) fn address(text: &str) -> Result<Url, Error> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "ws" | "wss"));
    url.ok_or_else(|| Error::Address(text.to_owned()))
}

pub(crate) async fn connect(url: &Url, roots: &Roots) -> Result<Socket, Error> {
    let stream = tcp(url).await?;
    let _ = stream.set_nodelay(true);
    upgrade(stream, url, roots).await
}

/// TLS, where the address asks for it, and the WebSocket.
pub(crate) async fn upgrade(stream: TcpStream, url: &Url, roots: &Roots) -> Result<Socket, Error> {
    let connector = match url.scheme() {
        "wss" => Connector::Rustls(Arc::new(roots.tls()?)),
        _ => Connector::Plain,
    };
    let limits = WebSocketConfig::default()
        .max_message_size(Some(MAX_FRAME_BYTES))
        .max_frame_size(Some(MAX_FRAME_BYTES));
    let connected = client_async_tls_with_config(url.as_str(), stream, Some(limits), Some(connector)).await;
    connected.map(|(socket, _)| socket).map_err(|error| not_connected(&error))
}

pub(crate) fn not_connected(error: &tungstenite::Error) -> Error {
    let inner = if let tungstenite::Error::Io(error) = error { error.get_ref() } else { None };
    let tls = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            Error::Tls("its certificate is by nobody who is believed here".into())
        }
        Some(rustls::Error::InvalidMessage(_)) => {
            Error::Tls("what listens there speaks none, so that ws:// may be meant".into())
        }
        Some(rustls::Error::AlertReceived(AlertDescription::CertificateRequired)) => {
            Error::Tls("it asks for a certificate of yours, and none was shown".into())
        }
        Some(rustls::Error::AlertReceived(alert)) if is_of_certificates(*alert) => {
            Error::Tls("it does not admit the certificate that it was shown".into())
        }
        Some(error) => Error::Tls(error.to_string()),
        None => Error::Connect(error.to_string()),
    }
}

/// Whether a peer says by it that what it was shown is not enough.
fn is_of_certificates(alert: AlertDescription) -> bool {
    [
        AlertDescription::AccessDenied,
        AlertDescription::BadCertificate,
        AlertDescription::CertificateExpired,
        AlertDescription::CertificateRevoked,
        AlertDescription::CertificateUnknown,
        AlertDescription::DecryptError,
        AlertDescription::UnknownCA,
        AlertDescription::UnsupportedCertificate,
    ]
    .contains(&alert)
}

pub(crate) fn refused(code: String, message: String, retry_after_ms: Option<u64>) -> Error {
    Error::Refused { code, message, retry_after: retry_after_ms.map(Duration::from_millis) }
}

pub(crate) fn unix_now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// Closes in order, in a second at most. What came and was not read yet is read: a socket that goes with something unread makes
/// the kernel reset the connection, and a node that is saying something meanwhile finds it lost before it hears the goodbye.
pub(crate) async fn part<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut WebSocketStream<S>) {
    let in_order = async {
        socket.close(None).await?;
        while let Some(heard) = socket.next().await {
            heard?;
        }
        Ok::<(), tungstenite::Error>(())
    };
    // Nothing depends on the peer's hearing it.
    let _ = timeout(Duration::from_secs(1), in_order).await;
}

/// What came by a socket.
pub(crate) enum Heard {
    Binary(Vec<u8>),
    Text(String),
    /// A sign of life.
    Ping,
    /// The connection has ended.
    Closed,
}

/// A socket to a node that has shown who it is.
pub(crate) struct Line {
    socket: Socket,
    capture: Option<Capture>,
}

impl Line {
    pub(crate) async fn hear(&mut self) -> Heard {
        match self.socket.next().await {
            Some(Ok(Message::Binary(frame))) => {
                self.saw(Direction::Received, Frame::Binary(&frame));
                Heard::Binary(frame.to_vec())
            }
            Some(Ok(Message::Text(text))) => {
                self.saw(Direction::Received, Frame::Text(text.as_str()));
                Heard::Text(text.as_str().to_owned())
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => Heard::Ping,
            Some(Ok(Message::Close(_)) | Err(_)) | None => Heard::Closed,
        }
    }

    pub(crate) async fn say(&mut self, frame: Vec<u8>) -> Result<(), Error> {
        self.saw(Direction::Sent, Frame::Binary(&frame));
        let sent = self.socket.send(Message::binary(frame)).await;
        sent.map_err(|error| Error::Connect(error.to_string()))
    }

    fn saw(&mut self, direction: Direction, frame: Frame<'_>) {
        if let Some(capture) = &mut self.capture {
            capture(direction, frame);
        }
    }

    pub(crate) async fn close(mut self) -> Option<Capture> {
        part(&mut self.socket).await;
        self.capture
    }

    /// Closes without a word of the protocol's.
    pub(crate) async fn hang_up(&mut self) {
        part(&mut self.socket).await;
    }

    pub(crate) fn into_capture(self) -> Option<Capture> {
        self.capture
    }

    /// The next frame of version 2. Until the session is open, a text frame can only be a refusal.
    async fn expect(&mut self) -> Result<Vec<u8>, Error> {
        loop {
            match self.hear().await {
                Heard::Binary(frame) => return Ok(frame),
                Heard::Text(text) => match Reply::decode(&text) {
                    Ok(Reply::Error { code, message, retry_after_ms, .. }) => {
                        return Err(refused(code, message, retry_after_ms));
                    }
                    Ok(_) | Err(_) => return Err(Error::Protocol),
                },
                Heard::Ping => {}
                Heard::Closed => return Err(Error::Connect("it closed the connection".into())),
            }
        }
    }
}

/// A channel that is open, by a line.
pub(crate) struct Opened {
    pub(crate) line: Line,
    pub(crate) channel: Channel,
    pub(crate) welcome: Welcome,
}

/// Who the node says it is, which holds.
pub(crate) enum Shown {
    /// The pinned identity.
    Pinned(VerifiedNode),
    /// Another one, to which the pinned one says that the node has moved. New sessions are a person's to allow; one that
    /// there is goes on, for only the node that it is with can answer its ticket.
    Moved(AdvertisementError),
}

impl Shown {
    /// The pinned node, for a handshake.
    pub(crate) fn pinned(self) -> Result<VerifiedNode, Error> {
        match self {
            Self::Pinned(node) => Ok(node),
            Self::Moved(error) => Err(error.into()),
        }
    }
}

/// Connects, and checks who the node says it is.
pub(crate) async fn reach(
    config: &Config,
    capture: Option<Capture>,
) -> Result<(Line, Shown), (Error, Option<Capture>)> {
    let url = match address(&config.url) {
        Ok(url) => url,
        Err(error) => return Err((error, capture)),
    };
    let socket = match timeout(config.connect_timeout, connect(&url, &config.roots)).await {
        Ok(Ok(socket)) => socket,
        Ok(Err(error)) => return Err((error, capture)),
        Err(_) => return Err((Error::Connect("it does not answer".into()), capture)),
    };
    let mut line = Line { socket, capture };
    match timeout(config.connect_timeout, line.introduce(config)).await {
        Ok(Ok(node)) => Ok((line, node)),
        Ok(Err(error)) => Err((error, line.into_capture())),
        Err(_) => Err((Error::Silent(config.connect_timeout), line.into_capture())),
    }
}

impl Line {
    async fn introduce(&mut self, config: &Config) -> Result<Shown, Error> {
        loop {
            match self.hear().await {
                Heard::Text(text) => {
                    return match Advertisement::read(&text)?.verify(config.node, unix_now()) {
                        Ok(node) => Ok(Shown::Pinned(node)),
                        Err(moved @ AdvertisementError::Moved(_)) => Ok(Shown::Moved(moved)),
                        Err(error) => Err(error.into()),
                    };
                }
                Heard::Ping => {}
                Heard::Binary(_) => return Err(Error::Protocol),
                Heard::Closed => return Err(Error::Connect("it closed the connection".into())),
            }
        }
    }

    /// A full handshake; `first` follows message 3 without waiting, sealed by the caller's own hand.
    pub(crate) async fn handshake(
        &mut self,
        config: &Config,
        node: &VerifiedNode,
        hello: &Hello,
        answers: &mut Answers,
        first: impl FnOnce(&mut Channel) -> Result<Vec<Vec<u8>>, Error>,
    ) -> Result<(Channel, Welcome), Error> {
        let (m1, waiting) = AwaitingM2::<AwsLc>::start(node, &mut rng()).map_err(|_| Error::Handshake)?;
        self.say(m1).await?;
        let m2 = self.expect().await?;
        let (m3, mut channel) =
            waiting.finish(&m2, &config.identity, hello, &mut rng()).map_err(|_| Error::Handshake)?;
        self.say(m3).await?;
        for frame in first(&mut channel)? {
            self.say(frame).await?;
        }
        // Only the node that holds the ML-KEM secret can say this.
        let frame = self.expect().await?;
        let record = channel.opener.open(&frame)?;
        match answers.take(record)? {
            FromNode::Welcome(welcome) => {
                channel.sealer.set_shape(welcome.shape);
                Ok((channel, welcome))
            }
            FromNode::Fault(fault, _) => Err(refused(fault.code, fault.message, fault.retry_after_ms)),
            FromNode::Text(..)
            | FromNode::Event(..)
            | FromNode::End(..)
            | FromNode::Failed(..)
            | FromNode::Goodbye(_)
            | FromNode::Nothing => Err(Error::Protocol),
        }
    }

    /// A resumption with a ticket, which is spent by it.
    pub(crate) async fn resume(
        &mut self,
        ticket: Ticket,
        resume: &Resume,
    ) -> Result<(Channel, Welcome), Error> {
        let (r1, waiting) = AwaitingR2::start(ticket, resume, &mut rng()).map_err(|_| Error::Handshake)?;
        self.say(r1).await?;
        let r2 = self.expect().await?;
        if !matches!(Kind::split(&r2), Ok((Kind::R2, _))) {
            return Err(Error::Protocol);
        }
        let (welcome, channel) = waiting.finish(&r2).map_err(|_| Error::Handshake)?;
        Ok((channel, welcome))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_said_last_arrives_although_much_was_left_unread() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (gone, is_gone) = tokio::sync::oneshot::channel::<()>();
        let node = tokio::spawn(async move {
            let (tcp, _) = listener.accept().await.unwrap();
            let mut socket = tokio_tungstenite::accept_async(tcp).await.unwrap();
            // More than the client's own buffer takes at once.
            for _ in 0..16 {
                socket.send(Message::binary(vec![0; 65_536])).await.unwrap();
            }
            is_gone.await.unwrap();
            // What fails first is what it does next, and it says words more often than it hears one.
            socket.send(Message::text("words")).await?;
            socket.next().await.unwrap()
        });
        let tcp = TcpStream::connect(address).await.unwrap();
        let (mut socket, _) = tokio_tungstenite::client_async(format!("ws://{address}/"), tcp).await.unwrap();
        // The first of them is there, and so are others.
        socket.next().await.unwrap().unwrap();
        socket.send(Message::text("goodbye")).await.unwrap();
        part(&mut socket).await;
        drop(socket);
        gone.send(()).unwrap();
        let heard = node.await.unwrap();
        assert!(matches!(&heard, Ok(Message::Text(text)) if text.as_str() == "goodbye"), "{heard:?}");
    }
}
