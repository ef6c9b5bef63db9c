//! What `init` writes.

use super::*;

fn settings(flags: &[&str]) -> Settings {
    let argv = ["node"].iter().chain(flags).map(std::ffi::OsString::from);
    Settings::read(argv, &Layers::environment(&|_| None)).unwrap()
}

#[test]
fn every_setting_stands_in_the_file_and_it_says_what_the_call_said() {
    let flags = [
        "--listen-addr",
        "0.0.0.0:1",
        "--allowed-origins",
        "https://a.example,https://b.example",
        "--max-sessions",
        "7",
        "--default-system-prompt",
        "say \"yes\"\nor \\ no",
        "--allow-plaintext",
    ];
    let typed = settings(&flags);
    let own = [
        ("host_private_key_file".to_owned(), Value::String("/k".into())),
        ("max_sessions".to_owned(), Value::Integer(1)),
    ];
    let text = file_text(&typed.all, &own);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.toml");
    fs::write(&path, &text).unwrap();
    let read = settings(&["--config-file", path.to_str().unwrap()]);
    let told = |settings: &Settings| -> Vec<_> {
        let set = settings
            .all
            .iter()
            .filter(|setting| setting.origin != Origin::Default && setting.name != "config_file");
        set.map(|setting| (setting.name.clone(), setting.expose().unwrap().to_owned())).collect()
    };
    let mut expected = told(&typed);
    let at = read.all.iter().position(|setting| setting.name == "host_private_key_file").unwrap();
    let before = |name: &str| typed.all.iter().position(|setting| setting.name == name).unwrap() < at;
    let place = expected.iter().filter(|(name, _)| before(name)).count();
    expected.insert(place, ("host_private_key_file".into(), "/k".into()));
    assert_eq!(told(&read), expected, "a flag wins over what init would set");
    // Without their marks the others are settings as well, and the defaults what they are.
    let all: String = text
        .lines()
        .filter_map(|line| line.strip_prefix('#').filter(|line| !line.starts_with(' ')))
        .map(|line| format!("{line}\n"))
        .collect();
    let table: toml::Table = all.parse().unwrap();
    assert_eq!(table.len() + told(&read).len(), typed.all.len() - 1);
    assert_eq!(table.get("session_key_ttl_seconds"), Some(&Value::Integer(3600)));
}

#[test]
fn a_path_is_written_as_systemd_reads_it() {
    assert_eq!(in_unit(Path::new("/usr/bin/node")), "/usr/bin/node");
    assert_eq!(in_unit(Path::new("/a b/50%\"")), "\"/a b/50%%\\\"\"");
    assert_eq!(in_shell(Path::new("/etc/fabstir/node.toml")), "/etc/fabstir/node.toml");
    assert_eq!(in_shell(Path::new("/it's here")), "'/it'\\''s here'");
}

#[test]
fn what_was_made_is_taken_away_unless_it_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deeper/file");
    let mut made = Made::default();
    made.file(&path, "x", 0o644).unwrap();
    let again = made.file(&path, "y", 0o644).unwrap_err().to_string();
    assert!(again.contains("is there already"), "{again}");
    drop(made);
    assert!(fs::read_dir(dir.path()).unwrap().next().is_none(), "nor is a folder left");
    let mut made = Made::default();
    made.file(&path, "x", 0o644).unwrap();
    let others = dir.path().join("deeper/others");
    fs::write(&others, "z").unwrap();
    drop(made);
    assert!(others.exists() && !path.exists(), "what is somebody else's stays");
    let mut made = Made::default();
    made.file(&path, "x", 0o644).unwrap();
    made.keep();
    assert_eq!(fs::read_to_string(&path).unwrap(), "x");
}

#[test]
fn whom_a_service_runs_as_is_roots_to_say() {
    #[derive(clap::Parser)]
    struct Typed {
        #[command(flatten)]
        init: InitCommand,
    }
    let named = |flags: &[&str], root| {
        let typed: Typed = clap::Parser::parse_from([&["init"], flags].concat());
        typed
            .init
            .service_user(root)
            .map(|user| user.map(|user| user.name))
            .map_err(|error| error.to_string())
    };
    assert_eq!(named(&["--user", "daemon"], true), Ok(Some("daemon".to_owned())));
    assert_eq!(named(&[], false), Ok(None));
    assert!(named(&["--user", "daemon"], false).unwrap_err().contains("is root's to make"));
    assert!(named(&["--user", "nobody-of-that-name"], true).unwrap_err().contains("useradd"));
}
