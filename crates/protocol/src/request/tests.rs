use super::*;

fn turn(text: &str) -> String {
    match PromptRequest::read(text.as_bytes()).unwrap().prompt {
        RequestPrompt::Turn(words) => words.as_str().to_owned(),
        RequestPrompt::Messages(_) | RequestPrompt::Embeddings(..) => {
            panic!("a bare prompt was expected")
        }
    }
}

#[test]
fn anything_that_is_no_request_is_a_bare_prompt() {
    for text in ["hello", "", "{", "{}", "[1]", "{\"question\": 1}", "\"prompt\"", "null"] {
        assert_eq!(turn(text), text);
    }
    assert_eq!(turn("{\"prompt\":\"hi\",\"stream\":true,\"thinking\":null}"), "hi");
    assert!(PromptRequest::read(b"hi").unwrap().is_turn());
    let whole = br#"{"messages":[{"role":"user","content":"a"}]}"#;
    assert!(!PromptRequest::read(whole).unwrap().is_turn());
    // To embed is to ask for something, whatever is missing; to chat about nothing is to say so.
    assert_eq!(turn("{\"op\":\"chat\"}"), "{\"op\":\"chat\"}");
    assert_eq!(PromptRequest::read(b"{\"op\":\"embeddings\"}").unwrap_err(), RequestError::Invalid("prompt"));
}

#[test]
fn a_request_with_a_wrong_field_is_refused_by_name() {
    let refused = |text: &str| PromptRequest::read(text.as_bytes()).unwrap_err();
    assert_eq!(refused(r#"{"prompt":"a","temperature":9}"#), RequestError::Invalid("temperature"));
    assert_eq!(refused(r#"{"prompt":"a","functions":[]}"#), RequestError::Unsupported("functions"));
    assert_eq!(
        refused(r#"{"prompt":"a","top_logprobs":2}"#),
        RequestError::Invalid("top_logprobs without logprobs")
    );
    assert_eq!(refused(r#"{"prompt":"a","logit_bias":{"x":1}}"#), RequestError::Invalid("logit_bias"));
    assert_eq!(refused(r#"{"prompt":"a","logit_bias":{"1":101}}"#), RequestError::Invalid("logit_bias"));
    assert_eq!(
        refused(r#"{"prompt":["a"]}"#),
        RequestError::Invalid("prompt, messages (exactly one of them)")
    );
    assert_eq!(refused(r#"{"op":"embeddings","prompt":[]}"#), RequestError::Invalid("prompt"));
    for many in ["n", "best_of"] {
        let json = |count: u32| format!("{{\"prompt\":\"a\",\"{many}\":{count}}}");
        assert_eq!(refused(&json(2)), RequestError::Unsupported(many));
        assert!(PromptRequest::read(json(1).as_bytes()).is_ok(), "one of it is what there is");
    }
    for (field, wrong) in [
        ("max_tokens", "-1"),
        ("max_tokens", "0"),
        ("max_tokens", "1.5"),
        ("max_tokens", "\"5\""),
        ("top_k", "-1"),
        ("temperature", "\"hot\""),
        ("seed", "1.5"),
        ("logprobs", "5"),
        ("stop", "5"),
        ("response_format", "{\"type\":\"xml\"}"),
        ("response_format", "\"json\""),
        ("messages", "[{\"role\":\"narrator\",\"content\":\"a\"}]"),
        ("encoding_format", "\"hex\""),
        ("tool_choice", "\"perhaps\""),
        ("op", "\"sing\""),
    ] {
        let json = format!("{{\"prompt\":\"a\",\"{field}\":{wrong}}}");
        assert_eq!(refused(&json), RequestError::Invalid(field), "{json}");
    }
    assert_eq!(refused(r#"{"prompt":"a","prompt":"b"}"#), RequestError::Invalid("the request"));
    assert_eq!(PromptRequest::read(b"\xff").unwrap_err(), RequestError::Utf8);
}

#[test]
fn so_much_may_be_asked_for_and_no_more() {
    let asked = |fields: String| PromptRequest::read(format!("{{\"prompt\":\"a\",{fields}}}").as_bytes());
    let tops = |top: u8| asked(format!("\"logprobs\":true,\"top_logprobs\":{top}"));
    assert_eq!(tops(20).unwrap().logprobs, Some(20));
    assert_eq!(tops(21).unwrap_err(), RequestError::Invalid("top_logprobs"));
    let biases = |count: u32| {
        let each: Vec<_> = (0..count).map(|token| format!("\"{token}\":1")).collect();
        asked(format!("\"logit_bias\":{{{}}}", each.join(",")))
    };
    assert_eq!(biases(1024).unwrap().sampling.logit_bias.len(), 1024);
    assert_eq!(biases(1025).unwrap_err(), RequestError::Invalid("logit_bias"));
    let stops = |count, length| {
        let each = vec![format!("\"{}\"", "s".repeat(length)); count].join(",");
        asked(format!("\"stop\":[{each}]")).map(|request| request.stop.len())
    };
    assert_eq!(stops(16, 256), Ok(16));
    for (count, length) in [(17, 1), (1, 257), (1, 0)] {
        assert_eq!(stops(count, length), Err(RequestError::Invalid("stop")), "{count} of {length}");
    }
    let texts = |count, text: &str| {
        let each = vec![format!("\"{text}\""); count].join(",");
        let json = format!("{{\"op\":\"embeddings\",\"prompt\":[{each}]}}");
        PromptRequest::read(json.as_bytes()).map(|request| match request.prompt {
            RequestPrompt::Embeddings(texts, _) => texts.len(),
            RequestPrompt::Turn(_) | RequestPrompt::Messages(_) => 0,
        })
    };
    assert_eq!(texts(256, "a"), Ok(256));
    for (count, text) in [(257, "a"), (1, "")] {
        assert_eq!(texts(count, text), Err(RequestError::Invalid("prompt")), "{count} of {text:?}");
    }
    for (fields, name) in
        [("\"max_tokens\":0", "max_tokens"), ("\"max_completion_tokens\":0", "max_completion_tokens")]
    {
        assert_eq!(asked(fields.to_owned()).unwrap_err(), RequestError::Invalid(name));
    }
    assert_eq!(asked("\"max_tokens\":5000000000".to_owned()).unwrap().max_tokens, Some(u32::MAX));
}

#[test]
fn each_number_has_its_range() {
    let asked = |name: &str, value: f64| {
        PromptRequest::read(format!("{{\"prompt\":\"a\",\"{name}\":{value}}}").as_bytes())
    };
    for (name, low, high) in [
        ("temperature", 0.0, 2.0),
        ("top_p", 0.0, 1.0),
        ("min_p", 0.0, 1.0),
        ("repeat_penalty", 0.01, 10.0),
        ("frequency_penalty", -2.0, 2.0),
        ("presence_penalty", -2.0, 2.0),
    ] {
        assert!(asked(name, low).is_ok() && asked(name, high).is_ok(), "{name}");
        for beyond in [low - 0.1, high + 0.1] {
            assert_eq!(asked(name, beyond).unwrap_err(), RequestError::Invalid(name), "{name} {beyond}");
        }
    }
    let bias = |value: f64| {
        PromptRequest::read(format!("{{\"prompt\":\"a\",\"logit_bias\":{{\"1\":{value}}}}}").as_bytes())
    };
    assert!(bias(-100.0).is_ok() && bias(100.0).is_ok());
    for beyond in [-100.1, 100.1] {
        assert_eq!(bias(beyond).unwrap_err(), RequestError::Invalid("logit_bias"), "{beyond}");
    }
    let seed = |value: i64| PromptRequest::read(format!("{{\"prompt\":\"a\",\"seed\":{value}}}").as_bytes());
    assert_eq!((seed(-1).unwrap().sampling.seed, seed(7).unwrap().sampling.seed), (None, Some(7)));
    assert_eq!(seed(-2).unwrap_err(), RequestError::Invalid("seed"));
}

#[test]
fn content_parts_of_text_are_joined() {
    let json =
        r#"{"messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}]}"#;
    let request = PromptRequest::read(json.as_bytes()).unwrap();
    let RequestPrompt::Messages(messages) = request.prompt else { panic!("messages were expected") };
    assert_eq!(messages[0].content.as_str(), "ab");
}

const TOOL: &str = r#"{"type":"function","function":{"name":"look_up","parameters":{"type":"object"}}}"#;

fn with_tools(fields: &str) -> Result<Option<ToolFields>, RequestError> {
    let json = format!(r#"{{"messages":[{{"role":"user","content":"a"}}],{fields}}}"#);
    PromptRequest::read(json.as_bytes()).map(|request| request.tools)
}

#[test]
fn functions_are_read_with_their_choice() {
    let read = |choice: &str| with_tools(&format!(r#""tools":[{TOOL}]{choice}"#));
    let auto = read("").unwrap().unwrap();
    assert_eq!(
        (auto.functions[0].name.as_str(), auto.choice, auto.parallel),
        ("look_up", ToolChoiceField::Auto, true)
    );
    assert_eq!(auto.functions[0].parameters.as_ref().unwrap().as_str(), r#"{"type":"object"}"#);
    let one = read(r#","tool_choice":"required","parallel_tool_calls":false"#).unwrap().unwrap();
    assert_eq!((one.choice, one.parallel), (ToolChoiceField::Required, false));
    let named = read(r#","tool_choice":{"type":"function","function":{"name":"look_up"}}"#).unwrap().unwrap();
    assert_eq!(named.choice, ToolChoiceField::Named("look_up".into()));
    assert!(read(r#","tool_choice":"none""#).unwrap().is_none());
    assert!(with_tools(r#""tools":[]"#).unwrap().is_none());
    let error = with_tools(r#""tool_choice":"required""#).unwrap_err();
    assert_eq!(error, RequestError::Invalid("tool_choice without tools"));
    let error = with_tools(r#""tools":[{"type":"function","function":{"name":"a b"}}]"#).unwrap_err();
    assert_eq!(error, RequestError::Invalid("tools"));
    let json = format!(r#"{{"prompt":"a","tools":[{TOOL}]}}"#);
    assert_eq!(
        PromptRequest::read(json.as_bytes()).unwrap_err(),
        RequestError::Invalid("tools without messages")
    );
}

#[test]
fn the_name_of_a_function_is_short_and_plain() {
    let named = |name: &str| {
        with_tools(&format!(r#""tools":[{{"type":"function","function":{{"name":"{name}"}}}}]"#)).map(|_| ())
    };
    assert_eq!(named("Look_up-2"), Ok(()));
    assert_eq!(named(&"a".repeat(64)), Ok(()));
    for name in ["", &"a".repeat(65), "a.b", "é"] {
        assert_eq!(named(name), Err(RequestError::Invalid("tools")), "{name:?}");
    }
}

#[test]
fn no_more_than_so_many_functions_are_offered() {
    let offered = |count: usize| with_tools(&format!(r#""tools":[{}]"#, vec![TOOL; count].join(",")));
    assert_eq!(offered(128).unwrap().unwrap().functions.len(), 128);
    for count in [129, 500] {
        assert_eq!(offered(count).unwrap_err(), RequestError::Invalid("tools"), "{count}");
    }
}

#[test]
fn the_id_of_a_call_is_short_on_either_side() {
    let said = |call: &str, result: &str| {
        let json = format!(
            r#"{{"messages":[
                {{"role":"assistant","content":null,"tool_calls":[{{"id":"{call}","type":"function","function":{{"name":"f","arguments":""}}}}]}},
                {{"role":"tool","tool_call_id":"{result}","content":"42"}}]}}"#
        );
        PromptRequest::read(json.as_bytes()).map(|_| ())
    };
    let (long, too_long) = ("a".repeat(64), "a".repeat(65));
    assert_eq!(said(&long, &long), Ok(()));
    assert_eq!(said(&too_long, "a"), Err(RequestError::Invalid("tool_call_id")));
    assert_eq!(said("a", &too_long), Err(RequestError::Invalid("tool_call_id")));
}

#[test]
fn an_answer_that_may_be_more_than_words_is_told_in_objects() {
    let objects = |fields: &str| {
        let json = format!(r#"{{"messages":[{{"role":"user","content":"a"}}]{fields}}}"#);
        PromptRequest::read(json.as_bytes()).unwrap().asks_for_objects()
    };
    assert!(!objects(""));
    assert!(objects(r#","logprobs":true"#), "probabilities alone");
    assert!(objects(&format!(r#","tools":[{TOOL}]"#)), "functions alone");
}

#[test]
fn calls_and_their_results_are_part_of_a_conversation() {
    let json = r#"{"messages":[
        {"role":"assistant","content":null,"tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":"{}"}}]},
        {"role":"tool","tool_call_id":"c1","content":"42"}]}"#;
    let RequestPrompt::Messages(messages) = PromptRequest::read(json.as_bytes()).unwrap().prompt else {
        panic!("messages were expected")
    };
    assert_eq!(messages[0].tool_calls[0].name, "f");
    assert_eq!(messages[1].tool_call_id.as_deref(), Some("c1"));
}

#[test]
fn a_form_for_the_answer_is_read() {
    let format = |json: &str| {
        let json = format!(r#"{{"prompt":"a","response_format":{json}}}"#);
        PromptRequest::read(json.as_bytes()).map(|request| request.format)
    };
    assert_eq!(format(r#"{"type":"text"}"#), Ok(ResponseFormat::Text));
    assert_eq!(format(r#"{"type":"json_object"}"#), Ok(ResponseFormat::JsonObject));
    let schema = ResponseFormat::JsonSchema(Words::from(r#"{"type":"null"}"#));
    assert_eq!(
        format(r#"{"type":"json_schema","json_schema":{"name":"x","schema":{"type":"null"},"strict":true}}"#),
        Ok(schema)
    );
}

#[test]
fn what_nobody_knows_is_passed_on() {
    let read = |json: &str| PromptRequest::read(json.as_bytes()).unwrap().extra;
    let known = r#"{"prompt":"a","stream":true,"stream_options":{"include_usage":true},"thinking":null}"#;
    assert!(read(known).is_none());
    assert_eq!(
        read(r#"{"prompt":"a","reasoning_effort":"low"}"#).unwrap().as_str(),
        r#"{"reasoning_effort":"low"}"#
    );
}

#[test]
fn a_list_of_an_objects_values_is_not_the_object() {
    for request in [
        r#"["models",null]"#,
        r#"["chat",{"prompt":"Hi"}]"#,
        r#"{"op":"chat","body":{"messages":[["user","Hi",null,null]]}}"#,
        r#"{"op":"chat","body":{"messages":[{"role":"user","content":[["text","Hi"]]}]}}"#,
        r#"{"op":"chat","body":{"messages":[{"role":"user","content":"Hi"}],"tools":[["function",{"name":"f"}]]}}"#,
        r#"{"op":"chat","body":{"prompt":"Hi","response_format":["json_object",null]}}"#,
        r#"{"op":"chat","body":{"prompt":"Hi","stream_options":[true]}}"#,
    ] {
        assert!(Operation::read(request.as_bytes()).is_err(), "{request}");
    }
}
