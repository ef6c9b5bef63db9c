//! TLS on LISTEN_ADDR: what the node shows, what it asks its clients for, and how both are renewed while it runs.
//!
//! [`Tls::load`] reads and checks everything, [`Tls::reload`] does so again and puts what it read in the place of what
//! was there, whole or not at all. A connection keeps what it began with.

#[cfg(feature = "acme")]
mod acme;
#[cfg(not(feature = "acme"))]
#[path = "tls/no_acme.rs"]
mod acme;
mod certificate;
mod clients;
mod ends;
mod error;
mod files;
mod handshake;

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use rustls::{
    ServerConfig, SupportedProtocolVersion,
    crypto::{
        CryptoProvider,
        aws_lc_rs::{Ticketer, default_provider},
    },
    server::{NoServerSessionStorage, ResolvesServerCert},
    sign::SingleCertAndKey,
    version::{TLS12, TLS13},
};
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at};
use tokio_util::sync::CancellationToken;

pub use error::TlsError;

use crate::{
    config::{CertificateSource, TlsConfig, TlsVersion},
    reload::Reloads,
};
use acme::Acme;
use certificate::Validity;
use ends::{Ends, Worry};
use files::Stamps;

/// How often an operator is reminded of a certificate that is about to end.
const REMINDER: Duration = Duration::from_secs(24 * 60 * 60);

/// What is spoken inside.
const HTTP: &[u8] = b"http/1.1";

/// TLS as the node speaks it at this moment.
pub struct Tls {
    config: TlsConfig,
    serving: RwLock<Arc<ServerConfig>>,
    /// When the certificate ends.
    ends: Arc<Ends>,
    /// The files as they were when they were last read; held while they are read, so that one reload follows another.
    seen: Mutex<Stamps>,
    /// Who gets the certificate, where no file has it.
    acme: Option<Acme>,
}

impl Tls {
    /// Reads and checks everything that `config` names.
    ///
    /// # Errors
    /// [`TlsError`]: a file that cannot be used.
    pub fn load(config: &TlsConfig) -> Result<Arc<Self>, TlsError> {
        let seen = Stamps::of(config);
        let ends = Arc::new(Ends::default());
        let acme = match &config.certificate {
            CertificateSource::Files { .. } => None,
            CertificateSource::Acme(settings) => Some(Acme::prepare(settings, &ends)?),
        };
        let (server, validity) = read(config, acme.as_ref())?;
        if let Some(validity) = validity {
            ends.tell(validity);
        }
        let serving = RwLock::new(Arc::new(server));
        Ok(Arc::new(Self { config: config.clone(), serving, ends, seen: Mutex::new(seen), acme }))
    }

    /// Reads the files again and serves what they hold to who connects from now on. Where something about them is wrong,
    /// nothing changes.
    ///
    /// # Errors
    /// [`TlsError`]: what was wrong.
    pub fn reload(&self) -> Result<(), TlsError> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        *seen = Stamps::of(&self.config);
        self.read_again()
    }

    /// The same, where the files are not those that were read last. Says in the log what came of it.
    fn reload_changed(&self) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Stamps::of(&self.config);
        if *seen == now {
            return;
        }
        *seen = now;
        told(self.read_again());
    }

    /// Why the certificate is not valid, or will not be for long.
    pub(crate) fn worry(&self) -> Option<Worry> {
        self.ends.worry()
    }

    fn read_again(&self) -> Result<(), TlsError> {
        let (server, validity) = read(&self.config, self.acme.as_ref())?;
        if let Some(validity) = validity {
            self.ends.refuse_worse(validity)?;
            self.ends.tell(validity);
        }
        *self.serving.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(server);
        Ok(())
    }

    /// What a connection that begins now is served by.
    fn serving(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.serving.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reloads what has changed, reminds of an end that is near, and renews by ACME, until `stop`.
    pub(crate) async fn watch(self: Arc<Self>, stop: CancellationToken) {
        tokio::join!(self.watch_files(&stop), async {
            if let Some(acme) = &self.acme {
                acme.renew(stop.clone()).await;
            }
        });
    }

    /// Has its files read again where that is asked for, changed or not.
    pub(crate) fn reload_with(self: &Arc<Self>, reloads: &Reloads) {
        let tls = Arc::downgrade(self);
        reloads.register("TLS files", move || {
            let tls = tls.upgrade().ok_or("the node has stopped")?;
            let reloaded = tls.reload();
            let outcome = reloaded.as_ref().map(|()| "new connections get what they hold".to_owned());
            let outcome = outcome.map_err(ToString::to_string);
            told(reloaded);
            outcome
        });
    }

    async fn watch_files(self: &Arc<Self>, stop: &CancellationToken) {
        let mut looks = interval(self.config.poll_interval);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut reminders = interval_at(Instant::now() + REMINDER, REMINDER);
        loop {
            let tls = Arc::clone(self);
            let reading = tokio::select! {
                () = stop.cancelled() => return,
                _ = looks.tick() => tokio::task::spawn_blocking(move || tls.reload_changed()),
                _ = reminders.tick() => {
                    self.ends.warn();
                    continue;
                }
            };
            let _ = reading.await;
        }
    }
}

fn told(reloaded: Result<(), TlsError>) {
    match reloaded {
        Ok(()) => tracing::info!(
            event = "tls_reload",
            "TLS files were read again: new connections get what they hold"
        ),
        Err(error) => {
            tracing::warn!(event = "tls_reload", %error, "TLS files cannot be used: what was read before goes on");
        }
    }
}

/// Who computes. X25519MLKEM768 comes first among the groups, which a feature of rustls sees to.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(default_provider())
}

/// What the files make of `config`, and when the certificate in them is valid, where there is one.
fn read(config: &TlsConfig, acme: Option<&Acme>) -> Result<(ServerConfig, Option<Validity>), TlsError> {
    let (resolver, validity): (Arc<dyn ResolvesServerCert>, _) = match &config.certificate {
        CertificateSource::Files { chain, key } => {
            let shown = certificate::read(chain, key)?;
            (Arc::new(SingleCertAndKey::from(shown.certified)), Some(shown.validity))
        }
        CertificateSource::Acme(_) => (acme.ok_or(TlsError::NoAcme)?.resolver(), None),
    };
    Ok((server(config, resolver)?, validity))
}

fn server(config: &TlsConfig, resolver: Arc<dyn ResolvesServerCert>) -> Result<ServerConfig, TlsError> {
    let versions: &[&SupportedProtocolVersion] = match config.min_version {
        TlsVersion::V1_3 => &[&TLS13],
        TlsVersion::V1_2 => &[&TLS13, &TLS12],
    };
    let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(versions)?;
    let builder = match &config.clients {
        None => builder.with_no_client_auth(),
        Some(clients) => builder.with_client_cert_verifier(clients::verifier(clients)?),
    };
    let mut server = builder.with_cert_resolver(resolver);
    server.alpn_protocols = vec![HTTP.to_vec()];
    // What is sent early can be sent again by others.
    server.max_early_data_size = 0;
    if config.clients.is_some() {
        // A ticket would admit a client whose certificate has ended or was taken out since.
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(NoServerSessionStorage {});
    } else {
        server.ticketer = Ticketer::new()?;
    }
    Ok(server)
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("config", &self.config).finish_non_exhaustive()
    }
}
