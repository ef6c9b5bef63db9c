//! The next token from the model's logits. In the order of llama.cpp: penalties, top-k, top-p, min-p,
//! temperature.

use std::collections::{HashMap, VecDeque};

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng as _, SeedableRng as _};

use crate::{Sampling, constraint::Mask};

/// A token of a model's vocabulary.
pub(crate) type Token = i32;

/// Tokens that penalties look back over.
const PENALTY_WINDOW: usize = 64;

/// Chooses the tokens of one sequence.
pub(crate) struct Sampler {
    settings: Sampling,
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
    pub(crate) fn new(settings: Sampling, seed: u64) -> Self {
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
        let mut candidates: Vec<Candidate> =
            (0..).zip(logits).map(|(token, logit)| Candidate::new(token, *logit)).collect();
        self.bias(&mut candidates);
        self.penalize(&mut candidates);
        if let Some(mask) = mask {
            candidates.retain(|candidate| mask.allows(candidate.token));
        }
        if self.settings.temperature <= 0.0 {
            return best(&candidates);
        }
        self.cut_to_top_k(&mut candidates);
        candidates.sort_unstable_by(|a, b| b.logit.total_cmp(&a.logit));
        self.cut_to_top_p(&mut candidates);
        self.cut_to_min_p(&mut candidates);
        let weights = weights(&candidates, self.settings.temperature);
        self.draw(&candidates, &weights)
    }

    fn bias(&self, candidates: &mut [Candidate]) {
        for (token, bias) in &self.settings.logit_bias {
            let at = usize::try_from(*token).ok();
            if let Some(candidate) = at.and_then(|at| candidates.get_mut(at)) {
                candidate.logit += bias;
            }
        }
    }

    fn penalize(&self, candidates: &mut [Candidate]) {
        let Sampling { repeat_penalty, frequency_penalty, presence_penalty, .. } = self.settings;
        let off = (repeat_penalty - 1.0).abs() < f32::EPSILON
            && frequency_penalty == 0.0
            && presence_penalty == 0.0;
        if off {
            return;
        }
        let mut counts: HashMap<Token, f32> = HashMap::new();
        for token in &self.recent {
            *counts.entry(*token).or_default() += 1.0;
        }
        for (token, count) in counts {
            let Some(candidate) = usize::try_from(token).ok().and_then(|at| candidates.get_mut(at)) else {
                continue;
            };
            // Dividing a negative logit would reward it.
            if candidate.logit > 0.0 {
                candidate.logit /= repeat_penalty;
            } else {
                candidate.logit *= repeat_penalty;
            }
            candidate.logit -= count * frequency_penalty + presence_penalty;
        }
    }

    fn cut_to_top_k(&self, candidates: &mut Vec<Candidate>) {
        let top_k = usize::try_from(self.settings.top_k).unwrap_or(usize::MAX);
        if top_k > 0 && top_k < candidates.len() {
            candidates.select_nth_unstable_by(top_k, |a, b| b.logit.total_cmp(&a.logit));
            candidates.truncate(top_k);
        }
    }

    fn cut_to_top_p(&self, candidates: &mut Vec<Candidate>) {
        if self.settings.top_p >= 1.0 {
            return;
        }
        let weights = weights(candidates, 1.0);
        let enough = self.settings.top_p * weights.iter().sum::<f32>();
        let mut sum = 0.0;
        let kept = weights.iter().take_while(|weight| {
            let more = sum < enough;
            sum += **weight;
            more
        });
        let kept = kept.count().max(1);
        candidates.truncate(kept);
    }

    fn cut_to_min_p(&self, candidates: &mut Vec<Candidate>) {
        if self.settings.min_p <= 0.0 {
            return;
        }
        let Some(least) = candidates.first().map(|best| best.logit + self.settings.min_p.ln()) else {
            return;
        };
        let kept = candidates.iter().take_while(|candidate| candidate.logit >= least).count().max(1);
        candidates.truncate(kept);
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
}

fn best(candidates: &[Candidate]) -> Token {
    // The first of equals, so that greedy means one thing.
    let first = candidates.first().copied().unwrap_or(Candidate { token: 0, logit: f32::NEG_INFINITY });
    candidates.iter().fold(first, |best, next| if next.logit > best.logit { *next } else { best }).token
}

/// What [`logprobs`] finds.
#[derive(Debug)]
pub(crate) struct Logprobs {
    pub(crate) of_token: f32,
    pub(crate) top: Vec<(Token, f32)>,
}

/// Natural logarithms of the probabilities that the model itself gives: of `token`, and of the `top` likeliest.
pub(crate) fn logprobs(logits: &[f32], token: Token, top: usize) -> Logprobs {
    let mut candidates: Vec<Candidate> =
        (0..).zip(logits).map(|(token, logit)| Candidate::new(token, *logit)).collect();
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
    let most = candidates.iter().map(|candidate| candidate.logit).fold(f32::NEG_INFINITY, f32::max);
    candidates
        .iter()
        .map(|candidate| ((candidate.logit - most) / temperature).exp())
        .map(|w| if w.is_nan() { 0.0 } else { w })
        .collect()
}

impl std::fmt::Debug for Sampler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sampler").field("settings", &self.settings).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plain() -> Sampling {
        Sampling { top_k: 0, top_p: 1.0, min_p: 0.0, temperature: 1.0, seed: Some(1), ..Sampling::default() }
    }

    fn drawn(settings: Sampling, logits: &[f32]) -> Vec<Token> {
        let mut sampler = Sampler::new(settings, 0);
        (0..2000).map(|_| sampler.sample(logits, None)).collect()
    }

    #[test]
    fn a_temperature_of_zero_takes_the_best() {
        let greedy = Sampling { temperature: 0.0, ..plain() };
        assert!(drawn(greedy, &[0.1, 3.0, 2.9, f32::NAN]).iter().all(|token| *token == 1));
    }

    #[test]
    fn the_same_seed_draws_the_same_tokens() {
        let logits = [1.0, 1.1, 0.9, 1.0];
        assert_eq!(drawn(plain(), &logits), drawn(plain(), &logits));
        let other = Sampling { seed: Some(2), ..plain() };
        assert_ne!(drawn(plain(), &logits), drawn(other, &logits));
    }

    #[test]
    fn tokens_are_drawn_as_often_as_their_probability_says() {
        let logits = [0.0, 1.0_f32.ln(), 2.0_f32.ln()];
        let tokens = drawn(plain(), &logits);
        let last = tokens.iter().filter(|token| **token == 2).count();
        assert!((850..1150).contains(&last), "about half of 2000 were expected, not {last}");
    }

    #[test]
    fn each_cut_leaves_what_it_promises() {
        let logits = [4.0, 3.0, 2.0, 1.0];
        let most = |settings| drawn(settings, &logits).into_iter().max();
        assert_eq!(most(Sampling { top_k: 2, ..plain() }), Some(1));
        assert_eq!(most(Sampling { top_p: 0.6, ..plain() }), Some(0));
        assert_eq!(most(Sampling { min_p: 0.3, ..plain() }), Some(1));
        assert_eq!(most(plain()), Some(3));
    }

    #[test]
    fn a_penalty_pushes_a_repeated_token_down() {
        let settings = Sampling { temperature: 0.0, presence_penalty: 2.0, ..plain() };
        let mut sampler = Sampler::new(settings, 0);
        assert_eq!(sampler.sample(&[2.0, 1.0], None), 0);
        sampler.accept(0);
        assert_eq!(sampler.sample(&[2.0, 1.0], None), 1);
        let settings = Sampling { temperature: 0.0, repeat_penalty: 2.0, ..plain() };
        let mut sampler = Sampler::new(settings, 0);
        sampler.accept(0);
        assert_eq!(sampler.sample(&[-1.0, -1.5], None), 1, "a negative logit is pushed down too");
    }

    #[test]
    fn a_bias_moves_a_token_and_no_other() {
        let banned = Sampling { temperature: 0.0, logit_bias: vec![(0, -100.0), (99, 5.0)], ..plain() };
        assert!(drawn(banned, &[9.0, 1.0, 2.0]).iter().all(|token| *token == 2));
    }

    #[test]
    fn probabilities_are_the_models_own() {
        let told = logprobs(&[1.0_f32.ln(), 3.0_f32.ln(), 6.0_f32.ln(), f32::NAN], 0, 2);
        assert!((told.of_token.exp() - 0.1).abs() < 1e-6);
        let top: Vec<Token> = told.top.iter().map(|(token, _)| *token).collect();
        assert_eq!(top, [2, 1]);
        assert!((told.top[0].1.exp() - 0.6).abs() < 1e-6);
        assert_eq!(logprobs(&[0.0, f32::NEG_INFINITY], 1, 9).of_token, -9999.0);
        assert_eq!(logprobs(&[0.0, 1.0], 1, 9).top.len(), 2);
    }

    proptest! {
        #[test]
        fn every_logit_gives_a_token_of_the_vocabulary(
            logits in proptest::collection::vec(proptest::num::f32::ANY, 1..50),
            temperature in 0.0_f32..2.0, top_k in 0_u32..60, top_p in 0.0_f32..1.0, min_p in 0.0_f32..1.0,
        ) {
            let settings = Sampling { temperature, top_k, top_p, min_p, ..plain() };
            let token = Sampler::new(settings, 0).sample(&logits, None);
            prop_assert!(usize::try_from(token).unwrap() < logits.len());
        }
    }
}
