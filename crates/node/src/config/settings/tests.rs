//! Settings from everywhere.

use std::fs;

use super::*;

struct Place(tempfile::TempDir);

impl Place {
    fn new(file: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("node.toml"), file).unwrap();
        Self(dir)
    }

    fn path(&self) -> String {
        self.0.path().join("node.toml").display().to_string()
    }

    fn read(&self, flags: &[&str], env: &[(&str, &str)], dotenv: &str) -> Result<Settings, String> {
        let path = self.0.path().join(".env");
        fs::write(&path, dotenv).unwrap();
        let env_file = EnvFile::read(&path).unwrap();
        let environment =
            |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        let file = self.0.path().join("node.toml");
        let layers = Layers::environment(&environment).with_env_file(&env_file).with_default_file(&file);
        let argv = ["node"].iter().chain(flags).map(OsString::from);
        Settings::read(argv, &layers).map_err(|error| error.to_string())
    }
}

fn one(settings: &Settings, name: &str) -> (String, String) {
    let setting = settings.all.iter().find(|setting| setting.name == name).unwrap();
    (setting.shown().unwrap_or_default(), setting.origin.to_string())
}

#[test]
fn flags_win_over_the_environment_over_env_file_over_the_file_over_defaults() {
    let place = Place::new("max_sessions = 1\nmax_waiting = 1\ndrain_seconds = 1\nchain_id = 1\n");
    let env = [("MAX_SESSIONS", "3"), ("MAX_WAITING", "3")];
    let dotenv = "MAX_SESSIONS=2\nMAX_WAITING=2\nDRAIN_SECONDS=2\n";
    let settings = place.read(&["--max-sessions", "4"], &env, dotenv).unwrap();
    let told = |name| one(&settings, name);
    assert_eq!(told("max_sessions"), ("4".into(), "flag".into()));
    assert_eq!(told("max_waiting"), ("3".into(), "environment".into()));
    assert_eq!(told("drain_seconds"), ("2".into(), ".env".into()));
    assert_eq!(told("chain_id"), ("1".into(), format!("{}, line 4", place.path())));
    assert_eq!(told("min_protocol"), ("1".into(), "default".into()));
    assert_eq!(told("model"), (String::new(), "default".into()));
    let (config, _) = settings.args.resolve(None, None).unwrap();
    assert_eq!((config.store.sessions, config.drain.as_secs(), config.chain_id), (4, 2, Some(1)));
}

#[test]
fn a_flag_takes_a_lists_place_and_does_not_add_to_it() {
    let place = Place::new("allowed_origins = ['https://a.example', 'https://b.example']");
    let list = |flags: &[&str]| one(&place.read(flags, &[], "").unwrap(), "allowed_origins").0;
    assert_eq!(list(&[]), "https://a.example,https://b.example");
    assert_eq!(list(&["--allowed-origins", "https://c.example"]), "https://c.example");
}

#[test]
fn a_wrong_value_is_told_with_the_place_where_it_stands() {
    let place = Place::new("\nsession_key_ttl_seconds = 0\n");
    let refused = place.read(&[], &[], "").unwrap_err();
    let from_file = format!("SESSION_KEY_TTL_SECONDS, from {}, line 2: invalid value '0'", place.path());
    assert!(refused.contains(&from_file), "{refused}");
    let env = [("SESSION_KEY_TTL_SECONDS", "x")];
    assert!(place.read(&[], &env, "").unwrap_err().contains("from environment: invalid value 'x'"));
    let flag = place.read(&["--session-key-ttl-seconds", "y"], &env, "").unwrap_err();
    assert!(flag.contains("invalid value 'y'") && !flag.contains("from"), "{flag}");
    assert!(place.read(&["--session-key-ttl-seconds", "5"], &env, "").is_ok(), "a flag makes up for it");
}

#[test]
fn a_wrong_value_is_told_with_what_would_be_right() {
    let place = Place::new("");
    for (name, value, wanted) in [
        ("max-sessions", "many", "it takes a whole number above 0"),
        ("max-sessions", "0", "it takes a whole number above 0"),
        ("chain-id", "0x1", "it takes a whole number"),
        ("listen-addr", "localhost", "it takes an IP address and a port, as in 127.0.0.1:8080"),
    ] {
        let flag = place.read(&[&format!("--{name}={value}")], &[], "").unwrap_err();
        let variable = name.to_uppercase().replace('-', "_");
        let below = place.read(&[], &[(&variable, value)], "").unwrap_err();
        assert!(flag.contains(wanted) && below.contains(wanted), "{flag}{below}");
    }
}

#[test]
fn a_file_is_named_by_a_flag_before_the_environment_and_empty_is_none() {
    let (place, other) = (Place::new("max_sessions = 1"), Place::new("max_sessions = 2"));
    let sessions =
        |flags: &[&str], env: &[(&str, &str)]| one(&place.read(flags, env, "").unwrap(), "max_sessions").0;
    let path = other.path();
    assert_eq!(sessions(&[], &[]), "1");
    assert_eq!(sessions(&[], &[("CONFIG_FILE", &path)]), "2");
    assert_eq!(sessions(&["--config-file", &path], &[("CONFIG_FILE", "/nowhere")]), "2");
    assert_eq!(sessions(&["status", "--config-file", &path], &[]), "2");
    let default = sessions(&[], &[("CONFIG_FILE", "")]);
    assert!(!["1", "2"].contains(&&*default));
    assert!(place.read(&[], &[("CONFIG_FILE", "/nowhere")], "").unwrap_err().contains("/nowhere"));
}

#[test]
fn a_variable_that_is_nearly_a_setting_is_told() {
    let settings = Place::new("").read(&[], &[], "").unwrap();
    let variables = [
        "PATH",
        "TLS_CERTFILE",
        "MAX_SESSIONS",
        "HOST_PRIVATE_KY",
        "LISTEN_FDS",
        "HF_ENDPOINT",
        "SSL_CERT_FILE",
        "MODEL_PATHS",
        "DENY_CLIENTS_FILE",
        "REQUIRE_ENCRYPT",
        "TLS_CERT",
        "ENGINE_API_KEY",
        "LISTEN_ADDRESS",
        // Nobody's here: of systemd, Kubernetes, OpenTelemetry, shells and other programs.
        "MODEL",
        "LISTEN_PID",
        "LISTEN_FDNAMES",
        "NOTIFY_SOCKET",
        "CREDENTIALS_DIRECTORY",
        "OTEL_SERVICE_NAME",
        "SSL_CERT_DIR",
        "LOG_LEVEL",
        "HOSTNAME",
        "LOGNAME",
        "PORT",
        "MODEL_SERVICE_HOST",
        "KUBERNETES_SERVICE_PORT",
        "MODULEPATH",
        "CONFIG_SITE",
        "SESSION_KEY",
        "MAX_REQUESTS",
        "MAX_TOKENS",
        "HOST_PRIVATE_IP",
        "SERVER_TIMEOUT_SECONDS",
        "MODEL_HASH",
        "RUST_LIB",
        "MODEL_ID",
        "ENGINE_ID",
    ];
    let strays: Vec<String> =
        settings.strays(variables.into_iter()).into_iter().map(|stray| stray.meant).collect();
    let meant = [
        "TLS_CERT_FILE",
        "HOST_PRIVATE_KEY",
        "MODEL_PATH",
        "DENIED_CLIENTS_FILE",
        "REQUIRE_ENCRYPTION",
        "TLS_CERT_FILE",
        "ENGINE_API_KEY_FILE",
        "LISTEN_ADDR",
    ];
    assert_eq!(strays, meant);
}

#[test]
fn what_is_secret_in_a_setting_is_not_shown() {
    let place = Place::new(
        "host_private_key_command = 'curl -H token:s3cret'\nengine_url = ['http://u:s3cret@h:1/p', 'http://g/v1?api_key=s3cret']",
    );
    let settings =
        place.read(&["--pkcs11-uri", "pkcs11:token=a?pin-value=s3cret&module-path=/m"], &[], "").unwrap();
    assert!(!format!("{:?}", settings.all).contains("s3cret"));
    assert_eq!(one(&settings, "engine_url").0, "http://(not shown)@h:1/p,http://g/v1?(not shown)");
    assert_eq!(one(&settings, "pkcs11_uri").0, "pkcs11:token=a?pin-value=(not shown)&module-path=/m");
    // What will be refused at the start is shown before that.
    for url in [
        "u:s3cret@h:1/p",
        "http//u:s3cret@h",
        "http://u:s3cret",
        "http://u:s3cret/x@h",
        "s3cret",
        "u:s3cret",
        "http://u:p@ss/s3cret@h/v1",
    ] {
        let settings = place.read(
            &[
                "--engine-url",
                url,
                "--pkcs11-uri",
                "pkcs11:a?PIN-Value=s3cret&pin-value=s3cret;pin%2dvalue=s3cret",
            ],
            &[],
            "",
        );
        let settings = settings.unwrap();
        assert!(!format!("{:?}", settings.all).contains("s3cret"), "{url}: {settings:?}");
    }
}

/// Of a new setting with such a name somebody decides here whether it is shown.
#[test]
fn settings_with_a_secrets_name_are_files_or_known() {
    let settings = Place::new("").read(&[], &[], "").unwrap();
    let suspicious = |name: &&str| {
        ["key", "secret", "password", "pin", "pins", "token"]
            .iter()
            .any(|word| name.split('_').any(|part| part == *word))
    };
    let names = settings.all.iter().map(|setting| setting.name.as_str()).filter(suspicious);
    let left: Vec<_> = names.filter(|name| !name.ends_with("_file") && !name.ends_with("_seconds")).collect();
    assert_eq!(left, ["host_private_key_command"]);
}
