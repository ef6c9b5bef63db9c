//! Several engines as one: each request goes to the engine that serves the model it names.

use crate::{EmbeddingRequest, Embeddings, Engine, Generation, ModelInfo, Refused, Request, Status};

/// Engines side by side. The first model of the first one is the default.
#[derive(Debug)]
pub struct Several {
    engines: Vec<Box<dyn Engine>>,
    models: Vec<ModelInfo>,
}

/// Two models have one name.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("two models are called {0}: give one of them another name")]
pub struct SameName(pub String);

impl Several {
    /// All of `engines`.
    ///
    /// # Errors
    /// [`SameName`], where a request could mean two of them.
    pub fn new(engines: Vec<Box<dyn Engine>>) -> Result<Self, SameName> {
        let models: Vec<ModelInfo> =
            engines.iter().flat_map(|engine| engine.models().iter().cloned()).collect();
        let twice = |(at, model): (usize, &ModelInfo)| {
            models.iter().take(at).any(|other| other.name == model.name).then(|| model.name.clone())
        };
        match models.iter().enumerate().find_map(twice) {
            Some(name) => Err(SameName(name)),
            None => Ok(Self { engines, models }),
        }
    }

    fn serving(&self, name: Option<&str>) -> Result<&dyn Engine, Refused> {
        let serves = |engine: &&dyn Engine| match name {
            None | Some("default") => true,
            Some(name) => engine.models().iter().any(|model| model.name == name),
        };
        self.engines.iter().map(AsRef::as_ref).find(serves).ok_or(Refused::ModelNotFound)
    }
}

impl Engine for Several {
    fn submit(&self, request: Request) -> Result<Generation, Refused> {
        self.serving(request.model.as_deref())?.submit(request)
    }

    fn embed(&self, request: EmbeddingRequest) -> Result<Embeddings, Refused> {
        self.serving(request.model.as_deref())?.embed(request)
    }

    fn models(&self) -> &[ModelInfo] {
        &self.models
    }

    /// The sums; healthy while the default engine is.
    fn status(&self) -> Status {
        let mut all = Status {
            healthy: self.engines.first().is_some_and(|engine| engine.status().healthy),
            ..Status::default()
        };
        for one in self.engines.iter().map(|engine| engine.status()) {
            all.waiting = all.waiting.saturating_add(one.waiting);
            all.running = all.running.saturating_add(one.running);
            all.slots = all.slots.saturating_add(one.slots);
            all.restarts = all.restarts.saturating_add(one.restarts);
            all.prefilled_tokens = all.prefilled_tokens.saturating_add(one.prefilled_tokens);
            all.reused_tokens = all.reused_tokens.saturating_add(one.reused_tokens);
            all.decoded_tokens = all.decoded_tokens.saturating_add(one.decoded_tokens);
            all.compute_micros = all.compute_micros.saturating_add(one.compute_micros);
            all.choose_micros = all.choose_micros.saturating_add(one.choose_micros);
            all.kv_tokens_used = all.kv_tokens_used.saturating_add(one.kv_tokens_used);
            all.kv_tokens = all.kv_tokens.saturating_add(one.kv_tokens);
            all.prefix_cache_bytes = all.prefix_cache_bytes.saturating_add(one.prefix_cache_bytes);
        }
        all
    }

    fn is_loaded(&self, model: &str) -> bool {
        self.serving(Some(model)).is_ok_and(|engine| engine.is_loaded(model))
    }

    fn forget(&self, session: u64) {
        self.engines.iter().for_each(|engine| engine.forget(session));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EchoEngine, Message, Output, Prompt, Role};

    fn echo(name: &str) -> Box<dyn Engine> {
        Box::new(EchoEngine::new(name, 20))
    }

    fn asking(model: Option<&str>) -> Request {
        let prompt = Prompt::Chat(vec![Message::new(Role::User, "hello")]);
        Request { model: model.map(str::to_owned), ..Request::new(prompt) }
    }

    #[tokio::test]
    async fn a_request_goes_to_the_engine_of_its_model() {
        let engine = Several::new(vec![echo("a"), echo("b")]).unwrap();
        let names: Vec<&str> = engine.models().iter().map(|model| model.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        for (model, at) in [(None, 0), (Some("default"), 0), (Some("a"), 0), (Some("b"), 1)] {
            let before = engine.engines[at].status().decoded_tokens;
            let mut generation = engine.submit(asking(model)).unwrap();
            while let Some(output) = generation.outputs.recv().await {
                assert!(!matches!(output, Output::Failed(_)));
            }
            assert_eq!(engine.engines[at].status().decoded_tokens, before + 1, "{model:?}");
        }
        assert_eq!(engine.status().decoded_tokens, 4);
        assert_eq!(engine.submit(asking(Some("c"))).unwrap_err(), Refused::ModelNotFound);
    }

    #[test]
    fn two_models_of_one_name_are_refused() {
        assert_eq!(Several::new(vec![echo("a"), echo("a")]).unwrap_err(), SameName("a".into()));
    }
}
