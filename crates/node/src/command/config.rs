//! The settings, in their operator's hands.

use std::{
    io::{self, Write},
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf, absolute},
};

use anyhow::{Context as _, bail};
use clap::Subcommand;
use rustix::{
    fs::{Access, AtFlags, CWD, accessat},
    io::Errno,
};
use serde::Serialize;

use super::Call;
use crate::{
    config::{Config, EngineKind, HOST_PRIVATE_KEY, KeySources, Origin, Setting},
    crypto, logging,
    model::{ModelError, ModelSource},
    node::Clock,
    tls::Tls,
};

/// What is done with the settings.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum ConfigCommand {
    /// Say whether the node would start with these settings: keys and TLS files are read, nothing is served
    Check,
    /// Show every setting, its value and where it is set; secrets are left out
    Show {
        /// Those alone that are set somewhere
        #[arg(long)]
        set: bool,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

impl ConfigCommand {
    /// Does it.
    ///
    /// # Errors
    /// What is wrong with the settings.
    pub fn run(self, call: Call) -> anyhow::Result<()> {
        let mut out = io::stdout().lock();
        if let Self::Show { set, json } = self {
            show(&mut out, &call, set, json)?;
        }
        for stray in &call.strays {
            writeln!(io::stderr(), "warning: {stray}")?;
        }
        let (config, sources) = call.resolve()?;
        match self {
            Self::Check => check(&mut out, &config, &sources),
            Self::Show { .. } => Ok(()),
        }
    }
}

fn check(out: &mut impl Write, config: &Config, sources: &KeySources) -> anyhow::Result<()> {
    logging::check(config).context("RUST_LOG cannot be read")?;
    if let Some(keys) = crypto::load_keys(sources, config)? {
        let unix = Clock::start().unix(tokio::time::Instant::now());
        crypto::check_rotation(&keys, config.chain_id.unwrap_or(0), unix)?;
    } else {
        writeln!(
            io::stderr(),
            "warning: no identity key is set here, and without one nothing is encrypted: where the service is handed it \
             (LoadCredential), name its place with --host-private-key-file to have it looked at too"
        )?;
    }
    check_files(config)?;
    let tls = config.tls.as_ref().map(Tls::load).transpose()?;
    if let Some(told) = tls.and_then(|tls| tls.worry()) {
        writeln!(io::stderr(), "warning: TLS_CERT_FILE: {told}")?;
    }
    let folders =
        [("ADMIN_SOCKET", config.admin_socket.as_deref()), ("USAGE_DIR", config.usage_dir.as_deref())];
    for (setting, path) in folders.into_iter().filter_map(|(setting, path)| Some((setting, path?))) {
        // systemd makes its own folders at the start.
        let folder = folder_of(path)?;
        if !folder.is_dir() {
            writeln!(
                io::stderr(),
                "warning: {setting}: {} is not there: make it before the start",
                folder.display()
            )?;
        }
    }
    Ok(writeln!(out, "the settings are in order")?)
}

/// What is there already, and is not what it would have to be.
fn check_files(config: &Config) -> anyhow::Result<()> {
    crate::engine::check(&config.engine)?;
    if let Some(path) = &config.admin_socket
        && path.symlink_metadata().is_ok_and(|about| !about.file_type().is_socket())
    {
        bail!("ADMIN_SOCKET: {} is there, and is no socket: remove it, or name another", path.display());
    }
    if let Some(path) = config.usage_dir.as_deref() {
        if path.exists() && !path.is_dir() {
            bail!("USAGE_DIR: {} is there, and is no folder: remove it, or name another", path.display());
        }
        let folder = if path.exists() { path.to_owned() } else { folder_of(path)? };
        may_write("USAGE_DIR", &folder)?;
    }
    if let Some(path) = config.admin_socket.as_deref() {
        may_write("ADMIN_SOCKET", &folder_of(path)?)?;
    }
    let needed = config.engine.upstream.is_none() && config.engine.kind == EngineKind::Llama;
    for model in config.engine.models.iter().filter(|_| needed) {
        if let ModelSource::File(path) = &model.source
            && !path.is_file()
        {
            return Err(ModelError::NotAFile(path.clone()).into());
        }
    }
    Ok(())
}

/// What a path of the node's is made in.
fn folder_of(path: &Path) -> io::Result<PathBuf> {
    Ok(absolute(path)?.parent().map(Path::to_owned).unwrap_or_default())
}

/// Whether the node, if it runs as whoever asks, can make a file in `folder`; one that is not there is another matter.
fn may_write(setting: &str, folder: &Path) -> anyhow::Result<()> {
    let wanted = Access::WRITE_OK | Access::EXEC_OK;
    match accessat(CWD, folder, wanted, AtFlags::EACCESS) {
        Err(error @ (Errno::ACCESS | Errno::PERM | Errno::ROFS)) => bail!(
            "{setting}: nothing can be written into {} ({error}): ask as the user whom the node runs as, make it that one's, or name another",
            folder.display()
        ),
        // Whatever else: the start will tell.
        Ok(()) | Err(_) => Ok(()),
    }
}

/// A setting as it is shown.
#[derive(Serialize)]
struct Row {
    name: String,
    value: Option<String>,
    origin: String,
}

impl From<&Setting> for Row {
    fn from(setting: &Setting) -> Self {
        Self { name: setting.name.to_uppercase(), value: setting.shown(), origin: setting.origin.to_string() }
    }
}

fn show(out: &mut impl Write, call: &Call, set: bool, json: bool) -> anyhow::Result<()> {
    let key = Row {
        name: HOST_PRIVATE_KEY.to_owned(),
        value: call.key.as_ref().map(|_| "(set, not shown)".to_owned()),
        origin: call.key.as_ref().map_or(&Origin::Default, |(_, origin)| origin).to_string(),
    };
    let nobodys = Origin::Default.to_string();
    let settings = call.settings.all.iter().map(Row::from);
    let rows: Vec<Row> =
        [key].into_iter().chain(settings).filter(|row| !set || row.origin != nobodys).collect();
    if json {
        return Ok(writeln!(out, "{}", serde_json::to_string_pretty(&rows)?)?);
    }
    let width = |cell: &dyn Fn(&Row) -> usize| rows.iter().map(cell).max().unwrap_or(0);
    let name = width(&|row| row.name.len());
    // A long value does not push all others' origins out of sight.
    let value = width(&|row| row.value.as_ref().map_or(0, String::len)).min(32);
    for row in &rows {
        let typed = row.value.as_deref().unwrap_or_default();
        writeln!(out, "{:name$}  {typed:value$}  {}", row.name, row.origin)?;
    }
    Ok(())
}
