//! What is attacked: a client that asks two questions of a node, and what it hears.

use std::{sync::Arc, time::Duration};

use fabstir_client::{
    ClientIdentity, Config, End, Error, Event, Request, Session, SessionDelegation, Turn, v1,
};
use fabstir_protocol::{
    ethereum::Address,
    identity::{PrivateKey, PublicKey},
};

use crate::{reference, rng, unix_now};

/// Who speaks with the node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Subject {
    /// Our client, version 2.
    Version2,
    /// Our client, version 1.
    Version1,
    /// A client after the letter of the guide, unmended.
    Reference,
}

/// The node.
#[derive(Clone, Debug)]
pub struct Target {
    /// `ws://host:port/v1/ws`.
    pub url: String,
    /// Its identity.
    pub identity: Address,
    /// Its public key, which version 1 needs.
    pub key: Option<PublicKey>,
}

/// What answers must say.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Expected {
    /// What was asked.
    Echo,
    /// What the first questions were answered with when nobody was in between: the node answers alike each time.
    Alike,
}

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Steps side by side.
    pub parallel: usize,
    /// After how long a silent node counts as lost.
    pub silence: Duration,
    /// How long a lost connection is tried to be replaced.
    pub resume_for: Duration,
    /// After how long a step is over, whatever its client still waits for.
    pub patience: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            parallel: 32,
            silence: Duration::from_millis(600),
            resume_for: Duration::from_millis(1200),
            patience: Duration::from_secs(8),
        }
    }
}

/// An answer that passes for whole.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Said {
    /// The words.
    pub text: String,
    /// How it ended.
    pub reason: String,
    /// Tokens of the answer, by the node's count.
    pub tokens: Option<u32>,
}

impl Said {
    fn of(text: String, end: End) -> Result<Self, String> {
        if end.finish_reason == "cancelled" || end.finish_reason == "error" {
            return Err(format!("the answer ended as {}", end.finish_reason));
        }
        let tokens = end.usage.map(|usage| usage.completion_tokens);
        Ok(Self { text: text.trim().to_owned(), reason: end.finish_reason, tokens })
    }
}

/// What became of each question: an answer that passed for whole, or what the client was told.
pub(crate) type Heard = Vec<Result<Said, String>>;

pub(crate) struct Talk<'a> {
    pub(crate) subject: Subject,
    pub(crate) url: String,
    pub(crate) target: &'a Target,
    pub(crate) pace: Pace,
    pub(crate) wallet: PrivateKey,
}

impl Talk<'_> {
    /// Asks, one question after the other.
    pub(crate) async fn ask(&self, questions: &[String]) -> Heard {
        let mut heard = Vec::new();
        let ended = match self.subject {
            Subject::Version2 => self.version_2(questions, &mut heard).await,
            Subject::Version1 => self.version_1(questions, &mut heard).await,
            Subject::Reference => {
                let key = self.target.key.as_ref();
                reference::ask(&self.url, key, &self.wallet, self.pace.silence, questions, &mut heard).await
            }
        };
        if let Err(error) = ended {
            heard.push(Err(error));
        }
        heard
    }

    fn request(question: &str) -> Request {
        Request {
            temperature: Some(0.0),
            seed: Some(1),
            max_tokens: Some(24),
            ..Request::messages(vec![Turn { role: "user", content: question.to_owned() }])
        }
    }

    fn identity(&self) -> Option<ClientIdentity> {
        let key = PrivateKey::random(&mut rng());
        let now = unix_now();
        let delegation = SessionDelegation {
            wallet: self.wallet.address(),
            delegate_key: key.public_key(),
            node: Some(self.target.identity),
            not_before: now.saturating_sub(60),
            not_after: now.saturating_add(3600),
        };
        let delegation = delegation.sign(&self.wallet).ok()?;
        Some(ClientIdentity { key: Arc::new(key), delegation: Some(delegation) })
    }

    async fn version_2(&self, questions: &[String], heard: &mut Heard) -> Result<(), String> {
        let identity = self.identity().ok_or("no delegation")?;
        let config = Config {
            connect_timeout: self.pace.silence.saturating_mul(2),
            silence_timeout: self.pace.silence,
            resume_for: self.pace.resume_for,
            ..Config::new(self.url.clone(), self.target.identity, identity)
        };
        let (first, others) = questions.split_first().ok_or("no question")?;
        let opened = Session::connect_asking(config, &Self::request(first)).await;
        let (session, answer) = opened.map_err(|error| told(&error))?;
        let whole = |answer: Result<_, Error>| {
            let (words, end): (fabstir_protocol::seal::Words, End) = answer.map_err(|error| told(&error))?;
            Said::of(words.as_str().to_owned(), end)
        };
        heard.push(whole(answer.text().await));
        for question in others {
            let answer = session.ask(&Self::request(question)).await.map_err(|error| told(&error))?;
            heard.push(whole(answer.text().await));
        }
        session.close().await;
        Ok(())
    }

    async fn version_1(&self, questions: &[String], heard: &mut Heard) -> Result<(), String> {
        let key = self.target.key.ok_or("version 1 needs the node's public key")?;
        let config = v1::Config {
            connect_timeout: self.pace.silence.saturating_mul(2),
            silence_timeout: self.pace.silence,
            ..v1::Config::new(self.url.clone(), key)
        };
        let wallet = copy(&self.wallet).ok_or("no key")?;
        let mut client = v1::Client::connect(config, wallet).await.map_err(|error| told(&error))?;
        for question in questions {
            let mut answer = client.ask(&Self::request(question)).await.map_err(|error| told(&error))?;
            let mut text = String::new();
            let end = loop {
                match answer.next().await {
                    Ok(Some(Event::Text(words))) => text.push_str(words.as_str()),
                    Ok(Some(Event::Object(_))) => {}
                    Ok(Some(Event::End(end))) => break Ok(end),
                    Ok(None) => break Err("no end".to_owned()),
                    Err(error) => break Err(told(&error)),
                }
            };
            heard.push(end.and_then(|end| Said::of(text, end)));
        }
        client.close().await;
        Ok(())
    }
}

pub(crate) fn told(error: &Error) -> String {
    error.to_string()
}

/// The same key once more: clients of version 1 take theirs over.
pub(crate) fn copy(key: &PrivateKey) -> Option<PrivateKey> {
    key.to_secret_hex().parse().ok()
}
