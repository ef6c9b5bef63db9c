//! A reverse proxy in front of a node, which says who is behind it and carries as much as it likes.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "each test file uses its part of this, and a test is meant to panic"
)]

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy},
    net::{TcpListener, TcpSocket, TcpStream},
};

/// What comes back from the node.
#[derive(Clone, Copy)]
pub(crate) enum Reads {
    All,
    /// So many bytes, and then one now and then.
    OneByteEvery(u64, Duration),
}

/// Carries connections to `node`, in the name of `sender`.
pub(crate) async fn front(node: SocketAddr, sender: &str) -> SocketAddr {
    carry(node, format!("x-forwarded-for: {sender}\r\n"), Reads::All).await
}

/// Carries connections to `node` with `header` among their headers.
pub(crate) async fn carry(node: SocketAddr, header: String, reads: Reads) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(one(client, node, header.clone(), reads));
        }
    });
    address
}

async fn one(client: TcpStream, node: SocketAddr, header: String, reads: Reads) {
    let socket = TcpSocket::new_v4().unwrap();
    if matches!(reads, Reads::OneByteEvery(..)) {
        // What the system keeps for a reader is read, as far as the node can see.
        socket.set_recv_buffer_size(4096).unwrap();
    }
    let Ok(node) = socket.connect(node).await else { return };
    let ((mut from_client, to_client), (from_node, mut to_node)) = (client.into_split(), node.into_split());
    let there = async {
        let mut first = [0; 4096];
        let length = from_client.read(&mut first).await.unwrap_or(0);
        let head = first[..length].iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let _ = to_node.write_all(&first[..head]).await;
        let _ = to_node.write_all(header.as_bytes()).await;
        let _ = to_node.write_all(&first[head..length]).await;
        let _ = copy(&mut from_client, &mut to_node).await;
        let _ = to_node.shutdown().await;
    };
    tokio::join!(there, back(from_node, to_client, reads));
}

async fn back(mut node: impl AsyncRead + Unpin, mut client: impl AsyncWrite + Unpin, reads: Reads) {
    let Reads::OneByteEvery(first, pause) = reads else {
        let _ = copy(&mut node, &mut client).await;
        let _ = client.shutdown().await;
        return;
    };
    let _ = copy(&mut (&mut node).take(first), &mut client).await;
    while let Ok(byte) = node.read_u8().await {
        if client.write_u8(byte).await.is_err() {
            return;
        }
        tokio::time::sleep(pause).await;
    }
}
