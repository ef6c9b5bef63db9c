//! Every way in which the identity key comes in: the same identity, and the key nowhere in memory as its digits.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test is meant to panic")]

#[path = "support/process.rs"]
mod process;
mod support;

use std::{
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use fabstir_custody::{Cost, open_keystore, write_keystore, write_secret_file};
use fabstir_protocol::identity::PrivateKey;
use process::{NodeProcess, forms, fresh_key, node_in};
use serde_json::json;
use support::rng;

/// A folder with a node's key in it, and the key's text.
struct Place {
    dir: tempfile::TempDir,
    secret: String,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), secret: fresh_key() }
    }

    fn bytes(&self) -> [u8; 32] {
        const_hex::decode(&self.secret).unwrap().try_into().unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        write_secret_file(&path, text.as_bytes()).unwrap();
        path.display().to_string()
    }

    fn command(&self, env: &[(&str, &str)]) -> Command {
        let mut command = node_in(self.dir.path());
        // A debugger is what reads the memory.
        command.env("PATH", "/usr/bin:/bin").env("ALLOW_DEBUGGING", "true").envs(env.iter().copied());
        command
    }
}

/// Starts a node, has it use its key in each way, and looks for the key in its memory.
async fn the_key_serves_and_is_nowhere(place: &Place, command: Command) {
    let node = NodeProcess::run(command, &place.secret);
    let address = place.secret.parse::<PrivateKey>().unwrap().address().to_string();
    assert!(node.said.wait_for("Private key loaded successfully").contains(&address));
    // Version 1 agrees with it, the challenge is signed with it.
    let mut peer = node.connect().await;
    let mut opened = peer.open("1").await;
    assert_eq!(peer.ask(&mut opened.session, "hi").await.text.trim(), "hi");
    let challenge = json!({"challenge": "07".repeat(32), "context": "fabstir-node/1"}).to_string();
    let proof = node.post("/v1/auth/challenge", &challenge).await;
    assert!(proof.contains(&address), "{proof}");
    let digits: Vec<_> = forms(&place.bytes())
        .into_iter()
        .chain([("hex in capitals", place.secret[2..].to_uppercase().into_bytes())])
        .collect();
    assert_eq!(node.find_in_memory(&digits), []);
    let public = ("its public key in hex", node.key.to_string().into_bytes());
    assert!(!node.find_in_memory(&[public]).is_empty(), "the search finds what is there");
    let environment = std::fs::read(format!("/proc/{}/environ", node.pid())).unwrap();
    assert!(!String::from_utf8_lossy(&environment).contains(&place.secret[2..]));
    assert!(!node.said.text().contains(&place.secret[2..]));
    let (status, _) = node.stop();
    assert!(status.success());
}

#[tokio::test]
async fn a_key_from_the_environment_is_overwritten_there() {
    let place = Place::new();
    the_key_serves_and_is_nowhere(&place, place.command(&[("HOST_PRIVATE_KEY", &place.secret)])).await;
}

#[tokio::test]
async fn a_key_from_an_env_file_leaves_no_buffer_behind() {
    let place = Place::new();
    place.file(".env", &format!("LOG_FORMAT=text\nHOST_PRIVATE_KEY=\"{}\"\n", place.secret));
    the_key_serves_and_is_nowhere(&place, place.command(&[])).await;
}

#[tokio::test]
async fn a_key_from_a_file_of_the_operators_or_of_systemds() {
    let place = Place::new();
    let file = place.file("node.key", &format!("{}\n", place.secret));
    the_key_serves_and_is_nowhere(&place, place.command(&[("HOST_PRIVATE_KEY_FILE", &file)])).await;
    let credentials = place.path("credentials");
    write_secret_file(&credentials.join("host_private_key"), place.secret.as_bytes()).unwrap();
    let folder = credentials.display().to_string();
    the_key_serves_and_is_nowhere(&place, place.command(&[("CREDENTIALS_DIRECTORY", &folder)])).await;
}

#[tokio::test]
async fn a_key_from_a_command() {
    let place = Place::new();
    let file = place.file("vault", &place.secret);
    let command = format!("cat {file}");
    the_key_serves_and_is_nowhere(&place, place.command(&[("HOST_PRIVATE_KEY_COMMAND", &command)])).await;
}

#[tokio::test]
async fn a_key_from_a_keystore_with_a_password_and_with_the_empty_one() {
    for password in ["correct horse\n", ""] {
        let place = Place::new();
        let (text, _) =
            write_keystore(&place.bytes(), password.trim_end().as_bytes(), Cost::Light, &mut rng()).unwrap();
        let keystore = place.file("keystore.json", text.as_text().unwrap());
        let password = place.file("password", password);
        let env = [("HOST_KEYSTORE_FILE", &*keystore), ("HOST_KEYSTORE_PASSWORD_FILE", &*password)];
        the_key_serves_and_is_nowhere(&place, place.command(&env)).await;
    }
}

/// A password that was typed cannot be had again: nobody is asked while the node runs, and whatever else is to be read again
/// does not wait for them.
#[test]
fn a_key_whose_password_is_typed_stays_and_holds_up_no_reload() {
    let place = Place::new();
    let (text, _) = write_keystore(&place.bytes(), b"correct horse", Cost::Light, &mut rng()).unwrap();
    let (keystore, allowed) =
        (place.file("keystore.json", text.as_text().unwrap()), place.file("allowed", "# nobody\n"));
    let socket = place.path("admin.sock").display().to_string();
    let env = [
        ("HOST_KEYSTORE_FILE", &*keystore),
        ("ADMIN_SOCKET", &*socket),
        ("ALLOWED_CLIENTS_FILE", &*allowed),
        ("RUST_LOG", "info"),
    ];
    // At a terminal, which util-linux's `script` makes.
    let settings = place.command(&env);
    let node = std::iter::once(settings.get_program()).chain(settings.get_args());
    let line = node.map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ");
    let mut terminal = Command::new("script");
    terminal.args(["-qefc", &format!("exec {line}"), "/dev/null"]).current_dir(place.dir.path()).env_clear();
    terminal.envs(settings.get_envs().filter_map(|(name, value)| Some((name, value?))));
    terminal.stdin(std::fs::File::open(place.file("typed", "correct horse\n")).unwrap());
    let node = NodeProcess::run(terminal, &place.secret);
    node.said.wait_for("Private key loaded successfully");
    let reload = place.command(&env).arg("reload").output().unwrap();
    let said = String::from_utf8_lossy(&reload.stdout);
    assert!(
        said.contains("typed at the terminal") && said.contains("HOST_KEYSTORE_PASSWORD_FILE"),
        "{reload:?}"
    );
    assert!(said.contains("lists of clients"), "{said}");
    assert!(place.command(&env).arg("drain").output().unwrap().status.success());
    node.finish();
}

/// SoftHSM's tokens in a folder, one of them with the key, which cannot be had from it again.
fn token(place: &Place) -> (String, String, String) {
    let tokens = place.path("tokens");
    std::fs::create_dir(&tokens).unwrap();
    let configuration = place.path("softhsm2.conf");
    std::fs::write(&configuration, format!("directories.tokendir = {}\n", tokens.display())).unwrap();
    let run = |program: &str, arguments: &[&str]| {
        let done =
            Command::new(program).env("SOFTHSM2_CONF", &configuration).args(arguments).output().unwrap();
        assert!(done.status.success(), "{program}: {}", String::from_utf8_lossy(&done.stderr));
    };
    run(
        "softhsm2-util",
        &["--init-token", "--free", "--label", "node", "--so-pin", "1234", "--pin", "97531"],
    );
    let pin = place.file("pin", "97531\n");
    let module = "/usr/lib/softhsm/libsofthsm2.so";
    assert!(Path::new(module).exists(), "SoftHSM is missing: run scripts/bootstrap.sh");
    let uri = format!("pkcs11:token=node;object=identity;id=%01?module-path={module}&pin-source=file:{pin}");
    let file = place.file("to-import", &place.secret);
    let configuration = configuration.display().to_string();
    run(process::BINARY, &["keys", "import", "--from", &file, "--to", &uri]);
    (uri, configuration, pin)
}

#[tokio::test]
async fn a_key_in_a_token_serves_both_versions_and_was_never_in_the_process() {
    let place = Place::new();
    let (uri, configuration, _) = token(&place);
    let command = place.command(&[("PKCS11_URI", &uri), ("SOFTHSM2_CONF", &configuration)]);
    the_key_serves_and_is_nowhere(&place, command).await;
    // The same, said in parts.
    let (short, rest) = uri.split_once('?').unwrap();
    let (module, pin) = rest.split_once('&').unwrap();
    let env = [
        ("PKCS11_URI", short.split(";object").next().unwrap()),
        ("PKCS11_LABEL", "identity"),
        ("PKCS11_MODULE", module.strip_prefix("module-path=").unwrap()),
        ("PKCS11_PIN_FILE", pin.strip_prefix("pin-source=file:").unwrap()),
        ("SOFTHSM2_CONF", &configuration),
    ];
    the_key_serves_and_is_nowhere(&place, place.command(&env)).await;
}

#[tokio::test]
async fn a_rotation_by_command_and_signal_loses_no_session_and_lasts_over_a_restart() {
    let place = Place::new();
    let file = place.file("node.key", &place.secret);
    rotation_in_place(&place, &[("HOST_PRIVATE_KEY_FILE", &file)], &file, |text| text.parse().unwrap()).await;
}

#[tokio::test]
async fn a_rotation_of_a_keystore_is_in_its_place_too_and_under_the_same_password() {
    let place = Place::new();
    let (text, _) = write_keystore(&place.bytes(), b"correct horse", Cost::Light, &mut rng()).unwrap();
    let file = place.file("node.json", text.as_text().unwrap());
    let password = place.file("password", "correct horse\n");
    let env = [("HOST_KEYSTORE_FILE", &*file), ("HOST_KEYSTORE_PASSWORD_FILE", &*password)];
    rotation_in_place(&place, &env, &file, opened).await;
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

/// The key in a keystore of these tests.
fn opened(text: &str) -> PrivateKey {
    let secret = open_keystore(text.as_bytes(), b"correct horse").unwrap();
    const_hex::encode(*secret).parse().unwrap()
}

#[test]
fn of_rotations_at_once_one_is_made_and_no_key_is_lost() {
    for _ in 0..4 {
        let place = Place::new();
        let file = place.file("node.key", &place.secret);
        let env = [("HOST_PRIVATE_KEY_FILE", &*file)];
        let rotate = || {
            let mut command = place.command(&env);
            command.args(["keys", "rotate"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        };
        let begun: Vec<_> = (0..4).map(|_| rotate()).collect();
        let outputs: Vec<_> = begun.into_iter().map(|child| child.wait_with_output().unwrap()).collect();
        let made = outputs.iter().filter(|output| output.status.success()).count();
        assert_eq!(made, 1, "{outputs:?}");
        let refusals = outputs.iter().filter(|output| !output.status.success());
        assert!(
            refusals
                .clone()
                .all(|output| String::from_utf8_lossy(&output.stderr).contains("rotated less than")),
            "{outputs:?}"
        );
        assert_eq!(std::fs::read_to_string(format!("{file}.previous")).unwrap(), place.secret);
    }
}

#[test]
fn a_key_before_that_nobody_vouches_for_is_not_overwritten() {
    let place = Place::new();
    let file = place.file("node.key", &place.secret);
    let env = [("HOST_PRIVATE_KEY_FILE", &*file)];
    let rotate = |more: &[&str]| {
        let mut command = place.command(&env);
        command.args(["keys", "rotate"]).args(more);
        command
    };
    assert!(rotate(&[]).output().unwrap().status.success());
    std::fs::remove_file(format!("{file}.rotation")).unwrap();
    assert!(refused(rotate(&[])).contains("node.key.previous holds another key"));
    assert_eq!(std::fs::read_to_string(format!("{file}.previous")).unwrap(), place.secret);
    assert!(rotate(&["--force"]).output().unwrap().status.success());
    // One that stopped after its first step has copied the key there, and is begun once more.
    std::fs::remove_file(format!("{file}.rotation")).unwrap();
    std::fs::copy(&file, format!("{file}.previous")).unwrap();
    assert!(rotate(&[]).output().unwrap().status.success());
}

/// Only root can give files away.
#[test]
fn what_root_rotates_belongs_to_whom_the_key_belongs_to() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let place = Place::new();
    let file = place.file("node.key", &place.secret);
    std::os::unix::fs::chown(&file, Some(65_534), Some(65_534)).unwrap();
    let mut command = place.command(&[("HOST_PRIVATE_KEY_FILE", &*file)]);
    assert!(command.args(["keys", "rotate"]).output().unwrap().status.success());
    for ending in ["", ".previous", ".rotation"] {
        let about = std::fs::metadata(format!("{file}{ending}")).unwrap();
        assert_eq!((about.uid(), about.gid(), about.mode() & 0o777), (65_534, 65_534, 0o600), "{ending}");
    }
}

#[test]
fn a_rotation_of_a_keystore_that_stops_anywhere_leaves_a_key_that_starts() {
    let place = Place::new();
    let (text, _) = write_keystore(&place.bytes(), b"correct horse", Cost::Light, &mut rng()).unwrap();
    let file = place.file("node.json", text.as_text().unwrap());
    let password = place.file("password", "correct horse");
    let env = [("HOST_KEYSTORE_FILE", &*file), ("HOST_KEYSTORE_PASSWORD_FILE", &*password)];
    let run = |arguments: &[&str]| {
        let done = place.command(&env).args(arguments).output().unwrap();
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    };
    run(&["keys", "rotate"]);
    let left = |ending: &str| std::fs::read(format!("{file}{ending}")).unwrap();
    let first = [left(""), left(".previous"), left(".rotation")];
    assert_eq!(first[1], text.as_bytes(), "the one before is kept as it was");
    let mut again = place.command(&env);
    again.args(["keys", "rotate"]);
    assert!(refused(again).contains("or with --force"), "two are served side by side, and no third");
    assert_eq!([left(""), left(".previous"), left(".rotation")], first);
    run(&["keys", "rotate", "--force"]);
    assert_eq!(left(".previous"), first[0], "the second rotation keeps the first one's key");
    let second = [left(""), left(".previous"), left(".rotation")];
    // What a second rotation leaves that stops after each of its steps, and after none.
    for done in 0..=3 {
        let step = |at: usize, after: usize| if done >= after { &second[at] } else { &first[at] };
        for (ending, bytes) in [("", step(0, 3)), (".previous", step(1, 1)), (".rotation", step(2, 2))] {
            std::fs::write(format!("{file}{ending}"), bytes).unwrap();
        }
        run(&["config", "check"]);
    }
}

#[test]
fn a_rotation_that_fails_on_the_way_leaves_the_key_where_it_is() {
    for blocked in [".previous", ".rotation"] {
        let place = Place::new();
        let (text, _) = write_keystore(&place.bytes(), b"correct horse", Cost::Light, &mut rng()).unwrap();
        let file = place.file("node.json", text.as_text().unwrap());
        let password = place.file("password", "correct horse");
        // Nothing takes the place of a folder.
        std::fs::create_dir(format!("{file}{blocked}")).unwrap();
        let env = [("HOST_KEYSTORE_FILE", &*file), ("HOST_KEYSTORE_PASSWORD_FILE", &*password)];
        let mut rotate = place.command(&env);
        rotate.args(["keys", "rotate"]);
        assert!(refused(rotate).contains(blocked));
        assert_eq!(std::fs::read(&file).unwrap(), text.as_bytes(), "{blocked}");
    }
}

/// After a rotation whose key before was removed, as its words say, another key is put in the place of the leaked one.
#[test]
fn another_key_starts_where_a_rotation_has_left_its_statement() {
    let place = Place::new();
    let file = place.file("node.key", &const_hex::encode(place.bytes()));
    let env = [("HOST_PRIVATE_KEY_FILE", &*file)];
    let run = |arguments: &[&str]| {
        let done = place.command(&env).args(arguments).output().unwrap();
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    };
    run(&["keys", "rotate"]);
    std::fs::remove_file(format!("{file}.previous")).unwrap();
    std::fs::remove_file(&file).unwrap();
    run(&["keys", "new", "--to", &file]);
    run(&["config", "check"]);
    let node = NodeProcess::run(place.command(&env), std::fs::read_to_string(&file).unwrap().trim());
    node.said.wait_for("is of a rotation to another key, and is passed over");
    assert!(node.stop().0.success());
    // A statement that the settings name is meant, and must hold.
    let statement = format!("{file}.rotation");
    let mut check = place.command(&[("HOST_PRIVATE_KEY_FILE", &*file), ("KEY_ROTATION_FILE", &*statement)]);
    check.args(["config", "check"]);
    let said = refused(check);
    assert!(said.contains("the rotation does not hold") && said.contains("KEY_ROTATION_FILE"), "{said}");
}

#[test]
fn a_rotation_in_place_is_refused_while_the_settings_name_the_one_before() {
    let place = Place::new();
    let file = place.file("node.key", &const_hex::encode(place.bytes()));
    let before = place.file("before.key", &fresh_key());
    let mut rotate =
        place.command(&[("HOST_PRIVATE_KEY_FILE", &*file), ("PREVIOUS_PRIVATE_KEY_FILE", &*before)]);
    rotate.args(["keys", "rotate"]);
    let said = refused(rotate);
    assert!(said.contains("PREVIOUS_PRIVATE_KEY_FILE is set"), "{said}");
    assert_eq!(std::fs::read_dir(place.dir.path()).unwrap().count(), 2, "nothing was put beside it");
}

#[test]
fn a_key_among_the_credentials_and_another_source_contradict_each_other() {
    let place = Place::new();
    place.file("host_private_key", &fresh_key());
    let file = place.file("node.key", &fresh_key());
    let folder = place.dir.path().display().to_string();
    let mut check = place.command(&[("HOST_PRIVATE_KEY_FILE", &*file), ("CREDENTIALS_DIRECTORY", &*folder)]);
    check.args(["config", "check"]);
    assert!(refused(check).contains("HOST_PRIVATE_KEY_FILE and CREDENTIALS_DIRECTORY contradict each other"));
}

#[test]
fn a_link_to_a_key_is_not_replaced_by_the_next_key() {
    let place = Place::new();
    let file = place.file("node.key", &const_hex::encode(place.bytes()));
    let link = format!("{file}.link");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    let mut rotate = place.command(&[("HOST_PRIVATE_KEY_FILE", &*link)]);
    rotate.args(["keys", "rotate"]);
    assert!(refused(rotate).contains("node.key.link is a symbolic link"));
    assert!(Path::new(&link).is_symlink());
    assert_eq!(std::fs::read_dir(place.dir.path()).unwrap().count(), 2, "nothing was put beside it");
}

#[test]
fn a_rotation_under_a_wrong_password_changes_nothing() {
    let place = Place::new();
    let (text, _) = write_keystore(&place.bytes(), b"correct horse", Cost::Light, &mut rng()).unwrap();
    let file = place.file("node.json", text.as_text().unwrap());
    let password = place.file("password", "another");
    let env = [("HOST_KEYSTORE_FILE", &*file), ("HOST_KEYSTORE_PASSWORD_FILE", &*password)];
    let mut rotate = place.command(&env);
    rotate.args(["keys", "rotate"]);
    let said = refused(rotate);
    assert!(said.contains("the password is wrong") && said.contains("node.json"), "{said}");
    assert_eq!(std::fs::read(&file).unwrap(), text.as_bytes());
    assert_eq!(std::fs::read_dir(place.dir.path()).unwrap().count(), 2, "nothing was put beside it");
}

/// `keys rotate` on `file`, SIGHUP, and a start in the overlap: the old identity is served beside the new one.
async fn rotation_in_place(
    place: &Place,
    env: &[(&str, &str)],
    file: &str,
    key: impl Fn(&str) -> PrivateKey,
) {
    let socket = place.path("admin.sock").display().to_string();
    let env = [env, &[("ADMIN_SOCKET", &*socket)]].concat();
    let node = NodeProcess::run(place.command(&env), &place.secret);
    let mut peer = node.connect().await;
    let mut before = peer.open("before").await;
    let rotated = place.command(&env).args(["keys", "rotate"]).output().unwrap();
    assert!(rotated.status.success(), "{}", String::from_utf8_lossy(&rotated.stderr));
    let next = key(&std::fs::read_to_string(file).unwrap());
    assert_ne!(next.public_key(), node.key);
    node.signal("HUP");
    node.said.wait_for("identity key rotated");
    assert_eq!(peer.ask(&mut before.session, "still here").await.text.trim(), "still here");
    // The old key opens inits as before, the new one too; on the same connection and on another.
    let both = async |node: &NodeProcess, peer: &mut support::Peer| {
        for (id, key) in [("old", node.key), ("new", next.public_key())] {
            let (frame, _) =
                support::init(&key, &support::wallet(), id, fabstir_protocol::v1::Dialect::GuideRust, true);
            assert_eq!(peer.outcome(frame).await, "session_init_ack", "{id}");
        }
    };
    both(&node, &mut peer).await;
    let shown = |text: String| {
        serde_json::from_str::<serde_json::Value>(text.split_once("\r\n\r\n").unwrap().1).unwrap()
    };
    let first = shown(node.get("/v1/node").await);
    assert_eq!(first["node"]["address"], next.address().to_string());
    let asked = place.command(&env).arg("rotate").output().unwrap();
    let said = String::from_utf8_lossy(&asked.stdout);
    assert!(said.contains("it is the one that the node has"), "{said}");
    node.stop();
    let again = NodeProcess::run(place.command(&env), &place.secret);
    both(&again, &mut again.connect().await).await;
    assert_eq!(shown(again.get("/v1/node").await)["node"]["rotation"], first["node"]["rotation"]);
    again.stop();
    // Half a rotation is none: the key that is there is the key.
    std::fs::copy(format!("{file}.previous"), file).unwrap();
    let half = NodeProcess::run(place.command(&env), &place.secret);
    assert!(half.said.text().contains("begun and not finished"));
}

#[test]
fn keys_are_made_moved_shown_and_backed_up_and_never_printed() {
    let place = Place::new();
    let (password, file) = (place.file("password", "pw\n"), place.path("made.key"));
    let made = file.display().to_string();
    let run = |env: &[(&str, &str)], arguments: &[&str]| {
        let done = place.command(env).arg("keys").args(arguments).output().unwrap();
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    };
    let address =
        |said: &str| said.lines().find_map(|line| line.strip_prefix("address     ")).unwrap().to_owned();
    let first = run(&[], &["new", "--to", &made]);
    let secret = std::fs::read_to_string(&file).unwrap();
    let env = [("HOST_PRIVATE_KEY_FILE", &*made)];
    let shown = run(&env, &["show"]);
    let store = place.path("backup.json").display().to_string();
    let saved = run(&env, &["backup", "--to", &store, "--password-file", &password]);
    let (other, moved) =
        (place.path("moved.json").display().to_string(), ["--keystore", "--password-file", &password]);
    let imported =
        [&["import", "--from", &store, "--from-password-file", &password, "--to", &other], moved.as_slice()];
    let imported = run(&[], &imported.concat());
    let kept = [("HOST_KEYSTORE_FILE", &*other), ("HOST_KEYSTORE_PASSWORD_FILE", &*password)];
    let again = run(&kept, &["show"]);
    for said in [&shown, &saved, &imported, &again] {
        assert_eq!(address(said), address(&first));
        assert!(!said.contains(secret.trim()) && !said.contains(&secret.trim()[2..]), "{said}");
    }
    // Nothing that is there is written over.
    let refused = place.command(&[]).args(["keys", "new", "--to", &made]).output().unwrap();
    assert!(
        !refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("is there already")
    );
    assert_eq!(std::fs::read_to_string(&file).unwrap(), secret);
}

/// What the node says instead of starting.
fn refused(mut command: Command) -> String {
    let done = command.output().unwrap();
    assert!(!done.status.success());
    String::from_utf8_lossy(&done.stderr).into_owned()
}

#[test]
fn a_key_that_cannot_be_had_stops_the_start_with_what_to_do() {
    let place = Place::new();
    let open = place.path("open");
    std::fs::write(&open, &place.secret).unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o640)).unwrap();
    let open = open.display().to_string();
    let said = refused(place.command(&[("HOST_PRIVATE_KEY_FILE", &open)]));
    assert!(said.contains(&format!("chmod 600 {open}")) && !said.contains(&place.secret[2..]), "{said}");
    // Before anything is served, too.
    let mut check = place.command(&[("HOST_PRIVATE_KEY_FILE", &open)]);
    check.args(["config", "check"]);
    assert!(refused(check).contains("chmod 600"));
    let said = refused(place.command(&[("HOST_PRIVATE_KEY_COMMAND", "echo sorry >&2; exit 3")]));
    assert!(said.contains("sorry") && said.contains("exit status: 3"), "{said}");
    let (text, _) = write_keystore(&place.bytes(), b"right", Cost::Light, &mut rng()).unwrap();
    let keystore = place.file("keystore.json", text.as_text().unwrap());
    let said = refused(place.command(&[("HOST_KEYSTORE_FILE", &keystore)]));
    assert!(said.contains("there is no terminal"), "{said}");
    let wrong = place.file("wrong", "wrong");
    let env = [("HOST_KEYSTORE_FILE", &*keystore), ("HOST_KEYSTORE_PASSWORD_FILE", &*wrong)];
    let said = refused(place.command(&env));
    assert!(said.contains("the password is wrong"), "{said}");
    let (uri, configuration, pin) = token(&place);
    std::fs::write(&pin, "00000").unwrap();
    let said = refused(place.command(&[("PKCS11_URI", &uri), ("SOFTHSM2_CONF", &configuration)]));
    assert!(said.contains("refuses the PIN") && !said.contains("00000"), "{said}");
}

#[test]
fn a_process_with_a_key_leaves_no_core_unless_debugging_is_allowed() {
    let limit = |env: &[(&str, &str)]| {
        let node = NodeProcess::start(&[], env);
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", node.pid())).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap().to_owned();
        core.split_whitespace().nth(5).unwrap().to_owned()
    };
    // The hard limit, which the process could not raise again.
    assert_eq!(limit(&[]), "0");
    assert_eq!(limit(&[("ALLOW_DEBUGGING", "true")]), "unlimited");
}

/// By a group's right systemd shows what an access-control list gives the service's user.
#[tokio::test]
async fn a_credential_that_systemd_gives_the_services_user_is_taken() {
    let place = Place::new();
    let file = place.file("host_private_key", &place.secret);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o440)).unwrap();
    let folder = place.dir.path().display().to_string();
    the_key_serves_and_is_nowhere(&place, place.command(&[("CREDENTIALS_DIRECTORY", &folder)])).await;
    let refused = refused(place.command(&[("HOST_PRIVATE_KEY_FILE", &file)]));
    assert!(refused.contains("chmod 600"), "{refused}");
}

/// What it is called is how it is found at night.
#[tokio::test]
async fn the_process_has_the_programs_name() {
    let place = Place::new();
    let node = NodeProcess::run(place.command(&[("HOST_PRIVATE_KEY", &place.secret)]), &place.secret);
    let comm = std::fs::read_to_string(format!("/proc/{}/comm", node.pid())).unwrap();
    assert!("fabstir-llm-node".starts_with(comm.trim_end()) && comm.len() > 8, "{comm}");
}
