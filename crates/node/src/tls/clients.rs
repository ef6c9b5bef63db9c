//! Which client certificates are admitted: by an authority, by their key, or by both.

use std::{collections::HashSet, path::Path, sync::Arc};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime, pem::PemObject as _},
    server::{
        ParsedCertificate, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use sha2::{Digest as _, Sha256};

use super::{TlsError, certificate::certificates, files, provider};
use crate::config::{ClientAuth, ClientCertificates};

/// SHA-256 of a key, as its SubjectPublicKeyInfo is written in a certificate.
type Pin = [u8; 32];

/// What judges the certificates of clients. That a client has the key of what it shows is proved by its signature in every
/// case.
#[derive(Debug)]
struct Clients {
    chain: Option<Arc<dyn ClientCertVerifier>>,
    pins: Option<HashSet<Pin>>,
    auth: ClientAuth,
    algorithms: WebPkiSupportedAlgorithms,
}

/// What `clients` asks for.
pub(super) fn verifier(clients: &ClientCertificates) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let chain = clients.ca.as_deref().map(|ca| chain(ca, clients.crl.as_deref())).transpose()?;
    let pins = clients.pins.as_deref().map(|path| pins(&files::read("TLS_CLIENT_PINS_FILE", path)?));
    Ok(Arc::new(Clients {
        chain,
        pins: pins.transpose()?,
        auth: clients.auth,
        algorithms: provider().signature_verification_algorithms,
    }))
}

fn chain(ca: &Path, crl: Option<&Path>) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("TLS_CLIENT_CA_FILE", ca)? {
        roots.add(certificate)?;
    }
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
    if let Some(path) = crl {
        let pem = files::read("TLS_CLIENT_CRL_FILE", path)?;
        let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&pem).collect();
        let lists = lists.ok().filter(|lists| !lists.is_empty()).ok_or(TlsError::NoRevocations)?;
        builder = builder.with_crls(lists);
    }
    Ok(builder.build()?)
}

/// One pin a line; `#` begins a comment.
fn pins(text: &[u8]) -> Result<HashSet<Pin>, TlsError> {
    let text = String::from_utf8_lossy(text);
    if text.trim().is_empty() {
        // Cut off by whoever writes it at this moment, most likely: nobody is turned away for that.
        return Err(TlsError::NoPins);
    }
    let mut pins = HashSet::new();
    for (at, line) in text.lines().enumerate() {
        let words = line.split_once('#').map_or(line, |(words, _)| words).trim();
        if words.is_empty() {
            continue;
        }
        let mut pin = [0; 32];
        let line = at.saturating_add(1);
        const_hex::decode_to_slice(words, &mut pin).map_err(|_| TlsError::Pin { line })?;
        pins.insert(pin);
    }
    Ok(pins)
}

impl Clients {
    fn is_pinned(&self, certificate: &CertificateDer<'_>) -> Result<bool, Error> {
        let Some(pins) = &self.pins else { return Ok(true) };
        let key = ParsedCertificate::try_from(certificate)?.subject_public_key_info();
        Ok(pins.contains::<Pin>(&Sha256::digest(&key).into()))
    }
}

impl ClientCertVerifier for Clients {
    fn client_auth_mandatory(&self) -> bool {
        self.auth == ClientAuth::Required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.as_ref().map_or(&[], |chain| chain.root_hint_subjects())
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if let Some(chain) = &self.chain {
            chain.verify_client_cert(end_entity, intermediates, now)?;
        }
        // Without an authority the key is all there is to know: who signed the certificate, and until when, is the client's
        // own word.
        if self.is_pinned(end_entity)? {
            Ok(ClientCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_lines_of_hex_with_comments() {
        let (one, other) = ("ab".repeat(32), "CD".repeat(32));
        let text = format!("# clients\n{one}\n\n  {other}  # a laptop\n{one}\n");
        assert_eq!(pins(text.as_bytes()).unwrap(), [[0xab; 32], [0xcd; 32]].into());
        assert!(pins(b"# nobody for now\n").unwrap().is_empty());
    }

    #[test]
    fn a_pin_that_is_cut_off_is_named_by_its_line() {
        let text = format!("{}\n{}", "ab".repeat(32), "ab".repeat(31));
        assert!(pins(text.as_bytes()).unwrap_err().to_string().contains("line 2"));
        for nothing in ["", " \n"] {
            assert!(matches!(pins(nothing.as_bytes()), Err(TlsError::NoPins)));
        }
    }
}
