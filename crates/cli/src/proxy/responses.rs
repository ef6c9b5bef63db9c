//! OpenAI's Responses API, of what the node answers: its requests become those of chat completions, and the pieces of an
//! answer output items. Nothing is kept between requests.

mod asked;
mod input;
mod items;

use std::{convert::Infallible, sync::Arc};

use axum::{
    Json,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    response::{
        IntoResponse as _, Response, Sse,
        sse::{Event as SseEvent, KeepAlive},
    },
};
use fabstir_client::{Answer, Error, Event, Op};
use futures_util::stream;
use serde_json::Value;
use tokio::time::timeout;

use super::{
    chat::{QUIET, usual_model},
    fault::Fault,
    nodes::{self, Nodes},
};
use asked::Asked;
use items::Items;

pub(super) async fn responses(
    State(all): State<Arc<Nodes>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Fault> {
    let asked = Asked::read(&body?)?;
    let (model, streams, echoed) = (asked.model.clone(), asked.stream == Some(true), asked.echoed());
    let nodes::Asked { session, mut answer, .. } = all.ask(Op::Chat, &asked.into_chat()?).await?;
    let model = model.unwrap_or_else(|| usual_model(&session));
    let items = Items::begun(&model, echoed);
    if !streams {
        return Ok(Json(whole(answer, items).await?).into_response());
    }
    // What the node refuses at once has a status of its own; after that there is only the stream to say it in.
    let first = match timeout(QUIET, answer.next()).await {
        Ok(event) => event?,
        Err(_) => None,
    };
    let streaming = Streaming { answer, first, items };
    let events = stream::unfold(streaming, |mut streaming| async {
        let event = streaming.next().await?;
        Some((Ok::<_, Infallible>(event), streaming))
    });
    let keep_alive = KeepAlive::new().interval(QUIET).text("the node is at work");
    Ok(Sse::new(events).keep_alive(keep_alive).into_response())
}

async fn whole(mut answer: Answer, mut items: Items) -> Result<Value, Error> {
    while !items.over {
        items.take(&answer.next().await?.ok_or(Error::Truncated)?)?;
        items.ready.clear();
    }
    Ok(items.response)
}

/// A stream under way. Dropped with the program's connection, which cancels the answer at the node.
struct Streaming {
    answer: Answer,
    /// The first event, where it came before the stream began.
    first: Option<Event>,
    items: Items,
}

impl Streaming {
    async fn next(&mut self) -> Option<SseEvent> {
        while self.items.ready.is_empty() && !self.items.over {
            let event = match self.first.take() {
                Some(event) => Ok(event),
                None => self.answer.next().await.and_then(|event| event.ok_or(Error::Truncated)),
            };
            if let Err(error) = event.and_then(|event| self.items.take(&event)) {
                self.items.fail(error);
            }
        }
        let event = self.items.ready.pop_front()?;
        let name = event.get("type").and_then(Value::as_str).unwrap_or_default();
        Some(SseEvent::default().event(name).data(event.to_string()))
    }
}
