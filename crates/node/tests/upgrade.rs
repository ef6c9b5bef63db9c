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
    process::Command,
};

use fabstir_client::{Answer, Config, Event, Request, Session, Turn, anonymous};
use fabstir_protocol::identity::PrivateKey;
use serde_json::json;
use spawned::{BINARY, NodeProcess, fresh_key, handed, pass_on_coverage};
use support::{PATIENCE, model_path, rng};
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

    /// `command` under the settings.
    fn here(&self, mut command: Command) -> Command {
        command.env("CONFIG_FILE", self.dir.path().join("node.toml")).current_dir(self.dir.path());
        command
    }

    fn asked(&self, binary: &str, words: &[&str]) -> String {
        let mut command = Command::new(binary);
        command.env_clear().args(words);
        pass_on_coverage(&mut command);
        let output = self.here(command).output().unwrap();
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
        let command = handed(binary, self.listener.try_clone().unwrap().into(), "1");
        let node = NodeProcess::run(self.here(command), &self.secret);
        assert_eq!(node.address, self.address());
        node
    }

    /// A session of version 2 with the node's address pinned.
    async fn open(&self) -> Session {
        let node = self.secret.parse::<PrivateKey>().unwrap().address();
        let config = Config::new(format!("ws://{}/v1/ws", self.address()), node, anonymous());
        timeout(PATIENCE, Session::connect(config)).await.expect("somebody answers").unwrap()
    }

    /// Requests so far, as the running node tells them.
    fn requests(&self, binary: &str) -> u64 {
        let csv = self.asked(binary, &["usage", "--csv"]);
        csv.lines().skip(1).map(|line| line.split(',').nth(2).unwrap().parse::<u64>().unwrap()).sum()
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
async fn hand_over(place: &Place, first: NodeProcess, after: &str) -> NodeProcess {
    let session = place.open().await;
    let answer = long(&session).await;
    let mut peer = first.connect().await;
    let mut old = peer.open("1").await.session;
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
    let place = Place::new();

    let node = hand_over(&place, place.start(before), BINARY).await;
    assert_eq!(place.requests(BINARY), 2, "the answers that finished in the drain are counted");
    let node = hand_over(&place, node, before).await;
    assert_eq!(place.requests(before), 4, "the version before reads what the one after it wrote");
    // The same identity.
    let session = place.open().await;
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
