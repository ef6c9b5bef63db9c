//! The way to a node, which a test can cut.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
};

use super::TestNode;

/// Passes on what programs and the node say, on a thread that ends with the test.
pub(crate) struct Way {
    pub(crate) address: SocketAddr,
    cut: watch::Sender<u32>,
    shut: watch::Sender<bool>,
    /// One for each connection that was made.
    made: mpsc::Receiver<()>,
}

impl Way {
    pub(crate) fn to(node: &TestNode) -> Self {
        let (sender, started) = std::sync::mpsc::sync_channel(1);
        let (cut, watched) = watch::channel(0);
        let (shut, is_shut) = watch::channel(false);
        let (making, made) = mpsc::channel(64);
        let node = node.address;
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                sender.send(listener.local_addr().unwrap()).unwrap();
                loop {
                    let (program, _) = listener.accept().await.unwrap();
                    if *is_shut.borrow() {
                        continue;
                    }
                    let node = TcpStream::connect(node).await.unwrap();
                    let _ = making.try_send(());
                    tokio::spawn(pass(program, node, watched.clone()));
                }
            });
        });
        Self { address: started.recv().unwrap(), cut, shut, made }
    }

    /// Cuts all connections that there are; new ones are let through.
    pub(crate) fn cut(&self) {
        self.cut.send_modify(|cuts| *cuts += 1);
    }

    /// Cuts all connections, and lets no other through until it is opened.
    pub(crate) fn shut(&self) {
        self.shut.send_replace(true);
        self.cut();
    }

    pub(crate) fn open(&self) {
        self.shut.send_replace(false);
    }

    /// Returns once another connection was made.
    pub(crate) async fn connected(&mut self) {
        self.made.recv().await.unwrap();
    }
}

async fn pass(program: TcpStream, node: TcpStream, mut cut: watch::Receiver<u32>) {
    cut.mark_unchanged();
    let (mut from_program, mut to_program) = program.into_split();
    let (mut from_node, mut to_node) = node.into_split();
    let up = async { tokio::io::copy(&mut from_program, &mut to_node).await };
    let down = async {
        let mut bytes = [0; 512];
        while let Ok(read @ 1..) = from_node.read(&mut bytes).await {
            if to_program.write_all(&bytes[..read]).await.is_err() {
                break;
            }
        }
    };
    // What falls here falls at both ends.
    tokio::select! {
        _ = up => {}
        () = down => {}
        _ = cut.changed() => {}
    }
}
