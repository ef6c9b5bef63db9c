//! The configuration file: settings by their names, in TOML.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use toml::{Value, de::DeTable};

use super::HOST_PRIVATE_KEY;

/// Settings of a file, with where each stands.
#[derive(Clone, Debug)]
pub struct ConfigFile {
    /// The file.
    pub path: PathBuf,
    settings: BTreeMap<String, InFile>,
}

/// One setting of a file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct InFile {
    /// As a flag would say it.
    pub value: String,
    /// Where it stands.
    pub at: At,
}

/// A setting that there is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Known {
    /// As in the file.
    pub(super) name: String,
    /// Whether it takes several values.
    pub(super) list: bool,
}

/// Why a file's settings are not taken. Nothing of what stands in it is repeated but names: it may hold what it should not.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the message of each says it")]
pub enum ConfigFileError {
    #[error("CONFIG_FILE: {path}: {cause}", path = path.display())]
    Unreadable { path: PathBuf, cause: io::Error },
    #[error("{path} can be written by everybody, who could have this user run commands; run: chmod o-w {path}", path = path.display())]
    Writable { path: PathBuf },
    #[error("{at}: this is not TOML: {reason}")]
    Syntax { at: At, reason: String },
    #[error("{at}: there is no setting {name:?}{}", guess.as_deref().map_or_else(
        || "; `fabstir-llm-node config show` lists them".to_owned(),
        |guess| format!(": did you mean {guess}?"),
    ))]
    Unknown { at: At, name: String, guess: Option<String> },
    #[error("{at}: {name} is {found}, and takes {takes}")]
    Kind { at: At, name: String, found: &'static str, takes: &'static str },
    #[error(
        "{at}: a private key does not belong here, where others may read it: put it into a file of mode 0600, and name that \
         in host_private_key_file"
    )]
    Key { at: At },
    #[error("{at}: config_file says where this file is, and cannot stand in it")]
    Itself { at: At },
}

/// A line of a file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct At {
    /// The file.
    pub path: PathBuf,
    /// From 1.
    pub line: usize,
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, line {}", self.path.display(), self.line)
    }
}

const ONE: &str = "a string, a whole number, true or false";
const SEVERAL: &str = "a list of strings, or one string with commas";

impl ConfigFile {
    /// Reads `path`, whose settings must be among `known`.
    ///
    /// # Errors
    /// [`ConfigFileError`]
    pub(super) fn read(path: &Path, known: &[Known]) -> Result<Self, ConfigFileError> {
        let unreadable = |cause| ConfigFileError::Unreadable { path: path.to_owned(), cause };
        let file = fs::File::open(path).map_err(unreadable)?;
        // A device or a pipe is whoever's; a file that others write is theirs.
        let data = file.metadata().map_err(unreadable)?;
        if data.is_file() && data.permissions().mode() & 0o002 != 0 {
            return Err(ConfigFileError::Writable { path: path.to_owned() });
        }
        let text = io::read_to_string(file).map_err(unreadable)?;
        Self::parse(path, &text, known)
    }

    fn parse(path: &Path, text: &str, known: &[Known]) -> Result<Self, ConfigFileError> {
        let at = |offset: usize| At { path: path.to_owned(), line: line(text, offset) };
        let syntax = |error: toml::de::Error| ConfigFileError::Syntax {
            at: at(error.span().map_or(0, |span| span.start)),
            reason: error.message().to_owned(),
        };
        // The one says where, the other what.
        let places = DeTable::parse(text).map_err(syntax)?;
        let values: toml::Table = text.parse().map_err(syntax)?;
        let mut settings = BTreeMap::new();
        for key in places.get_ref().keys() {
            let (name, at) = (key.get_ref().to_string(), at(key.span().start));
            let Some(value) = values.get(&name) else { continue };
            let setting = check_name(&name, &at, known)?;
            let value = as_typed(value, setting).map_err(|found| ConfigFileError::Kind {
                at: at.clone(),
                name: name.clone(),
                found,
                takes: if setting.list { SEVERAL } else { ONE },
            })?;
            settings.insert(name, InFile { value, at });
        }
        Ok(Self { path: path.to_owned(), settings })
    }

    /// The setting `name`, as in the file.
    pub fn get(&self, name: &str) -> Option<&InFile> {
        self.settings.get(name)
    }
}

fn check_name<'a>(name: &str, at: &At, known: &'a [Known]) -> Result<&'a Known, ConfigFileError> {
    match name {
        name if name.eq_ignore_ascii_case(HOST_PRIVATE_KEY) => {
            return Err(ConfigFileError::Key { at: at.clone() });
        }
        "config_file" => return Err(ConfigFileError::Itself { at: at.clone() }),
        _ => {}
    }
    known.iter().find(|known| known.name == name).ok_or_else(|| ConfigFileError::Unknown {
        at: at.clone(),
        name: name.to_owned(),
        guess: nearest(&name.to_lowercase().replace('-', "_"), known.iter().map(|known| &*known.name)),
    })
}

/// What a flag would say, or what kind of thing it is that no flag can.
fn as_typed(value: &Value, setting: &Known) -> Result<String, &'static str> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Integer(number) => Ok(number.to_string()),
        Value::Boolean(yes) => Ok(yes.to_string()),
        Value::Array(_) if !setting.list => Err("a list"),
        Value::Array(items) => {
            let items = items.iter().map(|item| match item {
                Value::String(text) if text.contains(',') => Err("a list with a comma inside of a string"),
                Value::String(text) => Ok(text.as_str()),
                Value::Integer(_)
                | Value::Float(_)
                | Value::Boolean(_)
                | Value::Datetime(_)
                | Value::Array(_)
                | Value::Table(_) => Err("a list of something else than strings"),
            });
            Ok(items.collect::<Result<Vec<_>, _>>()?.join(","))
        }
        Value::Float(_) => Err("a number with a fraction"),
        Value::Datetime(_) => Err("a date"),
        Value::Table(_) => Err("a table"),
    }
}

/// The line of `offset`, from 1.
fn line(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().get(..offset).unwrap_or_default();
    before.iter().filter(|&&byte| byte == b'\n').count().saturating_add(1)
}

/// The name that `written` is most like, if it is like one.
pub(super) fn nearest<'a>(written: &str, names: impl Iterator<Item = &'a str>) -> Option<String> {
    let likeness = |name: &&str| strsim::jaro_winkler(written, name);
    let best = names.max_by(|one, other| likeness(one).total_cmp(&likeness(other)))?;
    (likeness(&best) > 0.85).then(|| best.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ConfigFile, String> {
        let known = [("listen_addr", false), ("max_sessions", false), ("allowed_origins", true)];
        let known = known.map(|(name, list)| Known { name: name.to_owned(), list });
        ConfigFile::parse(Path::new("node.toml"), text, &known).map_err(|error| error.to_string())
    }

    #[test]
    fn what_stands_in_a_file_is_read_as_a_flag_would_say_it() {
        let file = parse(
            "# a node\nlisten_addr = '[::]:1'\nmax_sessions=1_000\n\nallowed_origins = [\n  'a', # one\n  'b',\n]\n",
        );
        let file = file.unwrap();
        let one = |name| file.get(name).map(|InFile { value, at }| (value.as_str(), at.line));
        assert_eq!(one("listen_addr"), Some(("[::]:1", 2)));
        assert_eq!(one("max_sessions"), Some(("1000", 3)));
        assert_eq!(one("allowed_origins"), Some(("a,b", 5)));
        assert_eq!(one("chain_id"), None);
    }

    #[test]
    fn a_name_that_is_none_is_refused_with_what_it_may_have_meant() {
        for written in ["listen_address", "listen-addr", "LISTEN_ADDR", "listenaddr", "lisen_addr"] {
            let refused = parse(&format!("max_sessions = 1\n{written} = ''\n")).unwrap_err();
            assert!(
                refused.starts_with(&format!("node.toml, line 2: there is no setting {written:?}")),
                "{refused}"
            );
            assert!(refused.ends_with("did you mean listen_addr?"), "{refused}");
        }
        assert!(parse("colour = 'red'").unwrap_err().ends_with("`fabstir-llm-node config show` lists them"));
    }

    #[test]
    fn what_no_flag_could_say_is_refused_with_its_line() {
        for (text, words) in [
            ("max_sessions = 1.5", "a number with a fraction"),
            ("max_sessions = [1]", "a list, and takes a string"),
            ("[max_sessions]\na = 1", "a table"),
            ("max_sessions = 2026-11-25", "a date"),
            ("allowed_origins = ['a,b']", "a comma inside"),
            ("allowed_origins = [1]", "something else than strings"),
            ("\n\nmax_sessions = ", "line 3: this is not TOML"),
            ("max_sessions = 1\nmax_sessions = 2", "line 2: this is not TOML"),
            ("config_file = 'x'", "cannot stand in it"),
        ] {
            let refused = parse(text).unwrap_err();
            assert!(refused.contains(words), "{text}: {refused}");
        }
    }

    #[test]
    fn a_key_in_the_file_stops_the_start_and_is_not_repeated() {
        for text in [
            "host_private_key = '0x59c6995e'",
            "HOST_PRIVATE_KEY = '0x59c6995e'",
            "host_private_key = 0x59c6995e99'",
        ] {
            let refused = parse(text).unwrap_err();
            assert!(refused.contains("line 1") && !refused.contains("59c6"), "{refused}");
        }
        assert!(parse("host_private_key = ''").unwrap_err().contains("host_private_key_file"));
    }

    #[test]
    fn a_file_that_everybody_may_write_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.toml");
        assert!(ConfigFile::read(&path, &[]).unwrap_err().to_string().starts_with("CONFIG_FILE: "));
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o646)).unwrap();
        assert!(ConfigFile::read(&path, &[]).unwrap_err().to_string().contains("chmod o-w"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o664)).unwrap();
        assert!(ConfigFile::read(&path, &[]).unwrap().get("x").is_none());
    }
}
