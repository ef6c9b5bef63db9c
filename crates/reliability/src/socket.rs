//! Sockets to a node: from any address of loopback, with little memory of their own.

use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    time::Duration,
};

use anyhow::{Context as _, bail};
use futures_util::StreamExt as _;
use tokio::{
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{Message, protocol::WebSocketConfig},
};

pub(crate) type Socket = WebSocketStream<TcpStream>;

/// How long anything may take of which nothing else is said.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Ten thousand sockets of a client share its memory.
const BUFFER: usize = 4096;

/// A loopback address of its own for every so many clients: limits count by network.
pub(crate) fn source(number: usize, of_each: usize) -> Ipv4Addr {
    let which = u32::try_from(number.checked_div(of_each).unwrap_or(0)).unwrap_or(0);
    // From 127.0.0.2 on; the node's own is 127.0.0.1.
    let host = which.saturating_add(2).min(0x00FF_FFFE);
    Ipv4Addr::from_bits(Ipv4Addr::new(127, 0, 0, 0).to_bits() | host)
}

/// A TCP connection from an address of loopback.
pub(crate) async fn tcp(to: SocketAddr, from: Ipv4Addr) -> anyhow::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddrV4::new(from, 0).into())?;
    let stream = timeout(PATIENCE, socket.connect(to)).await.context("no connection in time")??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A WebSocket that has been greeted, and the greeting.
pub(crate) async fn greeted(at: SocketAddr, from: Ipv4Addr) -> anyhow::Result<(Socket, String)> {
    let stream = tcp(at, from).await?;
    let limits = WebSocketConfig::default()
        .read_buffer_size(BUFFER)
        .write_buffer_size(BUFFER)
        .max_write_buffer_size(4 << 20);
    let upgrade = client_async_with_config(format!("ws://{at}/v1/ws"), stream, Some(limits));
    let (mut socket, _) = timeout(PATIENCE, upgrade).await.context("no upgrade in time")??;
    loop {
        let next = timeout(PATIENCE, socket.next()).await.context("no greeting in time")?;
        match next.context("closed before the greeting")?? {
            Message::Text(text) => return Ok((socket, text.as_str().to_owned())),
            Message::Binary(_) => bail!("greeted in binary"),
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            Message::Close(_) => bail!("closed before the greeting"),
        }
    }
}

/// The next frame; `None` at the end. A connection that breaks has ended.
pub(crate) async fn frame_of(socket: &mut Socket) -> anyhow::Result<Option<Message>> {
    let next = timeout(PATIENCE, socket.next()).await.context("the node is silent")?;
    Ok(next.and_then(Result::ok))
}

pub(crate) async fn binary_of(socket: &mut Socket) -> anyhow::Result<Vec<u8>> {
    loop {
        match frame_of(socket).await?.context("closed during the handshake")? {
            Message::Binary(frame) => return Ok(frame.to_vec()),
            Message::Text(text) => bail!("refused: {}", text.as_str()),
            Message::Close(_) => bail!("closed during the handshake"),
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
        }
    }
}
