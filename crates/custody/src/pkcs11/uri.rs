//! Which key of which token: RFC 7512's URIs.

use std::{fmt, path::PathBuf, str::FromStr};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// What stands in a value as it is (RFC 7512, section 2.3), as far as it is needed.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Which key of which token, and by which module it is reached. Holds no PIN.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Pkcs11Uri {
    /// The shared library of the token's maker.
    pub module: Option<PathBuf>,
    /// The number of its slot.
    pub slot: Option<u64>,
    /// The label of the token.
    pub token: Option<String>,
    /// Its serial number.
    pub serial: Option<String>,
    /// The label of the key.
    pub object: Option<String>,
    /// The id of the key.
    pub id: Option<Vec<u8>>,
    /// A file with the PIN.
    pub pin_file: Option<PathBuf>,
}

/// Why a text is not a URI that is understood.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidUri {
    /// Another scheme.
    #[error("it does not begin with pkcs11:")]
    Scheme,
    /// A part without a value, or with one that cannot be read.
    #[error("its part {0:?} cannot be read")]
    Part(String),
    /// A part that narrows what is meant, and is not known here: to leave it out could choose another key.
    #[error("its part {0:?} is not supported")]
    Unsupported(String),
    /// A secret in a place that is shown.
    #[error(
        "it holds a PIN, which would be seen by others: put it into a file and name that with pin-source=file:..."
    )]
    PinValue,
}

impl FromStr for Pkcs11Uri {
    type Err = InvalidUri;

    fn from_str(text: &str) -> Result<Self, InvalidUri> {
        let rest = text.trim().strip_prefix("pkcs11:").ok_or(InvalidUri::Scheme)?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut uri = Self::default();
        for part in path.split(';').filter(|part| !part.is_empty()) {
            uri.take_path(part)?;
        }
        for part in query.split('&').filter(|part| !part.is_empty()) {
            uri.take_query(part)?;
        }
        Ok(uri)
    }
}

impl Pkcs11Uri {
    fn take_path(&mut self, part: &str) -> Result<(), InvalidUri> {
        let (name, value) = split(part)?;
        let text = || text(name, value);
        match name {
            "token" => self.token = Some(text()?),
            "serial" => self.serial = Some(text()?),
            "object" => self.object = Some(text()?),
            "id" => self.id = Some(percent_decode_str(value).collect()),
            "slot-id" => {
                self.slot = Some(text()?.parse().map_err(|_| InvalidUri::Part(name.to_owned()))?);
            }
            // What is looked for is a private key in any case.
            "type" if value == "private" => {}
            "type" => return Err(InvalidUri::Part(name.to_owned())),
            _ => return Err(InvalidUri::Unsupported(name.to_owned())),
        }
        Ok(())
    }

    fn take_query(&mut self, part: &str) -> Result<(), InvalidUri> {
        let (name, value) = split(part)?;
        match name {
            "module-path" => self.module = Some(text(name, value)?.into()),
            "pin-source" => {
                let source = text(name, value)?;
                let path = source.strip_prefix("file://").or_else(|| source.strip_prefix("file:"));
                self.pin_file = Some(path.unwrap_or(&source).into());
            }
            "pin-value" => return Err(InvalidUri::PinValue),
            _ => return Err(InvalidUri::Unsupported(name.to_owned())),
        }
        Ok(())
    }
}

/// A part's name and value; of a part that cannot be read the name alone is told, lest it be a PIN.
fn split(part: &str) -> Result<(&str, &str), InvalidUri> {
    let name = || part.split(['=', ' ']).next().unwrap_or_default().to_owned();
    part.split_once('=').filter(|(_, value)| !value.is_empty()).ok_or_else(|| InvalidUri::Part(name()))
}

fn text(name: &str, value: &str) -> Result<String, InvalidUri> {
    let decoded = percent_decode_str(value).decode_utf8();
    decoded.map(Into::into).map_err(|_| InvalidUri::Part(name.to_owned()))
}

impl fmt::Display for Pkcs11Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("pkcs11:")?;
        let text = |value: &Option<String>| {
            value.as_ref().map(|value| utf8_percent_encode(value, ENCODED).to_string())
        };
        let id = self.id.as_ref().map(|id| id.iter().map(|byte| format!("%{byte:02x}")).collect::<String>());
        let parts = [
            ("token", text(&self.token)),
            ("serial", text(&self.serial)),
            ("slot-id", self.slot.map(|slot| slot.to_string())),
            ("object", text(&self.object)),
            ("id", id),
        ];
        let written = parts.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", value?)));
        f.write_str(&written.collect::<Vec<_>>().join(";"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_names_module_token_key_and_the_file_of_its_pin() {
        let text = "pkcs11:token=my%20token;object=node;id=%01%ff;type=private;slot-id=7\
                    ?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/run/pin";
        let uri: Pkcs11Uri = text.parse().unwrap();
        let expected = Pkcs11Uri {
            module: Some("/usr/lib/softhsm/libsofthsm2.so".into()),
            slot: Some(7),
            token: Some("my token".into()),
            serial: None,
            object: Some("node".into()),
            id: Some(vec![1, 255]),
            pin_file: Some("/run/pin".into()),
        };
        assert_eq!(uri, expected);
        assert_eq!(uri.to_string(), "pkcs11:token=my%20token;slot-id=7;object=node;id=%01%ff");
        let again: Pkcs11Uri = uri.to_string().parse().unwrap();
        assert_eq!(again, Pkcs11Uri { module: None, pin_file: None, ..uri });
    }

    #[test]
    fn what_is_not_understood_is_refused_and_a_pin_is_never_told() {
        let refused = |text: &str| text.parse::<Pkcs11Uri>().unwrap_err();
        assert_eq!(refused("http://x"), InvalidUri::Scheme);
        assert_eq!(refused("pkcs11:token=a?pin-value=1234"), InvalidUri::PinValue);
        assert_eq!(refused("pkcs11:manufacturer=x"), InvalidUri::Unsupported("manufacturer".into()));
        for text in
            ["pkcs11:token", "pkcs11:token=", "pkcs11:slot-id=x", "pkcs11:object=%ff", "pkcs11:type=public"]
        {
            assert!(matches!(refused(text), InvalidUri::Part(_)), "{text}");
        }
        assert!(!refused("pkcs11:a?pin-value 1234").to_string().contains("1234"));
    }
}
