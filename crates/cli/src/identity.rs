//! Which key a node must have: pinned by hand, known from before, or trusted now by a person.

use std::{
    fmt, fs,
    io::{self, ErrorKind, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use fabstir_client::{Least, Roots};
use fabstir_protocol::{
    ethereum::Address,
    identity::{PublicKey, Signature},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use url::Url;

use crate::{
    args::Connection,
    connect,
    failure::{Exit, Failure, printable},
    keys,
};

/// What a node signs is bound to this protocol by name.
const CONTEXT: &str = "fabstir-node/1";
/// A proof is a few hundred bytes.
const MAX_PROOF: usize = 4096;
const TIMEOUT: Duration = Duration::from_secs(10);

/// What a node is known by: its public key, or the address of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Pin {
    Key(PublicKey),
    Address(Address),
}

impl Pin {
    pub(crate) fn address(&self) -> Address {
        match self {
            Self::Key(key) => key.address(),
            Self::Address(address) => *address,
        }
    }

    fn is_not(&self, other: &Self) -> bool {
        self.address() != other.address()
    }
}

impl std::str::FromStr for Pin {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let key = text.parse().map(Self::Key);
        key.or_else(|_| text.parse().map(Self::Address))
            .map_err(|_| "neither an address (0x and 40 hex digits) nor a public key (33 bytes in hex)")
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => write!(f, "{key} ({})", key.address().to_checksum()),
            Self::Address(address) => f.write_str(&address.to_checksum()),
        }
    }
}

/// What a node must be, and where that is written.
pub(crate) struct Pinned {
    pub(crate) pin: Pin,
    file: PathBuf,
    url: Url,
    roots: Roots,
    place: Place,
    /// The line of known_nodes, where the key is from there.
    line: Option<(usize, PathBuf)>,
}

/// The key that the node must have.
pub(crate) async fn node_key(connection: &Connection) -> Result<Pinned, Failure> {
    let place = Place::of(&connection.node)?;
    let url = connection.node.clone();
    let file = connection.how.known_nodes.clone().map_or_else(|| keys::config_file("known_nodes"), Ok)?;
    let known = KnownNodes::read(&file)?;
    let remembered = file.clone();
    let (pin, line) = match (connection.node_key, known.find(&place)?) {
        (Some(given), Some((known, line))) if given.is_not(&known) => {
            return Err(changed(&place, ("given", &given), &known, line, &file));
        }
        (given, Some((known, line))) => (given.unwrap_or(known), Some((line, file))),
        (Some(given), None) => (given, None),
        (None, None) => (introduce(connection, &place, &file).await?, None),
    };
    known.refuse_too_old(&place, connection.how.protocol)?;
    let roots = connect::roots(&connection.how)?;
    Ok(Pinned { pin, file: remembered, url, roots, place, line })
}

impl Pinned {
    /// Remembers that the node speaks nothing older, so that nobody can offer it in its name while that holds.
    pub(crate) fn remember_least(&self, least: Least) -> Result<(), Failure> {
        if least.version < 2 {
            return Ok(());
        }
        let _alone = Alone::over(&self.file)?;
        let note = format!("# {} {} {}\n", least_word(&self.place), least.version, least.until);
        let text = match fs::read_to_string(&self.file) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            Err(error) => return Err(Failure::file(&self.file, error)),
        };
        if text.lines().any(|line| line == note.trim_end()) {
            return Ok(());
        }
        let prefix = format!("# {} ", least_word(&self.place));
        let mut kept: String =
            text.lines().filter(|line| !line.starts_with(&prefix)).flat_map(|line| [line, "\n"]).collect();
        kept.push_str(&note);
        keys::replace(&self.file, kept.as_bytes())
    }

    /// Why no session was opened. A node that cannot open what was sealed for a key that is known from before may
    /// have another one now: it is asked, and if so that is said as loudly as can be.
    pub(crate) async fn explain(&self, error: fabstir_client::Error) -> Failure {
        use fabstir_protocol::v2::AdvertisementError::{Moved, OtherIdentity};
        if let fabstir_client::Error::Identity(Moved(to)) = &error {
            let what = format!(
                "{} says that its identity is {} now, signed by the one that is known; ask its operator, and if it is so, \
                 pin the new one: --node-key {}",
                self.place,
                to.to_checksum(),
                to.to_checksum(),
            );
            return Failure::new(Exit::Identity, what);
        }
        if let fabstir_client::Error::Identity(OtherIdentity(shown)) = &error
            && let Some((line, file)) = &self.line
        {
            return changed(&self.place, ("shown", &Pin::Address(*shown)), &self.pin, *line, file);
        }
        let did_not_open =
            matches!(&error, fabstir_client::Error::Refused { code, .. } if code == "DECRYPTION_FAILED");
        if did_not_open
            && let Some((line, file)) = &self.line
            && let Ok(proven) = prove(&self.url, &self.roots, &self.place).await
            && proven.address() != self.pin.address()
        {
            return changed(&self.place, ("proven", &Pin::Key(proven)), &self.pin, *line, file);
        }
        error.into()
    }
}

/// Held while known_nodes is changed: calls side by side must not undo each other's lines.
struct Alone(#[expect(dead_code, reason = "held, and given up when it is dropped")] fs::File);

impl Alone {
    fn over(file: &Path) -> Result<Self, Failure> {
        keys::make_parent(file)?;
        let mut beside = file.as_os_str().to_owned();
        beside.push(".lock");
        let beside = PathBuf::from(beside);
        let opened = fs::OpenOptions::new().create(true).truncate(false).write(true).open(&beside);
        let locked = opened.and_then(|opened| opened.lock().map(|()| Self(opened)));
        locked.map_err(|error| Failure::file(&beside, error))
    }
}

/// How a note on the oldest version of a node begins: a comment, for who edits the file.
fn least_word(place: &Place) -> String {
    format!("least {place}")
}

fn changed(place: &Place, (source, other): (&str, &Pin), known: &Pin, line: usize, file: &Path) -> Failure {
    let file = file.display();
    let what = format!(
        "THE KEY OF {place} IS NOT THE ONE THAT IS KNOWN\n  \
         {source}: {other}\n  known: {known}\n  \
         either the node has a new key, or someone stands in between: ask its operator; \
         if the new key is right, remove line {line} of {file}: sed -i {line}d {file}"
    );
    Failure::new(Exit::Identity, what)
}

/// `host:port`, as known_nodes has it.
#[derive(Debug, Eq, PartialEq)]
struct Place(String);

impl Place {
    fn of(url: &Url) -> Result<Self, Failure> {
        let nowhere = || Failure::new(Exit::Usage, format!("{url} names no host; use ws://host:port/v1/ws"));
        let host = url.host_str().ok_or_else(nowhere)?;
        let port = url.port_or_known_default().ok_or_else(nowhere)?;
        Ok(Self(format!("{host}:{port}")))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The file of nodes that are known: `host:port key` a line; `#` begins a comment.
struct KnownNodes {
    file: PathBuf,
    text: String,
}

impl KnownNodes {
    fn read(file: &Path) -> Result<Self, Failure> {
        let text = match fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            Err(error) => return Err(Failure::file(file, error)),
        };
        Ok(Self { file: file.to_owned(), text })
    }

    /// Refuses a version that the node has certified not to speak any more, whoever offers it now.
    fn refuse_too_old(&self, place: &Place, version: u8) -> Result<(), Failure> {
        let prefix = format!("# {} ", least_word(place));
        for line in self.text.lines().filter_map(|line| line.strip_prefix(&prefix)) {
            let mut numbers = line.split(' ').map(str::parse::<u64>);
            if let (Some(Ok(least)), Some(Ok(until))) = (numbers.next(), numbers.next())
                && u64::from(version) < least
                && crate::delegate::unix_now() <= until
            {
                let what = format!(
                    "{place} has certified that it speaks version {least} or newer; leave --protocol out"
                );
                return Err(Failure::new(Exit::Identity, what));
            }
        }
        Ok(())
    }

    /// The key of `place`, and the number of its line.
    fn find(&self, place: &Place) -> Result<Option<(Pin, usize)>, Failure> {
        for (line, number) in self.text.lines().zip(1..) {
            let mut words = line.split_whitespace();
            if words.next() != Some(place.0.as_str()) {
                continue;
            }
            // A line that cannot be read must not turn a known node into an unknown one.
            let key = words.next().and_then(|key| key.parse().ok()).ok_or_else(|| {
                let what =
                    format!("{}: line {number} has no public key; mend or remove it", self.file.display());
                Failure::new(Exit::Identity, what)
            })?;
            return Ok(Some((key, number)));
        }
        Ok(None)
    }
}

fn remember(file: &Path, place: &Place, key: &Pin) -> Result<(), Failure> {
    let _alone = Alone::over(file)?;
    let opened = fs::OpenOptions::new().create(true).append(true).open(file);
    let written = opened.and_then(|mut opened| {
        // Whoever edited the file by hand may have left its last line without an end.
        let text = fs::read(file)?;
        let gap = if text.last().is_none_or(|&last| last == b'\n') { "" } else { "\n" };
        let key = match key {
            Pin::Key(key) => key.to_string(),
            Pin::Address(address) => address.to_string(),
        };
        opened.write_all(format!("{gap}{place} {key}\n").as_bytes())
    });
    written.map_err(|error| Failure::file(file, error))
}

/// Asks the node who it is, and a person whether to believe it.
async fn introduce(connection: &Connection, place: &Place, file: &Path) -> Result<Pin, Failure> {
    let terminal = io::stdin().is_terminal() && io::stderr().is_terminal();
    if !terminal && !connection.how.trust_first_use {
        let what = format!(
            "the identity of {place} is not known; pass --node-key with its address or public key, or \
             --trust-first-use to believe what it says now"
        );
        return Err(Failure::new(Exit::Identity, what));
    }
    let pin = Pin::Key(prove(&connection.node, &connect::roots(&connection.how)?, place).await?);
    if !connection.how.trust_first_use {
        let mut asked = io::stderr().lock();
        write!(
            asked,
            "{place} is not known.\n  identity  {pin}\n  words     {}\n",
            safety_words(&pin.address())
        )?;
        write!(asked, "compare them with what its operator publishes. trust this node? [y/N] ")?;
        asked.flush()?;
        let mut said = String::new();
        io::stdin().read_line(&mut said)?;
        if !matches!(said.trim(), "y" | "Y" | "yes") {
            return Err(Failure::new(Exit::Identity, "not trusted; nothing was sent"));
        }
    }
    remember(file, place, &pin)?;
    Ok(pin)
}

/// An address as six words, for comparing it by voice: 66 bits of its hash, by the English list of BIP-39. They are no
/// wallet's phrase, which has twelve words at least.
fn safety_words(address: &Address) -> String {
    let hash = Sha256::new().chain_update(b"fabstir node words|").chain_update(address.as_bytes()).finalize();
    let list = bip39::Language::English.word_list();
    let bits: Vec<u8> = hash.iter().flat_map(|byte| (0..8).rev().map(move |bit| (byte >> bit) & 1)).collect();
    let words = bits.chunks_exact(11).take(6).map(|bits| {
        let number = bits.iter().fold(0_usize, |number, bit| (number << 1) | usize::from(*bit));
        list.get(number).copied().unwrap_or_default()
    });
    words.collect::<Vec<_>>().join(" ")
}

#[derive(Serialize)]
struct Challenge<'a> {
    challenge: &'a str,
    context: &'a str,
}

/// What a node answers to a challenge.
#[derive(Deserialize)]
struct Proof {
    signature: String,
    recid: u8,
    public_key: String,
    address: String,
}

impl Proof {
    /// The key that made this proof, if all of it agrees.
    fn verify(&self, challenge: &[u8; 32]) -> Option<PublicKey> {
        let address: Address = self.address.parse().ok()?;
        let key: PublicKey = self.public_key.parse().ok()?;
        let mut bytes = const_hex::decode(&self.signature).ok()?;
        bytes.push(self.recid);
        let digest: [u8; 32] = Sha256::new()
            .chain_update(b"fabstir node challenge|")
            .chain_update(address.as_bytes())
            .chain_update(challenge)
            .finalize()
            .into();
        let signer = Signature::try_from(bytes.as_slice()).ok()?.recover(&digest).ok()?;
        (signer == address && key.address() == address).then_some(key)
    }
}

async fn prove(url: &Url, roots: &Roots, place: &Place) -> Result<PublicKey, Failure> {
    let mut challenge = [0; 32];
    getrandom::fill(&mut challenge)
        .map_err(|error| Failure::new(Exit::Usage, format!("no randomness: {error}")))?;
    let hex = const_hex::encode(challenge);
    let body = serde_json::to_vec(&Challenge { challenge: &hex, context: CONTEXT }).unwrap_or_default();
    let unreachable = |error: reqwest::Error| {
        let what = printable(&error.without_url().to_string());
        Failure::new(Exit::Connect, format!("cannot ask {place} for its key: {what}; check --node"))
    };
    let tls = url.scheme() == "wss";
    let builder = reqwest::Client::builder();
    let builder = if tls { builder.tls_backend_preconfigured(roots.tls()?) } else { builder };
    let client =
        builder.timeout(TIMEOUT).redirect(reqwest::redirect::Policy::none()).build().map_err(unreachable)?;
    let mut endpoint = url.clone();
    // The URL parser has already found a host: `http` suits it as well as `ws`.
    let _ = endpoint.set_scheme(if tls { "https" } else { "http" });
    endpoint.set_path("/v1/auth/challenge");
    endpoint.set_query(None);
    let request = client.post(endpoint).header("content-type", "application/json").body(body);
    let mut response = request.send().await.map_err(unreachable)?;
    if !response.status().is_success() {
        let what =
            format!("{place} does not prove its key ({}); pass --node-key", response.status().as_u16());
        return Err(Failure::new(Exit::Identity, what));
    }
    let mut bytes = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(unreachable)? {
        bytes.extend_from_slice(&piece);
        if bytes.len() > MAX_PROOF {
            break;
        }
    }
    let proof = serde_json::from_slice::<Proof>(&bytes).ok();
    proof.and_then(|proof| proof.verify(&challenge)).ok_or_else(|| {
        let what = format!("{place} did not prove that it holds its key; pass --node-key if you know it");
        Failure::new(Exit::Identity, what)
    })
}

#[cfg(test)]
mod tests;
