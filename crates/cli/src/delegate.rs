//! Keys that speak for a wallet: made here, signed once by the wallet wherever it is.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use fabstir_client::{ClientIdentity, SessionDelegation, SignedDelegation};
use fabstir_custody::{KeySource, Password};
use fabstir_protocol::identity::{PrivateKey, Signature};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    args::Delegate,
    failure::{Exit, Failure},
    keys,
};

/// The delegate's file. Its owner's alone.
#[derive(Deserialize, Serialize)]
struct File {
    /// `0x` and 64 digits.
    delegate_key: Zeroizing<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    wallet: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    not_before: u64,
    not_after: u64,
    /// As it is sent; absent until the wallet has signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    delegation: Option<String>,
}

pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn unusable(path: &Path, why: &str) -> Failure {
    Failure::file(path, format_args!("{why}; make one with: fabstir keys delegate"))
}

/// The identity in a delegate's file.
pub(crate) fn read(path: &Path) -> Result<ClientIdentity, Failure> {
    let (key, file) = load(path)?;
    let bytes = file.delegation.and_then(|hex| const_hex::decode(hex).ok());
    let bytes = bytes.ok_or_else(|| unusable(path, "the wallet has not signed it yet"))?;
    let signed =
        SignedDelegation::try_from(bytes.as_slice()).map_err(|error| unusable(path, &error.to_string()))?;
    if signed.delegation().not_after < unix_now() {
        return Err(unusable(path, "it has expired"));
    }
    Ok(ClientIdentity { key: Arc::new(key), delegation: Some(signed) })
}

fn load(path: &Path) -> Result<(PrivateKey, File), Failure> {
    let text = keys::read_secret(path)?;
    let file: File = serde_json::from_str(&text).map_err(|_| unusable(path, "it is no delegate's file"))?;
    let key = file.delegate_key.parse().map_err(|error| Failure::file(path, error))?;
    Ok((key, file))
}

pub(crate) fn run(command: &Delegate) -> Result<Exit, Failure> {
    let path = match &command.out {
        Some(path) => path.clone(),
        None => keys::config_file("delegate.json")?,
    };
    if let Some(signature) = &command.signature {
        return complete(&path, signature);
    }
    // Never over anything that is there: it may be the wallet itself.
    if path.exists() && !command.force {
        return Err(Failure::file(&path, "there is something already; --force replaces it, and it is lost"));
    }
    let inputs = [&command.wallet, &command.keystore];
    let same = |input: &PathBuf| fs::canonicalize(input).ok() == fs::canonicalize(&path).ok();
    if path.exists() && inputs.into_iter().flatten().any(same) {
        return Err(Failure::file(&path, "that is the wallet: name another file with --out"));
    }
    let wallet = wallet(command)?;
    let address = match (&wallet, command.address) {
        (Some(key), _) => key.address(),
        (None, Some(address)) => address,
        (None, None) => {
            let what = "who delegates? --wallet, --keystore, or --address of a wallet that signs elsewhere";
            return Err(Failure::new(Exit::Usage, what));
        }
    };
    let key = fabstir_client::random_key();
    let now = unix_now();
    let delegation = SessionDelegation {
        wallet: address,
        delegate_key: key.public_key(),
        node: command.node,
        not_before: now,
        not_after: now.saturating_add(command.lifetime),
    };
    let mut file = File {
        delegate_key: key.to_secret_hex(),
        wallet: Some(address.to_checksum()),
        node: command.node.map(|node| node.to_checksum()),
        not_before: delegation.not_before,
        not_after: delegation.not_after,
        delegation: None,
    };
    let mut out = io::stdout().lock();
    if let Some(wallet) = wallet {
        let signed = delegation.sign(&wallet).map_err(refused)?;
        file.delegation = Some(const_hex::encode(signed.to_bytes()));
        write(&path, &file)?;
        writeln!(out, "delegate    {}", path.display())?;
        writeln!(out, "wallet      {}", address.to_checksum())?;
    } else {
        write(&path, &file)?;
        // The typed data alone, for the wallet to take as it is.
        writeln!(out, "{:#}", delegation.typed_data())?;
        let path = path.display();
        crate::failure::complain(&format!(
            "sign this (eth_signTypedData_v4) with {}, then: fabstir keys delegate --out {path} --signature 0x...",
            address.to_checksum()
        ));
    }
    Ok(Exit::Ok)
}

/// Puts a signature that was made elsewhere to what waits for it.
fn complete(path: &Path, signature: &str) -> Result<Exit, Failure> {
    let (key, mut file) = load(path)?;
    let address = |text: &Option<String>| text.as_deref().map(str::parse).transpose();
    let malformed = |_| unusable(path, "it is no delegate's file");
    let wallet = address(&file.wallet).map_err(malformed)?;
    let delegation = SessionDelegation {
        wallet: wallet.ok_or_else(|| unusable(path, "it names no wallet"))?,
        delegate_key: key.public_key(),
        node: address(&file.node).map_err(malformed)?,
        not_before: file.not_before,
        not_after: file.not_after,
    };
    let bytes = const_hex::decode(signature.trim()).ok();
    let signature = bytes.and_then(|bytes| Signature::try_from(bytes.as_slice()).ok());
    let signature =
        signature.ok_or_else(|| Failure::new(Exit::Usage, "the signature is not 65 bytes in hex"))?;
    let signed = delegation.with_signature(signature).map_err(refused)?;
    file.delegation = Some(const_hex::encode(signed.to_bytes()));
    write(path, &file)?;
    writeln!(io::stdout().lock(), "delegate    {}", path.display())?;
    Ok(Exit::Ok)
}

fn refused(error: fabstir_protocol::v2::CertificateError) -> Failure {
    Failure::new(Exit::Usage, error.to_string())
}

fn write(path: &Path, file: &File) -> Result<(), Failure> {
    let mut json = Zeroizing::new(Vec::with_capacity(2048));
    serde_json::to_writer_pretty(&mut *json, file).map_err(|error| Failure::file(path, error))?;
    keys::replace(path, &json)
}

fn wallet(command: &Delegate) -> Result<Option<PrivateKey>, Failure> {
    if let Some(path) = &command.wallet {
        return keys::client_key(Some(path)).map(Some);
    }
    let Some(path) = &command.keystore else { return Ok(None) };
    let password = command.password_file.clone().map_or(Password::Prompt, Password::File);
    let secret = KeySource::Keystore(path.clone(), password).secret()?;
    let key = secret.map(|secret| PrivateKey::try_from(&*secret)).transpose();
    key.map_err(|error| Failure::file(path, error))
}
