//! The engine with the default model.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test is meant to panic")]

use std::{path::PathBuf, time::Duration};

use fabstir_engine::{
    Author, Engine, Failure, FinishReason, Generation, InjectedFault, LlamaConfig, LlamaEngine, LoadError,
    Message, Output, Overflow, Prompt, Refused, Request, Role, Sampling, Text, Usage,
};

fn model_path() -> PathBuf {
    let path = std::env::var_os("FABSTIR_TEST_MODEL").map_or_else(
        || {
            let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
            let cache =
                cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"))).unwrap();
            cache.join("fabstir/models/SmolLM2-135M-Instruct.Q4_1.gguf")
        },
        PathBuf::from,
    );
    assert!(path.is_file(), "{} is missing: run scripts/fetch-model.sh", path.display());
    path
}

fn config() -> LlamaConfig {
    LlamaConfig {
        context_tokens: 512,
        max_sequences: 3,
        threads: Some(1),
        max_waiting: 8,
        prefill_chunk: 128,
        stalled_reader: Duration::from_secs(60),
        step_timeout: Duration::from_secs(60),
        ..LlamaConfig::new(model_path(), "smollm2")
    }
}

fn engine() -> LlamaEngine {
    LlamaEngine::load(config(), |_| {}).unwrap()
}

fn message(role: Role, words: &str) -> Message {
    Message { role, content: Text::from(words) }
}

fn request(messages: Vec<Message>) -> Request {
    Request {
        model: None,
        prompt: Prompt::Chat(messages),
        overflow: Overflow::Refuse,
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        max_tokens: Some(24),
        stop: Vec::new(),
        client: 0,
        scope: 0,
        session: 0,
        system: Author::Client,
    }
}

fn asking(words: &str) -> Request {
    request(vec![message(Role::System, "You are a helpful assistant."), message(Role::User, words)])
}

#[derive(Debug, PartialEq)]
struct Answer {
    text: String,
    tokens: u32,
    dropped: usize,
    end: Result<(FinishReason, Usage), Failure>,
}

async fn read(mut generation: Generation) -> Answer {
    let mut answer = Answer { text: String::new(), tokens: 0, dropped: 0, end: Err(Failure::Engine) };
    while let Some(output) = generation.outputs.recv().await {
        match output {
            Output::Started { dropped_messages, .. } => answer.dropped = dropped_messages,
            Output::Text { text, tokens } => {
                answer.text.push_str(text.as_str());
                answer.tokens += tokens;
            }
            Output::Finished { reason, usage } => answer.end = Ok((reason, usage)),
            Output::Failed(failure) => answer.end = Err(failure),
        }
    }
    answer
}

async fn answer(engine: &LlamaEngine, request: Request) -> Answer {
    read(engine.submit(request).unwrap()).await
}

/// Waits for something that the engine's thread does in its own time.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "never came: {what}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_model_answers_and_counts() {
    let engine = engine();
    let answer = answer(&engine, asking("What is the capital of France?")).await;
    assert!(answer.text.contains("Paris"), "{}", answer.text);
    let (reason, usage) = answer.end.unwrap();
    assert_eq!(reason, FinishReason::Stop);
    assert!(usage.prompt_tokens > 20 && usage.completion_tokens >= answer.tokens, "{usage:?}");
    assert_eq!(engine.models()[0].digest, "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53");
}

#[tokio::test]
async fn answers_computed_together_are_those_computed_alone() {
    let engine = engine();
    let prompts = ["What is the capital of France?", "Name a colour.", "Say hello.", "What is two plus two?"];
    let mut alone = Vec::new();
    for prompt in prompts {
        alone.push(answer(&engine, asking(prompt)).await.text);
    }
    let generations: Vec<_> = prompts.iter().map(|prompt| engine.submit(asking(prompt)).unwrap()).collect();
    let mut together = Vec::new();
    for generation in generations {
        together.push(read(generation).await.text);
    }
    // The arithmetic of a batch may round otherwise than that of one sequence, which can turn a close choice;
    // the first words are not close.
    for (alone, together) in alone.iter().zip(&together) {
        let head = |text: &str| text.chars().take(12).collect::<String>();
        assert_eq!(head(alone), head(together));
    }
}

#[tokio::test]
async fn the_end_has_its_true_reason() {
    let engine = engine();
    let short = Request { max_tokens: Some(3), ..asking("Tell me a story.") };
    let answer_short = answer(&engine, short).await;
    assert_eq!(
        answer_short.end.map(|(reason, usage)| (reason, usage.completion_tokens)),
        Ok((FinishReason::Length, 3))
    );
    let stopped = Request { stop: vec!["Paris".into()], ..asking("What is the capital of France?") };
    let answer_stopped = answer(&engine, stopped).await;
    assert!(matches!(answer_stopped.end, Ok((FinishReason::Stop, _))));
    assert!(!answer_stopped.text.contains("Par"), "{}", answer_stopped.text);
    let none = Request { max_tokens: Some(0), ..asking("Hello") };
    assert!(matches!(
        answer(&engine, none).await.end,
        Ok((FinishReason::Length, Usage { completion_tokens: 0, .. }))
    ));
}

#[tokio::test]
async fn a_seed_repeats_an_answer_and_no_seed_does_not() {
    let engine = engine();
    let seeded = |seed| Request {
        sampling: Sampling { temperature: 1.5, top_k: 0, seed, ..Sampling::default() },
        ..asking("Tell me a story about a fox.")
    };
    let first = answer(&engine, seeded(Some(7))).await.text;
    assert_eq!(first, answer(&engine, seeded(Some(7))).await.text);
    assert_ne!(first, answer(&engine, seeded(Some(8))).await.text);
    assert_ne!(answer(&engine, seeded(None)).await.text, answer(&engine, seeded(None)).await.text);
}

#[tokio::test]
async fn a_prompt_longer_than_the_context_fails_by_name() {
    let engine = engine();
    for words in ["fox ".repeat(600), "fox ".repeat(200_000)] {
        let end = answer(&engine, asking(&words)).await.end;
        let Err(Failure::PromptTooLong { prompt_tokens, context_window: 512 }) = end else {
            panic!("{end:?}")
        };
        assert!(prompt_tokens > 512, "{prompt_tokens}");
    }
}

#[tokio::test]
async fn the_oldest_turns_make_room() {
    let engine = engine();
    let mut messages = vec![message(Role::System, "You are a helpful assistant.")];
    for _ in 0..6 {
        messages.push(message(Role::User, &"fox ".repeat(120)));
        messages.push(message(Role::Assistant, "Yes."));
    }
    messages.push(message(Role::User, "What is the capital of France?"));
    let answer = answer(&engine, Request { overflow: Overflow::DropOldest, ..request(messages) }).await;
    assert!(answer.dropped > 0 && answer.dropped < 12, "{}", answer.dropped);
    assert!(answer.text.contains("Paris"), "{}", answer.text);
}

#[tokio::test]
async fn control_tokens_of_a_user_are_words() {
    let engine = engine();
    let tokens = async |words: &str| answer(&engine, asking(words)).await.end.unwrap().1.prompt_tokens;
    let empty = tokens("").await;
    assert!(tokens("<|im_end|>").await > empty + 1, "as a control token it would be one token");
}

#[tokio::test]
async fn a_dropped_generation_frees_its_slot() {
    let engine = engine();
    let mut generation =
        engine.submit(Request { max_tokens: None, ..asking("Write a very long story.") }).unwrap();
    generation.outputs.recv().await.unwrap();
    drop(generation);
    until("a free slot", || engine.status().running == 0).await;
    assert_eq!(
        answer(&engine, asking("Say hello.")).await.end.map(|(_, usage)| usage.completion_tokens > 0),
        Ok(true)
    );
}

#[tokio::test]
async fn a_full_queue_refuses_at_once() {
    let engine =
        LlamaEngine::load(LlamaConfig { max_sequences: 1, max_waiting: 1, ..config() }, |_| {}).unwrap();
    let long = || Request { max_tokens: None, ..asking("Write a very long story.") };
    let mut running = engine.submit(long()).unwrap();
    running.outputs.recv().await.unwrap();
    let waiting = engine.submit(long()).unwrap();
    assert_eq!(engine.submit(long()).err(), Some(Refused::Busy));
    drop(waiting);
    until("a place in the queue", || engine.status().waiting == 0).await;
    assert!(engine.submit(long()).is_ok());
    let unknown = Request { model: Some("another".into()), ..asking("") };
    assert_eq!(engine.submit(unknown).err(), Some(Refused::ModelNotFound));
}

#[tokio::test]
async fn a_failure_is_told_and_the_engine_comes_back() {
    let engine = engine();
    for (fault, restarts) in [(InjectedFault::Step, 1), (InjectedFault::Panic, 2)] {
        let mut running =
            engine.submit(Request { max_tokens: None, ..asking("Write a very long story.") }).unwrap();
        running.outputs.recv().await.unwrap();
        engine.inject(fault);
        assert_eq!(read(running).await.end, Err(Failure::Engine));
        let after = answer(&engine, asking("What is the capital of France?")).await;
        assert!(after.text.contains("Paris"), "{after:?}");
        assert_eq!(engine.status().restarts, restarts);
        assert!(engine.status().healthy);
    }
}

#[tokio::test]
async fn a_step_that_does_not_end_is_given_up() {
    let config = LlamaConfig { step_timeout: Duration::from_secs(2), ..config() };
    let engine = LlamaEngine::load(config, |_| {}).unwrap();
    let long = || Request { max_tokens: None, ..asking("Write a very long story.") };
    let mut running = engine.submit(long()).unwrap();
    running.outputs.recv().await.unwrap();
    engine.inject(InjectedFault::Hang);
    assert_eq!(read(running).await.end, Err(Failure::Engine));
    let after = answer(&engine, asking("What is the capital of France?")).await;
    assert!(after.text.contains("Paris"), "{after:?}");
    assert_eq!(engine.status().restarts, 1);
}

fn turns(before: &str, answered: &str, now: &str) -> Vec<Message> {
    vec![
        message(Role::System, "You are a helpful assistant."),
        message(Role::User, before),
        message(Role::Assistant, answered),
        message(Role::User, now),
    ]
}

/// The prompt's tokens, how many of them were not computed, and how many the engine computed.
async fn prefilled(engine: &LlamaEngine, request: Request) -> (u32, u32, u64, Answer) {
    let before = engine.status().prefilled_tokens;
    let answer = answer(engine, request).await;
    let usage = answer.end.as_ref().unwrap().1;
    (usage.prompt_tokens, usage.cached_tokens, engine.status().prefilled_tokens - before, answer)
}

#[tokio::test]
async fn a_second_turn_computes_what_is_new() {
    let engine = engine();
    let words = "word ".repeat(200);
    let (first, cached, computed, said) = prefilled(&engine, asking(&words)).await;
    assert_eq!((cached, computed), (0, u64::from(first)));
    let again = request(turns(&words, &said.text, "Go on."));
    let (second, cached, computed, _) = prefilled(&engine, again).await;
    assert!(cached >= first - 1, "{cached} of {second}, {first} of which were there");
    assert_eq!(computed, u64::from(second - cached));
}

#[tokio::test]
async fn what_was_computed_for_one_client_serves_no_other() {
    let engine = engine();
    let asking = || asking(&"word ".repeat(100));
    let (all, ..) = prefilled(&engine, asking()).await;
    let (_, cached, ..) = prefilled(&engine, Request { session: 1, ..asking() }).await;
    assert_eq!(cached, all - 1, "another session of the same client");
    let (_, cached, computed, _) = prefilled(&engine, Request { scope: 1, session: 2, ..asking() }).await;
    assert!(cached <= 3 && computed >= u64::from(all - 3), "the template's opening words at most: {cached}");
}

#[tokio::test]
async fn the_operators_system_prompt_serves_everybody() {
    let engine = engine();
    let system = "You are terse. ".repeat(20);
    let asking = |scope, author, words: &str| Request {
        scope,
        session: scope,
        system: author,
        ..request(vec![message(Role::System, &system), message(Role::User, words)])
    };
    prefilled(&engine, asking(1, Author::Operator, "Say hello.")).await;
    let (all, cached, ..) = prefilled(&engine, asking(2, Author::Operator, "Name a colour.")).await;
    assert!(cached > 80 && cached < all, "{cached} of {all}");
    engine.forget(1);
    engine.forget(2);
    let (_, cached, ..) = prefilled(&engine, asking(3, Author::Operator, "Name a town.")).await;
    assert!(cached > 80, "what is the operator's stays");
    let engine = self::engine();
    prefilled(&engine, asking(1, Author::Client, "Say hello.")).await;
    let (_, cached, ..) = prefilled(&engine, asking(2, Author::Client, "Name a colour.")).await;
    assert!(cached <= 3, "the same words, but a client's: {cached}");
    let (_, cached, ..) =
        prefilled(&engine, Request { session: 9, ..asking(1, Author::Client, "Name a town.") }).await;
    assert!(cached > 80, "the same client");
}

#[tokio::test]
async fn a_conversation_that_lost_its_slot_is_restored() {
    let engine = LlamaEngine::load(LlamaConfig { max_sequences: 1, ..config() }, |_| {}).unwrap();
    let words = "word ".repeat(200);
    let (first, _, _, said) = prefilled(&engine, asking(&words)).await;
    let other = Request { scope: 1, session: 1, ..asking(&"another ".repeat(200)) };
    prefilled(&engine, other).await;
    assert!(engine.status().prefix_cache_bytes > 0);
    let (_, cached, ..) = prefilled(&engine, request(turns(&words, &said.text, "Go on."))).await;
    assert!(cached >= first - 1, "{cached} of {first}");
}

#[tokio::test]
async fn what_a_session_computed_goes_with_it() {
    let engine = LlamaEngine::load(LlamaConfig { max_sequences: 1, ..config() }, |_| {}).unwrap();
    let mine = || asking(&"word ".repeat(100));
    prefilled(&engine, mine()).await;
    engine.forget(0);
    let (_, cached, ..) = prefilled(&engine, mine()).await;
    assert!(cached <= 3, "gone from its slot: {cached}");
    prefilled(&engine, Request { scope: 1, session: 1, ..asking(&"another ".repeat(100)) }).await;
    engine.forget(0);
    let (_, cached, ..) = prefilled(&engine, mine()).await;
    assert!(cached <= 3, "gone from the cache: {cached}");
}

#[tokio::test]
async fn a_restored_conversation_goes_on_as_if_it_had_stayed() {
    let alone = LlamaEngine::load(LlamaConfig { prefix_cache_bytes: 0, ..config() }, |_| {}).unwrap();
    let evicting = LlamaEngine::load(LlamaConfig { max_sequences: 1, ..config() }, |_| {}).unwrap();
    let question = "What is the capital of France?";
    let said = answer(&evicting, asking(question)).await.text;
    answer(&evicting, Request { scope: 1, session: 1, ..asking("Name a colour.") }).await;
    let next = || request(turns(question, &said, "And of Germany?"));
    assert_eq!(answer(&evicting, next()).await.text, answer(&alone, next()).await.text);
}

#[tokio::test]
async fn characters_of_several_tokens_come_whole() {
    let engine = engine();
    let request =
        Request { max_tokens: Some(40), ..asking("Repeat exactly: 😀🎉🚀 naïve café 日本語") };
    let mut generation = engine.submit(request).unwrap();
    let mut pieces = Vec::new();
    while let Some(output) = generation.outputs.recv().await {
        if let Output::Text { text, .. } = output {
            pieces.push(text.as_str().to_owned());
        }
    }
    // Only where max_tokens cuts a character in two may half of one remain, at the very end.
    pieces.pop();
    assert!(pieces.iter().any(|piece| !piece.is_ascii()), "{pieces:?}");
    assert!(pieces.iter().all(|piece| !piece.contains('\u{fffd}')), "{pieces:?}");
}

#[test]
fn what_is_no_model_is_refused_with_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let load = |path: PathBuf| LlamaEngine::load(LlamaConfig { path, ..config() }, |_| {}).unwrap_err();
    assert!(matches!(load(folder.path().join("missing.gguf")), LoadError::File { .. }));
    let text = folder.path().join("text.gguf");
    std::fs::write(&text, "not a model").unwrap();
    assert!(matches!(load(text), LoadError::NotGguf(_)));
    let broken = folder.path().join("broken.gguf");
    std::fs::write(&broken, b"GGUF and nothing after it").unwrap();
    assert!(matches!(load(broken), LoadError::Model(_)));
}
