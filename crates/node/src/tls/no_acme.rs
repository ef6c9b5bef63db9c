//! A build without ACME: there is no such client, and no value of its type.

use std::sync::Arc;

use rustls::{
    ServerConfig,
    server::{ClientHello, ResolvesServerCert},
};
use tokio_util::sync::CancellationToken;

use super::{TlsError, ends::Ends};
use crate::config::AcmeConfig;

/// Nobody.
pub(super) enum Acme {}

impl Acme {
    pub(super) fn prepare(_: &AcmeConfig, _: &Arc<Ends>) -> Result<Self, TlsError> {
        Err(TlsError::NoAcme)
    }

    pub(super) fn resolver(&self) -> Arc<dyn ResolvesServerCert> {
        match *self {}
    }

    pub(super) fn challenge(&self, _: &ClientHello<'_>) -> Option<Arc<ServerConfig>> {
        match *self {}
    }

    pub(super) async fn renew(&self, _: CancellationToken) {
        match *self {}
    }
}
