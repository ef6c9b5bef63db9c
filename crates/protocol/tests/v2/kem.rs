//! One ML-KEM-768 against another: what either makes, the other opens.

use fabstir_protocol::v2::{AwsLc, ENCAPSULATION_KEY_LEN, Kem};

use crate::{portable::Portable, support::rng};

const RUNS: usize = 50;

/// A key of `K`'s, a ciphertext of `O`'s; a bent ciphertext gives another secret and no error.
fn run<K: Kem, O: Kem>() {
    let (key, public) = K::generate(&mut rng()).unwrap();
    let (mut ciphertext, secret) = O::encapsulate(&public, &mut rng()).unwrap();
    assert_eq!(K::decapsulate(&key, &ciphertext).unwrap().expose(), secret.expose());
    ciphertext[0] ^= 1;
    assert_ne!(K::decapsulate(&key, &ciphertext).unwrap().expose(), secret.expose());
}

#[test]
fn either_implementation_opens_what_the_other_made() {
    for _ in 0..RUNS {
        run::<AwsLc, Portable>();
        run::<Portable, AwsLc>();
        run::<AwsLc, AwsLc>();
        run::<Portable, Portable>();
    }
}

/// Every coefficient of a key, one after the other, at the modulus and at the most that 12 bits hold.
#[test]
fn neither_implementation_takes_a_key_that_is_not_reduced() {
    let (_, public) = Portable::generate(&mut rng()).unwrap();
    let coefficients = (ENCAPSULATION_KEY_LEN - 32) * 8 / 12;
    for at in 0..coefficients {
        for value in [3329, 4095] {
            let bent = with_coefficient(&public, at, value);
            assert!(AwsLc::encapsulate(&bent, &mut rng()).is_err(), "{value} at {at}");
            assert!(Portable::encapsulate(&bent, &mut rng()).is_err(), "{value} at {at}");
        }
    }
    let most = with_coefficient(&public, 0, 3328);
    assert!(AwsLc::encapsulate(&most, &mut rng()).is_ok(), "the largest that is reduced");
    assert!(Portable::encapsulate(&most, &mut rng()).is_ok(), "the largest that is reduced");
}

#[test]
fn what_is_secret_of_it_is_printed_by_name_alone() {
    let (key, public) = AwsLc::generate(&mut rng()).unwrap();
    let (_, secret) = AwsLc::encapsulate(&public, &mut rng()).unwrap();
    assert_eq!(format!("{key:?} {secret:?}"), "AwsLcKey(..) KemSecret(..)");
}

/// Two coefficients stand in three bytes, the low bits first.
fn with_coefficient(key: &[u8; ENCAPSULATION_KEY_LEN], at: usize, value: u16) -> [u8; ENCAPSULATION_KEY_LEN] {
    let mut bent = *key;
    let three = &mut bent[at / 2 * 3..][..3];
    let [low, high] = value.to_le_bytes();
    if at.is_multiple_of(2) {
        three[0] = low;
        three[1] = (three[1] & 0xf0) | high;
    } else {
        three[1] = (three[1] & 0x0f) | (low << 4);
        three[2] = (low >> 4) | (high << 4);
    }
    bent
}
