//! The engine with the default model.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test is meant to panic")]

use std::{path::PathBuf, time::Duration};

use fabstir_engine::{
    Author, Embedding, EmbeddingRequest, Engine, Failure, FinishReason, Format, Generation, InjectedFault,
    LlamaConfig, LlamaEngine, LoadError, Loading, MOST_SEQUENCES, Message, Output, Overflow, Prompt, Refused,
    Request, Role, Sampling, Text, ToolCall, ToolChoice, ToolDefinition, Tools, Usage,
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
        max_sequences: Some(3),
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
    Message::new(role, words)
}

fn request(messages: Vec<Message>) -> Request {
    Request {
        sampling: Sampling { temperature: Some(0.0), ..Sampling::default() },
        max_tokens: Some(24),
        ..Request::new(Prompt::Chat(messages))
    }
}

fn asking(words: &str) -> Request {
    request(vec![message(Role::System, "You are a helpful assistant."), message(Role::User, words)])
}

#[derive(Debug, PartialEq)]
struct Answer {
    text: String,
    tokens: u32,
    calls: Vec<(String, String)>,
    dropped: usize,
    end: Result<(FinishReason, Usage), Failure>,
}

async fn read(mut generation: Generation) -> Answer {
    let mut answer =
        Answer { text: String::new(), tokens: 0, calls: Vec::new(), dropped: 0, end: Err(Failure::Engine) };
    while let Some(output) = generation.outputs.recv().await {
        match output {
            Output::Started { dropped_messages, .. } => answer.dropped = dropped_messages,
            Output::Text { text, tokens, .. } => {
                answer.text.push_str(text.as_str());
                answer.tokens += tokens;
            }
            Output::ToolCalls { calls, tokens } => {
                answer.calls.extend(calls.into_iter().map(|it| (it.name, it.arguments.as_str().to_owned())));
                answer.tokens += tokens;
            }
            Output::Reasoning { .. } => panic!("this engine tells no reasoning apart"),
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

/// Of the room for two sequences, what one request filled, for as long as its session lasts.
#[tokio::test]
async fn the_model_says_how_much_of_its_memory_is_held() {
    let engine = engine();
    let room = engine.status().slots * usize::try_from(engine.models()[0].context_window).unwrap();
    assert_eq!((engine.status().kv_tokens, engine.status().kv_tokens_used), (room, 0));
    let request = Request { session: 7, ..asking("What is the capital of France?") };
    let said = answer(&engine, request).await;
    let (_, usage) = said.end.unwrap();
    let least = usize::try_from(usage.prompt_tokens).unwrap();
    until("the tokens to be said", || engine.status().kv_tokens_used >= least).await;
    assert!(engine.status().kv_tokens_used <= room);
    engine.forget(7);
    until("the session to be forgotten", || engine.status().kv_tokens_used < least).await;
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
        sampling: Sampling { temperature: Some(1.5), top_k: Some(0), seed, ..Sampling::default() },
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
        LlamaEngine::load(LlamaConfig { max_sequences: Some(1), max_waiting: 1, ..config() }, |_| {})
            .unwrap();
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
async fn without_room_what_idle_slots_hold_makes_way_and_nobody_sees_an_error() {
    let engine = LlamaEngine::load(LlamaConfig { prefix_cache_bytes: 0, ..config() }, |_| {}).unwrap();
    let question = || asking("What is the capital of France?");
    let first = answer(&engine, question()).await;
    assert!(prefilled(&engine, question()).await.1 > 0, "the idle slot holds it");
    engine.inject(InjectedFault::NoRoom);
    let other = answer(&engine, Request { scope: 1, session: 1, ..question() }).await;
    assert_eq!((other.text, other.end), (first.text.clone(), first.end));
    assert_eq!(engine.status().restarts, 0);
    let again = prefilled(&engine, question()).await;
    assert_eq!((again.1, again.3.text), (0, first.text), "what it held has made way");
}

async fn is_given_up(fault: InjectedFault) {
    let config = LlamaConfig { step_timeout: Duration::from_secs(2), ..config() };
    let engine = LlamaEngine::load(config, |_| {}).unwrap();
    let long = || Request { max_tokens: None, ..asking("Write a very long story.") };
    let mut running = engine.submit(long()).unwrap();
    running.outputs.recv().await.unwrap();
    engine.inject(fault);
    let told = tokio::time::timeout(Duration::from_secs(120), read(running)).await.unwrap();
    assert_eq!(told.end, Err(Failure::Engine));
    let after = answer(&engine, asking("What is the capital of France?")).await;
    assert!(after.text.contains("Paris"), "{after:?}");
    assert_eq!(engine.status().restarts, 1);
}

#[tokio::test]
async fn a_step_that_does_not_end_is_given_up() {
    is_given_up(InjectedFault::Hang).await;
}

/// A grammar that a token is chosen by is of a stranger's making.
#[tokio::test]
async fn a_choice_of_tokens_that_does_not_end_is_given_up() {
    is_given_up(InjectedFault::HangInChoice).await;
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
    let engine = LlamaEngine::load(LlamaConfig { max_sequences: Some(1), ..config() }, |_| {}).unwrap();
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
    let engine = LlamaEngine::load(LlamaConfig { max_sequences: Some(1), ..config() }, |_| {}).unwrap();
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
    let evicting = LlamaEngine::load(LlamaConfig { max_sequences: Some(1), ..config() }, |_| {}).unwrap();
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

fn json_of(schema: &str) -> Format {
    Format::JsonSchema(Text::from(schema))
}

#[tokio::test]
async fn an_answer_keeps_to_its_schema() {
    let engine = engine();
    let schema = r#"{"type":"object","additionalProperties":false,"required":["capital","sights"],"properties":{
        "capital":{"type":"string","maxLength":12},
        "sights":{"type":"array","items":{"enum":["tower","river","museum"]},"minItems":1,"maxItems":3}}}"#;
    for temperature in [0.0, 1.5] {
        let mut request = asking("Tell me of France.");
        request.format = json_of(schema);
        request.sampling = Sampling { temperature: Some(temperature), seed: Some(7), ..Sampling::default() };
        request.max_tokens = Some(80);
        let answer = answer(&engine, request).await;
        assert_eq!(answer.end.unwrap().0, FinishReason::Stop, "{}", answer.text);
        let json: serde_json::Value = serde_json::from_str(&answer.text).unwrap();
        assert!(json["capital"].as_str().unwrap().chars().count() <= 12);
        let sights = json["sights"].as_array().unwrap();
        assert!((1..=3).contains(&sights.len()));
    }
}

#[tokio::test]
async fn an_answer_that_must_be_json_is_an_object() {
    let engine = engine();
    let mut request = asking("Describe a cat.");
    request.format = Format::JsonObject;
    request.max_tokens = Some(200);
    let answer = answer(&engine, request).await;
    if answer.end.unwrap().0 == FinishReason::Stop {
        assert!(serde_json::from_str::<serde_json::Value>(&answer.text).unwrap().is_object());
    } else {
        assert!(answer.text.starts_with('{'), "{}", answer.text);
    }
}

#[tokio::test]
async fn a_schema_that_is_none_is_refused_by_name() {
    let engine = engine();
    for (schema, failure) in [
        ("nonsense", Failure::Invalid("response_format")),
        ("{\"type\":\"nothing\"}", Failure::Unsupported("response_format")),
    ] {
        let mut request = asking("Hello");
        request.format = json_of(schema);
        assert_eq!(answer(&engine, request).await.end, Err(failure));
    }
    assert!(engine.status().healthy);
}

#[tokio::test]
async fn probabilities_come_with_the_words_they_are_of() {
    let engine = engine();
    let mut request = asking("What is the capital of France?");
    request.logprobs = Some(3);
    let mut generation = engine.submit(request).unwrap();
    let (mut words, mut spelled, mut counted) = (String::new(), Vec::new(), 0);
    while let Some(output) = generation.outputs.recv().await {
        let Output::Text { text, tokens, logprobs } = output else { continue };
        words.push_str(text.as_str());
        assert_eq!(u32::try_from(logprobs.len()).unwrap(), tokens);
        for token in logprobs {
            counted += 1;
            spelled.extend_from_slice(&token.bytes);
            assert_eq!(token.top.len(), 3);
            assert!(token.top.is_sorted_by(|a, b| a.1 >= b.1) && token.top[0].1 <= 0.0);
            assert_eq!(token.top[0], (token.bytes.clone(), token.logprob), "greedy takes the likeliest");
        }
    }
    assert!(counted > 3);
    assert_eq!(String::from_utf8(spelled).unwrap(), words);
}

#[tokio::test]
async fn a_banned_token_does_not_come() {
    let engine = engine();
    let plain = answer(&engine, asking("What is the capital of France?")).await;
    // Whatever the vocabulary calls them: without the tokens of the answer another one comes.
    let mut request = asking("What is the capital of France?");
    request.sampling.logit_bias = (0..40_000).map(|token| (token, -100.0)).collect();
    let other = answer(&engine, request).await;
    assert_ne!(plain.text, other.text);
    let mut request = asking("Hello");
    request.sampling.logit_bias = vec![(u32::MAX, 1.0)];
    assert_eq!(answer(&engine, request).await.end, Err(Failure::Invalid("logit_bias")));
}

/// ChatML with functions, in the manner of Hermes.
const WITH_TOOLS: &str = "{% if tools %}<|im_start|>system\nYou may call:{% for tool in tools %}\n{{ tool | tojson }}{% endfor %}\n\
    Write <tool_call>{\"name\": …, \"arguments\": …}</tool_call>.<|im_end|>\n{% endif %}\
    {% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}\
    {% for call in message.tool_calls %}<tool_call>\n{{ call.function | tojson }}\n</tool_call>{% endfor %}<|im_end|>\n{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

fn weather(choice: ToolChoice) -> Tools {
    let parameters = r##"{"type":"object","properties":{"city":{"type":"string","maxLength":20},"unit":{"$ref":"#/$defs/unit"}},
        "required":["city","unit"],"additionalProperties":false,"$defs":{"unit":{"enum":["celsius","fahrenheit"]}}}"##;
    let named = |name: &str| {
        ToolDefinition {
        name: name.to_owned(),
        json: format!(r#"{{"type":"function","function":{{"name":"{name}","description":"The weather.","parameters":{parameters}}}}}"#).into(),
        parameters: Some(parameters.into()),
    }
    };
    Tools { definitions: vec![named("get_weather"), named("get_forecast")], choice, parallel: true }
}

#[tokio::test]
async fn a_function_that_must_be_called_is_called_as_its_schema_says() {
    let config = LlamaConfig { chat_template: Some(WITH_TOOLS.to_owned()), ..config() };
    let engine = LlamaEngine::load(config, |_| {}).unwrap();
    for (choice, names) in [
        (ToolChoice::Required, &["get_weather", "get_forecast"][..]),
        (ToolChoice::Named("get_forecast".into()), &["get_forecast"][..]),
    ] {
        let mut request = asking("What is the weather in Paris?");
        request.tools = Some(weather(choice));
        request.max_tokens = Some(100);
        let answer = answer(&engine, request).await;
        let (reason, usage) = answer.end.unwrap();
        assert_eq!((reason, answer.text.as_str()), (FinishReason::ToolCalls, ""));
        assert_eq!(answer.tokens, usage.completion_tokens);
        let [(name, arguments)] = answer.calls.as_slice() else { panic!("one call was expected") };
        assert!(names.contains(&name.as_str()));
        let arguments: serde_json::Value = serde_json::from_str(arguments).unwrap();
        assert!(arguments["city"].is_string());
        assert!(["celsius", "fahrenheit"].contains(&arguments["unit"].as_str().unwrap()));
    }
    let mut unknown = asking("Hello");
    unknown.tools = Some(weather(ToolChoice::Named("nobody".into())));
    assert_eq!(answer(&engine, unknown).await.end, Err(Failure::Invalid("tool_choice")));
}

#[tokio::test]
async fn the_result_of_a_call_is_answered_in_words() {
    let config = LlamaConfig { chat_template: Some(WITH_TOOLS.to_owned()), ..config() };
    let engine = LlamaEngine::load(config, |_| {}).unwrap();
    let call = ToolCall {
        id: "call_1".into(),
        name: "get_weather".into(),
        arguments: Text::from(r#"{"city":"Paris"}"#),
    };
    let mut request = request(vec![
        message(Role::User, "What is the weather in Paris?"),
        Message { tool_calls: vec![call], ..message(Role::Assistant, "") },
        Message { tool_call_id: Some("call_1".into()), ..message(Role::Tool, "Sunny, 21 degrees.") },
    ]);
    request.tools = Some(weather(ToolChoice::Auto));
    let answer = answer(&engine, request).await;
    assert!(answer.end.is_ok() && !answer.text.is_empty());
}

#[tokio::test]
async fn a_model_whose_template_knows_no_functions_refuses_them() {
    let engine = engine();
    let mut request = asking("What is the weather in Paris?");
    request.tools = Some(weather(ToolChoice::Auto));
    assert_eq!(answer(&engine, request).await.end, Err(Failure::Unsupported("tools")));
}

async fn embed(engine: &LlamaEngine, texts: &[&str]) -> Result<Vec<Embedding>, Failure> {
    let inputs = texts.iter().map(|text| Text::from(*text)).collect();
    engine.embed(EmbeddingRequest { model: None, inputs, client: 0 }).unwrap().result.await.unwrap()
}

fn likeness(a: &Embedding, b: &Embedding) -> f32 {
    a.values.iter().zip(&b.values).map(|(a, b)| a * b).sum()
}

#[tokio::test]
async fn texts_that_say_alike_stand_near() {
    let engine = engine();
    let long = "The cat sat on the mat. ".repeat(30);
    let texts =
        ["The cat sleeps on the sofa.", "A cat is sleeping on a couch.", "fn main() { println!(); }", &long];
    let places = embed(&engine, &texts).await.unwrap();
    let lengths = places.iter().map(|place| likeness(place, place));
    assert!(lengths.into_iter().all(|length| (length - 1.0).abs() < 1e-3));
    assert!(likeness(&places[0], &places[1]) > likeness(&places[0], &places[2]));
    assert!(places[3].tokens > 128, "more than a chunk");
    let alone = embed(&engine, &[&long]).await.unwrap();
    assert!(likeness(&alone[0], &places[3]) > 0.999, "what came before leaves no trace");
}

#[tokio::test]
async fn embeddings_and_answers_are_computed_side_by_side() {
    let engine = engine();
    let expected = answer(&engine, asking("What is the capital of France?")).await;
    let inputs = vec![Text::from("one"), Text::from("two"), Text::from("three")];
    let both = (
        engine.submit(asking("What is the capital of France?")).unwrap(),
        engine.embed(EmbeddingRequest { model: None, inputs, client: 1 }).unwrap(),
    );
    let (again, places) = tokio::join!(read(both.0), both.1.result);
    assert_eq!(again.text, expected.text);
    assert_eq!(places.unwrap().unwrap().len(), 3);
}

#[tokio::test]
async fn a_text_longer_than_the_context_is_not_embedded() {
    let engine = engine();
    let failure = embed(&engine, &["word ".repeat(600).as_str()]).await.unwrap_err();
    assert!(matches!(failure, Failure::PromptTooLong { context_window: 512, .. }));
    let unknown = EmbeddingRequest { model: Some("x".into()), inputs: vec!["a".into()], client: 0 };
    assert_eq!(engine.embed(unknown).unwrap_err(), Refused::ModelNotFound);
    assert_eq!(embed(&engine, &["fine"]).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_model_is_loaded_when_it_is_asked_for_and_leaves_when_it_is_not() {
    let unload_after = Some(Duration::from_millis(50));
    let config = LlamaConfig { loading: Loading::OnDemand, unload_after, ..config() };
    let engine = LlamaEngine::load(config, |_| {}).unwrap();
    assert!(!engine.is_loaded("smollm2") && engine.status().healthy);
    let model = &engine.models()[0];
    assert_eq!((model.context_window, model.digest.len()), (512, 64), "known without its weights");
    let first = answer(&engine, asking("What is the capital of France?")).await;
    assert!(first.text.contains("Paris"), "{}", first.text);
    until("the model's leaving", || !engine.is_loaded("smollm2")).await;
    assert!(engine.status().healthy);
    let again = answer(&engine, asking("What is the capital of France?")).await;
    assert_eq!(first.text, again.text);
    assert_eq!(engine.status().restarts, 0);
    assert_eq!(embed(&engine, &["back again"]).await.unwrap().len(), 1);
    // Sessions that end all the time, of whatever model, do not keep it.
    let ending = || {
        engine.forget(7);
        std::thread::sleep(Duration::from_millis(5));
        !engine.is_loaded("smollm2")
    };
    until("the model's leaving", ending).await;
    engine.shut_down();
}

#[tokio::test]
async fn a_model_that_fails_while_it_is_asked_for_is_there_for_the_next() {
    let config = LlamaConfig { loading: Loading::OnDemand, ..config() };
    let engine = LlamaEngine::load(config, |_| {}).unwrap();
    let first = answer(&engine, asking("What is the capital of France?")).await;
    engine.inject(InjectedFault::Panic);
    until("the restart", || engine.status().restarts == 1).await;
    let again = answer(&engine, asking("What is the capital of France?")).await;
    assert_eq!(first.text, again.text);
}

#[tokio::test]
async fn as_many_sequences_as_memory_holds_are_stepped_together() {
    let engine = LlamaEngine::load(LlamaConfig { max_sequences: None, ..config() }, |_| {}).unwrap();
    let slots = engine.status().slots;
    assert!((1..=usize::try_from(MOST_SEQUENCES).unwrap()).contains(&slots), "{slots}");
}

#[test]
fn a_file_that_is_no_model_is_refused_before_anybody_asks() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("broken.gguf");
    std::fs::write(&path, b"GGUF and nothing else").unwrap();
    let config = LlamaConfig { loading: Loading::OnDemand, path, ..config() };
    assert!(matches!(LlamaEngine::load(config, |_| {}), Err(LoadError::Model(_))));
}
