//! Where settings come from, as an operator meets it: a file, `config show`, `config check`, `init`.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test is meant to panic")]

#[path = "support/process.rs"]
mod process;
mod support;

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _},
        process::CommandExt as _,
    },
    path::Path,
    process::{Command, Output, Stdio},
};

use process::{BINARY, NodeProcess, fresh_key, pass_on_coverage};
use serde_json::Value;

/// The binary in `dir` with an environment of its own.
fn call(dir: &Path, env: &[(&str, &str)], args: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.args(args).current_dir(dir).env_clear().env("PATH", "/usr/bin:/bin").env("HOME", dir);
    command.envs(env.iter().copied()).stdin(Stdio::null());
    pass_on_coverage(&mut command);
    command
}

fn told(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&output.stdout), text(&output.stderr))
}

/// What a call that fails says.
fn refused(dir: &Path, env: &[(&str, &str)], args: &[&str]) -> String {
    let output = call(dir, env, args).output().unwrap();
    assert!(!output.status.success(), "{args:?}");
    told(&output).1
}

#[tokio::test]
async fn a_node_starts_with_the_file_in_its_working_directory() {
    let dir = tempfile::tempdir().unwrap();
    let key = fresh_key();
    fs::write(dir.path().join("node.key"), &key).unwrap();
    fs::set_permissions(dir.path().join("node.key"), fs::Permissions::from_mode(0o600)).unwrap();
    let file = "engine = 'echo'\nlisten_addr = '127.0.0.1:0'\nhost_private_key_file = 'node.key'\nrequire_encryption = true\n";
    fs::write(dir.path().join("fabstir-llm-node.toml"), file).unwrap();
    let node = NodeProcess::run(call(dir.path(), &[("LISTEN_ADRR", "127.0.0.1:1")], &[]), &key);
    let mut peer = node.connect().await;
    let mut session = peer.open("1").await.session;
    assert_eq!(peer.ask(&mut session, "hello").await.text.trim(), "hello");
    node.said.wait_for("LISTEN_ADRR is set and is no setting: did you mean LISTEN_ADDR?");
    node.said.wait_for("configuration file read");
    assert!(node.stop().0.success());
}

#[test]
fn a_file_with_a_wrong_line_stops_the_start_and_says_which() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("node.toml"), "engine = 'echo'\nlisten_adr = '127.0.0.1:0'\n").unwrap();
    let env = [("CONFIG_FILE", "node.toml")];
    let said = refused(dir.path(), &env, &[]);
    assert!(
        said.contains("node.toml, line 2: there is no setting \"listen_adr\": did you mean listen_addr?"),
        "{said}"
    );
    fs::write(dir.path().join("node.toml"), format!("host_private_key = '{}'\n", fresh_key())).unwrap();
    let said = refused(dir.path(), &env, &["config", "show"]);
    assert!(said.contains("host_private_key_file") && !said.contains("0x"), "{said}");
}

#[test]
fn show_says_each_settings_origin_and_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    let key = fresh_key();
    fs::write(dir.path().join("node.toml"), "max_sessions = 7\nhost_private_key_command = 'vault s3cret'\n")
        .unwrap();
    fs::write(dir.path().join(".env"), "DRAIN_SECONDS=3\n").unwrap();
    let env = [
        ("CONFIG_FILE", "node.toml"),
        ("HOST_PRIVATE_KEY", &*key),
        ("MODEL_PATHS", "x"),
        ("ACME_DIRECTORY_URL", "https://u:s3cret@h/?t=s3cret"),
    ];
    let output = call(dir.path(), &env, &["--chain-id", "5", "config", "show", "--json"]).output().unwrap();
    let (shown, warned) = told(&output);
    let rows: Vec<Value> = serde_json::from_str(&shown).unwrap();
    let row = |name: &str| {
        let row = rows.iter().find(|row| row["name"] == name).unwrap();
        (row["value"].as_str().unwrap_or("-").to_owned(), row["origin"].as_str().unwrap().to_owned())
    };
    assert_eq!(row("HOST_PRIVATE_KEY"), ("(set, not shown)".into(), "environment".into()));
    assert_eq!(row("CHAIN_ID"), ("5".into(), "flag".into()));
    assert_eq!(row("DRAIN_SECONDS"), ("3".into(), ".env".into()));
    assert_eq!(row("MAX_SESSIONS"), ("7".into(), "node.toml, line 1".into()));
    assert_eq!(row("ACME_DIRECTORY_URL").0, "https://(not shown)@h?(not shown)");
    assert_eq!(row("MODEL"), ("-".into(), "default".into()));
    assert!(warned.contains("did you mean MODEL_PATH?"), "{warned}");
    // Two sources of a key: shown all the same, and then refused.
    assert!(!output.status.success() && warned.contains("contradict each other"), "{warned}");
    assert!(!shown.contains(&key[2..]) && !shown.contains("s3cret"), "{shown}");
    let output = call(dir.path(), &env[..1], &["config", "show", "--set"]).output().unwrap();
    let (shown, _) = told(&output);
    assert!(output.status.success());
    let names: Vec<_> = shown.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(names, ["CONFIG_FILE", "HOST_PRIVATE_KEY_COMMAND", "MAX_SESSIONS", "DRAIN_SECONDS"]);
}

/// What `init` is called with, so that it makes everything in `dir` whoever calls it.
fn init<'a>(dir: &'a str, rest: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec!["--listen-addr", "127.0.0.1:0", "--engine", "echo"];
    args.extend(["init", "--dir", dir]);
    if fs::metadata("/proc/self").unwrap().uid() == 0 {
        args.extend(["--user", "daemon"]);
    }
    args.extend(rest);
    args
}

#[tokio::test]
async fn init_makes_what_a_node_starts_with_and_overwrites_nothing() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("fabstir");
    let unit = home.path().join("fabstir-llm-node.service");
    let (dir_text, unit_text) = (dir.to_str().unwrap(), unit.to_str().unwrap());
    let args = init(dir_text, &["--unit", unit_text]);
    let output = call(home.path(), &[], &args).output().unwrap();
    let (said, wrong) = told(&output);
    assert!(output.status.success(), "{wrong}");
    let key = dir.join("keys/node.key");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    let service = fs::read_to_string(&unit).unwrap();
    let config = dir.join("fabstir-llm-node.toml");
    assert!(
        service.contains(&format!("ExecStart={BINARY} --config-file {}\n", config.display())),
        "{service}"
    );
    assert!(!service.contains('@'), "{service}");
    let env = [("CONFIG_FILE", config.to_str().unwrap())];
    let check = call(home.path(), &env, &["config", "check"]).output().unwrap();
    assert_eq!(told(&check).0, "the settings are in order\n");
    // It starts, but for the folders that systemd would have made.
    let mut command = call(
        home.path(),
        &env,
        &["--usage-dir", "usage", "--admin-socket", "admin.sock", "--metrics-listen", "127.0.0.1:0"],
    );
    command.env("RUST_LOG", "info");
    let secret = fs::read_to_string(&key).unwrap();
    let node = NodeProcess::run(command, secret.trim());
    assert!(said.contains(&node.key.to_string()), "{said}");
    let mut peer = node.connect().await;
    let mut session = peer.open("1").await.session;
    assert_eq!(peer.ask(&mut session, "hello").await.text.trim(), "hello");
    assert!(node.stop().0.success());
    let again = refused(home.path(), &[], &args);
    assert!(again.contains("is there already"), "{again}");
    assert_eq!(fs::read_to_string(&key).unwrap(), secret);
}

#[test]
fn an_init_that_cannot_finish_leaves_nothing() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("fabstir");
    let unit = home.path().join("it.service");
    let (dir_text, unit_text) = (dir.to_str().unwrap(), unit.to_str().unwrap());
    let left = || (dir.join("fabstir-llm-node.toml").exists(), unit.exists());
    // The key cannot be made.
    let args = init(dir_text, &["--unit", unit_text, "--key", "/proc/node.key"]);
    let said = refused(home.path(), &[], &args);
    assert!(said.contains("/proc/node.key"), "{said}");
    assert_eq!(left(), (false, false));
    // The settings contradict each other.
    let mut args = vec!["--allow-plaintext"];
    args.extend(init(dir_text, &["--unit", unit_text]));
    assert!(refused(home.path(), &[], &args).contains("contradict each other"));
    assert_eq!(left(), (false, false));
    assert!(!dir.join("keys/node.key").exists());
    // A PIN that nobody would be there to type.
    let uri = "pkcs11:token=node;object=identity;id=%01?module-path=/usr/lib/softhsm/libsofthsm2.so";
    let said = refused(home.path(), &[], &init(dir_text, &["--unit", unit_text, "--key", uri]));
    assert!(said.contains("pin-source=file:") && left() == (false, false), "{said}");
    // A key that a service would not see.
    let said =
        refused(home.path(), &[("HOST_PRIVATE_KEY", &fresh_key())], &init(dir_text, &["--unit", unit_text]));
    assert!(said.contains("keys import") && left() == (false, false), "{said}");
}

/// Told to end while it works, and the keystore's password takes it a while, it finishes.
#[test]
fn an_init_that_is_told_to_end_leaves_no_half() {
    let home = tempfile::tempdir().unwrap();
    let (dir, unit) = (home.path().join("fabstir"), home.path().join("it.service"));
    let password = home.path().join("password");
    fs::write(&password, "correct horse\n").unwrap();
    fs::set_permissions(&password, fs::Permissions::from_mode(0o600)).unwrap();
    let rest =
        ["--unit", unit.to_str().unwrap(), "--keystore", "--password-file", password.to_str().unwrap()];
    let args = init(dir.to_str().unwrap(), &rest);
    for signal in [rustix::process::Signal::HUP, rustix::process::Signal::INT, rustix::process::Signal::TERM]
    {
        let mut command = call(home.path(), &[], &args);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        while !unit.exists() {
            std::thread::yield_now();
        }
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, signal).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{signal:?}: {output:?}");
        assert!(told(&output).0.contains("public key"), "{output:?}");
        let keys: Vec<_> =
            fs::read_dir(dir.join("keys")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(keys, ["node.key"], "{signal:?}");
        fs::remove_dir_all(&dir).unwrap();
        fs::remove_file(&unit).unwrap();
    }
}

/// Folders that are not there yet are made so that the service comes through them to its key.
#[test]
fn a_key_in_new_folders_is_one_that_the_service_reaches() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("new/../fabstir");
    let (dir, unit) = (dir.to_str().unwrap(), home.path().join("it.service"));
    let key = home.path().join("keys/of/node.key");
    let args = init(dir, &["--unit", unit.to_str().unwrap(), "--key", key.to_str().unwrap()]);
    let output = call(home.path(), &[], &args).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(key.parent().unwrap()), 0o700);
    if rustix::process::geteuid().is_root() {
        assert_eq!(mode(&home.path().join("keys")), 0o755, "another user's service comes through");
    }
}

/// systemd itself reads the service, where it is there to be asked.
#[test]
fn systemd_understands_the_service_that_init_makes() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let unit = home.path().join("fabstir-llm-node.service");
    let args = init(home.path().to_str().unwrap(), &["--unit", unit.to_str().unwrap()]);
    assert!(call(home.path(), &[], &args).output().unwrap().status.success());
    let verify = |unit: &Path| Command::new("systemd-analyze").arg("verify").arg(unit).output().unwrap();
    let (_, said) = told(&verify(&unit));
    assert!(!said.contains("fabstir-llm-node.service:"), "{said}");
    let text = fs::read_to_string(&unit).unwrap().replace("Restart=on-failure", "Restart=on-a-whim");
    fs::write(&unit, text).unwrap();
    let (_, said) = told(&verify(&unit));
    assert!(said.contains("fabstir-llm-node.service:"), "the control: {said}");
}

#[test]
fn a_service_finds_what_the_caller_named_and_nobody_else_reads_its_settings() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("my dir");
    fs::write(home.path().join("clients"), "# nobody\n").unwrap();
    let unit = home.path().join("it.service");
    let mut args = vec!["--allowed-clients-file", "clients", "--usage-dir", "usage"];
    args.extend(init(dir.to_str().unwrap(), &["--unit", unit.to_str().unwrap()]));
    let output = call(home.path(), &[], &args).output().unwrap();
    let (said, wrong) = told(&output);
    assert!(output.status.success(), "{wrong}");
    assert!(said.contains(&format!("export CONFIG_FILE='{}/", dir.display())), "{said}");
    let file = dir.join("fabstir-llm-node.toml");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o007, 0);
    let text = fs::read_to_string(&file).unwrap();
    let absolute = format!("allowed_clients_file = \"{}\"", home.path().join("clients").display());
    assert!(text.contains(&absolute), "{text}");
    let service = fs::read_to_string(&unit).unwrap();
    // A service of root's writes nowhere else.
    let writes = format!("ReadWritePaths=-{}\n", home.path().join("usage").display());
    assert_eq!(service.contains(&writes), service.contains("ProtectSystem=strict"), "{service}");
    let elsewhere = call(Path::new("/"), &[("CONFIG_FILE", file.to_str().unwrap())], &["config", "check"]);
    let (said, wrong) = told(&{ elsewhere }.output().unwrap());
    assert_eq!(said, "the settings are in order\n", "{wrong}");
    // Another identity than the one that the caller's environment leads to is nobody's wish.
    let other = home.path().join("other");
    let args = init(other.to_str().unwrap(), &["--unit", "other.service"]);
    let said = refused(home.path(), &[("HOST_PRIVATE_KEY_FILE", "/k/node.key")], &args);
    assert!(said.contains("HOST_PRIVATE_KEY_FILE says where a key is already (environment)"), "{said}");
    assert!(!other.exists());
}

#[test]
fn check_refuses_what_would_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let check = |env: &[(&str, &str)]| refused(dir.path(), env, &["config", "check"]);
    assert!(check(&[("RUST_LOG", "fabstir=foo=bar,,")]).contains("RUST_LOG"));
    assert!(check(&[("RUST_LOG", "infoo")]).contains("did you mean info?"));
    fs::write(dir.path().join("engine-key"), "sk-1").unwrap();
    fs::set_permissions(dir.path().join("engine-key"), fs::Permissions::from_mode(0o644)).unwrap();
    let open = [("ENGINE_URL", "http://h/v1"), ("ENGINE_API_KEY_FILE", "engine-key")];
    assert!(check(&open).contains("ENGINE_API_KEY_FILE: engine-key can be read by others"));
    for (variables, said) in [
        (
            [("ENGINE_URL", "http://u:s3cret@h/v1"), ("ENGINE", "llama")],
            "ENGINE_URL: URL 1 is not a base URL",
        ),
        (
            [("ENGINE_URL", "http://h/v1"), ("ENGINE_API_KEY_FILE", "/nowhere")],
            "ENGINE_API_KEY_FILE: /nowhere",
        ),
        (
            [("ENGINE", "llama"), ("CHAT_TEMPLATE", "/dev/null")],
            "CHAT_TEMPLATE: /dev/null: it is no regular file",
        ),
    ] {
        let refused = check(&variables);
        assert!(refused.matches(said).count() == 1 && !refused.contains("s3cret"), "{refused}");
    }
    for metrics in ["127.0.0.1:9", "0.0.0.0:9", "[::]:9", "[::ffff:127.0.0.1]:9"] {
        let both = [("LISTEN_ADDR", "127.0.0.1:9"), ("METRICS_LISTEN", metrics)];
        assert!(check(&both).contains("LISTEN_ADDR and METRICS_LISTEN meet at port 9"), "{metrics}");
    }
    let apart = [("LISTEN_ADDR", "[::1]:9"), ("METRICS_LISTEN", "0.0.0.0:9")];
    assert!(call(dir.path(), &apart, &["config", "check"]).status().unwrap().success());
    fs::write(dir.path().join("a-file"), "").unwrap();
    assert!(check(&[("ADMIN_SOCKET", "a-file")]).contains("is there, and is no socket"));
    assert!(check(&[("USAGE_DIR", "a-file")]).contains("is there, and is no folder"));
    assert!(check(&[("MODEL_PATH", "no-model.gguf")]).contains("no-model.gguf is not a file"));
    let env = [("ADMIN_SOCKET", "nowhere/admin.sock")];
    let (said, warned) = told(&call(dir.path(), &env, &["config", "check"]).output().unwrap());
    assert!(said.contains("in order") && warned.contains("nowhere is not there"), "{warned}");
}

#[test]
fn check_refuses_a_folder_that_the_caller_may_not_write() {
    // Root may write everywhere; nobody may not.
    let root = rustix::process::geteuid().is_root();
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let shut = dir.path().join("shut");
    fs::create_dir(&shut).unwrap();
    fs::set_permissions(&shut, fs::Permissions::from_mode(0o555)).unwrap();
    let binary = dir.path().join("node");
    fs::copy(BINARY, &binary).unwrap();
    for (setting, path) in
        [("USAGE_DIR", "shut"), ("USAGE_DIR", "shut/new"), ("ADMIN_SOCKET", "shut/it.sock")]
    {
        let mut check = Command::new(&binary);
        check
            .args(["config", "check"])
            .current_dir(dir.path())
            .env_clear()
            .env("ENGINE", "echo")
            .env(setting, path);
        if root {
            check.uid(65_534);
        }
        let output = check.output().unwrap();
        let (_, said) = told(&output);
        assert!(
            !output.status.success() && said.contains(&format!("{setting}: nothing can be written into")),
            "{said}"
        );
    }
}

/// A shell that reads them at its start must not fall over what lies in the folder that it starts in.
#[test]
fn completions_and_man_pages_need_no_setting() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(".env"), "MAX_SESSIONS=abc\n").unwrap();
    for words in [&["completions", "bash"][..], &["manual", "pages"]] {
        let output = call(dir.path(), &[("LISTEN_ADDR", "nowhere")], words).output().unwrap();
        assert!(output.status.success() && !output.stdout.is_empty(), "{words:?}: {output:?}");
    }
}

/// Nothing is said to be in order that was not looked at: a key that the service alone is handed.
#[test]
fn a_check_that_has_seen_no_key_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let warned = |env: &[(&str, &str)]| {
        let output = call(dir.path(), env, &["config", "check"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        told(&output).1.contains("no identity key is set here")
    };
    assert!(warned(&[("ENGINE", "echo")]));
    let key = format!("0x{}", "5a".repeat(32));
    assert!(!warned(&[("ENGINE", "echo"), ("HOST_PRIVATE_KEY", &key)]));
}
