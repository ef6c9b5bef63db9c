//! Mutual TLS: whose certificates are admitted, by an authority, by their key, or by both.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test is meant to panic"
)]

#[path = "support/pki.rs"]
mod pki;
mod support;

use std::{sync::Arc, time::Duration};

use fabstir_client::{Config, Error, Event, Request, Session, anonymous};
use fabstir_llm_node::tls::Tls;
use pki::{Authority, Files, Shown, get, handshake, is_served};
use rcgen::{CertificateParams, SerialNumber};
use rustls::{
    ClientConfig, HandshakeKind,
    crypto::aws_lc_rs::{default_provider, sign::any_supported_type},
    sign::{CertifiedKey, SingleCertAndKey},
    version::TLS12,
};
use support::{PATIENCE, TestNode, echo, settings};
use tokio::time::timeout;

/// Who is who: an authority of servers and one of clients.
struct World {
    servers: Authority,
    clients: Authority,
    files: Files,
}

impl World {
    fn new() -> Self {
        let (servers, clients) = (Authority::new(), Authority::new());
        let files = Files::of(&servers);
        files.write("clients.pem", &clients.pem());
        Self { servers, clients, files }
    }

    /// A node that asks for what these files say.
    async fn node(&self, asked: &[(&str, &str)], more: &[&str]) -> TestNode {
        let flags = self.files.flags(asked);
        let flags: Vec<&str> = flags.iter().map(String::as_str).chain(more.iter().copied()).collect();
        TestNode::with(echo(), &flags, |config| {
            config.tls.as_mut().unwrap().poll_interval = Duration::from_millis(20);
        })
        .await
    }

    /// Why a node with these files does not start.
    fn refused(&self, asked: &[(&str, &str)]) -> String {
        let flags = self.files.flags(asked);
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        Tls::load(settings(&flags).0.tls.as_ref().unwrap()).unwrap_err().to_string()
    }

    async fn admits(&self, node: &TestNode, shown: &Shown) -> bool {
        is_served(node, self.servers.client_showing(shown)).await
    }

    async fn admits_nameless(&self, node: &TestNode) -> bool {
        is_served(node, self.servers.client()).await
    }

    /// Waits until the node has taken notice of a change.
    async fn admits_soon(&self, node: &TestNode, shown: &Shown, expected: bool) {
        timeout(PATIENCE, async {
            while self.admits(node, shown).await != expected {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("the node takes notice");
    }
}

const CA: (&str, &str) = ("tls-client-ca-file", "clients.pem");
const PINS: (&str, &str) = ("tls-client-pins-file", "pins");
const CRL: (&str, &str) = ("tls-client-crl-file", "revoked.pem");

#[tokio::test]
async fn a_client_needs_a_certificate_of_the_authority() {
    let world = World::new();
    let node = world.node(&[CA], &[]).await;
    assert!(world.admits(&node, &world.clients.sign("alice")).await);
    assert!(!world.admits_nameless(&node).await, "none");
    assert!(!world.admits(&node, &Shown::self_signed("alice")).await, "its own");
    assert!(!world.admits(&node, &world.servers.sign("alice")).await, "another authority's");
    let ended = world.clients.sign_with("alice", |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    });
    assert!(!world.admits(&node, &ended).await, "one that is over");
}

#[tokio::test]
async fn where_certificates_are_optional_a_wrong_one_is_still_turned_away() {
    let world = World::new();
    let node = world.node(&[CA], &["--tls-client-auth=optional"]).await;
    assert!(world.admits_nameless(&node).await);
    assert!(world.admits(&node, &world.clients.sign("alice")).await);
    assert!(!world.admits(&node, &Shown::self_signed("alice")).await);
}

#[tokio::test]
async fn a_revoked_certificate_is_turned_away_from_the_moment_that_its_list_is_there() {
    let world = World::new();
    let numbered = |number: u64| {
        world.clients.sign_with("x", |params| params.serial_number = Some(SerialNumber::from(number)))
    };
    let (alice, mallory) = (numbered(1), numbered(2));
    world.files.write("revoked.pem", &world.clients.revoke(&[]));
    let node = world.node(&[CA, CRL], &[]).await;
    assert!(world.admits(&node, &alice).await && world.admits(&node, &mallory).await);
    world.files.write("revoked.pem", &world.clients.revoke(&[2]));
    world.admits_soon(&node, &mallory, false).await;
    assert!(world.admits(&node, &alice).await);
}

#[tokio::test]
async fn a_pinned_key_is_admitted_whoever_signed_its_certificate_and_no_other_is() {
    let world = World::new();
    let (alice, mallory) = (Shown::self_signed("alice"), Shown::self_signed("alice"));
    world.files.write("pins", &format!("# clients\n{}  # a laptop\n", alice.pin()));
    let node = world.node(&[PINS], &[]).await;
    assert!(world.admits(&node, &alice).await);
    assert!(!world.admits(&node, &mallory).await, "the same name, another key");
    assert!(!world.admits_nameless(&node).await);
    // A renewed certificate of the same key.
    let params = CertificateParams::new(vec!["new".to_owned()]).unwrap();
    let renewed = Shown { certificate: params.self_signed(&alice.key).unwrap(), key: alice.key };
    assert!(world.admits(&node, &renewed).await);
}

#[tokio::test]
async fn where_there_are_pins_and_an_authority_both_must_agree() {
    let world = World::new();
    let (pinned, signed, own) = (world.clients.sign("a"), world.clients.sign("b"), Shown::self_signed("c"));
    world.files.write("pins", &format!("{}\n{}\n", pinned.pin(), own.pin()));
    let node = world.node(&[CA, PINS], &[]).await;
    assert!(world.admits(&node, &pinned).await);
    assert!(!world.admits(&node, &signed).await, "signed, and not pinned");
    assert!(!world.admits(&node, &own).await, "pinned, and not signed");
}

#[tokio::test]
async fn a_pin_that_is_taken_out_admits_no_more_and_a_broken_file_changes_nothing() {
    let world = World::new();
    let (alice, bob) = (Shown::self_signed("alice"), Shown::self_signed("bob"));
    world.files.write("pins", &format!("{}\n{}\n", alice.pin(), bob.pin()));
    let node = world.node(&[PINS], &[]).await;
    let running = handshake(node.address, &Arc::new(world.servers.client_showing(&bob))).await.unwrap();
    world.files.write("pins", &alice.pin());
    world.admits_soon(&node, &bob, false).await;
    assert!(world.admits(&node, &alice).await);
    drop(running);
    // Empty is a file that is being written; with a comment it means what it says.
    world.files.write("pins", "");
    assert!(node.tls.as_ref().unwrap().reload().is_err());
    assert!(world.admits(&node, &alice).await);
    world.files.write("pins", "# nobody\n");
    world.admits_soon(&node, &alice, false).await;
}

/// Somebody who shows a certificate and signs with a key that is not its.
fn thief(world: &World, seen: &Shown) -> ClientConfig {
    let key = Shown::self_signed("thief").key_der();
    let chain = vec![seen.certificate.der().clone()];
    let shown = CertifiedKey::new(chain, any_supported_type(&key).unwrap());
    let resolver = Arc::new(SingleCertAndKey::from(shown));
    world.servers.believing(default_provider()).with_client_cert_resolver(resolver)
}

#[tokio::test]
async fn a_certificate_without_its_key_admits_nobody() {
    let world = World::new();
    let (pinned, signed) = (Shown::self_signed("alice"), world.clients.sign("bob"));
    world.files.write("pins", &pinned.pin());
    let by_pin = world.node(&[PINS], &[]).await;
    let by_authority = world.node(&[CA], &[]).await;
    assert!(!is_served(&by_pin, thief(&world, &pinned)).await);
    assert!(!is_served(&by_authority, thief(&world, &signed)).await);
}

#[tokio::test]
async fn clients_show_their_certificates_in_tls_1_2_too() {
    let world = World::new();
    let pinned = Shown::self_signed("alice");
    world.files.write("pins", &pinned.pin());
    let node = world.node(&[PINS], &["--tls-min-version=1.2"]).await;
    let older = |shown: Option<&Shown>| {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(world.servers.der()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_protocol_versions(&[&TLS12]).unwrap().with_root_certificates(roots);
        match shown {
            None => builder.with_no_client_auth(),
            Some(shown) => {
                let chain = vec![shown.certificate.der().clone()];
                builder.with_client_auth_cert(chain, shown.key_der()).unwrap()
            }
        }
    };
    assert!(is_served(&node, older(Some(&pinned))).await);
    assert!(!is_served(&node, older(Some(&Shown::self_signed("alice")))).await);
    assert!(!is_served(&node, older(None)).await);
}

#[tokio::test]
async fn no_ticket_gets_a_client_past_the_question_for_its_certificate() {
    let world = World::new();
    let node = world.node(&[CA], &["--tls-min-version=1.2"]).await;
    let client = Arc::new(world.servers.client_showing(&world.clients.sign("alice")));
    for _ in 0..2 {
        let mut stream = handshake(node.address, &client).await.unwrap();
        assert_eq!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
        pki::ask(&mut stream, "/health").await.unwrap();
        assert_eq!(stream.get_ref().1.tls13_tickets_received(), 0);
    }
}

#[tokio::test]
async fn our_client_shows_its_certificate_and_is_told_where_it_has_none() {
    let world = World::new();
    let node = world.node(&[CA], &[]).await;
    let url = format!("wss://localhost:{}/v1/ws", node.address.port());
    let connect = async |shown: Option<Shown>| {
        let roots = world.servers.roots();
        let roots = match shown {
            None => roots,
            Some(shown) => {
                let (chain, key) = (shown.certificate.pem(), shown.key.serialize_pem());
                roots.showing(chain.as_bytes(), key.as_bytes()).unwrap()
            }
        };
        Session::connect(Config { roots, ..Config::new(&url, node.key.address(), anonymous()) }).await
    };
    let session = connect(Some(world.clients.sign("alice"))).await.unwrap();
    let mut answer = session.ask(&Request::prompt("hello")).await.unwrap();
    assert!(matches!(answer.next().await.unwrap(), Some(Event::Text(words)) if words.as_str() == "hello"));
    let refused = connect(None).await.map(drop).unwrap_err();
    assert!(matches!(&refused, Error::Tls(words) if words.contains("none was shown")), "{refused}");
    let refused = connect(Some(Shown::self_signed("alice"))).await.map(drop).unwrap_err();
    assert!(matches!(&refused, Error::Tls(words) if words.contains("does not admit")), "{refused}");
}

#[tokio::test]
async fn the_whole_port_asks_for_certificates() {
    let world = World::new();
    let node = world.node(&[CA], &[]).await;
    for path in ["/metrics", "/v1/node", "/"] {
        assert!(get(node.address, world.servers.client(), path).await.is_err(), "{path}");
    }
}

#[test]
fn files_of_clients_that_cannot_be_used_stop_the_start() {
    let world = World::new();
    assert!(world.refused(&[PINS]).contains("cannot be read"));
    world.files.write("pins", "");
    assert!(world.refused(&[PINS]).contains("is empty"));
    world.files.write("pins", "abc");
    assert!(world.refused(&[PINS]).contains("line 1"));
    world.files.write("revoked.pem", "nothing");
    assert!(world.refused(&[CA, CRL]).contains("no whole revocation list"));
    world.files.write("clients.pem", "nothing");
    assert!(world.refused(&[CA]).contains("TLS_CLIENT_CA_FILE holds no whole certificate"));
}
