//! Every setting, with its value and where that was said.

use std::{
    any::TypeId,
    ffi::{OsStr, OsString},
    fmt,
    net::SocketAddr,
    num::{NonZeroU32, NonZeroU64, NonZeroUsize},
    path::{Path, PathBuf},
};

use clap::{
    Arg, ArgMatches, Command, CommandFactory as _, FromArgMatches as _,
    error::{ContextKind, ContextValue, ErrorKind},
    parser::ValueSource,
};

use super::{
    Args, ConfigFile, ConfigFileError, EnvFile, HOST_PRIVATE_KEY, InFile, RESTRICTING,
    file::{At, Known, nearest},
};

/// The file that is read where none is named.
pub const DEFAULT_FILE: &str = "fabstir-llm-node.toml";

/// Where settings may come from beside flags, the first that says something winning.
pub struct Layers<'a> {
    environment: &'a dyn Fn(&str) -> Option<String>,
    env_file: Option<&'a EnvFile>,
    default_file: Option<&'a Path>,
}

/// Who said what a setting is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Origin {
    /// The call itself.
    Flag,
    /// The process's environment.
    Environment,
    /// The `.env` file in the working directory.
    EnvFile,
    /// The configuration file.
    File(At),
    /// Nobody.
    Default,
}

/// A setting and its value.
#[derive(Clone, Eq, PartialEq)]
pub struct Setting {
    /// As in the configuration file; in capitals it is the environment's name for it.
    pub name: String,
    /// Where it was typed.
    pub origin: Origin,
    /// What it is.
    pub help: String,
    /// What is to be put for its value, `FILE` say.
    pub placeholder: String,
    /// Whether it takes several values, with commas between.
    pub list: bool,
    /// Whether its value is the path of a file or a folder.
    pub is_path: bool,
    typed: Option<String>,
}

/// A variable that is no setting, and looks like one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Stray {
    /// What is set.
    pub name: String,
    /// What may have been meant.
    pub meant: String,
}

/// What was said in all places, and what it comes to.
#[derive(Debug)]
pub struct Settings {
    /// The values that win.
    pub args: Args,
    /// All of them, in the order of `--help`.
    pub all: Vec<Setting>,
    /// The configuration file that was read.
    pub file: Option<PathBuf>,
}

/// Why the settings cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A flag or a value that is none; or `--help`, `--version`.
    #[error(transparent)]
    Usage(#[from] clap::Error),
    /// The configuration file.
    #[error(transparent)]
    File(#[from] ConfigFileError),
}

impl<'a> Layers<'a> {
    /// The environment, and the file that is named there or by a flag.
    pub fn environment(environment: &'a impl Fn(&str) -> Option<String>) -> Self {
        Self { environment, env_file: None, default_file: None }
    }

    /// And what an `.env` file says.
    #[must_use]
    pub fn with_env_file(self, file: &'a EnvFile) -> Self {
        Self { env_file: Some(file), ..self }
    }

    /// And `file`, if it is there and no other is named.
    #[must_use]
    pub fn with_default_file(self, file: &'a Path) -> Self {
        Self { default_file: Some(file), ..self }
    }

    fn get(&self, name: &str, file: Option<&ConfigFile>) -> Option<(String, Origin)> {
        let variable = name.to_uppercase();
        let environment = || Some(((self.environment)(&variable)?, Origin::Environment));
        let env_file = || Some((self.env_file?.get(&variable)?, Origin::EnvFile));
        let in_file =
            || file?.get(name).map(|InFile { value, at }| (value.clone(), Origin::File(at.clone())));
        let (value, origin) = environment().or_else(env_file).or_else(in_file)?;
        // An empty setting is none, but for those that keep people out: there it is a mistake.
        (!value.is_empty() || RESTRICTING.contains(&variable.as_str())).then_some((value, origin))
    }

    /// The configuration file, which a flag may name.
    fn file(&self, flag: Option<PathBuf>, known: &[Known]) -> Result<Option<ConfigFile>, ConfigFileError> {
        let named = match flag {
            Some(path) => Some(path),
            // Empty, it says that there is to be none.
            None => match (self.environment)("CONFIG_FILE").or_else(|| self.env_file?.get("CONFIG_FILE")) {
                Some(path) => Some(PathBuf::from(path)),
                None => self.default_file.filter(|path| path.exists()).map(Path::to_owned),
            },
        };
        let named = named.filter(|path| !path.as_os_str().is_empty());
        named.map(|path| ConfigFile::read(&path, known)).transpose()
    }
}

impl fmt::Debug for Layers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layers").field("default_file", &self.default_file).finish_non_exhaustive()
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("flag"),
            Self::Environment => f.write_str("environment"),
            Self::EnvFile => f.write_str(".env"),
            Self::File(at) => at.fmt(f),
            Self::Default => f.write_str("default"),
        }
    }
}

impl Settings {
    /// Reads flags, and the layers below them where a flag is missing.
    ///
    /// # Errors
    /// [`SettingsError`]
    pub fn read(
        argv: impl IntoIterator<Item = OsString>,
        layers: &Layers<'_>,
    ) -> Result<Self, SettingsError> {
        let argv: Vec<OsString> = argv.into_iter().collect();
        let command = built();
        // With faults, to see what is there; they are told below, where everything is read.
        let typed = Args::command().ignore_errors(true).try_get_matches_from(&argv).ok();
        let is_flag = |arg: &Arg| typed.as_ref().is_some_and(|typed| is_typed(typed, arg));
        let flag = typed.as_ref().and_then(|typed| typed.get_one::<PathBuf>("config_file").cloned());
        let known: Vec<_> =
            settable(&command).map(|arg| Known { name: name(arg), list: is_list(arg) }).collect();
        let file = layers.file(flag, &known)?;
        let below: Vec<Below> = settable(&command)
            .filter(|arg| !is_flag(arg))
            .filter_map(|arg| {
                let (value, origin) = layers.get(&name(arg), file.as_ref())?;
                let flag = arg.get_long().unwrap_or_default();
                Some(Below { id: name(arg), flag: format!("--{flag}={value}").into(), origin })
            })
            .collect();
        let (program, flags) =
            argv.split_first().map_or((OsStr::new("fabstir-llm-node"), &[][..]), |(program, flags)| {
                (program.as_os_str(), flags)
            });
        let from_below = below.iter().map(|below| below.flag.as_os_str());
        let all = [program].into_iter().chain(from_below).chain(flags.iter().map(OsString::as_os_str));
        let matches =
            Args::command().try_get_matches_from(all).map_err(|error| whose_fault(error, program, &below))?;
        let origin = |arg: &Arg| {
            let said_below =
                || below.iter().find(|below| below.id == name(arg)).map(|below| below.origin.clone());
            if is_flag(arg) { Origin::Flag } else { said_below().unwrap_or(Origin::Default) }
        };
        let all = settable(&command).map(|arg| Setting::of(arg, &matches, origin(arg))).collect();
        Ok(Self { args: Args::from_arg_matches(&matches)?, all, file: file.map(|file| file.path) })
    }

    /// Those of `variables` that are no setting and look like one.
    pub fn strays<'a>(&self, variables: impl Iterator<Item = &'a str>) -> Vec<Stray> {
        let names: Vec<String> = self.all.iter().map(|setting| setting.name.to_uppercase()).collect();
        let names = || names.iter().map(String::as_str).chain([HOST_PRIVATE_KEY]);
        let stray = |variable: &str| {
            if names().any(|name| name == variable) {
                return None;
            }
            let meant = nearest(variable, names().filter(|name| is_slip_of(variable, name)))?;
            Some(Stray { name: variable.to_owned(), meant })
        };
        variables.filter_map(stray).collect()
    }
}

/// Whether somebody who typed `variable` may have meant `name`: a few letters are others, or its last word was left off, or
/// the end of that, or another put after it. Nobody misses a name's first letter, and SSL_CERT_FILE is somebody else's.
fn is_slip_of(variable: &str, name: &str) -> bool {
    let letters = name.len().div_euclid(6);
    let few = variable.get(..1) == name.get(..1) && strsim::osa_distance(variable, name) <= letters;
    // TLS_CERT and REQUIRE_ENCRYPT say which setting it is, and so does LISTEN_ADDRESS; MODEL and MAX_TOKENS may be anybody's.
    let is_word = |rest: &str| !rest.contains('_');
    let rest = name.strip_prefix(variable).or_else(|| variable.strip_prefix(name));
    let part = rest.is_some_and(|rest| rest.strip_prefix('_').is_some_and(is_word) || is_word(rest));
    let tells = variable.contains('_') && variable.len() > 6 && name.contains('_');
    name.len() > 6 && (few || (tells && part))
}

impl fmt::Display for Stray {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is set and is no setting: did you mean {}?", self.name, self.meant)
    }
}

impl Setting {
    fn of(arg: &Arg, matches: &ArgMatches, origin: Origin) -> Self {
        let typed = matches.try_get_raw(arg.get_id().as_str()).ok().flatten();
        let typed = typed.map(|values| values.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(","));
        let placeholder = arg.get_value_names().and_then(<[_]>::first).map(ToString::to_string);
        Self {
            typed,
            name: name(arg),
            origin,
            help: arg.get_help().map(ToString::to_string).unwrap_or_default(),
            placeholder: placeholder.unwrap_or_default(),
            list: is_list(arg),
            is_path: arg.get_value_parser().type_id() == TypeId::of::<PathBuf>(),
        }
    }

    /// Its value with what is nobody's business taken out; `None` where it is not set, and what that comes to is found out at
    /// the start.
    pub fn shown(&self) -> Option<String> {
        self.typed.as_deref().map(|value| redacted(&self.name, value))
    }

    /// Its value as it was typed, for the file that it was meant for.
    pub fn expose(&self) -> Option<&str> {
        self.typed.as_deref()
    }
}

impl fmt::Debug for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {:?} ({})", self.name, self.shown(), self.origin)
    }
}

/// What a layer below the flags says, as a flag.
struct Below {
    id: String,
    flag: OsString,
    origin: Origin,
}

fn built() -> Command {
    let mut command = Args::command();
    command.build();
    command
}

/// The arguments that are settings.
fn settable(command: &Command) -> impl Iterator<Item = &Arg> {
    command
        .get_arguments()
        .filter(|arg| arg.get_long().is_some_and(|flag| !matches!(flag, "help" | "version")))
}

/// As in the configuration file.
fn name(arg: &Arg) -> String {
    arg.get_id().as_str().to_owned()
}

fn is_list(arg: &Arg) -> bool {
    arg.get_value_delimiter().is_some()
}

fn is_typed(matches: &ArgMatches, arg: &Arg) -> bool {
    matches.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine)
}

/// What a setting takes, where the fault of its value does not say so: "invalid digit found in string".
fn wanted(error: &clap::Error) -> Option<&'static str> {
    let Some(ContextValue::String(said)) = error.get(ContextKind::InvalidArg) else { return None };
    let command = built();
    let kind = settable(&command).find(|arg| arg.to_string() == *said)?.get_value_parser().type_id();
    let is_one_of = |kinds: &[TypeId]| kinds.iter().any(|one| kind == *one);
    if is_one_of(&[TypeId::of::<NonZeroU32>(), TypeId::of::<NonZeroU64>(), TypeId::of::<NonZeroUsize>()]) {
        Some("a whole number above 0")
    } else if is_one_of(&[
        TypeId::of::<u16>(),
        TypeId::of::<u32>(),
        TypeId::of::<u64>(),
        TypeId::of::<usize>(),
    ]) {
        Some("a whole number")
    } else if is_one_of(&[TypeId::of::<SocketAddr>()]) {
        Some("an IP address and a port, as in 127.0.0.1:8080 or [::1]:8080")
    } else {
        None
    }
}

/// Says of a fault that lies below the flags where: nobody typed `--session-key-ttl-seconds`. And of a value what it should be.
fn whose_fault(mut error: clap::Error, program: &OsStr, below: &[Below]) -> clap::Error {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return error;
    }
    let alone = |below: &Below| {
        let error = Args::command().try_get_matches_from([program, below.flag.as_os_str()]).err()?;
        let text = error.render().to_string();
        let text = text.strip_prefix("error: ").unwrap_or(&text);
        let reason = text.split("\n\nFor more").next().unwrap_or(text).trim_end();
        let wanted = wanted(&error).map(|wanted| format!("; it takes {wanted}")).unwrap_or_default();
        let said = format!("{}, from {}: {reason}{wanted}", below.id.to_uppercase(), below.origin);
        Some(Args::command().error(error.kind(), said))
    };
    if let Some(told) = below.iter().find_map(alone) {
        return told;
    }
    if let Some(wanted) = wanted(&error) {
        let tip = ContextValue::StyledStrs(vec![format!("it takes {wanted}").into()]);
        error.insert(ContextKind::Suggested, tip);
    }
    error
}

/// `value` without what is nobody's business: a command's arguments may hold a token, an address a password.
fn redacted(name: &str, value: &str) -> String {
    match name {
        "host_private_key_command" => "(a command, not shown)".to_owned(),
        "acme_directory_url" => bare_url(value),
        "engine_url" => value.split(',').map(bare_url).collect::<Vec<_>>().join(","),
        "pkcs11_uri" | "previous_pkcs11_uri" => without_pin(value),
        _ => value.to_owned(),
    }
}

/// A URL without user, password and query. What is none is refused at the start, and may hold a password all the same.
fn bare_url(url: &str) -> String {
    let parsed = reqwest::Url::parse(url.trim()).ok().filter(reqwest::Url::has_host);
    // A password may hold a slash that nobody encoded, and then ends in what looks like a path.
    let parsed = parsed.filter(|parsed| !parsed.path().contains('@'));
    let Some(parsed) = parsed else { return "(no URL, not shown)".to_owned() };
    let user = parsed.username().is_empty() && parsed.password().is_none();
    let query = parsed.query().is_none() && parsed.fragment().is_none();
    let port = parsed.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!(
        "{}://{}{}{port}{}{}",
        parsed.scheme(),
        if user { "" } else { "(not shown)@" },
        parsed.host_str().unwrap_or_default(),
        parsed.path().trim_end_matches('/'),
        if query { "" } else { "?(not shown)" },
    )
}

fn without_pin(uri: &str) -> String {
    let attribute = |part: &str| match part.split_once('=') {
        // Names of attributes are in small letters and not encoded: of what breaks that rule, and is refused, nothing is shown.
        Some((name, value)) if name.to_ascii_lowercase().ends_with("pin-value") || name.contains('%') => {
            let end = value.find(['&', ';', '?']).unwrap_or(value.len());
            format!("{name}=(not shown){}", value.get(end..).unwrap_or_default())
        }
        Some(_) | None => part.to_owned(),
    };
    uri.split_inclusive(['&', ';', '?']).map(attribute).collect()
}

#[cfg(test)]
mod tests;
