//! TLS on LISTEN_ADDR: whose certificate is shown, and whose is asked for.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{ArgAction, Args, ValueEnum};

use super::{ConfigError, contradictions::refuse_both};

/// What was typed of TLS.
#[derive(Args, Clone, Debug)]
pub(super) struct TlsArgs {
    /// PEM file with the certificate chain to show; with it LISTEN_ADDR speaks https:// and wss:// alone
    #[arg(long, value_name = "FILE")]
    tls_cert_file: Option<PathBuf>,
    /// PEM file with its private key, which nobody else may read
    #[arg(long, value_name = "FILE")]
    tls_key_file: Option<PathBuf>,
    /// Oldest TLS that is spoken: 1.3, or 1.2 for clients that have nothing newer
    #[arg(long, value_enum, default_value = "1.3")]
    tls_min_version: TlsVersion,
    /// PEM file with the authorities whose client certificates are admitted (mutual TLS)
    #[arg(long, value_name = "FILE")]
    tls_client_ca_file: Option<PathBuf>,
    /// File with the public keys that client certificates may have: SHA-256 of the SubjectPublicKeyInfo in hex, one a line
    #[arg(long, value_name = "FILE")]
    tls_client_pins_file: Option<PathBuf>,
    /// PEM file with the revocation lists of the authorities in TLS_CLIENT_CA_FILE
    #[arg(long, value_name = "FILE")]
    tls_client_crl_file: Option<PathBuf>,
    /// Whether clients must show a certificate or may; by default they must where TLS_CLIENT_CA_FILE or TLS_CLIENT_PINS_FILE is set
    #[arg(long, value_enum)]
    tls_client_auth: Option<ClientAuth>,
    /// Names to get a certificate for by ACME (TLS-ALPN-01), in a build with acme; comma-separated
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    acme_domains: Vec<String>,
    /// Mail addresses that the ACME server may write to; comma-separated
    #[arg(long, value_delimiter = ',', value_name = "ADDRESSES")]
    acme_contact: Vec<String>,
    /// The ACME server's directory; by default Let's Encrypt's
    #[arg(long, value_name = "URL")]
    acme_directory_url: Option<String>,
    /// PEM file with the authorities that the ACME server is believed by, instead of this machine's
    #[arg(long, value_name = "FILE")]
    acme_directory_ca_file: Option<PathBuf>,
    /// Folder for the ACME account and the certificates, which nobody else may enter; made if it is not there
    #[arg(long, value_name = "FOLDER")]
    acme_cache_dir: Option<PathBuf>,
    /// Serve without TLS on an address that other machines reach, as behind a TLS terminator
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    insecure_bind: bool,
}

/// The oldest TLS that is spoken.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum TlsVersion {
    /// TLS 1.2 too.
    #[value(name = "1.2")]
    V1_2,
    /// TLS 1.3 alone.
    #[value(name = "1.3")]
    V1_3,
}

/// Whether clients show certificates.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum ClientAuth {
    /// Who shows none is turned away.
    Required,
    /// Who shows none is served; who shows a wrong one is turned away.
    Optional,
}

/// TLS as the node speaks it.
#[derive(Clone, Debug)]
pub struct TlsConfig {
    /// What the node shows.
    pub certificate: CertificateSource,
    /// The oldest version.
    pub min_version: TlsVersion,
    /// What clients show; `None` asks for nothing.
    pub clients: Option<ClientCertificates>,
    /// How often the files are looked at.
    pub poll_interval: Duration,
}

/// Where the node's certificate comes from.
#[derive(Clone, Debug)]
pub enum CertificateSource {
    /// Two files in PEM.
    Files {
        /// TLS_CERT_FILE.
        chain: PathBuf,
        /// TLS_KEY_FILE.
        key: PathBuf,
    },
    /// An ACME server.
    Acme(AcmeConfig),
}

/// Which certificate is asked for, and where. Needs a build with `acme`.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each is explained at the flag of the same name")]
pub struct AcmeConfig {
    pub domains: Vec<String>,
    pub contact: Vec<String>,
    /// `None` is Let's Encrypt's.
    pub directory_url: Option<String>,
    pub directory_ca_file: Option<PathBuf>,
    pub cache_dir: PathBuf,
}

/// Which client certificates are admitted. At least one of `ca` and `pins` is there; where both are, both must agree.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each is explained at the flag of the same name")]
pub struct ClientCertificates {
    pub ca: Option<PathBuf>,
    pub pins: Option<PathBuf>,
    pub crl: Option<PathBuf>,
    pub auth: ClientAuth,
}

/// Why settings of TLS mean nothing.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the message of each says it")]
pub enum TlsSettingsError {
    #[error("{setting} needs {needed}, which is not set")]
    Needs { setting: &'static str, needed: &'static str },
    #[error("ACME_DOMAINS needs a build with ACME: cargo build --release --features acme")]
    NoAcme,
    #[error(
        "LISTEN_ADDR {0} can be reached from other machines, and there is no TLS: set TLS_CERT_FILE and TLS_KEY_FILE, or \
         INSECURE_BIND=true where something in front of the node ends TLS"
    )]
    InsecureBind(SocketAddr),
}

/// How often files are looked at: a renewed certificate is a matter of days, and a pin that was taken out of seconds.
const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// Where the node may listen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Exposure {
    /// Where this machine alone reaches it: nobody ends TLS.
    Loopback,
    /// Anywhere: the node ends TLS, or INSECURE_BIND says that something in front of it does.
    Anywhere,
}

impl Exposure {
    /// Whether `address` is such a place.
    pub fn admits(self, address: SocketAddr) -> bool {
        match self {
            Self::Loopback => address.ip().to_canonical().is_loopback(),
            Self::Anywhere => true,
        }
    }
}

impl TlsArgs {
    pub(super) fn exposure(&self) -> Exposure {
        let tls = self.tls_cert_file.is_some() || !self.acme_domains.is_empty();
        if tls || self.insecure_bind { Exposure::Anywhere } else { Exposure::Loopback }
    }

    pub(super) fn resolve(self, listen: SocketAddr) -> Result<Option<TlsConfig>, ConfigError> {
        self.refuse_contradictions()?;
        let (min_version, exposure) = (self.tls_min_version, self.exposure());
        let clients = self.clients();
        let Some(certificate) = self.certificate()? else {
            if !exposure.admits(listen) {
                return Err(TlsSettingsError::InsecureBind(listen).into());
            }
            return Ok(None);
        };
        Ok(Some(TlsConfig { certificate, min_version, clients, poll_interval: POLL_INTERVAL }))
    }

    fn certificate(self) -> Result<Option<CertificateSource>, ConfigError> {
        match (self.tls_cert_file, self.tls_key_file) {
            (Some(chain), Some(key)) => return Ok(Some(CertificateSource::Files { chain, key })),
            (Some(_), None) => return Err(needs("TLS_CERT_FILE", "TLS_KEY_FILE")),
            (None, Some(_)) => return Err(needs("TLS_KEY_FILE", "TLS_CERT_FILE")),
            (None, None) => {}
        }
        if self.acme_domains.is_empty() {
            return Ok(None);
        }
        if !cfg!(feature = "acme") {
            return Err(TlsSettingsError::NoAcme.into());
        }
        let Some(cache_dir) = self.acme_cache_dir else {
            return Err(needs("ACME_DOMAINS", "ACME_CACHE_DIR"));
        };
        let trimmed = |words: Vec<String>| words.iter().map(|word| word.trim().to_owned()).collect();
        Ok(Some(CertificateSource::Acme(AcmeConfig {
            domains: trimmed(self.acme_domains),
            contact: trimmed(self.acme_contact),
            directory_url: self.acme_directory_url,
            directory_ca_file: self.acme_directory_ca_file,
            cache_dir,
        })))
    }

    fn clients(&self) -> Option<ClientCertificates> {
        let (ca, pins) = (self.tls_client_ca_file.clone(), self.tls_client_pins_file.clone());
        (ca.is_some() || pins.is_some()).then(|| ClientCertificates {
            ca,
            pins,
            crl: self.tls_client_crl_file.clone(),
            auth: self.tls_client_auth.unwrap_or(ClientAuth::Required),
        })
    }

    fn refuse_contradictions(&self) -> Result<(), ConfigError> {
        let acme = !self.acme_domains.is_empty();
        let tls = self.tls_cert_file.is_some() || self.tls_key_file.is_some();
        let (ca, pins) = (self.tls_client_ca_file.is_some(), self.tls_client_pins_file.is_some());
        let each = [
            ("TLS_CLIENT_CA_FILE", ca, "TLS_CERT_FILE", tls || acme),
            ("TLS_CLIENT_PINS_FILE", pins, "TLS_CERT_FILE", tls || acme),
            ("TLS_CLIENT_CRL_FILE", self.tls_client_crl_file.is_some(), "TLS_CLIENT_CA_FILE", ca),
            (
                "TLS_CLIENT_AUTH",
                self.tls_client_auth.is_some(),
                "TLS_CLIENT_CA_FILE or TLS_CLIENT_PINS_FILE",
                ca || pins,
            ),
            ("ACME_CONTACT", !self.acme_contact.is_empty(), "ACME_DOMAINS", acme),
            ("ACME_DIRECTORY_URL", self.acme_directory_url.is_some(), "ACME_DOMAINS", acme),
            ("ACME_DIRECTORY_CA_FILE", self.acme_directory_ca_file.is_some(), "ACME_DOMAINS", acme),
            ("ACME_CACHE_DIR", self.acme_cache_dir.is_some(), "ACME_DOMAINS", acme),
        ];
        if let Some((setting, _, needed, _)) = each.into_iter().find(|(_, set, _, there)| *set && !there) {
            return Err(needs(setting, needed));
        }
        refuse_both(&[("TLS_CERT_FILE", tls, "ACME_DOMAINS", acme)])
    }
}

fn needs(setting: &'static str, needed: &'static str) -> ConfigError {
    TlsSettingsError::Needs { setting, needed }.into()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Alone {
        #[command(flatten)]
        tls: TlsArgs,
    }

    fn resolve(listen: &str, flags: &[&str]) -> Result<Option<TlsConfig>, ConfigError> {
        let argv = ["node"].iter().chain(flags);
        Alone::try_parse_from(argv).unwrap().tls.resolve(listen.parse().unwrap())
    }

    fn sentence(listen: &str, flags: &[&str]) -> String {
        resolve(listen, flags).unwrap_err().to_string()
    }

    const HERE: &str = "127.0.0.1:0";
    const FILES: [&str; 2] = ["--tls-cert-file=c", "--tls-key-file=k"];

    #[test]
    fn without_tls_an_address_that_others_reach_stops_the_start() {
        for open in ["0.0.0.0:8080", "192.0.2.1:80", "[::]:8080", "[::ffff:192.0.2.1]:80"] {
            assert!(sentence(open, &[]).contains("INSECURE_BIND=true"), "{open}");
            assert!(resolve(open, &["--insecure-bind"]).unwrap().is_none(), "{open}");
            assert!(resolve(open, &FILES).unwrap().is_some(), "{open}");
        }
        for closed in ["127.0.0.1:8080", "127.3.2.1:80", "[::1]:8080", "[::ffff:127.0.0.1]:80"] {
            assert!(resolve(closed, &[]).unwrap().is_none(), "{closed}");
        }
    }

    #[test]
    fn half_of_a_pair_stops_the_start() {
        assert_eq!(sentence(HERE, &FILES[..1]), "TLS_CERT_FILE needs TLS_KEY_FILE, which is not set");
        assert_eq!(sentence(HERE, &FILES[1..]), "TLS_KEY_FILE needs TLS_CERT_FILE, which is not set");
    }

    #[test]
    fn what_asks_for_clients_certificates_is_never_without_effect() {
        for flag in ["--tls-client-ca-file=a", "--tls-client-pins-file=p"] {
            assert!(sentence(HERE, &[flag]).contains("needs TLS_CERT_FILE"), "{flag}");
            let clients = resolve(HERE, &[&FILES[..], &[flag]].concat()).unwrap().unwrap().clients.unwrap();
            assert_eq!(clients.auth, ClientAuth::Required);
        }
        let with = |more: &[&'static str]| [&FILES[..], more].concat();
        assert!(sentence(HERE, &with(&["--tls-client-auth=required"])).contains("TLS_CLIENT_CA_FILE or"));
        assert!(sentence(HERE, &with(&["--tls-client-crl-file=r"])).contains("needs TLS_CLIENT_CA_FILE"));
        let crl_of_pins = with(&["--tls-client-pins-file=p", "--tls-client-crl-file=r"]);
        assert!(sentence(HERE, &crl_of_pins).contains("needs TLS_CLIENT_CA_FILE"));
    }

    #[test]
    fn acme_and_files_contradict_each_other_and_acme_needs_its_build() {
        let both = [&FILES[..], &["--acme-domains=a.example"]].concat();
        assert!(sentence(HERE, &both).contains("contradict each other"));
        assert!(sentence(HERE, &["--acme-cache-dir=d"]).contains("needs ACME_DOMAINS"));
        let alone = ["--acme-domains=a.example"];
        let expected = if cfg!(feature = "acme") { "needs ACME_CACHE_DIR" } else { "--features acme" };
        assert!(sentence(HERE, &alone).contains(expected));
    }

    #[test]
    fn tls_1_3_alone_is_spoken_unless_1_2_is_asked_for() {
        let version = |flags: &[&str]| resolve(HERE, flags).unwrap().unwrap().min_version;
        assert_eq!(version(&FILES), TlsVersion::V1_3);
        assert_eq!(version(&[&FILES[..], &["--tls-min-version=1.2"]].concat()), TlsVersion::V1_2);
        assert!(Alone::try_parse_from(["node", "--tls-min-version=1.1"]).is_err());
    }
}
