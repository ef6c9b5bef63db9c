//! The way from a socket to what is said inside of TLS.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use rustls::{
    ServerConfig,
    server::{Acceptor, ClientHello},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

use super::Tls;
use crate::metrics;

/// How long a peer that is turned away gets to hear why.
const LAST_WORD: Duration = Duration::from_secs(1);

const PLAIN: &str = "this port speaks TLS alone: use https:// or wss://\n";

/// A handshake that came to nothing, with the socket where there is somebody to tell.
enum Failed {
    /// Plain HTTP.
    Plain(TcpStream),
    Tls(io::Error, Option<TcpStream>),
}

impl Tls {
    /// What is inside of `socket`. `None` where no TLS came about within `limit`: that is counted, and the peer was told.
    pub(crate) async fn accept(
        &self,
        socket: TcpStream,
        peer: SocketAddr,
        limit: Duration,
    ) -> Option<TlsStream<TcpStream>> {
        let Ok(shaken) = timeout(limit, self.shake(socket)).await else {
            metrics::tls_handshake("timeout");
            tracing::debug!(%peer, "a TLS handshake took too long");
            return None;
        };
        match shaken {
            Ok(stream) => {
                metrics::tls_handshake("ok");
                stream
            }
            Err(failed) => {
                metrics::tls_handshake("failed");
                failed.end(peer).await;
                None
            }
        }
    }

    /// `None` is a challenge of an ACME server, which asks for nothing more.
    async fn shake(&self, socket: TcpStream) -> Result<Option<TlsStream<TcpStream>>, Failed> {
        let mut first = [0];
        match socket.peek(&mut first).await {
            Ok(0) => return Err(Failed::Tls(io::ErrorKind::UnexpectedEof.into(), None)),
            // A TLS record begins with a number below 32, a request with its method.
            Ok(_) if first.iter().all(u8::is_ascii_uppercase) => return Err(Failed::Plain(socket)),
            Ok(_) => {}
            Err(error) => return Err(Failed::Tls(error, None)),
        }
        let mut acceptor = LazyConfigAcceptor::new(Acceptor::default(), socket);
        let start = match (&mut acceptor).await {
            Ok(start) => start,
            Err(error) => return Err(Failed::Tls(error, acceptor.take_io())),
        };
        let (server, inside) = self.serving_for(&start.client_hello());
        let stream = start.into_stream(server).into_fallible().await;
        let stream = stream.map_err(|(error, socket)| Failed::Tls(error, Some(socket)))?;
        match inside {
            Inside::Http => Ok(Some(stream)),
            Inside::Nothing => {
                linger(stream).await;
                Ok(None)
            }
        }
    }

    fn serving_for(&self, hello: &ClientHello<'_>) -> (Arc<ServerConfig>, Inside) {
        match self.acme.as_ref().and_then(|acme| acme.challenge(hello)) {
            Some(challenge) => (challenge, Inside::Nothing),
            None => (self.serving(), Inside::Http),
        }
    }
}

/// What a connection is for.
#[derive(Clone, Copy, Debug)]
enum Inside {
    Http,
    Nothing,
}

impl Failed {
    /// Says why, where that can be said.
    async fn end(self, peer: SocketAddr) {
        match self {
            Self::Plain(mut socket) => {
                tracing::debug!(%peer, "plain HTTP where TLS is spoken");
                let answer = format!(
                    "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close\r\n\
                     content-length: {}\r\n\r\n{PLAIN}",
                    PLAIN.len()
                );
                let _ = timeout(LAST_WORD, socket.write_all(answer.as_bytes())).await;
                linger(socket).await;
            }
            Self::Tls(error, socket) => {
                tracing::debug!(%peer, %error, "a TLS handshake failed");
                if let Some(socket) = socket {
                    linger(socket).await;
                }
            }
        }
    }
}

/// Closes, and reads what still comes for a moment: a socket that is closed with bytes unread takes what was sent last with
/// it, the alert that says why.
async fn linger(mut socket: impl AsyncRead + AsyncWrite + Unpin) {
    let _ = timeout(LAST_WORD, async {
        socket.shutdown().await?;
        tokio::io::copy(&mut socket, &mut tokio::io::sink()).await
    })
    .await;
}
