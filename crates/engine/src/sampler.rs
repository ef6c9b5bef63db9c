//! The next token from the model's logits. In the order of llama.cpp: biases, penalties, top-k, top-p, min-p,
//! temperature.
//!
//! A vocabulary has a hundred thousand tokens and every answer pays for all of them at every step, so the two
//! common cases, greedy and a small top-k, read the logits once, sixteen at a time, and copy none.

use std::{
    cmp::{Ordering, Reverse},
    collections::{BinaryHeap, HashMap, VecDeque},
};

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng as _, SeedableRng as _};

use crate::{Sampling, constraint::Mask};

/// A token of a model's vocabulary.
pub(crate) type Token = i32;

/// Tokens that penalties look back over.
const PENALTY_WINDOW: usize = 64;
/// Logits that are looked at together: what a vector register of 512 bits holds.
const LANES: usize = 16;
/// The largest top-k for which a heap is quicker than a selection among all.
const FEW: usize = 256;

/// [`Sampling`] with nothing left open: llama.cpp's own defaults.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings {
    temperature: f32,
    top_p: f32,
    top_k: usize,
    min_p: f32,
    repeat_penalty: f32,
    frequency_penalty: f32,
    presence_penalty: f32,
    seed: Option<u32>,
    logit_bias: Vec<(u32, f32)>,
}

impl From<Sampling> for Settings {
    fn from(asked: Sampling) -> Self {
        Self {
            temperature: asked.temperature.unwrap_or(0.8),
            top_p: asked.top_p.unwrap_or(0.95),
            top_k: usize::try_from(asked.top_k.unwrap_or(40)).unwrap_or(usize::MAX),
            min_p: asked.min_p.unwrap_or(0.05),
            repeat_penalty: asked.repeat_penalty.unwrap_or(1.0),
            frequency_penalty: asked.frequency_penalty.unwrap_or(0.0),
            presence_penalty: asked.presence_penalty.unwrap_or(0.0),
            seed: asked.seed,
            logit_bias: asked.logit_bias,
        }
    }
}

/// Chooses the tokens of one sequence.
pub(crate) struct Sampler {
    settings: Settings,
    rng: ChaCha8Rng,
    recent: VecDeque<Token>,
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    token: Token,
    logit: f32,
}

impl Sampler {
    /// `seed` is used where the settings name none.
    pub(crate) fn new(settings: impl Into<Settings>, seed: u64) -> Self {
        let settings = settings.into();
        let rng = ChaCha8Rng::seed_from_u64(settings.seed.map_or(seed, u64::from));
        Self { settings, rng, recent: VecDeque::with_capacity(PENALTY_WINDOW) }
    }

    /// Takes note of a token that is in the context now: of the prompt, or sampled.
    pub(crate) fn accept(&mut self, token: Token) {
        if self.recent.len() == PENALTY_WINDOW {
            self.recent.pop_front();
        }
        self.recent.push_back(token);
    }

    /// The next token, of those in `mask` where there is one.
    pub(crate) fn sample(&mut self, logits: &[f32], mask: Option<&Mask>) -> Token {
        let adjusted = self.adjusted(logits);
        let logits = adjusted.as_deref().unwrap_or(logits);
        let is_greedy = self.settings.temperature <= 0.0;
        let mut candidates = match mask {
            None if is_greedy => return likeliest(logits),
            None if (1..=FEW).contains(&self.settings.top_k) => highest(logits, self.settings.top_k),
            mask => {
                let mut all = candidates(logits);
                if let Some(mask) = mask {
                    all.retain(|candidate| mask.allows(candidate.token));
                }
                if is_greedy {
                    return best(&all);
                }
                self.cut_to_top_k(&mut all);
                all
            }
        };
        self.cut_to_top_p(&mut candidates);
        self.cut_to_min_p(&mut candidates);
        let weights = weights(&candidates, self.settings.temperature);
        self.draw(&candidates, &weights)
    }

    /// The logits after biases and penalties; `None` where there are none.
    fn adjusted(&self, logits: &[f32]) -> Option<Vec<f32>> {
        let Settings { repeat_penalty, frequency_penalty, presence_penalty, logit_bias, .. } = &self.settings;
        let penalizes = (repeat_penalty - 1.0).abs() >= f32::EPSILON
            || *frequency_penalty != 0.0
            || *presence_penalty != 0.0;
        if logit_bias.is_empty() && !penalizes {
            return None;
        }
        let mut adjusted = logits.to_vec();
        for (token, bias) in logit_bias {
            let at = usize::try_from(*token).ok();
            if let Some(logit) = at.and_then(|at| adjusted.get_mut(at)) {
                *logit += bias;
            }
        }
        if penalizes {
            self.penalize(&mut adjusted);
        }
        Some(adjusted)
    }

    fn penalize(&self, logits: &mut [f32]) {
        let Settings { repeat_penalty, frequency_penalty, presence_penalty, .. } = self.settings;
        let mut counts: HashMap<Token, f32> = HashMap::new();
        for token in &self.recent {
            *counts.entry(*token).or_default() += 1.0;
        }
        for (token, count) in counts {
            let Some(logit) = usize::try_from(token).ok().and_then(|at| logits.get_mut(at)) else { continue };
            // Dividing a negative logit would reward it.
            if *logit > 0.0 {
                *logit /= repeat_penalty;
            } else {
                *logit *= repeat_penalty;
            }
            *logit -= count * frequency_penalty + presence_penalty;
        }
    }

    fn cut_to_top_k(&self, candidates: &mut Vec<Candidate>) {
        let top_k = self.settings.top_k;
        if top_k > 0 && top_k < candidates.len() {
            candidates.select_nth_unstable_by(top_k, |a, b| b.rank().cmp(&a.rank()));
            candidates.truncate(top_k);
        }
    }

    /// Leaves the likeliest that together are as likely as top-p says, in order. A whole vocabulary is not sorted for
    /// that: its likeliest few are, and more of them only where those do not suffice.
    fn cut_to_top_p(&self, candidates: &mut Vec<Candidate>) {
        if self.settings.top_p >= 1.0 {
            return;
        }
        let most = most(candidates);
        let weight = |candidate: &Candidate| weight(candidate.logit - most, 1.0);
        let enough = self.settings.top_p * candidates.iter().map(weight).sum::<f32>();
        let mut sorted = FEW;
        loop {
            let end = sorted.min(candidates.len());
            if end < candidates.len() {
                candidates.select_nth_unstable_by_key(end, |candidate| Reverse(candidate.rank()));
            }
            let head = candidates.get_mut(..end).unwrap_or_default();
            head.sort_unstable_by_key(|candidate| Reverse(candidate.rank()));
            let mut sum = 0.0;
            let kept = head.iter().take_while(|candidate| {
                let more = sum < enough;
                sum += weight(candidate);
                more
            });
            let kept = kept.count();
            if sum >= enough || end == candidates.len() {
                return candidates.truncate(kept.max(1));
            }
            sorted = sorted.saturating_mul(8);
        }
    }

    fn cut_to_min_p(&self, candidates: &mut Vec<Candidate>) {
        if self.settings.min_p > 0.0 {
            let least = most(candidates) + self.settings.min_p.ln();
            candidates.retain(|candidate| candidate.logit >= least);
        }
    }

    fn draw(&mut self, candidates: &[Candidate], weights: &[f32]) -> Token {
        let total: f32 = weights.iter().sum();
        // 24 random bits: all that the fraction of an f32 holds.
        let bits = u16::try_from(self.rng.next_u32() >> 16).unwrap_or(0);
        let fine = u8::try_from(self.rng.next_u32() >> 24).unwrap_or(0);
        let unit = (f32::from(bits) + f32::from(fine) / 256.0) / 65536.0;
        let mut left = unit * total;
        for (candidate, weight) in candidates.iter().zip(weights) {
            left -= weight;
            if left < 0.0 {
                return candidate.token;
            }
        }
        best(candidates)
    }
}

impl Candidate {
    fn new(token: Token, logit: f32) -> Self {
        Self { token, logit: if logit.is_nan() { f32::NEG_INFINITY } else { logit } }
    }

    /// The higher the likelier; of equals the first, so that greedy means one thing.
    fn rank(&self) -> Rank {
        Rank(self.logit, Reverse(self.token))
    }
}

/// A candidate's place in the order.
#[derive(Clone, Copy, Debug)]
struct Rank(f32, Reverse<Token>);

impl Ord for Rank {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0).then(self.1.cmp(&other.1))
    }
}

impl PartialOrd for Rank {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Rank {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Rank {}

fn candidates(logits: &[f32]) -> Vec<Candidate> {
    (0..).zip(logits).map(|(token, logit)| Candidate::new(token, *logit)).collect()
}

fn best(candidates: &[Candidate]) -> Token {
    candidates.iter().map(Candidate::rank).max().map_or(0, |Rank(_, Reverse(token))| token)
}

/// The token of the largest logit, the first of equals.
fn likeliest(logits: &[f32]) -> Token {
    let (chunks, rest) = logits.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for (most, logit) in lanes.iter_mut().zip(chunk) {
            *most = if *logit > *most { *logit } else { *most };
        }
    }
    let most = lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |most, logit| most.max(*logit));
    logits.iter().position(|logit| *logit == most).and_then(|at| Token::try_from(at).ok()).unwrap_or(0)
}

/// The `count` tokens with the largest logits, in no order.
fn highest(logits: &[f32], count: usize) -> Vec<Candidate> {
    let mut heap: BinaryHeap<Reverse<Rank>> = BinaryHeap::with_capacity(count);
    let mut first: Token = 0;
    for chunk in logits.chunks(LANES) {
        let least = heap.peek().map_or(f32::NEG_INFINITY, |Reverse(Rank(logit, _))| *logit);
        let full = heap.len() >= count;
        // No early end within a chunk: that is what lets it be compared at once.
        if !full || chunk.iter().fold(false, |any, logit| any | (*logit > least)) {
            for (token, logit) in (first..).zip(chunk) {
                let rank = Candidate::new(token, *logit).rank();
                if heap.len() < count {
                    heap.push(Reverse(rank));
                } else if let Some(mut least) = heap.peek_mut()
                    && rank > least.0
                {
                    *least = Reverse(rank);
                }
            }
        }
        first = first.saturating_add(Token::try_from(chunk.len()).unwrap_or(0));
    }
    heap.into_iter().map(|Reverse(Rank(logit, Reverse(token)))| Candidate { token, logit }).collect()
}

/// What [`logprobs`] finds.
#[derive(Debug)]
pub(crate) struct Logprobs {
    pub(crate) of_token: f32,
    pub(crate) top: Vec<(Token, f32)>,
}

/// Natural logarithms of the probabilities that the model itself gives: of `token`, and of the `top` likeliest.
pub(crate) fn logprobs(logits: &[f32], token: Token, top: usize) -> Logprobs {
    let mut candidates = candidates(logits);
    let most = candidates.iter().map(|candidate| candidate.logit).fold(f32::NEG_INFINITY, f32::max);
    // In double precision: fifty thousand small terms add up.
    let sum: f64 = candidates.iter().map(|candidate| f64::from(candidate.logit - most).exp()).sum();
    let logprob = |logit: f32| narrow(f64::from(logit - most) - sum.ln());
    let at = usize::try_from(token).ok().and_then(|at| candidates.get(at));
    let of_token = at.map_or(f32::NEG_INFINITY, |candidate| logprob(candidate.logit));
    let top = top.min(candidates.len());
    if top > 0 && top < candidates.len() {
        candidates.select_nth_unstable_by(top, |a, b| b.logit.total_cmp(&a.logit));
    }
    candidates.truncate(top);
    candidates.sort_unstable_by(|a, b| b.logit.total_cmp(&a.logit).then(a.token.cmp(&b.token)));
    let top = candidates.iter().map(|candidate| (candidate.token, logprob(candidate.logit))).collect();
    Logprobs { of_token, top }
}

/// The nearest `f32`; what is too small for JSON to say is as OpenAI says it.
fn narrow(logprob: f64) -> f32 {
    const LEAST: f32 = -9999.0;
    #[expect(clippy::cast_possible_truncation, reason = "rounding to the nearest f32 is what is wanted")]
    #[expect(clippy::as_conversions, reason = "there is no other way to round to f32")]
    let narrow = logprob as f32;
    if narrow.is_finite() { narrow.max(LEAST) } else { LEAST }
}

/// exp(logit / temperature), scaled so that the largest is 1.
fn weights(candidates: &[Candidate], temperature: f32) -> Vec<f32> {
    let most = most(candidates);
    candidates.iter().map(|candidate| weight(candidate.logit - most, temperature)).collect()
}

/// The largest logit.
fn most(candidates: &[Candidate]) -> f32 {
    candidates.iter().map(|candidate| candidate.logit).fold(f32::NEG_INFINITY, f32::max)
}

fn weight(below_the_most: f32, temperature: f32) -> f32 {
    let weight = (below_the_most / temperature).exp();
    if weight.is_nan() { 0.0 } else { weight }
}

impl std::fmt::Debug for Sampler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sampler").field("settings", &self.settings).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
