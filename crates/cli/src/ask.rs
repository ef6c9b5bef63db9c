//! `fabstir ask`: one question, one answer.

use std::io::{self, Read as _, Write as _};

use fabstir_client::{End, Usage};
use serde::Serialize;

use crate::{
    args::Ask,
    connect::{Prepared, turn},
    failure::{Exit, Failure, printable},
    tell::{How, TellError, Told, Words, tell},
};

/// Longest prompt that is read from standard input.
const MAX_PROMPT: u64 = 1 << 20;

pub(crate) async fn run(ask: Ask) -> Result<Exit, Failure> {
    let prepared = Prepared::from(&ask.connection).await?;
    let prompt = prompt(ask.prompt.as_deref())?;
    let Some(mut client) = prepared.open().await? else { return Ok(Exit::Interrupted) };
    let request = match &ask.asked.system {
        Some(_) => ask.asked.conversation(&[turn("user", &prompt)]),
        None => ask.asked.prompt(&prompt),
    };
    let mut words = Words::to_stdout();
    let told = if ask.json {
        tell(&mut client, &request, |text| line(&Text { text })).await
    } else {
        tell(&mut client, &request, |text| words.show(text)).await
    };
    words.end_if_open();
    // Whatever came of it: a session that is left open costs its node something.
    client.close().await;
    let told = told?;
    match &told.how {
        How::Unread => Ok(Exit::Ok),
        How::Interrupted => Ok(Exit::Interrupted),
        How::Ended(end) => {
            if ask.json {
                line(&Last::of(&told, end))?;
            } else if told.first_words.is_none() {
                words.end()?;
            }
            if ask.stats {
                stats(&told, end.usage.as_ref());
            }
            judge(end)
        }
    }
}

impl From<TellError> for Failure {
    fn from(error: TellError) -> Self {
        match error {
            TellError::Client(error) => error.into(),
            TellError::Output(error) => error.into(),
        }
    }
}

/// Whether an answer that came to its sealed end is the one that was asked for.
pub(crate) fn judge(end: &End) -> Result<Exit, Failure> {
    let code = end.code.as_deref().unwrap_or("no code");
    match end.finish_reason.as_str() {
        "error" => {
            let what = format!("the node failed on the way ({}); ask again", printable(code));
            Err(Failure::new(Exit::Refused, what))
        }
        "cancelled" => Err(Failure::new(Exit::Broken, "the node ended the answer early; ask again")),
        _ => Ok(Exit::Ok),
    }
}

fn prompt(given: Option<&str>) -> Result<String, Failure> {
    let prompt = match given {
        Some(words) if words != "-" => words.to_owned(),
        Some(_) | None => {
            let mut words = String::new();
            io::stdin()
                .take(MAX_PROMPT)
                .read_to_string(&mut words)
                .map_err(|error| Failure::new(Exit::Usage, format!("cannot read the prompt: {error}")))?;
            words
        }
    };
    if prompt.trim().is_empty() {
        return Err(Failure::new(
            Exit::Usage,
            "the prompt is empty; give one, or write it to standard input",
        ));
    }
    Ok(prompt)
}

#[derive(Serialize)]
struct Text<'a> {
    text: &'a str,
}

#[derive(Serialize)]
struct Last<'a> {
    finish_reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'a str>,
    usage: Option<Usage>,
    ttft_ms: Option<u64>,
    tokens_per_second: Option<f64>,
}

impl<'a> Last<'a> {
    fn of(told: &Told, end: &'a End) -> Self {
        Self {
            finish_reason: &end.finish_reason,
            code: end.code.as_deref(),
            usage: end.usage.clone(),
            ttft_ms: told.first_words_ms(),
            tokens_per_second: told.tokens_per_second(),
        }
    }
}

fn line(value: &impl Serialize) -> io::Result<()> {
    let mut json = serde_json::to_vec(value)?;
    json.push(b'\n');
    let mut out = io::stdout().lock();
    out.write_all(&json)?;
    out.flush()
}

fn stats(told: &Told, usage: Option<&Usage>) {
    let tokens = usage.map_or("?".to_owned(), |usage| {
        format!("{} (+ {} of the prompt)", usage.completion_tokens, usage.prompt_tokens)
    });
    let first = told.first_words_ms().map_or("?".to_owned(), |ms| ms.to_string());
    let rate = told.tokens_per_second().map_or("?".to_owned(), |rate| format!("{rate:.1}"));
    // Where nobody listens there is nobody to tell.
    let _ = writeln!(io::stderr().lock(), "tokens {tokens}, first after {first} ms, {rate} tokens/s");
}
