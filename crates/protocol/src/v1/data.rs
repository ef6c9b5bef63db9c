//! The JSON inside a session init: what a client says of its session. The only file that reads it.

use std::fmt;

use serde::{Deserialize, Deserializer, de::Visitor};
use zeroize::Zeroizing;

use crate::{
    error::DecodeError,
    ethereum::Address,
    identity::PublicKey,
    seal::{Plaintext, SessionKey},
    v1::frame::StringOrNumber,
};

/// What the sealed part of a session init says.
#[derive(Debug)]
pub struct SessionData {
    /// The client's name for the job that it pays for.
    pub job_id: Option<StringOrNumber>,
    /// The model that the client has in mind; informative.
    pub model_name: Option<String>,
    /// The key for the session's frames; the agreed key serves where it is absent.
    pub(crate) session_key: Option<SessionKey>,
    /// Who the client says it is.
    pub(crate) recovery_public_key: Option<PublicKey>,
    /// Who the client says it is.
    pub(crate) client_address: Option<Address>,
    /// When the init was made, unix seconds.
    pub timestamp: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireSessionData {
    #[serde(alias = "job_id")]
    job_id: Option<StringOrNumber>,
    #[serde(alias = "model_name")]
    model_name: Option<String>,
    #[serde(alias = "price_per_token")]
    #[expect(
        dead_code,
        reason = "read so that a wrong type is refused; the price is not the node's business"
    )]
    price_per_token: Option<StringOrNumber>,
    #[serde(alias = "session_key")]
    session_key: Option<SecretHex>,
    #[serde(alias = "recovery_public_key")]
    recovery_public_key: Option<String>,
    #[serde(alias = "client_address")]
    client_address: Option<String>,
    timestamp: Option<u64>,
}

impl TryFrom<&Plaintext> for SessionData {
    type Error = DecodeError;

    fn try_from(plaintext: &Plaintext) -> Result<Self, DecodeError> {
        let bytes = plaintext.as_bytes();
        if !bytes.trim_ascii_start().starts_with(b"{") {
            return Err(DecodeError::Payload("session data"));
        }
        let wire: WireSessionData =
            serde_json::from_slice(bytes).map_err(|_| DecodeError::Payload("session data"))?;
        let session_key = match wire.session_key {
            Some(SecretHex(key)) => Some(key.unless_zero().map_err(|_| DecodeError::Payload("sessionKey"))?),
            None => None,
        };
        let recovery_public_key = match wire.recovery_public_key {
            Some(text) => Some(compressed_key(&text).ok_or(DecodeError::Payload("recoveryPublicKey"))?),
            None => None,
        };
        let client_address = match wire.client_address {
            Some(text) => Some(text.parse().map_err(|_| DecodeError::Payload("clientAddress"))?),
            None => None,
        };
        Ok(Self {
            job_id: wire.job_id,
            model_name: wire.model_name,
            session_key,
            recovery_public_key,
            client_address,
            timestamp: wire.timestamp,
        })
    }
}

fn compressed_key(hex: &str) -> Option<PublicKey> {
    let bytes: [u8; PublicKey::LEN] = const_hex::decode(hex).ok()?.try_into().ok()?;
    PublicKey::try_from(bytes.as_slice()).ok()
}

/// A key read from hex without ever being a string of its own.
struct SecretHex(SessionKey);

impl<'de> Deserialize<'de> for SecretHex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct HexVisitor;
        impl Visitor<'_> for HexVisitor {
            type Value = SecretHex;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("64 hex digits")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<SecretHex, E> {
                let digits = text.strip_prefix("0x").unwrap_or(text);
                SessionKey::read(digits).map(SecretHex).ok_or_else(|| E::custom("not 64 hex digits"))
            }
        }
        deserializer.deserialize_str(HexVisitor)
    }
}

impl SessionKey {
    /// The sealed data of a client's init, with this key in it.
    pub(crate) fn session_data_json(
        key: Option<&Self>,
        claim: ClaimFields<'_>,
        timestamp: Option<u64>,
    ) -> Zeroizing<String> {
        let mut json = Zeroizing::new(String::with_capacity(512));
        json.push_str("{\"jobId\":\"0\",\"modelName\":\"default\"");
        if let Some(key) = key {
            json.push_str(",\"sessionKey\":\"");
            json.push_str(&Zeroizing::new(base16ct::lower::encode_string(key.expose())));
            json.push('"');
        }
        match claim {
            ClaimFields::None => {}
            ClaimFields::Address(address) => {
                json.push_str(",\"clientAddress\":\"");
                json.push_str(&address.to_string());
                json.push('"');
            }
            ClaimFields::PublicKey(key) => {
                json.push_str(",\"recoveryPublicKey\":\"");
                json.push_str(&key.to_string());
                json.push('"');
            }
        }
        if let Some(timestamp) = timestamp {
            json.push_str(",\"timestamp\":");
            json.push_str(&timestamp.to_string());
        }
        json.push('}');
        json
    }
}

/// Which claim a client makes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ClaimFields<'a> {
    /// None: the node then knows only an address that nobody vouches for.
    None,
    /// `clientAddress`.
    Address(&'a Address),
    /// `recoveryPublicKey`.
    PublicKey(&'a PublicKey),
}
