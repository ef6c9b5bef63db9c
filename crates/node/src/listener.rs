//! The socket that clients come to: the node's own, or one that systemd holds and passes on.

use std::{env, ffi::OsString, io, net::SocketAddr, sync::Arc};

use listenfd::ListenFd;
use rustix::{
    io::{FdFlags, fcntl_setfd},
    net::sockopt::socket_acceptconn,
};
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
        "the socket that was passed on (LISTEN_FDS) does not listen: whoever passes it on has to call listen(2), as systemd does"
    )]
    Deaf,
    #[error(
        "LISTEN_FDS={0:?} is no number of sockets: whoever starts the node sets it with LISTEN_PID, as sd_listen_fds(3) says"
    )]
    Count(String),
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

/// LISTEN_FDS, where it is meant for this process and is no number. listenfd takes that for nothing, and the node would listen
/// elsewhere than where it is waited for.
fn uncounted(environment: impl Fn(&str) -> Option<OsString>) -> Option<String> {
    let text = |name| environment(name).map(|value| value.to_string_lossy().into_owned());
    let count = text("LISTEN_FDS").filter(|count| !count.is_empty())?;
    let pid = text("LISTEN_PID").filter(|pid| !pid.is_empty());
    let ours = pid.is_none_or(|pid| pid.parse() == Ok(std::process::id()));
    (ours && count.parse::<u64>().is_err()).then_some(count)
}

impl Listener {
    /// The socket that whoever started this process has passed on (LISTEN_FDS, LISTEN_PID). Early, so that no process
    /// that this one starts gets it too.
    ///
    /// # Errors
    /// [`ListenError`], where what was passed on is not one TCP socket, or is where `exposure` does not let the node listen.
    pub fn inherited(exposure: Exposure) -> Result<Option<std::net::TcpListener>, ListenError> {
        if let Some(count) = uncounted(|name| env::var_os(name)) {
            return Err(ListenError::Count(count));
        }
        let mut passed = ListenFd::from_env();
        if passed.len() > 1 {
            return Err(ListenError::Several(passed.len()));
        }
        let Some(socket) = passed.take_tcp_listener(0).map_err(ListenError::Inherited)? else {
            return Ok(None);
        };
        if !socket_acceptconn(&socket).map_err(|error| ListenError::Inherited(error.into()))? {
            return Err(ListenError::Deaf);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_that_is_none_is_told_to_whom_it_is_meant_for() {
        let own = std::process::id().to_string();
        let told = |count: &str, pid: Option<&str>| {
            uncounted(|name| if name == "LISTEN_FDS" { Some(count.into()) } else { pid.map(OsString::from) })
        };
        assert_eq!(told("x", Some(&own)).as_deref(), Some("x"));
        assert_eq!(told("x", Some("")).as_deref(), Some("x"));
        assert_eq!(told("", None), None);
        assert_eq!(told("-1", Some(&own)).as_deref(), Some("-1"));
        assert_eq!(told("1", Some(&own)), None);
        assert_eq!(told("x", Some("1")), None, "somebody else's");
        assert_eq!(uncounted(|_| None), None);
    }
}
