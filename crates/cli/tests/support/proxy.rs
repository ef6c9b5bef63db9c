//! A running proxy, and how a program on the same machine asks it.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, ChildStderr, Stdio},
};

use reqwest::{Client, RequestBuilder, Response};
use serde_json::{Value, json};

use super::{TestNode, User, out};

/// A running proxy, which ends with the test.
pub(crate) struct Proxy {
    child: Child,
    said: BufReader<ChildStderr>,
    pub(crate) base: String,
    pub(crate) token: String,
    pub(crate) http: Client,
}

impl Proxy {
    pub(crate) fn start(user: &User, node: &TestNode) -> Self {
        Self::with(user, &["--node", &node.url(), "--node-key", &node.identity.to_string()])
    }

    pub(crate) fn with(user: &User, nodes: &[&str]) -> Self {
        let arguments = [&["proxy", "--listen", "127.0.0.1:0"], nodes].concat();
        let mut command = user.command(&arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(child.stderr.take().unwrap());
        let mut base = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut base).unwrap();
        let printed = out(&user.run(&["proxy", "--env"]));
        let token = printed.lines().find_map(|line| line.strip_prefix("export OPENAI_API_KEY="));
        Self {
            child,
            said,
            base: base.trim().to_owned(),
            token: token.unwrap().to_owned(),
            http: Client::builder().no_proxy().build().unwrap(),
        }
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> RequestBuilder {
        let request = self.http.post(format!("{}{path}", self.base)).bearer_auth(&self.token);
        request.header("content-type", "application/json").body(body.to_string())
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        let request = self.http.get(format!("{}{path}", self.base)).bearer_auth(&self.token);
        request.send().await.unwrap()
    }

    /// The next line that it writes to standard error.
    pub(crate) fn says(&mut self) -> String {
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap();
        line
    }

    /// Which model answers, by its own name.
    pub(crate) async fn model(&self) -> String {
        let answer = json_of(self.ask(json!({"messages": said("?")})).await).await;
        answer["model"].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) async fn ask(&self, body: Value) -> Response {
        self.post("/chat/completions", &body).send().await.unwrap()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) async fn json_of(response: Response) -> Value {
    serde_json::from_str(&response.text().await.unwrap()).unwrap()
}

pub(crate) fn said(words: &str) -> Value {
    json!([{"role": "user", "content": words}])
}

/// The data of every event of a stream.
pub(crate) fn events(stream: &str) -> Vec<&str> {
    stream.lines().filter_map(|line| line.strip_prefix("data: ")).collect()
}
