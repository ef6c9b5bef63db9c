//! A real PKCS #11 token, SoftHSM's: a key that never leaves it signs and agrees.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test is meant to panic")]

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use cryptoki::context::Pkcs11;
use fabstir_custody::{
    KeyCustody as _, KeySource, Pin, Pkcs11Uri, Secret, Token, TokenError, TokenKey, replace_secret_file,
    write_secret_file,
};
use fabstir_protocol::identity::{Agreed, PrivateKey};

const PIN: &str = "97531";

/// Where Debian puts it.
fn module() -> PathBuf {
    let places = ["/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so"];
    let found = places.iter().map(Path::new).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("SoftHSM is missing: run scripts/bootstrap.sh")).to_owned()
}

fn uri(token: &str, object: &str) -> Pkcs11Uri {
    Pkcs11Uri {
        module: Some(module()),
        ..format!("pkcs11:token={token};object={object};id=%01").parse().unwrap()
    }
}

fn pin() -> Pin {
    Pin::Given(Secret::from(PIN))
}

/// What SoftHSM's own tool says of itself, in a folder of the test's.
fn softhsm(folder: &Path, arguments: &[&str]) {
    let done = Command::new("softhsm2-util")
        .env("SOFTHSM2_CONF", folder.join("softhsm2.conf"))
        .args(arguments)
        .output();
    let done = done.unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// One test, since a process knows one module and one set of tokens.
#[test]
fn a_tokens_key_signs_and_agrees_and_never_leaves_it() {
    if std::env::var_os("SOFTHSM2_CONF").is_some() {
        return with_tokens();
    }
    let folder = tempfile::tempdir().unwrap();
    let tokens = folder.path().join("tokens");
    std::fs::create_dir(&tokens).unwrap();
    let configuration = format!("directories.tokendir = {}\nlog.level = ERROR\n", tokens.display());
    std::fs::write(folder.path().join("softhsm2.conf"), configuration).unwrap();
    for label in ["one", "two"] {
        softhsm(
            folder.path(),
            &["--init-token", "--free", "--label", label, "--so-pin", "1234", "--pin", PIN],
        );
    }
    // The module finds its tokens by the environment, which a process with threads must not change: another one does it.
    let again = Command::new(std::env::current_exe().unwrap())
        .env("SOFTHSM2_CONF", folder.path().join("softhsm2.conf"))
        .args(["--exact", "a_tokens_key_signs_and_agrees_and_never_leaves_it", "--nocapture"])
        .status();
    assert!(again.unwrap().success());
}

fn with_tokens() {
    let secret = [0x5a; 32];
    let plain = PrivateKey::try_from(&secret).unwrap();
    let token = Token::open(&uri("one", "x"), &pin()).unwrap();
    assert_eq!(token.import(&uri("one", "imported"), &secret).unwrap(), plain.public_key());
    let made = token.generate(&Pkcs11Uri { id: Some(vec![2]), ..uri("one", "made") }).unwrap();
    assert!(matches!(token.import(&uri("one", "imported"), &secret), Err(TokenError::Exists(_))));

    imported_and_plain_do_the_same(&plain);
    a_made_key_is_found_and_kept(&made.to_string());
    what_is_not_there_is_said();
    a_token_that_was_away_is_found_again();
    a_token_that_was_reset_is_unlocked_once_more();
}

/// SoftHSM looks for its tokens when it starts: the module has to be started anew.
fn a_token_that_was_away_is_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pin");
    write_secret_file(&file, PIN.as_bytes()).unwrap();
    let of = |object| TokenKey::open(&uri("one", object), &Pin::File(file.clone())).unwrap();
    let (key, other) = (of("imported"), of("imported"));
    let works = |key: &TokenKey| key.sign(&[7; 32]).is_ok_and(|by| by.recover(&[7; 32]) == Ok(key.address()));
    let settings = std::env::var_os("SOFTHSM2_CONF").map(PathBuf::from).unwrap();
    let (there, away) = (settings.with_file_name("tokens"), settings.with_file_name("away"));
    // What a person typed cannot be typed again by the node: while such a key is at work the module is left alone.
    let typed = TokenKey::open(&uri("one", "imported"), &pin()).unwrap();
    std::fs::rename(&there, &away).unwrap();
    assert!(!works(&key));
    std::fs::rename(&away, &there).unwrap();
    assert!(
        !works(&key) && !works(&typed),
        "SoftHSM finds its tokens without being started: test something else"
    );
    drop(typed);
    assert!(works(&key) && works(&other) && works(&key), "whoever had the module before goes on as well");
    std::fs::rename(&there, &away).unwrap();
    assert!(!works(&key));
    std::fs::rename(&away, &there).unwrap();
    let begin = Instant::now();
    // A module is started anew every few seconds at most.
    while !works(&key) {
        assert!(begin.elapsed() < Duration::from_secs(60), "it does not come back");
        std::thread::yield_now();
    }
    assert!(works(&other));
}

/// Last, since everybody is logged out.
fn a_token_that_was_reset_is_unlocked_once_more() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pin");
    write_secret_file(&file, PIN.as_bytes()).unwrap();
    let key = TokenKey::open(&uri("one", "imported"), &Pin::File(file.clone())).unwrap();
    // The module once more, which is the same one. A token that comes back knows nobody, and its handles are others.
    let module = Pkcs11::new(module()).unwrap();
    let reset = || {
        for slot in module.get_slots_with_initialized_token().unwrap() {
            module.open_rw_session(slot).unwrap().logout().unwrap();
        }
    };
    for _ in 0..3 {
        reset();
        let digest = [7; 32];
        assert_eq!(key.sign(&digest).unwrap().recover(&digest), Ok(key.address()));
    }
    // A PIN that is refused is tried once: a token locks itself.
    replace_secret_file(&file, b"00000").unwrap();
    reset();
    assert!(key.sign(&[7; 32]).is_err());
    replace_secret_file(&file, PIN.as_bytes()).unwrap();
    let error = key.sign(&[7; 32]).unwrap_err().to_string();
    assert!(error.contains("refuses the PIN"), "{error}");
    assert!(TokenKey::open(&uri("one", "imported"), &Pin::File(file)).is_ok(), "a reload opens it anew");
}

fn imported_and_plain_do_the_same(plain: &PrivateKey) {
    let key = TokenKey::open(&uri("one", "imported"), &pin()).unwrap();
    assert_eq!(key.public_key(), &plain.public_key());
    assert!(key.can_agree() && !key.is_extractable());
    for digest in (0..32_u8).map(|byte| [byte; 32]) {
        // Not the same signature, for a token draws its nonces; but by the same key, and with a low s.
        let signature = key.sign(&digest).unwrap();
        assert_eq!(signature.recover(&digest), Ok(plain.address()));
    }
    let key = Arc::new(key);
    let threads: Vec<_> = (1..=4_u8)
        .map(|seed| {
            let (key, theirs) = (Arc::clone(&key), PrivateKey::try_from(&[seed; 32]).unwrap());
            std::thread::spawn(move || {
                for _ in 0..8 {
                    let agreed: Agreed = key.agree(&theirs.public_key()).unwrap();
                    assert!(agreed.has_x_of(&theirs.agree(key.public_key())));
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let shown = format!("{key:?} {}", key.place());
    assert!(!shown.contains(PIN) && !shown.contains("5a5a"), "{shown}");
}

fn a_made_key_is_found_and_kept(public: &str) {
    let source = KeySource::Token(Box::new(Pkcs11Uri { id: None, ..uri("one", "made") }), pin());
    assert_eq!(source.load().unwrap().public_key().to_string(), public);
    assert!(source.secret().unwrap().is_none(), "a token gives no key away");
}

fn what_is_not_there_is_said() {
    let refused = |uri: &Pkcs11Uri, pin: &Pin| TokenKey::open(uri, pin).unwrap_err().to_string();
    assert!(refused(&uri("three", "x"), &pin()).contains("token=one"));
    assert!(refused(&uri("one", "nobody"), &pin()).contains("object=nobody"));
    let any = Pkcs11Uri { module: Some(module()), ..Pkcs11Uri::default() };
    assert!(refused(&any, &pin()).contains("slot-id="), "two tokens");
    let wrong = refused(&uri("two", "x"), &Pin::Given(Secret::from("00000")));
    assert!(wrong.contains("refuses the PIN") && !wrong.contains("00000"), "{wrong}");
    assert!(matches!(TokenKey::open(&Pkcs11Uri::default(), &pin()), Err(TokenError::NoModule)));
    let other = Pkcs11Uri { module: Some("/lib/another.so".into()), ..Pkcs11Uri::default() };
    assert!(matches!(TokenKey::open(&other, &pin()), Err(TokenError::OtherModule)));
}
