//! The command line as its users meet it: arguments, output, exit codes.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::expect_used,
    reason = "a test is meant to panic"
)]
#![cfg(unix)]

#[path = "../../client/tests/support/mod.rs"]
mod support;

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    sync::mpsc::sync_channel,
    thread,
    time::Duration,
};

use fabstir_protocol::{Code, identity::PrivateKey, v1::StreamEndReason};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use support::{Asked, Node, Peer, rng, tampered};
use tempfile::TempDir;

/// A user with an empty home.
struct User {
    home: TempDir,
}

impl User {
    fn new() -> Self {
        Self { home: tempfile::tempdir().unwrap() }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fabstir"));
        command
            .args(arguments)
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| name == "LLVM_PROFILE_FILE"))
            .env("HOME", self.home.path())
            .env("XDG_CONFIG_HOME", self.file("config"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// `fabstir ask` of a node whose key is given.
    fn ask(&self, node: &Node, more: &[&str]) -> Output {
        self.ask_command(node, more).output().unwrap()
    }

    fn ask_command(&self, node: &Node, more: &[&str]) -> Command {
        let (url, key) = (node.url(), node.public_key.to_string());
        let mut arguments = vec!["ask", "--protocol", "1", "--node", &url, "--node-key", &key];
        arguments.extend(more);
        self.command(&arguments)
    }
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[track_caller]
fn assert_exit(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "stdout: {}\nstderr: {}", out(output), err(output));
    if code != 0 && code != 130 {
        assert!(err(output).starts_with("fabstir: "), "{}", err(output));
    }
}

/// Says back what it is asked, in pieces.
fn echo() -> Node {
    Node::start(async |mut peer: Peer| {
        while let Some(request) = peer.request().await {
            let prompt = request["prompt"].as_str().map(|prompt| format!("you said {prompt}"));
            let words = prompt.unwrap_or_else(|| request["messages"].to_string());
            let (one, other) = words.split_at(4);
            peer.answer(&["", one, other]).await;
        }
    })
}

#[test]
fn ask_prints_the_answer_and_makes_a_private_key_file() {
    let (user, node) = (User::new(), echo());
    let output = user.ask(&node, &["--stats", "héllo"]);
    assert_exit(&output, 0);
    assert_eq!(out(&output), "you said héllo\n");
    assert!(err(&output).starts_with("tokens 2 (+ 3 of the prompt), first after "), "{}", err(&output));
    let directory = user.file("config/fabstir");
    assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(directory.join("client.key")).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn ask_reads_standard_input_and_tells_the_system_first() {
    let (user, node) = (User::new(), echo());
    let mut child =
        user.ask_command(&node, &["--system", "be brief", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"from a pipe").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_exit(&output, 0);
    let messages: Value = serde_json::from_str(&out(&output)).unwrap();
    assert_eq!(messages[0]["role"], "system");
    assert_eq!(messages[0]["content"], "be brief");
    assert_eq!(messages[1]["content"], "from a pipe");
    assert_exit(&user.ask(&node, &["  "]), 2);
}

#[test]
fn json_is_one_object_a_line() {
    let (user, node) = (User::new(), echo());
    let output = user.ask(&node, &["--json", "x"]);
    assert_exit(&output, 0);
    let lines: Vec<Value> =
        out(&output).lines().map(|line| serde_json::from_str(line).expect("one object a line")).collect();
    let (last, pieces) = lines.split_last().unwrap();
    let words: String = pieces.iter().map(|piece| piece["text"].as_str().unwrap()).collect();
    assert_eq!(words, "you said x");
    assert_eq!(last["finish_reason"], "stop");
    assert_eq!(last["usage"]["completion_tokens"], 2);
    assert!(last["ttft_ms"].is_u64() && last["tokens_per_second"].is_f64(), "{last}");
}

#[test]
fn a_node_whose_key_changed_is_refused_loudly() {
    let (user, node) = (User::new(), echo());
    let known = PrivateKey::random(&mut rng()).public_key();
    let file = user.file("known");
    fs::write(&file, format!("# mine\n{} {known}\n", node.address)).unwrap();
    let output = user.ask(&node, &["--known-nodes", file.to_str().unwrap(), "x"]);
    assert_exit(&output, 4);
    let said = err(&output);
    assert!(said.contains(&known.to_string()) && said.contains(&node.public_key.to_string()), "{said}");
    assert!(said.contains("sed -i 2d"), "{said}");
}

/// A node that opens nothing that is sealed for another key, and proves its own to who asks.
fn another_node(key: PrivateKey) -> std::net::SocketAddr {
    let opens_nothing = echo();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for incoming in listener.incoming() {
            let mut incoming = incoming.unwrap();
            let mut first = [0; 4];
            while incoming.peek(&mut first).unwrap() < first.len() {}
            if &first == b"POST" {
                prove(&mut incoming, &key);
                continue;
            }
            let mut behind = TcpStream::connect(opens_nothing.address).unwrap();
            let (mut there, mut back) = (incoming.try_clone().unwrap(), behind.try_clone().unwrap());
            thread::spawn(move || std::io::copy(&mut there, &mut behind));
            thread::spawn(move || std::io::copy(&mut back, &mut incoming));
        }
    });
    address
}

fn prove(socket: &mut TcpStream, key: &PrivateKey) {
    let mut reader = BufReader::new(socket.try_clone().unwrap());
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let asked: Value = serde_json::from_slice(&body).unwrap();
    let challenge = const_hex::decode(asked["challenge"].as_str().unwrap()).unwrap();
    let digest = Sha256::new()
        .chain_update(b"fabstir node challenge|")
        .chain_update(key.address().as_bytes())
        .chain_update(challenge)
        .finalize();
    let [rs @ .., recid] = key.sign(&digest.into()).unwrap().to_bytes();
    let (public_key, address) = (key.public_key().to_string(), key.address().to_string());
    let proof = json!({"signature": const_hex::encode(rs), "recid": recid, "public_key": public_key, "address": address});
    let proof = proof.to_string();
    write!(socket, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{proof}", proof.len()).unwrap();
}

#[test]
fn a_known_node_that_has_another_key_now_is_refused_loudly() {
    let (user, new) = (User::new(), PrivateKey::random(&mut rng()));
    let (known, proven) = (PrivateKey::random(&mut rng()).public_key(), new.public_key());
    let address = another_node(new);
    let file = user.file("known");
    fs::write(&file, format!("{address} {known}\n")).unwrap();
    let url = format!("ws://{address}/v1/ws");
    let output =
        user.run(&["ask", "--protocol", "1", "--node", &url, "--known-nodes", file.to_str().unwrap(), "x"]);
    assert_exit(&output, 4);
    let said = err(&output);
    assert!(
        said.contains(&format!("proven: {proven}")) && said.contains(&format!("known: {known}")),
        "{said}"
    );
    assert!(said.contains("NOT THE ONE THAT IS KNOWN"), "{said}");
}

#[test]
fn a_known_node_needs_no_key_and_an_unknown_one_is_not_asked_of_a_pipe() {
    let (user, node) = (User::new(), echo());
    let (url, file) = (node.url(), user.file("known"));
    let unknown = user.run(&["ask", "--protocol", "1", "--node", &url, "x"]);
    assert_exit(&unknown, 4);
    assert!(err(&unknown).contains("--node-key"), "{}", err(&unknown));
    fs::write(&file, format!("{} {}\n", node.address, node.public_key)).unwrap();
    let output = user
        .command(&["ask", "--protocol", "1", "--node", &url, "x"])
        .env("FABSTIR_KNOWN_NODES", &file)
        .output()
        .unwrap();
    assert_exit(&output, 0);
    fs::write(&file, format!("{} 02ff\n", node.address)).unwrap();
    let spoilt =
        user.run(&["ask", "--protocol", "1", "--node", &url, "--known-nodes", file.to_str().unwrap(), "x"]);
    assert_exit(&spoilt, 4);
}

#[test]
fn a_refusal_shows_its_code() {
    let user = User::new();
    let node = Node::start(async |mut peer: Peer| {
        peer.request().await;
        peer.refuse(Code::RateLimited).await;
        peer.asked().await;
    });
    let output = user.ask(&node, &["x"]);
    assert_exit(&output, 1);
    assert!(err(&output).contains(Code::RateLimited.as_str()), "{}", err(&output));
}

#[test]
fn where_nobody_listens_there_is_no_connection() {
    let user = User::new();
    let key = PrivateKey::random(&mut rng()).public_key().to_string();
    let output =
        user.run(&["ask", "--protocol", "1", "--node", "ws://127.0.0.1:1/v1/ws", "--node-key", &key, "x"]);
    assert_exit(&output, 3);
}

#[test]
fn what_does_not_open_or_is_cut_off_is_not_passed_off_as_an_answer() {
    let user = User::new();
    let node = Node::start(async |mut peer: Peer| {
        let request = peer.request().await.unwrap();
        let mut sealer = peer.sealer();
        let chunk = peer.chunk(&mut sealer, "half");
        peer.send(chunk).await;
        let next = if request["prompt"] == "tamper" {
            tampered(&peer.chunk(&mut sealer, "bad"))
        } else {
            peer.end(StreamEndReason::Complete)
        };
        peer.send(next).await;
        peer.asked().await;
    });
    for prompt in ["tamper", "truncate"] {
        let output = user.ask(&node, &[prompt]);
        assert_exit(&output, 5);
        assert_eq!(out(&output), "half\n");
    }
}

/// Says three lines, then waits to be cancelled.
fn endless(words: usize) -> (Node, std::sync::mpsc::Receiver<()>) {
    let (cancelled, told) = sync_channel(1);
    let node = Node::start(move |mut peer: Peer| {
        let cancelled = cancelled.clone();
        async move {
            peer.request().await;
            let mut sealer = peer.sealer();
            let line = "line ".repeat(words) + "\n";
            for _ in 0..3 {
                let chunk = peer.chunk(&mut sealer, &line);
                peer.send(chunk).await;
            }
            if matches!(peer.asked().await, Asked::Cancel) {
                cancelled.send(()).unwrap();
            }
            let (last, end) = (peer.finish(sealer, "cancelled"), peer.end(StreamEndReason::Cancelled));
            peer.send(last).await;
            peer.send(end).await;
        }
    });
    (node, told)
}

fn streaming(user: &User, node: &Node) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut child = user.ask_command(node, &["x"]).spawn().unwrap();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    let mut first = String::new();
    // It comes before the node has ended: the words stream.
    reader.read_line(&mut first).unwrap();
    assert!(first.starts_with("line "));
    (child, reader)
}

#[test]
fn ctrl_c_cancels_at_the_node_and_exits_130() {
    let (user, (node, cancelled)) = (User::new(), endless(1));
    let (child, mut reader) = streaming(&user, &node);
    let mut rest = Vec::new();
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    cancelled.recv_timeout(Duration::from_secs(10)).unwrap();
    reader.read_to_end(&mut rest).unwrap();
    assert_exit(&child.wait_with_output().unwrap(), 130);
}

#[test]
fn a_reader_that_leaves_ends_it_quietly() {
    let (user, (node, cancelled)) = (User::new(), endless(20_000));
    let (child, reader) = streaming(&user, &node);
    drop(reader);
    cancelled.recv_timeout(Duration::from_secs(10)).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_exit(&output, 0);
    assert_eq!(err(&output), "");
}

#[test]
fn chat_reads_lines_in_one_session() {
    let (user, node) = (User::new(), echo());
    let (url, key) = (node.url(), node.public_key.to_string());
    for (more, asked) in [
        (&[][..], json!({"prompt": "one"})),
        (
            &["--system", "s"][..],
            json!([{"role": "system", "content": "s"}, {"role": "user", "content": "one"}]),
        ),
    ] {
        let mut arguments = vec!["chat", "--protocol", "1", "--node", &url, "--node-key", &key];
        arguments.extend(more);
        let mut child = user.command(&arguments).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"one\n\ntwo\n/quit\nthree\n").unwrap();
        let output = child.wait_with_output().unwrap();
        assert_exit(&output, 0);
        let said = out(&output);
        let first = said.lines().next().unwrap_or_default();
        match asked.get("prompt") {
            Some(prompt) => assert_eq!(first, format!("you said {}", prompt.as_str().unwrap())),
            None => assert_eq!(serde_json::from_str::<Value>(first).unwrap(), asked, "{said}"),
        }
        assert!(said.contains("two") && !said.contains("three"), "{said}");
    }
}

#[test]
fn a_new_key_is_its_owners_alone_and_is_not_printed() {
    let user = User::new();
    let file = user.file("some.key");
    let path = file.to_str().unwrap();
    let made = user.run(&["keys", "new", "--out", path]);
    assert_exit(&made, 0);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let secret = fs::read_to_string(&file).unwrap();
    let digits = secret.trim().strip_prefix("0x").unwrap().to_owned();
    assert_eq!(digits.len(), 64);
    assert!(!out(&made).contains(&digits) && !err(&made).contains(&digits));
    let shown = user.run(&["keys", "show", path]);
    assert_exit(&shown, 0);
    assert!(out(&made).ends_with(&out(&shown)), "{}", out(&shown));
    assert!(!out(&shown).contains(&digits));

    assert_exit(&user.run(&["keys", "new", "--out", path]), 2);
    assert_eq!(fs::read_to_string(&file).unwrap(), secret);
    let replaced = user.run(&["keys", "new", "--out", path, "--force", "--show-private"]);
    assert_exit(&replaced, 0);
    let secret = fs::read_to_string(&file).unwrap();
    assert!(!secret.contains(&digits) && out(&replaced).contains(secret.trim()));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let (user, node) = (User::new(), echo());
    let file = user.file("some.key");
    let path = file.to_str().unwrap();
    let missing = user.ask(&node, &["--key-file", path, "x"]);
    assert_exit(&missing, 2);
    assert!(err(&missing).contains("fabstir keys new --out"), "{}", err(&missing));
    assert_exit(&user.run(&["keys", "new", "--out", path]), 0);
    assert_exit(&user.ask(&node, &["--key-file", path, "x"]), 0);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let refused = user.ask(&node, &["--key-file", path, "x"]);
    assert_exit(&refused, 2);
    assert!(err(&refused).contains(&format!("chmod 600 {path}")), "{}", err(&refused));
}

#[test]
fn a_capture_shows_lengths_and_no_words() {
    let (user, node) = (User::new(), echo());
    let file = user.file("frames");
    let path = file.to_str().unwrap();
    assert_exit(&user.ask(&node, &["--capture", path, "a question"]), 0);
    let captured = fs::read_to_string(&file).unwrap();
    assert!(!captured.contains("question") && !captured.contains("you said"));
    let first: Value = serde_json::from_str(captured.lines().next().unwrap()).unwrap();
    assert!(first["at_ms"].is_u64() && first["dir"] == "sent" && first["frame"].is_string());

    let output = user.run(&["inspect", path]);
    assert_exit(&output, 0);
    let table = out(&output);
    for shown in ["encrypted_session_init", "session_init_ack", "message_0", "chunk_2", "final", "stream_end"]
    {
        assert!(table.contains(shown), "{shown} in {table}");
    }
    assert!(table.contains("19 bytes answered in 3 pieces"), "{table}");
    assert!(table.contains("forward secrecy"), "{table}");
    fs::write(&file, "nonsense\n").unwrap();
    assert_exit(&user.run(&["inspect", path]), 2);
}

#[test]
fn usage_is_checked_and_the_exit_codes_are_in_the_help() {
    let user = User::new();
    let help = user.run(&["ask", "--help"]);
    assert_eq!(help.status.code(), Some(0));
    assert!(out(&help).contains("130  interrupted"), "{}", out(&help));
    assert_eq!(
        user.run(&["ask", "--protocol", "1", "--node", "https://example.org/v1/ws", "x"]).status.code(),
        Some(2)
    );
    assert_eq!(user.run(&["nonsense"]).status.code(), Some(2));
}
