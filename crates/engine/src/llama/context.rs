//! The model's memory and its arithmetic.

#![allow(unsafe_code, reason = "the binding copies a slot's state through raw pointers only")]

use std::num::NonZeroU32;

use llama_cpp_2::{
    DecodeError,
    context::{
        LlamaContext,
        params::{KvCacheType, LlamaContextParams, LlamaPoolingType},
        session::LlamaStateSeqFlags,
    },
    llama_batch::LlamaBatch,
    token::LlamaToken,
};
use sysinfo::System;
use zeroize::Zeroizing;

use super::model::{Model, backend};
use crate::{
    FlashAttention, KvType, LlamaConfig, LoadError, MOST_SEQUENCES,
    prefix::State,
    scheduler::{Item, Slot},
};

/// The part of the free memory that keys and values may take: one in so many. The rest is for copies of them,
/// for scratch and for everybody else.
const MEMORY_SHARE: u64 = 4;

impl Model {
    /// How many sequences to step together.
    pub(super) fn sequences(&self, config: &LlamaConfig) -> u32 {
        config.max_sequences.unwrap_or_else(|| {
            let fit = available_memory()
                .checked_div(MEMORY_SHARE)
                .and_then(|share| share.checked_div(self.bytes_per_sequence(config.kv_type)))
                .and_then(|fit| u32::try_from(fit).ok());
            fit.unwrap_or(MOST_SEQUENCES).clamp(1, MOST_SEQUENCES)
        })
    }

    /// Keys and values of a full sequence.
    fn bytes_per_sequence(&self, kind: KvType) -> u64 {
        let heads = u64::from(self.llama.n_head().max(1));
        let width = u64::try_from(self.llama.n_embd()).unwrap_or(0).checked_div(heads).unwrap_or(0);
        let numbers = width
            .saturating_mul(u64::from(self.llama.n_head_kv()))
            .saturating_mul(u64::from(self.llama.n_layer()))
            .saturating_mul(u64::from(self.context_window))
            .saturating_mul(2);
        // Blocks of 32 numbers and a 16-bit scale.
        let sixteenths = match kind {
            KvType::F16 => 32,
            KvType::Q8_0 => 17,
            KvType::Q4_0 => 9,
        };
        numbers.saturating_mul(sixteenths).checked_div(16).unwrap_or(0).max(1)
    }

    pub(super) fn context(&self, config: &LlamaConfig, sequences: u32) -> Result<Context<'_>, LoadError> {
        let failed = || LoadError::Context { sequences, context_tokens: self.context_window };
        let cells =
            self.context_window.checked_mul(sequences).and_then(NonZeroU32::new).ok_or_else(failed)?;
        let step = config.prefill_chunk.saturating_add(sequences);
        let threads = i32::try_from(self.threads).map_err(|_| failed())?;
        let params = LlamaContextParams::default()
            .with_n_ctx(Some(cells))
            .with_n_seq_max(sequences)
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

    /// A context that tells where each token stands.
    pub(super) fn embedding_context(&self, config: &LlamaConfig) -> Result<Context<'_>, LoadError> {
        let failed = || LoadError::Context { sequences: 1, context_tokens: self.context_window };
        let step = config.prefill_chunk.max(1);
        let threads = i32::try_from(self.threads).map_err(|_| failed())?;
        let params = LlamaContextParams::default()
            .with_n_ctx(NonZeroU32::new(self.context_window))
            .with_n_seq_max(1)
            .with_n_batch(step)
            .with_n_ubatch(step.min(512))
            .with_n_threads(threads)
            .with_n_threads_batch(threads)
            .with_embeddings(true)
            .with_pooling_type(LlamaPoolingType::None)
            .with_flash_attention_policy(flash_attention(config.flash_attention))
            .with_no_perf(true);
        let llama = self.llama.new_context(backend()?, params).map_err(|_| failed())?;
        let batch = LlamaBatch::new(usize::try_from(step).map_err(|_| failed())?, 1);
        Ok(Context { llama, batch })
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

    /// Where an item of the last step stands.
    pub(super) fn embedding(&self, place: usize) -> Result<&[f32], StepFailed> {
        let place = i32::try_from(place).map_err(|_| StepFailed::Plan("too many tokens"))?;
        self.llama.embeddings_ith(place).map_err(|_| StepFailed::Plan("there is no embedding"))
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

/// Bytes that may still be used: what the machine has left, or the cgroup that the process lives in.
fn available_memory() -> u64 {
    let Ok(mut system) = System::new() else { return u64::MAX };
    system.refresh_memory();
    let cgroup = system.cgroup_limits().map_or(u64::MAX, |limits| limits.free_memory);
    usable(system.available_memory(), cgroup)
}

/// The less of the two. No machine has none: then /proc/meminfo is hidden, as by systemd's ProcSubset=pid.
fn usable(machine: u64, cgroup: u64) -> u64 {
    if machine == 0 {
        tracing::warn!("how much memory is free cannot be read (/proc/meminfo): set MAX_SEQUENCES");
        return cgroup;
    }
    machine.min(cgroup)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_cannot_be_read_is_not_memory_that_is_gone() {
        assert_eq!([usable(5, 7), usable(9, 7), usable(0, 7), usable(0, u64::MAX)], [5, 7, 7, u64::MAX]);
    }
}
