//! Names of request fields that this crate does not read and that some server knows.

/// Where and when a server computes: the operator's to say, and nothing of the answer. Never passed on.
pub(crate) const PLACEMENT: &[&str] = &["cache_prompt", "id_slot", "priority", "rid", "slot_id"];

/// Other names for what is bounded or written here, and what reaches past the request into the server: a client that
/// set them would undo a limit, name hosts to fetch from, or bring code. Refused by every engine.
const UNDOING: &[&str] = &[
    "bootstrap_host",
    "bootstrap_port",
    "bootstrap_room",
    "chat_template",
    "custom_logit_processor",
    "data_parallel_rank",
    "extra_body",
    "ignore_eos",
    "kv_transfer_params",
    "logits_processors",
    "lora",
    "lora_path",
    "max_new_tokens",
    "max_output_tokens",
    "min_new_tokens",
    "min_tokens",
    "n_cmpl",
    "n_predict",
    "num_predict",
    "nvext",
    "repetition_penalty",
    "session_params",
    "use_beam_search",
];

/// Of OpenAI, llama-server, vLLM and SGLang: each changes what is answered. An engine that computes here and knows
/// none of them refuses them, where leaving them out would answer another question than the one asked.
const CHANGING: &[&str] = &[
    "enable_thinking",
    "include_stop_str_in_output",
    "instructions",
    "post_sampling_probs",
    "reasoning_budget",
    "reasoning_budget_tokens",
    "stop_sequences",
    "system",
    "temp",
    "tfs_z",
    "thinking",
    "truncation",
    "adaptive_decay",
    "adaptive_target",
    "add_generation_prompt",
    "add_special_tokens",
    "allowed_token_ids",
    "bad_words",
    "chat_template_kwargs",
    "continue_final_message",
    "documents",
    "dry_allowed_length",
    "dry_base",
    "dry_multiplier",
    "dry_penalty_last_n",
    "dry_sequence_breakers",
    "dynatemp_exponent",
    "dynatemp_range",
    "ebnf",
    "grammar",
    "grammar_lazy",
    "grammar_triggers",
    "guided_choice",
    "guided_decoding_backend",
    "guided_grammar",
    "guided_json",
    "guided_regex",
    "json_schema",
    "length_penalty",
    "min_keep",
    "mirostat",
    "mirostat_eta",
    "mirostat_tau",
    "mm_processor_kwargs",
    "n_discard",
    "n_indent",
    "n_keep",
    "n_probs",
    "prediction",
    "prompt_logprobs",
    "reasoning",
    "reasoning_effort",
    "reasoning_format",
    "regex",
    "repeat_last_n",
    "return_tokens",
    "samplers",
    "skip_special_tokens",
    "stop_regex",
    "stop_token_ids",
    "structural_tag",
    "structured_outputs",
    "t_max_predict_ms",
    "temperature_last",
    "thinking_budget_tokens",
    "top_n_sigma",
    "truncate_prompt_tokens",
    "typical_p",
    "verbosity",
    "xtc_probability",
    "xtc_threshold",
];

/// Whether an engine passes on what it does not know.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Unknown {
    PassedOn,
    Ignored,
}

/// The first of `fields`, a JSON object, that asks for another answer than the one that would come.
pub(crate) fn unserved(fields: &str, unknown: Unknown) -> Option<&'static str> {
    let fields: serde_json::Map<String, serde_json::Value> = serde_json::from_str(fields).ok()?;
    let changing = if unknown == Unknown::Ignored { CHANGING } else { &[] };
    UNDOING.iter().chain(changing).copied().find(|name| fields.contains_key(*name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changes_the_answer_is_found() {
        for (fields, passed_on, ignored) in [
            ("{\"user\":\"a\",\"metadata\":{},\"priority\":1}", None, None),
            ("{\"user\":\"a\",\"mirostat\":2}", None, Some("mirostat")),
            ("{\"n_predict\":100000}", Some("n_predict"), Some("n_predict")),
        ] {
            assert_eq!(unserved(fields, Unknown::PassedOn), passed_on, "{fields}");
            assert_eq!(unserved(fields, Unknown::Ignored), ignored, "{fields}");
        }
    }
}
