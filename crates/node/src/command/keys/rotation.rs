//! The next key: made, vouched for by the current one, and put where a running node finds it.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use fabstir_custody::{
    KeyCustody, KeySource, LockedKey, Secret, SecretFileError, open_keystore, put_secret_beside,
    read_secret_file, replace_secret_file,
};
use fabstir_protocol::{ethereum::Address, v2::NodeKeyRotation};

use super::{Place, To, describe, digits, fresh, keystore_of};
use crate::{
    config::{Config, KeySources},
    crypto,
};

/// A path with something behind it.
fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(ending);
    path.into()
}

pub(super) fn rotate(
    out: &mut impl Write,
    config: &Config,
    sources: &KeySources,
    (to, statement): (Option<To>, Option<PathBuf>),
    may_follow: impl Fn(&KeySources, Address) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let source = sources.current.as_ref().context("no key is set: see HOST_PRIVATE_KEY in --help")?;
    let chain_id = config.chain_id.unwrap_or(0);
    match (to, &sources.file) {
        (None, Some(file)) => {
            if let Some(setting) = sources.names_the_one_before() {
                bail!(
                    "{setting} is set, and names another key than the one before the next: take KEY_ROTATION_FILE and the \
                     PREVIOUS_ settings out of the settings first, once their overlap is over; or make the next key elsewhere with --to"
                );
            }
            // Of two at once the second finds what the first has made, and is refused.
            let _alone = lock_folder_of(file)?;
            let sources = sources.again()?.context("the key cannot be read again")?;
            let source = sources.current.as_ref().context("the key is gone")?;
            in_place(out, (source, file), chain_id, statement, |current| may_follow(&sources, current))
        }
        (None, None) => bail!(
            "the key is {}: name with --to where the next one is to be made, a file or pkcs11:...",
            source.describe()
        ),
        (Some(to), _) => {
            let statement = statement.or_else(|| match &to.to {
                Place::File(path) => Some(with_ending(path, ".rotation")),
                Place::Token(_) => None,
            });
            let statement =
                statement.context("name with --statement where to write what the current key says")?;
            let current = source.load()?;
            may_follow(sources, current.address())?;
            let next = to.make()?;
            let text = statement_of(current.as_ref(), next.as_ref(), chain_id)?;
            replace_secret_file(&statement, text.as_bytes())?;
            describe(out, "next key", next.as_ref())?;
            writeln!(out, "statement   {}", statement.display())?;
            Ok(writeln!(
                out,
                "now name the next key in the settings, the current one as the previous (PREVIOUS_PRIVATE_KEY_FILE, \
                 PREVIOUS_KEYSTORE_FILE or PREVIOUS_PKCS11_URI), and KEY_ROTATION_FILE={}; then restart the node",
                statement.display()
            )?)
        }
    }
}

/// Two identities are served side by side, and no third: a rotation within the overlap would end the first one early.
pub(super) fn refuse_in_overlap(
    config: &Config,
    sources: &KeySources,
    current: Address,
) -> anyhow::Result<()> {
    let (Some(_), Some(statement)) = (&sources.previous, &sources.rotation) else {
        return sources.file.as_deref().map_or(Ok(()), refuse_unknown_previous);
    };
    let rotation = crypto::read_rotation(statement)?.rotation();
    let left = rotation.not_before.saturating_add(config.key_overlap.as_secs()).saturating_sub(unix_now()?);
    // One that was begun and not finished is of another key.
    if left > 0 && current == rotation.to {
        bail!(
            "the key was rotated less than KEY_OVERLAP_SECONDS ago: for {left} seconds {} is served beside it, and clients that \
             pin that one would be refused from now on; rotate after that, or with --force",
            rotation.from.to_checksum()
        );
    }
    Ok(())
}

/// Without a statement nobody knows since when the key before is one: clients may pin it still, and no other copy need be left.
fn refuse_unknown_previous(file: &Path) -> anyhow::Result<()> {
    let previous = with_ending(file, ".previous");
    let there = match read_secret_file(&previous) {
        Ok(there) => there,
        Err(SecretFileError::Io { error, .. }) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    // One that was begun and not finished has copied the key there, and no more.
    if there.as_bytes() == read_secret_file(file)?.as_bytes() {
        return Ok(());
    }
    bail!(
        "{} holds another key, and no statement beside it says since when: the rotation would overwrite it; move it away, or use --force",
        previous.display()
    );
}

/// Keeps other processes from rotating a key in this folder; until it is dropped.
fn lock_folder_of(file: &Path) -> anyhow::Result<File> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let lock = File::open(folder).and_then(|folder| folder.lock().map(|()| folder));
    lock.with_context(|| format!("{} cannot be locked against another rotation", folder.display()))
}

fn unix_now() -> anyhow::Result<u64> {
    Ok(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs())
}

/// The next key takes the place of the current one, which is kept beside it for the overlap.
fn in_place(
    out: &mut impl Write,
    (source, file): (&KeySource, &Path),
    chain_id: u64,
    statement: Option<PathBuf>,
    may_follow: impl Fn(Address) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    if file.is_symlink() {
        bail!(
            "{0} is a symbolic link, and the next key would take the place of the link: name the file itself in the settings, or make \
             the next key elsewhere with --to",
            file.display()
        );
    }
    let (previous, secret) = (with_ending(file, ".previous"), fresh());
    let statement = statement.unwrap_or_else(|| with_ending(file, ".rotation"));
    let before = read_secret_file(file)?;
    let (current, text) = beginning(source, &before, &secret)?;
    may_follow(current.address())?;
    let next = LockedKey::new(&secret)?;
    // In this order, so that at no moment a key is lost: a rotation that stops half-way is none.
    put_secret_beside(file, &previous, before.as_bytes())?;
    let said = statement_of(current.as_ref(), &next, chain_id)?;
    put_secret_beside(file, &statement, said.as_bytes())?;
    replace_secret_file(file, text.as_bytes())?;
    describe(out, "next key", &next)?;
    writeln!(out, "previous    {} ({})", previous.display(), current.address().to_checksum())?;
    writeln!(out, "statement   {}", statement.display())?;
    let next = if source.asks() {
        "restart the node for the next key: its password is typed, so a running node does not take it; "
    } else {
        "a running node takes the next key on SIGHUP; "
    };
    Ok(writeln!(out, "{next}remove the previous one once the overlap is over")?)
}

/// The key in the file as it was read, and the next one as it is to stand there: of a keystore under the same password, which
/// is asked for once.
fn beginning(
    source: &KeySource,
    before: &Secret,
    next: &[u8; 32],
) -> anyhow::Result<(Box<dyn KeyCustody>, Secret)> {
    let KeySource::Keystore(_, password) = source else {
        return Ok((source.load()?, Secret::from_bytes(digits(next).as_bytes())));
    };
    let password = password.get()?;
    let current =
        open_keystore(before.as_bytes(), password.trim_line()).with_context(|| source.describe())?;
    let text = keystore_of(next, &password)?;
    if *open_keystore(text.as_bytes(), password.trim_line())? != *next {
        bail!("the next keystore does not hold the next key; nothing was written");
    }
    Ok((Box::new(LockedKey::new(&current)?), text))
}

/// What the current key says of the next: public, and signed.
fn statement_of(current: &dyn KeyCustody, next: &dyn KeyCustody, chain_id: u64) -> anyhow::Result<String> {
    let rotation = NodeKeyRotation { from: current.address(), to: next.address(), not_before: unix_now()? };
    let signature = current.sign(&rotation.digest(chain_id))?;
    Ok(serde_json::to_string(&rotation.with_signature(signature))?)
}
