//! The model's words and its arithmetic, in this crate's terms.

#![allow(unsafe_code, reason = "the binding copies a slot's state through raw pointers only")]

use std::{num::NonZeroU32, sync::OnceLock, thread};

use llama_cpp_2::{
    DecodeError, LogOptions,
    context::{
        LlamaContext,
        params::{KvCacheType, LlamaContextParams},
        session::LlamaStateSeqFlags,
    },
    llama_backend::LlamaBackend,
    llama_batch::LlamaBatch,
    model::{LlamaModel, params::LlamaModelParams},
    token::LlamaToken,
};
use zeroize::Zeroizing;

use crate::{
    Author, Failure, FlashAttention, KvType, LlamaConfig, LoadError, Message, Overflow, Prompt, Request,
    Role,
    prefix::{Owner, State, WORTH_KEEPING},
    sampler::Token,
    scheduler::{Item, Slot},
    sequence::{Prepared, Vocabulary},
    template::{Piece, Template},
};

/// Fewer tokens of a client's system prompt are computed again rather than kept apart.
const WORTH_A_STOP: usize = 64;
/// Bytes of text to one token, beyond which no prompt that fits is to be expected: text of more is first
/// judged by its beginning, so that a huge prompt does not hold up the others while it is tokenised.
const MANY_BYTES_A_TOKEN: usize = 16;

/// llama.cpp itself, once a process.
fn backend() -> Result<&'static LlamaBackend, LoadError> {
    static BACKEND: OnceLock<Option<LlamaBackend>> = OnceLock::new();
    let started = BACKEND.get_or_init(|| {
        llama_cpp_2::send_logs_to_tracing(LogOptions::default());
        LlamaBackend::init().ok()
    });
    started.as_ref().ok_or(LoadError::Thread)
}

/// A loaded model with its chat template.
pub(super) struct Model {
    llama: LlamaModel,
    template: Template,
    context_window: u32,
    threads: u32,
}

impl Model {
    pub(super) fn load(
        config: &LlamaConfig,
        mut progress: impl FnMut(f32) + 'static,
    ) -> Result<Self, LoadError> {
        let mut params = LlamaModelParams::default().with_progress_callback(move |done| {
            progress(done);
            true
        });
        if let Some(layers) = config.gpu_layers {
            params = params.with_n_gpu_layers(layers);
        }
        let llama = LlamaModel::load_from_file(backend()?, &config.path, &params)
            .map_err(|_| LoadError::Model(config.path.clone()))?;
        let vocab = llama.vocab();
        let text = |token: LlamaToken| {
            String::from_utf8_lossy(&vocab.token_to_piece(token, true, None)).into_owned()
        };
        let source = llama.meta_val_str("tokenizer.chat_template").ok();
        let template = Template::new(source, text(vocab.bos()), text(vocab.eos()))?;
        let context_window = config.context_tokens.min(llama.n_ctx_train()).max(1);
        Ok(Self { template, context_window, threads: config.threads.unwrap_or_else(default_threads), llama })
    }

    pub(super) fn context_window(&self) -> u32 {
        self.context_window
    }

    pub(super) fn context(&self, config: &LlamaConfig) -> Result<Context<'_>, LoadError> {
        let failed =
            || LoadError::Context { sequences: config.max_sequences, context_tokens: self.context_window };
        let cells = self
            .context_window
            .checked_mul(config.max_sequences)
            .and_then(NonZeroU32::new)
            .ok_or_else(failed)?;
        let step = config.prefill_chunk.saturating_add(config.max_sequences);
        let threads = i32::try_from(self.threads).map_err(|_| failed())?;
        let params = LlamaContextParams::default()
            .with_n_ctx(Some(cells))
            .with_n_seq_max(config.max_sequences)
            .with_kv_unified(false)
            .with_n_batch(step)
            .with_n_ubatch(step.min(512))
            .with_n_threads(threads)
            .with_n_threads_batch(threads)
            .with_type_k(kv_cache_type(config.kv_type))
            .with_type_v(kv_cache_type(config.kv_type))
            .with_flash_attention_policy(flash_attention(config.flash_attention))
            .with_no_perf(true);
        let llama = self.llama.new_context(backend()?, params).map_err(|_| failed())?;
        let batch = LlamaBatch::new(usize::try_from(step).map_err(|_| failed())?, 1);
        Ok(Context { llama, batch })
    }

    /// Puts a request into tokens.
    pub(super) fn prepare(&self, request: Request) -> Result<Prepared, Failure> {
        let Request { prompt, overflow, sampling, max_tokens, stop, scope, session, system, .. } = request;
        let chat = match prompt {
            Prompt::Raw(text) => {
                Chat { tokens: self.tokenize(text.as_str().as_bytes(), true, false), ..Chat::default() }
            }
            Prompt::Chat(messages) => self.chat(&messages, overflow, max_tokens)?,
        };
        let prompt_tokens = u32::try_from(chat.tokens.len()).unwrap_or(u32::MAX);
        if chat.tokens.is_empty() || prompt_tokens >= self.context_window {
            return Err(Failure::PromptTooLong { prompt_tokens, context_window: self.context_window });
        }
        let everyones = match system {
            Author::Operator => chat.system_end,
            Author::Client => chat.markup_end,
        };
        Ok(Prepared {
            prompt: chat.tokens,
            dropped_messages: chat.dropped_messages,
            sampling,
            seed: getrandom::u64().map_err(|_| Failure::Engine)?,
            stop,
            max_tokens,
            context_window: self.context_window,
            owner: Owner { scope, session },
            everyones,
            // A stop costs a step. The operator's words are kept once for all; a client's own must be worth it.
            shareable: if everyones >= WORTH_KEEPING || chat.system_end < WORTH_A_STOP {
                everyones
            } else {
                chat.system_end
            },
        })
    }

    /// The tokens of a conversation, without as few of its oldest turns as it takes to fit.
    fn chat(
        &self,
        messages: &[Message],
        overflow: Overflow,
        max_tokens: Option<u32>,
    ) -> Result<Chat, Failure> {
        let contents: Vec<Vec<Token>> =
            messages.iter().map(|message| self.content(message)).collect::<Result<_, Failure>>()?;
        let marker = format!("\u{1}{:032x}", u128::from(getrandom::u64().map_err(|_| Failure::Engine)?));
        let quarter = self.context_window / 4;
        let room = max_tokens.map_or(quarter, |most| most.min(quarter)).max(1);
        let limit = usize::try_from(self.context_window.saturating_sub(room)).unwrap_or(usize::MAX);
        let first = usize::from(messages.first().is_some_and(|message| message.role == Role::System));
        let mut dropped: usize = 0;
        loop {
            let kept = |number: &usize| *number < first || *number >= first.saturating_add(dropped);
            let numbers: Vec<usize> = (0..messages.len()).filter(kept).collect();
            let chat = self.render(messages, &contents, &numbers, &marker);
            let droppable = overflow == Overflow::DropOldest && numbers.len() > first.saturating_add(1);
            match chat {
                Ok(chat) if chat.tokens.len() <= limit || !droppable => {
                    return Ok(Chat { dropped_messages: dropped, ..chat });
                }
                // Some templates want turns to alternate: what they refuse with half a pair gone, they take
                // with the whole pair gone.
                Err(failure) if !droppable || dropped == 0 => return Err(failure),
                Ok(_) | Err(_) => dropped = dropped.saturating_add(1),
            }
        }
    }

    fn render(
        &self,
        messages: &[Message],
        contents: &[Vec<Token>],
        numbers: &[usize],
        marker: &str,
    ) -> Result<Chat, Failure> {
        let turns: Vec<Message> = numbers
            .iter()
            .filter_map(|number| messages.get(*number))
            .map(|message| Message { role: message.role, content: "".into() })
            .collect();
        let mut chat = Chat::default();
        let (mut system_seen, mut others_begin) = (false, false);
        for piece in self.template.render(&turns, marker)? {
            match piece {
                Piece::Markup(text) => {
                    // Templates that write the BOS themselves would otherwise make two of it.
                    let bos = chat.tokens.is_empty() && self.wants_bos(&text);
                    chat.tokens.extend(self.tokenize(text.as_bytes(), bos, true));
                    if others_begin {
                        continue;
                    }
                    chat.system_end = chat.tokens.len();
                    if !system_seen {
                        chat.markup_end = chat.tokens.len();
                    }
                }
                Piece::Content(turn) => {
                    let content = numbers.get(turn).and_then(|number| contents.get(*number));
                    chat.tokens.extend_from_slice(content.ok_or(Failure::Template)?);
                    let is_system = turns.get(turn).is_some_and(|turn| turn.role == Role::System);
                    others_begin |= !is_system || system_seen;
                    system_seen |= is_system;
                }
            }
        }
        Ok(chat)
    }

    fn wants_bos(&self, text: &str) -> bool {
        let vocab = self.llama.vocab();
        vocab.should_add_bos() && !text.as_bytes().starts_with(&vocab.token_to_piece(vocab.bos(), true, None))
    }

    /// The tokens of what somebody said. Control tokens in it are text like any other.
    fn content(&self, message: &Message) -> Result<Vec<Token>, Failure> {
        let text = message.content.as_str();
        let window = usize::try_from(self.context_window).unwrap_or(usize::MAX);
        let mut many = window.saturating_mul(MANY_BYTES_A_TOKEN);
        if text.len() > many {
            while !text.is_char_boundary(many) {
                many = many.saturating_sub(1);
            }
            let beginning =
                self.tokenize(text.get(..many).unwrap_or_default().as_bytes(), false, false).len();
            if beginning > window {
                let whole = beginning.saturating_mul(text.len()).checked_div(many).unwrap_or(beginning);
                let prompt_tokens = u32::try_from(whole).unwrap_or(u32::MAX);
                return Err(Failure::PromptTooLong { prompt_tokens, context_window: self.context_window });
            }
        }
        Ok(self.tokenize(text.as_bytes(), false, false))
    }

    fn tokenize(&self, text: &[u8], add_special: bool, parse_special: bool) -> Vec<Token> {
        self.llama
            .vocab()
            .tokenize(text, add_special, parse_special)
            .into_iter()
            .map(|token| token.0)
            .collect()
    }
}

/// A conversation in tokens.
#[derive(Debug, Default)]
struct Chat {
    tokens: Vec<Token>,
    dropped_messages: usize,
    /// Where the template's own opening words end.
    markup_end: usize,
    /// Where the first content begins that is not a leading system message.
    system_end: usize,
}

impl Vocabulary for Model {
    fn piece(&self, token: Token) -> Vec<u8> {
        self.llama.vocab().token_to_piece(LlamaToken(token), false, None)
    }

    fn is_end(&self, token: Token) -> bool {
        self.llama.vocab().is_eog(LlamaToken(token))
    }
}

/// The model's memory, and the step.
pub(super) struct Context<'a> {
    llama: LlamaContext<'a>,
    batch: LlamaBatch<'static>,
}

/// llama.cpp could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum StepFailed {
    #[error("llama.cpp could not compute a step: {0}")]
    Decode(DecodeError),
    #[error("there is no room for the step in the KV cache")]
    NoRoom,
    #[error("a step was planned that llama.cpp cannot take: {0}")]
    Plan(&'static str),
    #[error("a slot of the KV cache could not be cleared")]
    Clear,
}

impl Context<'_> {
    /// Computes one step.
    pub(super) fn step(&mut self, items: &[Item]) -> Result<(), StepFailed> {
        self.batch.clear();
        for item in items {
            let (Ok(position), Ok(slot)) = (i32::try_from(item.position), i32::try_from(item.slot)) else {
                return Err(StepFailed::Plan("a position is too large"));
            };
            self.batch
                .add(LlamaToken(item.token), position, &[slot], item.wants_logits)
                .map_err(|_| StepFailed::Plan("too many tokens"))?;
        }
        self.llama.decode(&mut self.batch).map_err(|error| match error {
            DecodeError::NoKvCacheSlot => StepFailed::NoRoom,
            DecodeError::NTokensZero | DecodeError::Unknown(_) => StepFailed::Decode(error),
        })
    }

    /// The logits of an item of the last step that wanted them.
    pub(super) fn logits(&self, place: usize) -> &[f32] {
        i32::try_from(place).map_or(&[], |place| self.llama.get_logits_ith(place))
    }

    /// Forgets what a slot held.
    pub(super) fn clear(&mut self, slot: Slot) -> Result<(), StepFailed> {
        let slot = u32::try_from(slot).map_err(|_| StepFailed::Clear)?;
        match self.llama.clear_kv_cache_seq(Some(slot), None, None) {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(StepFailed::Clear),
        }
    }

    /// Forgets all but the first `tokens` that a slot holds; returns how many are left. Models whose memory is
    /// not a list of tokens (recurrent, sliding window) cannot forget a part, and forget all.
    pub(super) fn keep(&mut self, slot: Slot, tokens: usize) -> Result<usize, StepFailed> {
        let (Ok(number), Ok(from)) = (u32::try_from(slot), u32::try_from(tokens)) else {
            return Err(StepFailed::Clear);
        };
        match self.llama.clear_kv_cache_seq(Some(number), Some(from), None) {
            Ok(true) => Ok(tokens),
            Ok(false) | Err(_) => self.clear(slot).map(|()| 0),
        }
    }

    /// A copy of what a slot holds.
    pub(super) fn save(&self, slot: Slot) -> Option<SlotState> {
        let slot = i32::try_from(slot).ok()?;
        let size = self.llama.state_seq_get_size_ext(slot, LlamaStateSeqFlags::empty());
        let mut bytes = Zeroizing::new(vec![0; size]);
        // SAFETY: `bytes` has the length that llama.cpp has just said it will write at most, and nothing runs
        // on the context in between: it is borrowed.
        let written = unsafe {
            self.llama.state_seq_get_data_ext(bytes.as_mut_ptr(), slot, LlamaStateSeqFlags::empty())
        };
        (written == size && size > 0).then_some(SlotState(bytes))
    }

    /// Puts a copy into an empty slot. False when llama.cpp does not take it; the slot is empty then.
    pub(super) fn restore(&mut self, slot: Slot, state: &SlotState) -> Result<bool, StepFailed> {
        let number = i32::try_from(slot).map_err(|_| StepFailed::Clear)?;
        // SAFETY: the bytes are llama.cpp's own, written by `save` for a context of the same model and
        // settings: a `SlotState` is made nowhere else, and does not outlive the model's worker.
        let taken =
            unsafe { self.llama.state_seq_set_data_ext(&state.0, number, LlamaStateSeqFlags::empty()) };
        if !taken {
            self.clear(slot)?;
        }
        Ok(taken)
    }
}

/// What a slot held, out of llama.cpp's memory. Says what was said, to who can read it: wiped on drop.
pub(super) struct SlotState(Zeroizing<Vec<u8>>);

impl State for SlotState {
    fn bytes(&self) -> usize {
        self.0.len()
    }
}

fn kv_cache_type(kind: KvType) -> KvCacheType {
    match kind {
        KvType::F16 => KvCacheType::F16,
        KvType::Q8_0 => KvCacheType::Q8_0,
        KvType::Q4_0 => KvCacheType::Q4_0,
    }
}

fn flash_attention(wish: FlashAttention) -> llama_cpp_sys_2::llama_flash_attn_type {
    match wish {
        FlashAttention::Auto => llama_cpp_sys_2::LLAMA_FLASH_ATTN_TYPE_AUTO,
        FlashAttention::On => llama_cpp_sys_2::LLAMA_FLASH_ATTN_TYPE_ENABLED,
        FlashAttention::Off => llama_cpp_sys_2::LLAMA_FLASH_ATTN_TYPE_DISABLED,
    }
}

/// The cores that this process may use, by affinity and cgroup quota; one is left to the sockets where there
/// are enough.
fn default_threads() -> u32 {
    let cores = thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(1));
    if cores > 2 { cores.saturating_sub(1) } else { cores }
}
