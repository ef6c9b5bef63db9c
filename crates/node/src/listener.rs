//! The socket that clients come to: the node's own, or one that systemd holds and passes on.

use std::{io, net::SocketAddr, sync::Arc};

use listenfd::ListenFd;
use rustix::io::{FdFlags, fcntl_setfd};
use tokio::net::{TcpListener, TcpStream};

use crate::{config::Exposure, tls::Tls};

/// Why there is no socket to listen on.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the message of each says it")]
pub enum ListenError {
    #[error("cannot listen on {address}: set LISTEN_ADDR to another address: {cause}")]
    Bind { address: SocketAddr, cause: io::Error },
    #[error("{0} sockets were passed on (LISTEN_FDS): the node takes one, a stream of TCP")]
    Several(usize),
    #[error("the socket that was passed on (LISTEN_FDS) cannot be used: {0}")]
    Inherited(io::Error),
    #[error(
        "the socket that was passed on (LISTEN_FDS) is at {0}, which can be reached from other machines, and there is no TLS: set \
         TLS_CERT_FILE and TLS_KEY_FILE, or INSECURE_BIND=true where something in front of the node ends TLS"
    )]
    InsecureBind(SocketAddr),
}

/// A listening socket.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    inherited: bool,
    tls: Option<Arc<Tls>>,
}

impl From<TcpListener> for Listener {
    fn from(socket: TcpListener) -> Self {
        Self { socket, inherited: false, tls: None }
    }
}

impl Listener {
    /// The socket that whoever started this process has passed on (LISTEN_FDS, LISTEN_PID). Early, so that no process
    /// that this one starts gets it too.
    ///
    /// # Errors
    /// [`ListenError`], where what was passed on is not one TCP socket, or is where `exposure` does not let the node listen.
    pub fn inherited(exposure: Exposure) -> Result<Option<std::net::TcpListener>, ListenError> {
        let mut passed = ListenFd::from_env();
        if passed.len() > 1 {
            return Err(ListenError::Several(passed.len()));
        }
        let Some(socket) = passed.take_tcp_listener(0).map_err(ListenError::Inherited)? else {
            return Ok(None);
        };
        // It came open over exec, as it had to, and goes no further.
        fcntl_setfd(&socket, FdFlags::CLOEXEC).map_err(|error| ListenError::Inherited(error.into()))?;
        let address = socket.local_addr().map_err(ListenError::Inherited)?;
        if exposure.admits(address) { Ok(Some(socket)) } else { Err(ListenError::InsecureBind(address)) }
    }

    /// Listens on what was `inherited`, else on `address`.
    ///
    /// # Errors
    /// [`ListenError`], which says what to do.
    pub async fn open(
        address: SocketAddr,
        inherited: Option<std::net::TcpListener>,
    ) -> Result<Self, ListenError> {
        let Some(socket) = inherited else {
            let bound = TcpListener::bind(address).await;
            return bound.map(Self::from).map_err(|cause| ListenError::Bind { address, cause });
        };
        let ready = socket.set_nonblocking(true).and_then(|()| TcpListener::from_std(socket));
        ready.map(|socket| Self { socket, inherited: true, tls: None }).map_err(ListenError::Inherited)
    }

    /// Sockets of `socket`, with `tls` on them where there is some.
    pub fn new(socket: TcpListener, tls: Option<Arc<Tls>>) -> Self {
        Self::from(socket).with_tls(tls)
    }

    /// The same with TLS on what is accepted, where there is some.
    #[must_use]
    pub fn with_tls(self, tls: Option<Arc<Tls>>) -> Self {
        Self { tls, ..self }
    }

    pub(crate) fn tls(&self) -> Option<&Arc<Tls>> {
        self.tls.as_ref()
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The socket's.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Whether another process takes over what comes when this one ends.
    pub fn is_inherited(&self) -> bool {
        self.inherited
    }

    pub(crate) async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        self.socket.accept().await
    }
}
