//! The node as its operator runs it: a process, an environment, a log.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "each test file uses its part of this, and a test is meant to panic"
)]

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom},
    net::SocketAddr,
    os::fd::OwnedFd,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use fabstir_protocol::identity::{PrivateKey, PublicKey};
use tempfile::TempDir;

use crate::support::{PATIENCE, Peer, wallet};

/// The binary that is tested.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_fabstir-llm-node");

/// Settings of a node that needs no model and takes whatever port is free.
pub(crate) const ECHO: [&str; 4] = ["--engine", "echo", "--listen-addr", "127.0.0.1:0"];

/// A fresh private key as `0x` and 64 digits.
pub(crate) fn fresh_key() -> String {
    wallet().to_secret_hex().to_string()
}

/// The binary in `dir` with nothing in its environment but what it is given.
pub(crate) fn node_in(dir: &Path) -> Command {
    let mut command = Command::new(BINARY);
    command.args(ECHO).current_dir(dir).env_clear().stdin(Stdio::null());
    pass_on_coverage(&mut command);
    command
}

/// `binary` with `socket` where systemd would put it: a shell moves it there. LISTEN_FDS says `sockets`.
pub(crate) fn handed(binary: &str, socket: OwnedFd, sockets: &str) -> Command {
    let script =
        format!("export LISTEN_PID=$$ LISTEN_FDS={sockets}; exec 3<&0 4<&0 0</dev/null; exec \"$0\" \"$@\"");
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &script, binary]).env_clear().stdin(socket);
    pass_on_coverage(&mut command);
    command
}

/// A build that counts what it runs (scripts/coverage.sh) is told where to write that; else it would be into the folder that it
/// is called in, which tests look at.
pub(crate) fn pass_on_coverage(command: &mut Command) {
    const COUNTS: &str = "LLVM_PROFILE_FILE";
    if let Some(path) = std::env::var_os(COUNTS) {
        command.env(COUNTS, path);
    }
}

/// Everything that a process has said, both streams in the order in which it came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Said(Arc<Mutex<String>>);

impl Said {
    fn listen(&self, stream: impl std::io::Read + Send + 'static) -> JoinHandle<()> {
        let said = self.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n') {
                let Ok(line) = line else { return };
                let mut text = said.0.lock().unwrap();
                text.push_str(&String::from_utf8_lossy(&line));
                text.push('\n');
            }
        })
    }

    pub(crate) fn text(&self) -> String {
        self.0.lock().unwrap().clone()
    }

    /// Waits for a line with `words` in it.
    pub(crate) fn wait_for(&self, words: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = self.text();
            if let Some(line) = text.lines().find(|line| line.contains(words)) {
                return line.to_owned();
            }
            assert!(Instant::now() < deadline, "{words:?} was never logged:\n{text}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A node in a process of its own. Killed on drop.
#[derive(Debug)]
pub(crate) struct NodeProcess {
    child: Child,
    ears: Vec<JoinHandle<()>>,
    /// Its log.
    pub(crate) said: Said,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// Its key, or anybody's where it has none.
    pub(crate) key: PublicKey,
    /// Its key's text.
    pub(crate) secret: String,
    dir: Option<TempDir>,
}

impl NodeProcess {
    /// A node with a fresh key in its environment, in an empty directory.
    pub(crate) fn start(flags: &[&str], env: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let secret = fresh_key();
        let mut command = node_in(dir.path());
        command.args(flags).env("HOST_PRIVATE_KEY", &secret).envs(env.iter().copied());
        let mut node = Self::run(command, &secret);
        node.dir = Some(dir);
        node
    }

    /// Runs `command` until it listens; `secret` is the key that it is expected to find.
    pub(crate) fn run(mut command: Command, secret: &str) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let said = Said::default();
        let ears = vec![said.listen(child.stdout.take().unwrap()), said.listen(child.stderr.take().unwrap())];
        let line = said.wait_for("listening");
        let from = line.find("127.0.0.1:").unwrap();
        let end = line[from..].find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':');
        let address = line[from..end.map_or(line.len(), |end| from + end)].parse().unwrap();
        let key = secret.parse::<PrivateKey>().map_or_else(|_| wallet().public_key(), |key| key.public_key());
        Self { child, ears, said, address, key, secret: secret.to_owned(), dir: None }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) async fn connect(&self) -> Peer {
        let url = format!("ws://{}/v1/ws", self.address);
        let (socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
        let mut peer = Peer { socket, node_key: self.key };
        assert_eq!(peer.receive().await["type"], "connected");
        peer
    }

    /// The body of `GET path`.
    pub(crate) async fn get(&self, path: &str) -> String {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut socket = tokio::net::TcpStream::connect(self.address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// The answer to `POST path`, header and body.
    pub(crate) async fn post(&self, path: &str, body: &str) -> String {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut socket = tokio::net::TcpStream::connect(self.address).await.unwrap();
        let length = body.len();
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: node\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        answer
    }

    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([format!("-{name}"), self.pid().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits for the process to end by itself; what it said, and how it ended.
    pub(crate) fn finish(mut self) -> (ExitStatus, String) {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "the node does not end:\n{}", self.said.text());
            std::thread::sleep(Duration::from_millis(10));
        };
        for ear in self.ears.drain(..) {
            ear.join().unwrap();
        }
        (status, self.said.text())
    }

    /// SIGTERM, and [`NodeProcess::finish`].
    pub(crate) fn stop(self) -> (ExitStatus, String) {
        self.signal("TERM");
        self.finish()
    }

    /// Where each of `needles` stands in the process's writable private memory: its name, and the mapping.
    pub(crate) fn find_in_memory(&self, needles: &[(&'static str, Vec<u8>)]) -> Vec<(&'static str, String)> {
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", self.pid())).unwrap();
        let mut memory = File::open(format!("/proc/{}/mem", self.pid())).unwrap();
        let mut found = Vec::new();
        let mut scanned = 0;
        for map in maps.lines() {
            let mut fields = map.split_whitespace();
            let (range, mode) = (fields.next().unwrap(), fields.next().unwrap());
            if !mode.starts_with("rw") || !mode.ends_with('p') {
                continue;
            }
            let (from, to) = range.split_once('-').unwrap();
            let (from, to) = (u64::from_str_radix(from, 16).unwrap(), u64::from_str_radix(to, 16).unwrap());
            let mut bytes = vec![0; usize::try_from(to - from).unwrap()];
            memory.seek(SeekFrom::Start(from)).unwrap();
            // A mapping may have gone since the list was read.
            if memory.read_exact(&mut bytes).is_err() {
                continue;
            }
            scanned += bytes.len();
            for (name, needle) in needles {
                for at in positions(&bytes, needle) {
                    let at = from + u64::try_from(at).unwrap();
                    found.push((*name, format!("{at:x} in {map}")));
                }
            }
        }
        assert!(scanned > 100_000, "hardly anything could be read: {scanned} bytes");
        found
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where `needle` begins in `bytes`. Looks at first bytes first: memory is long and a debug build slow.
fn positions(bytes: &[u8], needle: &[u8]) -> Vec<usize> {
    let mut found = Vec::new();
    let first = needle[0];
    let mut from = 0;
    while let Some(at) = bytes[from..].split(|byte| *byte == first).next().map(|before| from + before.len())
        && at < bytes.len()
    {
        if bytes[at..].starts_with(needle) {
            found.push(at);
        }
        from = at + 1;
    }
    found
}

/// A secret in every form in which it could be found: by name.
pub(crate) fn forms(secret: &[u8; 32]) -> Vec<(&'static str, Vec<u8>)> {
    let hex = const_hex::encode(secret);
    vec![
        ("all 32 bytes", secret.to_vec()),
        ("the first 16 bytes", secret[..16].to_vec()),
        ("the last 16 bytes", secret[16..].to_vec()),
        ("hex", hex.clone().into_bytes()),
        ("hex of the first half", hex.as_bytes()[..32].to_vec()),
        ("hex of the last half", hex.as_bytes()[32..].to_vec()),
    ]
}

/// What the base64 of any text with `secret` in it contains: one of these, whatever stands before it.
pub(crate) fn base64_forms(secret: &[u8]) -> Vec<String> {
    let alphabets = ["+/", "-_"];
    let mut forms = Vec::new();
    for alphabet in alphabets {
        let letters: Vec<char> =
            ('A'..='Z').chain('a'..='z').chain('0'..='9').chain(alphabet.chars()).collect();
        for before in 0..3 {
            let bits: Vec<u8> = std::iter::repeat_n(&0, before)
                .chain(secret)
                .flat_map(|byte| (0..8).rev().map(move |bit| (byte >> bit) & 1))
                .collect();
            let whole =
                bits.chunks_exact(6).map(|six| six.iter().fold(0, |n, bit| n * 2 + usize::from(*bit)));
            forms.push(whole.map(|n| letters[n]).skip((before * 8).div_ceil(6)).collect());
        }
    }
    forms
}
