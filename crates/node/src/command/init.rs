//! From an empty machine to a node that starts: a key, a configuration file and a service of systemd's.

use std::{
    env,
    fmt::Write as _,
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, chown},
    path::{Path, PathBuf, absolute},
};

use anyhow::{Context as _, bail};
use clap::Args;
use directories::BaseDirs;
use nix::unistd::User;
use tokio::signal::unix::{SignalKind, signal};
use toml::Value;

use super::{
    Call,
    keys::{Place, To, describe},
};
use crate::config::{self, Layers, Origin, Setting, Settings};

/// What is made, and where.
#[derive(Args, Clone, Debug)]
pub struct InitCommand {
    /// The folder of the configuration file; by default /etc/fabstir for root, else fabstir in the user's configuration folder
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
    /// Where the identity key is made: a file, or pkcs11:...; by default keys/node.key in that folder
    #[arg(long, value_name = "FILE-OR-URI")]
    key: Option<String>,
    /// Make the key as a keystore (Ethereum's version 3)
    #[arg(long, requires = "password_file")]
    keystore: bool,
    /// A file with that keystore's password
    #[arg(long, value_name = "FILE", requires = "keystore")]
    password_file: Option<PathBuf>,
    /// The service's file; by default where systemd looks for root's or for the user's
    #[arg(long, value_name = "FILE")]
    unit: Option<PathBuf>,
    /// Whom the service runs as, where root makes it; by default fabstir
    #[arg(long)]
    user: Option<String>,
}

/// Whose node it is: what is where, for root's service and for a user's.
struct Layout {
    config: PathBuf,
    unit: PathBuf,
    admin_socket: PathBuf,
    usage: PathBuf,
    /// Whom a service of root's runs as; `None` is a service of the caller's own.
    user: Option<User>,
    /// What the flags have the node write to, beside the folders that systemd makes for it.
    written: Vec<PathBuf>,
}

/// Settings that say where the node writes: a socket, and folders.
const WRITTEN: [&str; 3] = ["admin_socket", "usage_dir", "acme_cache_dir"];

/// Settings that say where a key is.
const KEY_SETTINGS: [&str; 5] = [
    "host_private_key_file",
    "host_private_key_command",
    "host_keystore_file",
    "pkcs11_uri",
    "pkcs11_module",
];

/// Where Prometheus looks for an exporter of OpenTelemetry's, and nobody else listens.
const METRICS: &str = "127.0.0.1:9464";

impl InitCommand {
    /// Does it, or leaves nothing behind.
    ///
    /// # Errors
    /// What is in the way.
    pub fn run(self, call: &Call) -> anyhow::Result<()> {
        refuse_other_keys(call)?;
        let layout = self.layout(&call.settings)?;
        let typed: Vec<&Setting> =
            call.settings.all.iter().filter(|setting| setting.origin == Origin::Flag).collect();
        let has_key = typed.iter().any(|setting| KEY_SETTINGS.contains(&setting.name.as_str()));
        if has_key && (self.key.is_some() || self.keystore) {
            bail!("a flag says where the key is already: leave --key and --keystore out, or that flag");
        }
        let to = if has_key { None } else { Some(self.key_place(&layout)?) };
        let mut settings = own_settings(&layout);
        settings.extend(to.iter().flat_map(|(_, settings)| settings.iter().cloned()));
        let text = file_text(&call.settings.all, &settings);
        put_off_the_end()?;
        let mut made = Made::default();
        let key = write_all(&mut made, &layout, &text, to.as_ref().map(|(to, _)| to))?;
        made.keep();
        say(&layout, key.as_deref())
    }

    fn layout(&self, settings: &Settings) -> anyhow::Result<Layout> {
        let root = rustix::process::geteuid().is_root();
        let folders = BaseDirs::new().context("there is no home folder: name one with --dir, and --unit")?;
        let (folder, units) = if root {
            (PathBuf::from("/etc/fabstir"), PathBuf::from("/etc/systemd/system"))
        } else {
            (folders.config_dir().join("fabstir"), folders.config_dir().join("systemd/user"))
        };
        let folder = absolute(self.dir.clone().unwrap_or(folder))?;
        let unit = self.unit.clone().unwrap_or_else(|| units.join("fabstir-llm-node.service"));
        let runtime = || folders.runtime_dir().map(|folder| folder.join("fabstir/admin.sock"));
        let state = folders.state_dir().map_or_else(|| folder.clone(), |state| state.join("fabstir"));
        Ok(Layout {
            config: folder.join(config::DEFAULT_FILE),
            unit: absolute(unit)?,
            admin_socket: if root {
                "/run/fabstir/admin.sock".into()
            } else {
                runtime().unwrap_or_else(|| folder.join("admin.sock"))
            },
            usage: if root { "/var/lib/fabstir/usage".into() } else { state.join("usage") },
            user: self.service_user(root)?,
            written: written(settings)?,
        })
    }

    fn service_user(&self, root: bool) -> anyhow::Result<Option<User>> {
        if !root {
            if let Some(user) = &self.user {
                bail!(
                    "a service that runs as {user} is root's to make: leave --user out for a service of your own, or run this as root"
                );
            }
            return Ok(None);
        }
        let user = self.user.as_deref().unwrap_or("fabstir");
        let found = User::from_name(user).context("the list of users cannot be read")?;
        found.map(Some).with_context(|| {
            format!("there is no user {user} for the service to run as; run: useradd --system --shell /usr/sbin/nologin {user}; or name another with --user")
        })
    }

    /// Where the key is made, and what the file says of it.
    fn key_place(&self, layout: &Layout) -> anyhow::Result<(To, Vec<(String, Value)>)> {
        let folder = layout.config.parent().unwrap_or(Path::new("/"));
        let text = self.key.clone().unwrap_or_else(|| folder.join("keys/node.key").display().to_string());
        let (place, setting) = match text.parse()? {
            Place::Token(uri) if uri.pin_file.is_none() => bail!(
                "a service cannot be asked for the token's PIN: put it into a file of mode 0600, and add pin-source=file:/PATH to the URI"
            ),
            Place::Token(uri) => (Place::Token(uri), ("pkcs11_uri", text)),
            Place::File(path) => {
                let path = absolute(path)?;
                let setting = if self.keystore { "host_keystore_file" } else { "host_private_key_file" };
                let text = path.display().to_string();
                (Place::File(path), (setting, text))
            }
        };
        let password = self.password_file.as_ref().map(absolute).transpose()?;
        let line = |(name, value): (&str, String)| (name.to_owned(), Value::String(value));
        let mut settings = vec![line(setting)];
        if let Some(file) = &password {
            settings.push(line(("host_keystore_password_file", file.display().to_string())));
        }
        Ok((To::new(place, self.keystore, password), settings))
    }
}

fn written(settings: &Settings) -> anyhow::Result<Vec<PathBuf>> {
    let flags = settings.all.iter().filter(|setting| setting.origin == Origin::Flag);
    let named = flags.filter(|setting| WRITTEN.contains(&setting.name.as_str()));
    let mut paths = Vec::new();
    for setting in named {
        let path = absolute(setting.expose().unwrap_or_default())?;
        // A socket is made in its folder.
        let folder = if setting.name == "admin_socket" { path.parent() } else { Some(path.as_path()) };
        paths.extend(folder.map(Path::to_owned));
    }
    Ok(paths)
}

/// From here on nobody who wants this process to end has it end half-way: what has begun is soon done, or undone.
fn put_off_the_end() -> io::Result<()> {
    for kind in [SignalKind::hangup(), SignalKind::interrupt(), SignalKind::terminate()] {
        drop(signal(kind)?);
    }
    Ok(())
}

/// A key that the call would find and the service would not: the node would be somebody else.
fn refuse_other_keys(call: &Call) -> anyhow::Result<()> {
    if let Some((_, origin)) = &call.key {
        bail!(
            "HOST_PRIVATE_KEY is set already ({origin}), and a service does not see it: put that key into a file with \
             `keys import --from - --to FILE`, name the file with --host-private-key-file, and unset HOST_PRIVATE_KEY"
        );
    }
    let elsewhere = call.settings.all.iter().find(|setting| {
        KEY_SETTINGS.contains(&setting.name.as_str())
            && !matches!(setting.origin, Origin::Flag | Origin::Default)
    });
    if let Some(Setting { name, origin, .. }) = elsewhere {
        bail!(
            "{name} says where a key is already ({origin}), and a service does not see that: give it as a flag before `init`, or \
             unset it to have another key made",
            name = name.to_uppercase()
        );
    }
    Ok(())
}

/// What `init` sets where no flag does.
fn own_settings(layout: &Layout) -> Vec<(String, Value)> {
    let path = |path: &Path| Value::String(path.display().to_string());
    let settings = [
        ("require_encryption", Value::Boolean(true)),
        ("admin_socket", path(&layout.admin_socket)),
        ("metrics_listen", Value::String(METRICS.to_owned())),
        ("usage_dir", path(&layout.usage)),
    ];
    settings.map(|(name, value)| (name.to_owned(), value)).into()
}

/// Every setting with what it is: those of this call's flags and of `own` as lines, the others as comments.
fn file_text(all: &[Setting], own: &[(String, Value)]) -> String {
    let mut text = String::from(
        "# Settings of fabstir-llm-node, made by `fabstir-llm-node init`. A line that begins with # counts for nothing.\n\
         # Flags and the environment win over what stands here; `fabstir-llm-node config show` says what counts, and\n\
         # `fabstir-llm-node config check` whether the node would start. No secret belongs here, but where one is kept.\n",
    );
    for setting in all.iter().filter(|setting| setting.name != "config_file") {
        let set = match (&setting.origin, own.iter().find(|(name, _)| *name == setting.name)) {
            (Origin::Flag, _) => Some(as_toml(setting)),
            (_, Some((_, value))) => Some(value.clone()),
            (_, None) => None,
        };
        let (mark, value) = match set {
            Some(value) => ("", value),
            None if setting.expose().is_some() && setting.origin == Origin::Default => {
                ("#", as_toml(setting))
            }
            None => ("#", Value::String(format!("<{}>", setting.placeholder.to_lowercase()))),
        };
        // Writing to a string does not fail.
        let _ = write!(text, "\n# {}\n{mark}{} = {value}\n", setting.help, setting.name);
    }
    text
}

fn as_toml(setting: &Setting) -> Value {
    let typed = setting.expose().unwrap_or_default();
    if setting.is_path && setting.origin == Origin::Flag {
        // A service runs in another folder.
        let path = absolute(typed).unwrap_or_else(|_| typed.into());
        return Value::String(path.display().to_string());
    }
    if setting.list {
        return Value::Array(typed.split(',').map(|one| Value::String(one.trim().to_owned())).collect());
    }
    let number = || typed.parse().map(Value::Integer).ok();
    let yes = || typed.parse().map(Value::Boolean).ok();
    number().or_else(yes).unwrap_or_else(|| Value::String(typed.to_owned()))
}

/// The service, with what it starts.
fn unit_text(layout: &Layout) -> anyhow::Result<String> {
    let binary = env::current_exe().context("where this program is cannot be found out")?;
    let template = if layout.user.is_some() {
        include_str!("init/system.service")
    } else {
        include_str!("init/user.service")
    };
    let user = layout.user.as_ref().map_or("", |user| &user.name);
    let written: Vec<String> = layout.written.iter().map(|path| in_unit(path)).collect();
    // One that is not there yet does not stop the start here: the node says so itself.
    let written: String = written.iter().map(|path| format!("ReadWritePaths=-{path}\n")).collect();
    Ok(template
        .replace("@EXEC@", &in_unit(&binary))
        .replace("@CONFIG@", &in_unit(&layout.config))
        .replace("@USER@", user)
        .replace("@WRITTEN@\n", &written))
}

/// A path as systemd reads one: % begins a specifier, and a space a next word.
fn in_unit(path: &Path) -> String {
    let text = path.display().to_string().replace('%', "%%");
    if text.contains([' ', '"', '\\', '\'']) {
        return format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    }
    text
}

/// A path as a shell reads it.
fn in_shell(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

/// Files and folders that were made, and are taken away again unless all of them could be.
#[derive(Default)]
struct Made(Vec<PathBuf>);

impl Made {
    /// A folder, and where they are not there yet those above it, through which others may go to it.
    fn folder(&mut self, path: &Path, mode: u32) -> anyhow::Result<()> {
        let missing: Vec<&Path> = path.ancestors().take_while(|folder| !folder.exists()).collect();
        for folder in missing.into_iter().rev() {
            let mode = if folder == path { mode } else { 0o755 };
            match DirBuilder::new().mode(mode).create(folder) {
                Ok(()) => self.0.push(folder.to_owned()),
                // `new/..`, once there is a `new`.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => {}
                Err(error) => return Err(error).with_context(|| folder.display().to_string()),
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
        self.folder(path.parent().unwrap_or(Path::new("/")), 0o755)?;
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
        let mut file = file.map_err(|error| {
            let path = path.display();
            if error.kind() == io::ErrorKind::AlreadyExists {
                return anyhow::anyhow!(
                    "{path} is there already, and is left as it is: name another with --dir or --unit"
                );
            }
            anyhow::anyhow!("{path}: {error}")
        })?;
        self.0.push(path.to_owned());
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .with_context(|| path.display().to_string())
    }

    fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for path in self.0.iter().rev() {
            // A folder goes if it is empty: what somebody else has put there meanwhile stays.
            let _ = if path.is_dir() { fs::remove_dir(path) } else { fs::remove_file(path) };
        }
    }
}

/// The key comes last: it is the one thing that cannot be made again.
fn write_all(
    made: &mut Made,
    layout: &Layout,
    text: &str,
    to: Option<&To>,
) -> anyhow::Result<Option<Box<dyn fabstir_custody::KeyCustody>>> {
    // A command or an address in it may hold what is nobody's business.
    made.file(&layout.config, text, if layout.user.is_some() { 0o640 } else { 0o600 })?;
    if let Some(user) = &layout.user {
        chown(&layout.config, None, Some(user.gid.as_raw()))
            .with_context(|| layout.config.display().to_string())?;
    }
    read_back(&layout.config)?;
    made.file(&layout.unit, &unit_text(layout)?, 0o644)?;
    let Some(to) = to else { return Ok(None) };
    if let (Some(user), Some(folder)) = (&layout.user, to.new_folder()) {
        // Whoever runs as this user may rotate the key, and what root puts there is this user's too.
        made.folder(folder, 0o700)?;
        chown(folder, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
            .with_context(|| folder.display().to_string())?;
    }
    to.make().map(Some)
}

/// What was written means what it should.
fn read_back(path: &Path) -> anyhow::Result<()> {
    let argv = ["fabstir-llm-node".into(), "--config-file".into(), path.as_os_str().to_owned()];
    Settings::read(argv, &Layers::environment(&|_| None))?.args.resolve(None, None)?;
    Ok(())
}

fn say(layout: &Layout, key: Option<&dyn fabstir_custody::KeyCustody>) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "settings    {}", layout.config.display())?;
    writeln!(out, "service     {}", layout.unit.display())?;
    if let Some(key) = key {
        describe(&mut out, "key", key)?;
        writeln!(
            out,
            "\nGive the public key to your clients by a way that they trust, and back the key up (`keys backup`)."
        )?;
    }
    let (systemctl, sudo) = match &layout.user {
        Some(user) => ("systemctl", format!("sudo -u {} ", user.name)),
        None => ("systemctl --user", String::new()),
    };
    writeln!(out, "Next:")?;
    writeln!(out, "  export CONFIG_FILE={}", in_shell(&layout.config))?;
    writeln!(out, "  {sudo}fabstir-llm-node --config-file \"$CONFIG_FILE\" config check")?;
    Ok(writeln!(out, "  {systemctl} daemon-reload && {systemctl} enable --now fabstir-llm-node")?)
}

#[cfg(test)]
mod tests;
