use proptest::prelude::*;

use super::*;

fn plain() -> Settings {
    let open = Settings::from(Sampling::default());
    Settings { top_k: 0, top_p: 1.0, min_p: 0.0, temperature: 1.0, seed: Some(1), ..open }
}

fn drawn(settings: Settings, logits: &[f32]) -> Vec<Token> {
    let mut sampler = Sampler::new(settings, 0);
    (0..2000).map(|_| sampler.sample(logits, None)).collect()
}

#[test]
fn a_temperature_of_zero_takes_the_best() {
    let greedy = Settings { temperature: 0.0, ..plain() };
    assert!(drawn(greedy, &[0.1, 3.0, 2.9, f32::NAN]).iter().all(|token| *token == 1));
}

#[test]
fn the_same_seed_draws_the_same_tokens() {
    let logits = [1.0, 1.1, 0.9, 1.0];
    assert_eq!(drawn(plain(), &logits), drawn(plain(), &logits));
    let other = Settings { seed: Some(2), ..plain() };
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
    assert_eq!(most(Settings { top_k: 2, ..plain() }), Some(1));
    assert_eq!(most(Settings { top_p: 0.6, ..plain() }), Some(0));
    assert_eq!(most(Settings { min_p: 0.3, ..plain() }), Some(1));
    assert_eq!(most(plain()), Some(3));
}

#[test]
fn a_penalty_pushes_a_repeated_token_down() {
    let settings = Settings { temperature: 0.0, presence_penalty: 2.0, ..plain() };
    let mut sampler = Sampler::new(settings, 0);
    assert_eq!(sampler.sample(&[2.0, 1.0], None), 0);
    sampler.accept(0);
    assert_eq!(sampler.sample(&[2.0, 1.0], None), 1);
    let settings = Settings { temperature: 0.0, repeat_penalty: 2.0, ..plain() };
    let mut sampler = Sampler::new(settings, 0);
    sampler.accept(0);
    assert_eq!(sampler.sample(&[-1.0, -1.5], None), 1, "a negative logit is pushed down too");
}

#[test]
fn a_bias_moves_a_token_and_no_other() {
    let banned = Settings { temperature: 0.0, logit_bias: vec![(0, -100.0), (99, 5.0)], ..plain() };
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

/// What the quick ways choose among, the slow way chooses among.
fn slowly(logits: &[f32], count: usize) -> Vec<Token> {
    let mut all = candidates(logits);
    all.sort_by_key(|candidate| Reverse(candidate.rank()));
    all.iter().take(count).map(|candidate| candidate.token).collect()
}

proptest! {
    #[test]
    fn the_quick_ways_find_what_the_slow_way_finds(
        logits in proptest::collection::vec(prop_oneof![-3_i8..3, -128_i8..127], 1..200), count in 1_usize..60,
    ) {
        let logits: Vec<f32> = logits.into_iter().map(f32::from).collect();
        let mut few = highest(&logits, count);
        few.sort_by_key(|candidate| Reverse(candidate.rank()));
        let few: Vec<Token> = few.iter().map(|candidate| candidate.token).collect();
        prop_assert_eq!(&few, &slowly(&logits, count));
        prop_assert_eq!(likeliest(&logits), few[0]);
    }

    #[test]
    fn every_logit_gives_a_token_of_the_vocabulary(
        logits in proptest::collection::vec(proptest::num::f32::ANY, 1..50),
        temperature in 0.0_f32..2.0, top_k in 0_usize..60, top_p in 0.0_f32..1.0, min_p in 0.0_f32..1.0,
    ) {
        let settings = Settings { temperature, top_k, top_p, min_p, ..plain() };
        let token = Sampler::new(settings, 0).sample(&logits, None);
        prop_assert!(usize::try_from(token).unwrap() < logits.len());
    }
}
