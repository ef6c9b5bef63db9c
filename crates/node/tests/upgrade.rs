//! From one version to another and back, with sessions that are in the middle of an answer: nobody is refused, nothing is lost.
//!
//! Both versions are the binary of this build, unless `UPGRADE_FROM` names another one (`make test-upgrade`).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test is meant to panic"
)]

#[path = "support/process.rs"]
mod spawned;
mod support;

use std::{
    env, fs,
    net::{SocketAddr, TcpListener},
    os::unix::fs::OpenOptionsExt as _,
    path::PathBuf,
    process::{Command, Stdio},
    time::{SystemTime, UNIX_EPOCH},
};

use fabstir_client::{Answer, ClientIdentity, Config, Event, Request, Session, SessionDelegation, Turn};
use fabstir_protocol::{identity::PrivateKey, v1::Dialect};
use serde_json::json;
use spawned::{BINARY, NodeProcess, fresh_key};
use support::{PATIENCE, model_path, rng, wallet};
use tempfile::TempDir;
use tokio::{net::TcpStream, time::timeout};

/// What every version finds: a key, settings, a folder of usage, a socket that outlives it.
struct Place {
    dir: TempDir,
    secret: String,
    listener: TcpListener,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let secret = fresh_key();
        let mut key = fs::OpenOptions::new();
        let key = key.write(true).create_new(true).mode(0o600).open(dir.path().join("node.key"));
        std::io::Write::write_all(&mut key.unwrap(), secret.as_bytes()).unwrap();
        let text = format!(
            "model_path = \"{1}\"\nhost_private_key_file = \"{0}/node.key\"\nusage_dir = \"{0}/usage\"\nadmin_socket = \"{0}/admin.sock\"\n\
             context_tokens = 1024\ndrain_seconds = 60\n",
            dir.path().display(),
            model_path().display()
        );
        fs::write(dir.path().join("node.toml"), text).unwrap();
        Self { dir, secret, listener: TcpListener::bind("127.0.0.1:0").unwrap() }
    }

    fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// `binary` under the settings.
    fn call(&self, binary: &str) -> Command {
        let mut command = Command::new(binary);
        command
            .env_clear()
            .env("CONFIG_FILE", self.dir.path().join("node.toml"))
            .current_dir(self.dir.path());
        spawned::pass_on_coverage(&mut command);
        command
    }

    fn asked(&self, binary: &str, words: &[&str]) -> String {
        let output = self.call(binary).args(words).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{binary} {words:?}: {said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        said
    }

    /// `binary` with the socket that systemd would hold.
    fn start(&self, binary: &str) -> NodeProcess {
        // A shell moves it to where systemd would put it.
        let script = "export LISTEN_PID=$$ LISTEN_FDS=1; exec 3<&0 0</dev/null; exec \"$0\" \"$@\"";
        let inner = self.call(binary);
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script, binary]).current_dir(self.dir.path()).env_clear();
        command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let socket: std::os::fd::OwnedFd = self.listener.try_clone().unwrap().into();
        command.stdin(Stdio::from(socket));
        let node = NodeProcess::run(command, &self.secret);
        assert_eq!(node.address, self.address());
        node
    }

    /// A session of version 2 in the name of `wallet`, with the node's address pinned.
    async fn open(&self, wallet: &PrivateKey) -> Session {
        let node = self.secret.parse::<PrivateKey>().unwrap().address();
        let key = fabstir_client::random_key();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let delegation = SessionDelegation {
            wallet: wallet.address(),
            delegate_key: key.public_key(),
            node: Some(node),
            not_before: now - 60,
            not_after: now + 3600,
        };
        let identity = ClientIdentity { key: key.into(), delegation: Some(delegation.sign(wallet).unwrap()) };
        let config = Config::new(format!("ws://{}/v1/ws", self.address()), node, identity);
        timeout(PATIENCE, Session::connect(config)).await.expect("somebody answers").unwrap()
    }

    /// Requests of `client`, as the running node tells them.
    fn requests_of(&self, binary: &str, client: &str) -> u64 {
        let csv = self.asked(binary, &["usage", "--csv"]);
        let mine =
            csv.lines().map(|line| line.split(',').collect::<Vec<_>>()).filter(|line| line[1] == client);
        mine.map(|line| line[2].parse::<u64>().unwrap()).sum()
    }
}

/// What takes the model longer than a drain takes to begin.
const STORY: &str = "Write a very long story about a fox.";
const WORDS: u32 = 120;

/// An answer of which something has come.
async fn long(session: &Session) -> Answer {
    let request = Request { max_tokens: Some(WORDS), seed: Some(1), ..Request::prompt(STORY) };
    let mut answer = session.ask(&request).await.unwrap();
    assert!(matches!(timeout(PATIENCE, answer.next()).await.unwrap().unwrap(), Some(Event::Text(_))));
    answer
}

/// `before` gives way to `after` while three clients are at it: one in the middle of an answer in each version of the protocol, and one
/// who comes in between. Returns the node that runs then.
async fn hand_over(place: &Place, first: NodeProcess, after: &str, client: &PrivateKey) -> NodeProcess {
    let session = place.open(client).await;
    let answer = long(&session).await;
    let mut peer = first.connect().await;
    let mut old = peer.open_as(client, "1", Dialect::Deployed).await.session;
    let story = json!({"prompt": STORY, "max_tokens": WORDS, "seed": 1}).to_string();
    peer.send(old.message(story.as_bytes(), &mut rng()).unwrap()).await;
    first.said.wait_for("Encrypted message decrypted successfully");

    // What the runbook says: the new one looks at the settings first, and the old one is asked to go.
    place.asked(after, &["config", "check"]);
    first.signal("TERM");
    first.said.wait_for("draining");
    let late = TcpStream::connect(place.address()).await.unwrap();
    // An answer that is cut off ends otherwise, in either version of the protocol.
    let whole = |reason: &str| assert!(["stop", "length"].contains(&reason), "{reason}");
    whole(&peer.hear(&old).await.finish_reason);
    let (_, end) = timeout(PATIENCE, answer.text()).await.unwrap().unwrap();
    whole(&end.finish_reason);
    let (status, log) = first.finish();
    assert_eq!(status.code(), Some(0), "{log}");

    let second = place.start(after);
    let upgraded = tokio_tungstenite::client_async(format!("ws://{}/v1/ws", place.address()), late);
    let (_, response) = timeout(PATIENCE, upgraded).await.expect("who came in between is served").unwrap();
    assert_eq!(response.status().as_u16(), 101);
    second
}

#[tokio::test]
async fn a_version_takes_over_from_another_and_gives_back_to_it() {
    let before = env::var("UPGRADE_FROM").unwrap_or_else(|_| BINARY.to_owned());
    let before = PathBuf::from(before).canonicalize().expect("UPGRADE_FROM names a binary");
    let before = before.to_str().unwrap();
    let (place, client) = (Place::new(), wallet());
    let name = client.address().to_string();

    let node = hand_over(&place, place.start(before), BINARY, &client).await;
    assert_eq!(place.requests_of(BINARY, &name), 2, "the answers that finished in the drain are counted");
    let node = hand_over(&place, node, before, &client).await;
    assert_eq!(place.requests_of(before, &name), 4, "the version before reads what the one after it wrote");
    // The same identity, and room for the same client.
    let session = place.open(&client).await;
    let question = Request {
        temperature: Some(0.0),
        max_tokens: Some(16),
        ..Request::messages(vec![
            Turn { role: "system", content: "You are a helpful assistant.".to_owned() },
            Turn { role: "user", content: "What is the capital of France?".to_owned() },
        ])
    };
    let answer = session.ask(&question).await.unwrap();
    let (words, _) = timeout(PATIENCE, answer.text()).await.unwrap().unwrap();
    assert!(words.as_str().contains("Paris"), "{}", words.as_str());
    drop(session);
    assert_eq!(node.stop().0.code(), Some(0));
}
