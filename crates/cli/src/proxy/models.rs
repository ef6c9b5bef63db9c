//! OpenAI's list of models, of what the node serves.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
};
use fabstir_client::{Error, Event, Op};
use fabstir_protocol::{ethereum::Address, v2::ModelEntry};
use serde_json::{Value, json};

use super::{
    fault::Fault,
    nodes::{Asked, Nodes},
};

pub(super) async fn list(State(nodes): State<Arc<Nodes>>) -> Result<Json<Value>, Fault> {
    let (owner, models) = served(&nodes).await?;
    let data: Vec<Value> = models.iter().map(|model| shown(model, owner)).collect();
    Ok(Json(json!({"object": "list", "data": data})))
}

pub(super) async fn one(
    State(nodes): State<Arc<Nodes>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Fault> {
    let (owner, models) = served(&nodes).await?;
    let model = models.iter().find(|model| model.id == id).ok_or_else(Fault::no_model)?;
    Ok(Json(shown(model, owner)))
}

async fn served(nodes: &Nodes) -> Result<(Address, Vec<ModelEntry>), Fault> {
    let Asked { mut answer, node, .. } = nodes.ask(Op::Models, "{}").await?;
    let Some(Event::Object(list)) = answer.next().await? else { return Err(Error::Protocol.into()) };
    let models = serde_json::from_str(list.as_str()).map_err(|_| Error::Protocol)?;
    if !matches!(answer.next().await?, Some(Event::End(_))) {
        return Err(Error::Protocol.into());
    }
    Ok((node, models))
}

fn shown(model: &ModelEntry, owner: Address) -> Value {
    json!({"id": model.id, "object": "model", "created": 0, "owned_by": owner.to_checksum(),
           "context_window": model.context_window, "sha256": model.sha256})
}
