//! What was typed, against what it means.

use super::*;
use crate::crypto::NodeKey;

const KEY: &str = "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d";

fn resolve(flags: &[&str], env: &[(&str, &str)]) -> Result<(Config, KeySources), ConfigError> {
    let lookup = |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
    let argv = ["node"].iter().chain(flags).map(OsString::from);
    Args::read(argv, &lookup).unwrap().resolve(lookup(HOST_PRIVATE_KEY).map(Secret::from), None)
}

fn sentence(flags: &[&str], env: &[(&str, &str)]) -> String {
    resolve(flags, env).unwrap_err().to_string()
}

#[test]
fn a_flag_wins_over_the_environment_and_the_environment_over_the_default() {
    assert_eq!(resolve(&[], &[]).unwrap().0.listen.to_string(), "127.0.0.1:8080");
    let env = [("LISTEN_ADDR", "127.0.0.1:1"), ("SESSION_KEY_TTL_SECONDS", "7"), ("ALLOW_PLAINTEXT", "true")];
    let (config, _) = resolve(&["--listen-addr", "127.0.0.1:2"], &env).unwrap();
    assert_eq!(config.listen.to_string(), "127.0.0.1:2");
    assert_eq!(config.store.ttl, Duration::from_secs(7));
    assert!(config.allow_plaintext);
    assert!(!resolve(&["--allow-plaintext=false"], &env).unwrap().0.allow_plaintext);
}

#[test]
fn contradictions_stop_the_start_with_a_sentence() {
    let key = ("HOST_PRIVATE_KEY", KEY);
    let test = ("ALLOW_TEST_KEYS", "true");
    assert_eq!(
        sentence(&["--allow-plaintext", "--require-encryption"], &[key, test]),
        "ALLOW_PLAINTEXT and REQUIRE_ENCRYPTION contradict each other: set one of them"
    );
    let clients = ("ALLOWED_CLIENTS", "0x0000000000000000000000000000000000000001");
    assert!(sentence(&["--allow-plaintext"], &[key, test, clients]).contains("ALLOWED_CLIENTS"));
    assert!(sentence(&[], &[clients]).contains("needs HOST_PRIVATE_KEY"));
    assert!(sentence(&["--require-encryption"], &[]).contains("needs HOST_PRIVATE_KEY"));
    assert!(
        sentence(&["--model", "default", "--model-path", "x.gguf"], &[]).contains("MODEL_PATH and MODEL")
    );
    assert!(sentence(&["--session-max-seconds", "10"], &[]).starts_with("SESSION_MAX_SECONDS"));
    assert!(sentence(&["--drain-at-least-seconds", "31"], &[]).starts_with("DRAIN_SECONDS is less"));
    assert!(sentence(&["--max-tokens-per-request", "9999"], &[]).starts_with("MAX_TOKENS_PER_REQUEST"));
    assert!(sentence(&["--allowed-clients", "0x12"], &[key, test]).contains("0x12"));
    assert!(sentence(&["--allowed-origins", "*"], &[]).contains("ALLOWED_ORIGINS"));
    assert!(sentence(&["--trusted-proxies", "proxy.example"], &[]).starts_with("TRUSTED_PROXIES"));
    let alone = sentence(&["--proxy-protocol", "require"], &[]);
    assert_eq!(alone, "PROXY_PROTOCOL means nothing without TRUSTED_PROXIES, which is not set");
    let header = sentence(&["--proxy-header", "forwarded"], &[]);
    assert_eq!(header, "PROXY_HEADER means nothing without TRUSTED_PROXIES, which is not set");
    let missing = "/nowhere/clients";
    for (flag, setting) in
        [("--allowed-clients-file", "ALLOWED_CLIENTS_FILE"), ("--denied-clients-file", "DENIED_CLIENTS_FILE")]
    {
        assert!(sentence(&[flag, missing], &[key, test]).starts_with(&format!("{setting}: {missing}")));
        assert!(sentence(&[flag, missing], &[]).contains("needs HOST_PRIVATE_KEY"));
        assert!(sentence(&[flag, missing, "--allow-plaintext"], &[key, test]).contains("contradict"));
    }
}

fn key(env: &[(&str, &str)]) -> Result<Option<NodeKey>, String> {
    let (config, keys) = resolve(&[], env).map_err(|error| error.to_string())?;
    let load = |source: &_| NodeKey::load(source, config.test_keys).map_err(|error| error.to_string());
    keys.current.as_ref().map(load).transpose()
}

#[test]
fn an_empty_key_is_a_mistake_and_not_plaintext_mode() {
    assert_eq!(key(&[("HOST_PRIVATE_KEY", "")]).unwrap_err(), "the private key is empty");
    assert!(key(&[]).unwrap().is_none());
}

#[test]
fn a_key_has_one_source() {
    let sentence = sentence(&["--host-private-key-file", "x"], &[("HOST_PRIVATE_KEY", KEY)]);
    assert!(sentence.starts_with("HOST_PRIVATE_KEY and HOST_PRIVATE_KEY_FILE contradict"), "{sentence}");
    let lonely = resolve(&["--pkcs11-label", "x"], &[]).unwrap_err().to_string();
    assert_eq!(lonely, "PKCS11_LABEL means nothing without PKCS11_URI, which is not set");
    let pin = resolve(&[], &[("PKCS11_URI", "pkcs11:token=a?pin-value=97531")]).unwrap_err().to_string();
    assert!(pin.contains("pin-source") && !pin.contains("97531"), "{pin}");
}

#[test]
fn a_credential_of_systemd_is_the_key_and_contradicts_another_one() {
    let folder = tempfile::tempdir().unwrap();
    fabstir_custody::write_secret_file(&folder.path().join(CREDENTIAL), KEY.as_bytes()).unwrap();
    let args =
        |flags: &[&str]| Args::read(["node"].iter().chain(flags).map(OsString::from), &|_| None).unwrap();
    let found = args(&[]).resolve(None, Some(folder.path())).unwrap().1.current.unwrap();
    assert!(found.describe().ends_with(CREDENTIAL));
    let named = |file: &str| {
        let sources = args(&["--host-private-key-file", file]).resolve(None, Some(folder.path()));
        sources.map(|(_, sources)| sources.current.unwrap().describe())
    };
    assert!(named("other").unwrap_err().to_string().contains("contradict each other"));
    // By its path it is the same one, and may be of the mode that systemd gives it.
    let path = folder.path().join(CREDENTIAL).display().to_string();
    assert_eq!(named(&path).unwrap(), found.describe());
}

#[test]
fn a_ttl_of_zero_is_refused() {
    let lookup = |name: &str| (name == "SESSION_KEY_TTL_SECONDS").then(|| "0".to_owned());
    assert!(Args::read([OsString::from("node")], &lookup).is_err());
}

#[test]
fn a_published_key_stops_the_start_without_being_shown() {
    let shown = key(&[("HOST_PRIVATE_KEY", KEY)]).unwrap_err();
    assert!(shown.contains("ALLOW_TEST_KEYS") && !shown.contains("59c6"), "{shown}");
}

#[test]
fn a_key_before_that_is_named_wins_over_one_that_a_rotation_left_beside() {
    let dir = tempfile::tempdir().unwrap();
    let (file, other) = (dir.path().join("node.json"), dir.path().join("older.key"));
    for path in [&file, &other, &dir.path().join("node.json.previous")] {
        std::fs::write(path, "x").unwrap();
    }
    let previous = |more: &[(&str, &Path)]| {
        let flags = [("--host-keystore-file", file.as_path())];
        let flags =
            flags.iter().chain(more).flat_map(|(flag, path)| [flag.into(), path.as_os_str().to_owned()]);
        let args = Args::read(std::iter::once("node".into()).chain(flags), &|_: &str| None).unwrap();
        args.resolve(None, None).unwrap().1.previous.unwrap().describe()
    };
    assert_eq!(previous(&[]), format!("keystore {}.previous", file.display()));
    let named = previous(&[("--previous-private-key-file", &other)]);
    assert_eq!(named, format!("file {}", other.display()));
}
