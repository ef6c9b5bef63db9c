//! Runs steps, each with a client of its own, and judges what comes of them.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use fabstir_protocol::identity::PrivateKey;
use serde_json::Value;
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    plan::{CUT, LATE_CUT},
    proxy::{Log, Plan, Proxy},
    report::{Ended, Report, Verdict},
    rng,
    step::{Act, Demand, Step},
    talk::{Expected, Heard, Pace, Said, Subject, Talk, Target},
    wire::{Frame, Kind, Recording, Way},
};

/// How often a step is tried until its place is reached: under load a session may take another turn.
const TRIES: usize = 4;
/// How long is waited when the node takes no more handshakes for now, and how often.
const RATE_LIMITED: Duration = Duration::from_secs(2);
const MOST_WAITS: usize = 90;
/// Sessions with nobody in between by which a model's answers are known.
const CONTROLS: usize = 6;

/// How often a node has begun to answer prompts that hold a text, where that can be seen.
#[derive(Clone)]
pub struct Ledger(Arc<dyn Fn(&str) -> usize + Send + Sync>);

impl Ledger {
    /// Sees what `count` counts.
    pub fn new(count: impl Fn(&str) -> usize + Send + Sync + 'static) -> Self {
        Self(Arc::new(count))
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ledger(..)")
    }
}

/// Why the steps cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum SuiteError {
    /// There is no port to listen on.
    #[error("cannot listen on loopback: {0}")]
    Listen(#[from] std::io::Error),
    /// With nobody in between it does not work either.
    #[error("the node does not answer as it must with nobody in between: {0}")]
    Control(String),
}

/// Steps, and whom they are for.
#[derive(Clone, Debug)]
pub struct Suite {
    /// Who speaks with the node.
    pub subject: Subject,
    /// The node.
    pub target: Target,
    /// What answers must say.
    pub expected: Expected,
    /// What the node has begun to answer, where that can be seen.
    pub ledger: Option<Ledger>,
    /// How long things may take.
    pub pace: Pace,
}

/// What all steps of a run share.
#[derive(Debug)]
struct Run {
    suite: Suite,
    other: Arc<Recording>,
    /// Answers to each question that were heard with nobody in between, where they cannot be foretold.
    right: Option<Vec<Vec<String>>>,
    number: AtomicUsize,
    asked: AtomicUsize,
}

impl Suite {
    /// Runs the steps, several side by side.
    ///
    /// # Errors
    /// [`SuiteError`].
    pub async fn run(&self, steps: Vec<Step>) -> Result<Report, SuiteError> {
        let start = Instant::now();
        let mut run = Run {
            suite: self.clone(),
            other: Arc::default(),
            right: None,
            number: AtomicUsize::new(0),
            asked: AtomicUsize::new(0),
        };
        run.prepare().await?;
        let run = Arc::new(run);
        let places = Arc::new(Semaphore::new(self.pace.parallel.max(1)));
        let mut tasks = JoinSet::new();
        for (number, step) in steps.into_iter().enumerate() {
            let (run, places) = (Arc::clone(&run), Arc::clone(&places));
            tasks.spawn(async move {
                let _place = places.acquire_owned().await.ok();
                let verdict = run.step(&step).await;
                (number, Ended { step, verdict })
            });
        }
        let mut ended: Vec<(usize, Ended)> = Vec::new();
        while let Some(one) = tasks.join_next().await {
            ended.extend(one.ok());
        }
        ended.sort_by_key(|(number, _)| *number);
        let asked = run.asked.load(Ordering::Relaxed);
        Ok(Report { ended: ended.into_iter().map(|(_, one)| one).collect(), asked, took: start.elapsed() })
    }
}

impl Run {
    /// Another client's session is recorded, with a resumption where there are any; and it is seen that everything is
    /// in order with nobody in between.
    async fn prepare(&mut self) -> Result<(), SuiteError> {
        let acts = match self.suite.subject {
            Subject::Version2 => vec![(LATE_CUT, Act::CloseAfter)],
            Subject::Version1 | Subject::Reference => Vec::new(),
        };
        let questions = [self.questions(), self.questions()].concat();
        let (heard, log) = self.converse(acts, &questions).await?;
        let said: Result<Vec<Said>, String> = heard.into_iter().collect();
        let said = said.map_err(SuiteError::Control)?;
        if self.suite.expected == Expected::Alike {
            self.right = Some(self.hear_right(said).await?);
        }
        self.other = Arc::new(log.seen);
        let questions = self.questions();
        let (heard, log) = self.converse(Vec::new(), &questions).await?;
        match self.judge(Demand::Right, &questions, &heard, &log, None) {
            Verdict::Harmless => Ok(()),
            verdict @ (Verdict::Refused(_)
            | Verdict::Accepted(_)
            | Verdict::Known(_)
            | Verdict::Unreached) => Err(SuiteError::Control(format!("{verdict:?}"))),
        }
    }

    /// The answers of some sessions with nobody in between, one after the other and side by side: a model may answer
    /// otherwise when it answers others too.
    async fn hear_right(&self, first: Vec<Said>) -> Result<Vec<Vec<String>>, SuiteError> {
        let mut right: Vec<Vec<String>> = self.questions().iter().map(|_| Vec::new()).collect();
        let mut heard = vec![first];
        let sessions = (0..CONTROLS).map(|_| async {
            let (heard, _) = self.converse(Vec::new(), &self.questions()).await?;
            heard.into_iter().collect::<Result<Vec<Said>, String>>().map_err(SuiteError::Control)
        });
        for said in futures_util::future::join_all(sessions).await {
            heard.push(said?);
        }
        for (number, said) in heard.into_iter().flat_map(|said| said.into_iter().enumerate()) {
            let which = number.checked_rem(right.len()).unwrap_or(0);
            if let Some(texts) = right.get_mut(which) {
                texts.push(said.text);
            }
        }
        Ok(right)
    }

    /// Two questions that nobody has asked before, where the answer can be foretold.
    fn questions(&self) -> Vec<String> {
        if self.suite.expected == Expected::Alike {
            return vec!["Count from one to nine.".into(), "Name five colours.".into()];
        }
        let tag = self.tag();
        let question = |which: char| {
            let words: Vec<String> = (1..=6).map(|number| format!("{tag}{which}{number}")).collect();
            words.join(" ")
        };
        vec![question('a'), question('b')]
    }

    fn tag(&self) -> String {
        format!("s{:05}", self.number.fetch_add(1, Ordering::Relaxed))
    }

    async fn converse(
        &self,
        acts: Vec<(crate::Place, Act)>,
        questions: &[String],
    ) -> Result<(Heard, Log), SuiteError> {
        let Suite { subject, target, pace, .. } = &self.suite;
        let plan = Plan { acts, other: Arc::clone(&self.other) };
        let proxy = Proxy::start(&target.url, plan).await?;
        let talk = Talk {
            subject: *subject,
            url: proxy.url(),
            target,
            pace: *pace,
            wallet: PrivateKey::random(&mut rng()),
        };
        self.asked.fetch_add(questions.len(), Ordering::Relaxed);
        let address = talk.wallet.address().to_string();
        let heard = timeout(pace.patience, talk.ask(questions)).await;
        let mut heard = heard.unwrap_or_else(|_| vec![Err("the client still waits".to_owned())]);
        proxy.finish().await;
        let log = proxy.into_log();
        if acknowledged_as_another(&log, &address) {
            heard.push(Ok(Said {
                text: "the session is the attacker's".into(),
                reason: String::new(),
                tokens: None,
            }));
        }
        Ok((heard, log))
    }

    async fn step(&self, step: &Step) -> Verdict {
        let (mut tries, mut waits, mut doubted) = (0, 0, false);
        while tries < TRIES && waits < MOST_WAITS {
            let mut acts = vec![(step.place, step.act.clone())];
            if step.resumed {
                acts.push((CUT, Act::CloseAfter));
            }
            let questions = self.questions();
            let (heard, log) = match self.converse(acts, &questions).await {
                Ok(conversed) => conversed,
                Err(error) => return Verdict::Refused(error.to_string()),
            };
            // The node was not attacked, only asked too often.
            if is_limited(&log) {
                waits = waits.saturating_add(1);
                sleep(RATE_LIMITED).await;
                continue;
            }
            tries = tries.saturating_add(1);
            if log.done.first().is_none_or(|done| *done == 0) {
                continue;
            }
            let verdict = self.judge(step.demand, &questions, &heard, &log, step.known);
            if let (Verdict::Accepted(how), Some(_)) = (&verdict, step.known) {
                return Verdict::Known(how.clone());
            }
            // A model may say something else for once; an attack that succeeds does so again.
            let doubt = self.right.is_some() && !doubted && matches!(verdict, Verdict::Accepted(_));
            if !doubt {
                return verdict;
            }
            doubted = true;
            tries = 0;
        }
        Verdict::Unreached
    }

    fn judge(
        &self,
        demand: Demand,
        questions: &[String],
        heard: &Heard,
        log: &Log,
        known: Option<&str>,
    ) -> Verdict {
        let whole =
            |kind: Kind| matches!(kind, Kind::Record | Kind::R2 | Kind::Ack | Kind::Chunk | Kind::Response);
        if let Some(reply) = log.replies.iter().find(|reply| whole(reply.kind())) {
            return Verdict::Accepted(format!("the node gave an attacker a {:?}", reply.kind()));
        }
        if let Some(why) = self.made_twice(questions) {
            return Verdict::Accepted(why);
        }
        let strict = self.suite.subject == Subject::Version2 || known.is_some();
        for (number, one) in heard.iter().enumerate() {
            let Ok(said) = one else { continue };
            if self.suite.subject == Subject::Version1 && moved(number, questions, said) {
                return Verdict::Known(MOVED.into());
            }
            if let Some(how) = self.wrong(number, questions, said, strict) {
                return Verdict::Accepted(how);
            }
        }
        let told = heard.iter().find_map(|one| one.as_ref().err());
        match (demand, told) {
            (Demand::Refused, None) => Verdict::Accepted("it went unnoticed".into()),
            (Demand::Refused, Some(_)) if heard.iter().any(Result::is_ok) => {
                Verdict::Accepted("a session was opened, or an answer taken, all the same".into())
            }
            (_, Some(told)) => Verdict::Refused(told.clone()),
            (Demand::Right, None) if heard.len() == questions.len() => Verdict::Harmless,
            (Demand::Right, None) => Verdict::Refused("fewer answers than questions".into()),
        }
    }

    fn wrong(&self, number: usize, questions: &[String], said: &Said, strict: bool) -> Option<String> {
        if let Some(right) = &self.right {
            let alike = right.get(number).is_some_and(|texts| texts.contains(&said.text));
            return (!alike).then(|| format!("{said:?} passed for whole"));
        }
        let asked = questions.get(number).map_or("", String::as_str);
        if asked != said.text || said.reason != "stop" {
            return Some(format!("{said:?} passed for whole"));
        }
        let tokens = u32::try_from(asked.split_whitespace().count()).ok();
        let counted = !strict || said.tokens == tokens;
        (!counted).then(|| format!("{:?} tokens passed for the count", said.tokens))
    }

    /// What the node did twice, or for nobody who may ask.
    fn made_twice(&self, questions: &[String]) -> Option<String> {
        let Ledger(count) = self.suite.ledger.as_ref()?;
        let of = |question: &String| question.split(' ').next().map_or(0, |word| count(word));
        let twice = questions.iter().any(|question| of(question) > 1);
        // Every word of the questions begins alike, and no others do.
        let tag: String = questions.first()?.chars().take(6).collect();
        let all = count(&tag);
        if twice || all > questions.len() {
            return Some(format!("{all} answers were made to {} questions", questions.len()));
        }
        (count("attacker") > 0).then(|| "the node answered the attacker's words".into())
    }
}

/// Errors of version 1 are in the clear: a client that was made to give an answer up takes it for the next one's, for
/// both are under one key and numbered alike.
const MOVED: &str = "an answer that was given up passed for the next question's";

fn moved(number: usize, questions: &[String], said: &Said) -> bool {
    questions.iter().take(number).any(|question| *question == said.text)
}

/// Version 1's acknowledgement says whose session it is, in the clear.
fn acknowledged_as_another(log: &Log, client: &str) -> bool {
    log.seen.iter().any(|seen| {
        let Frame::Text(text) = &seen.frame else { return false };
        if seen.place.kind != Kind::Ack || seen.place.way != Way::ToClient {
            return false;
        }
        let json: Value = serde_json::from_str(text).unwrap_or_default();
        json.get("client_address").and_then(Value::as_str).is_some_and(|address| address != client)
    })
}

/// Whether the node refused somebody, the client or the attacker, because there were too many before.
fn is_limited(log: &Log) -> bool {
    let seen = log.seen.iter().filter(|seen| seen.place.way == Way::ToClient).map(|seen| &seen.frame);
    seen.chain(&log.replies).any(|frame| match frame {
        Frame::Text(text) => text.contains("\"RATE_LIMITED\""),
        Frame::Binary(_) => false,
    })
}
