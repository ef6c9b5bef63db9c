//! `fabstir doctor`: the way to a node, step by step. The first step that fails says what is wrong and what to do.

mod report;

use std::time::{Duration, Instant};

use fabstir_client::{
    Error, Event, Op, Session,
    probe::{self, Upgraded},
};
use fabstir_protocol::v2::{Advertisement, AdvertisementError, CertificateError, Shape};
use serde_json::{Value, json};
use tokio::time::timeout;
use url::Url;
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _};

use crate::{
    args::{Connection, Doctor},
    connect::{self, Prepared},
    delegate::unix_now,
    failure::{Exit, Failure},
    identity, keys,
};
use report::{Finding, Report, ms};

/// How long a step may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long an answer of a few tokens may take: others may be asked first.
const ANSWER: Duration = Duration::from_secs(120);

pub(crate) async fn run(doctor: Doctor) -> Result<Exit, Failure> {
    if doctor.connection.how.protocol != 2 {
        return Err(Failure::new(Exit::Usage, "the doctor knows version 2 alone: leave --protocol out"));
    }
    let mut report = Report::new(doctor.json);
    let checked = async {
        let greeting = way(&doctor.connection, &mut report).await?;
        who(&doctor.connection, &greeting, &mut report).await?;
        let session = session(&doctor.connection, &mut report).await?;
        let talked = talk(&session, &mut report).await;
        session.close().await;
        talked?;
        let proxy = local_proxy(doctor.proxy).await;
        report.step("proxy", proxy)
    };
    tokio::select! {
        checked = checked => checked.map(|()| Exit::Ok),
        _ = tokio::signal::ctrl_c() => Ok(Exit::Interrupted),
    }
}

async fn within<T>(limit: Duration, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    timeout(limit, work).await.unwrap_or(Err(Error::Silent(limit)))
}

/// From the address to the node's first frame.
async fn way(connection: &Connection, report: &mut Report) -> Result<String, Failure> {
    let url = probe::url(connection.node.as_str());
    let url = report.take("url", url.map_err(Failure::from), |url| Finding::plain(url.as_str()))?;
    let begun = Instant::now();
    let stream = within(PATIENCE, probe::tcp(&url)).await.map_err(Failure::from);
    let stream = report.take("tcp", stream, |stream| {
        let peer = stream.peer_addr().map_or_else(|_| String::new(), |peer| peer.to_string());
        Finding::timed(format!("connected to {peer}"), begun, json!({"peer": peer}))
    })?;
    let roots = connect::roots(&connection.how)?;
    let begun = Instant::now();
    let upgraded = within(PATIENCE, Upgraded::over(stream, &url, &roots)).await;
    if url.scheme() == "wss" {
        match &upgraded {
            Err(error @ (Error::Tls(_) | Error::Silent(_))) => {
                report.step("tls", Err(error.clone().into()))?
            }
            Err(_) => report.step("tls", Ok(Finding::plain("its certificate is believed")))?,
            Ok(upgraded) => report.step("tls", Ok(agreed(upgraded)))?,
        }
    }
    let upgraded = report.take("upgrade", upgraded.map_err(|error| no_node(&url, &error)), |_| {
        Finding::timed("a WebSocket".to_owned(), begun, json!({}))
    })?;
    within(PATIENCE, upgraded.first_frame()).await.map_err(|error| {
        report.failed("advertisement", &error.to_string());
        no_node(&url, &error)
    })
}

/// What the two sides of TLS have agreed on.
fn agreed(upgraded: &Upgraded) -> Finding {
    let believed = "its certificate is believed";
    let Some(tls) = upgraded.tls() else { return Finding::plain(believed) };
    let not_after = tls.certificate.as_deref().and_then(not_after);
    let days = not_after.map(|end| end.saturating_sub(unix_now()) / (24 * 60 * 60));
    let ends = days.map_or_else(String::new, |days| format!(" and good for {days} days more"));
    let figures = json!({"version": tls.version, "group": tls.group, "not_after": not_after});
    Finding::new(format!("version {}, keys by {}, {believed}{ends}", tls.version, tls.group), figures)
}

/// When a certificate ends, in unix seconds.
fn not_after(certificate: &[u8]) -> Option<u64> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    u64::try_from(certificate.validity().not_after.timestamp()).ok()
}

fn no_node(url: &Url, error: &Error) -> Failure {
    let what = format!(
        "{error}; something listens there that is no node, or not under {}: check that --node ends in /v1/ws{}",
        url.path(),
        if url.scheme() == "ws" { ", and begins with wss:// where the node has TLS" } else { "" }
    );
    Failure::new(Exit::Connect, what)
}

/// What the node says of itself, and whether it is the one that is pinned.
async fn who(connection: &Connection, greeting: &str, report: &mut Report) -> Result<(), Failure> {
    let read = Advertisement::read(greeting).and_then(|shown| {
        let offered = shown.e2ee.iter().any(|version| version == "2");
        if offered && shown.node.is_some() { Ok(shown) } else { Err(AdvertisementError::NoVersion2) }
    });
    let shown = report.take("advertisement", read.map_err(|error| Error::from(error).into()), |shown| {
        let address = shown.node.as_ref().map(|node| node.address.to_checksum()).unwrap_or_default();
        let figures = json!({"versions": shown.e2ee, "address": address});
        Finding::new(format!("speaks versions {}, says it is {address}", shown.e2ee.join(", ")), figures)
    })?;
    let pinned = identity::node_key(connection).await;
    let pinned = pinned.inspect_err(|failure| report.failed("pin", failure.what()))?;
    let verified = shown.verify(pinned.pin.address(), unix_now());
    let other = |error: &AdvertisementError| {
        matches!(error, AdvertisementError::OtherIdentity(_) | AdvertisementError::Moved(_))
    };
    if let Err(error) = verified.as_ref()
        && other(error)
    {
        let failure = pinned.explain(Error::from(*error)).await;
        return report.step("pin", Err(failure));
    }
    report.step("pin", Ok(Finding::plain("it is the node that is pinned")))?;
    let (from, until) = certified(greeting);
    let verified = verified.map_err(|error| match error {
        AdvertisementError::Certificate(CertificateError::Time) => wrong_time(from, until, unix_now()),
        AdvertisementError::Malformed
        | AdvertisementError::NoVersion2
        | AdvertisementError::OtherIdentity(_)
        | AdvertisementError::Moved(_)
        | AdvertisementError::Certificate(_) => Error::from(error).into(),
    });
    report.take("certificate", verified, |node| {
        let left = until.saturating_sub(unix_now()) / 60;
        let figures = json!({"not_before": from, "not_after": until, "now": unix_now(), "min_version": node.min_version});
        Finding::new(format!("good for {left} minutes more, oldest version {}", node.min_version), figures)
    })?;
    Ok(())
}

/// When the channel key's certificate begins and ends, as it says.
fn certified(greeting: &str) -> (u64, u64) {
    let greeting: Value = serde_json::from_str(greeting).unwrap_or_default();
    let at = |name: &str| {
        greeting.pointer(&format!("/node/certificate/{name}")).and_then(Value::as_u64).unwrap_or_default()
    };
    (at("notBefore"), at("notAfter"))
}

fn wrong_time(from: u64, until: u64, now: u64) -> Failure {
    let (minutes, way) =
        if now < from { ((from - now) / 60, "behind") } else { (now.saturating_sub(until) / 60, "ahead") };
    let what = format!(
        "the node's certificate is not of this time: this machine's clock is at least {minutes} minutes {way} of the \
         node's; set the clock that is wrong"
    );
    Failure::new(Exit::Identity, what)
}

/// The handshake, and what the node says once it is done.
async fn session(connection: &Connection, report: &mut Report) -> Result<Session, Failure> {
    let begun = Instant::now();
    let opened = async { Prepared::from(connection).await?.session().await }.await;
    let session = report
        .take("handshake", opened, |_| Finding::timed("the session is open".to_owned(), begun, json!({})))?;
    let welcome = session.welcome();
    let models: Vec<&str> = welcome.models.iter().map(|model| model.id.as_str()).collect();
    let shape = match welcome.shape {
        Shape::Bucket => "bucket",
        Shape::Off => "off",
    };
    let limits = &welcome.limits;
    let words = format!(
        "{}; models {}; {} bytes a request, {} requests at once, shape {shape}",
        welcome.node,
        models.join(", "),
        limits.max_request_bytes,
        limits.max_requests,
    );
    let figures = json!({"node": welcome.node, "models": models, "limits": limits, "shape": shape});
    report.step("welcome", Ok(Finding::new(words, figures)))?;
    Ok(session)
}

/// An answer, and one more over another connection.
async fn talk(session: &Session, report: &mut Report) -> Result<(), Failure> {
    let said = within(ANSWER, ask(session)).await.map_err(Failure::from);
    report.step("answer", said)?;
    let begun = Instant::now();
    session.lose_connection();
    let resumed = within(ANSWER, models(session)).await.map_err(Failure::from).and_then(|()| {
        if session.connections_replaced() == 0 {
            let what = "the connection was not replaced; this is a defect of this program: please report it";
            return Err(Failure::new(Exit::Broken, what));
        }
        Ok(Finding::timed("a dropped connection is replaced".to_owned(), begun, json!({})))
    });
    report.step("resumption", resumed)
}

async fn ask(session: &Session) -> Result<Finding, Error> {
    let (begun, mut first) = (Instant::now(), None);
    let body = json!({"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8}).to_string();
    let mut answer = session.ask_json(Op::Chat, &body).await?;
    while let Some(event) = answer.next().await? {
        match event {
            Event::Text(_) | Event::Object(_) => drop(first.get_or_insert_with(|| ms(begun))),
            Event::End(end) => {
                let tokens = end.usage.map_or(0, |usage| usage.completion_tokens);
                let first = first.unwrap_or_else(|| ms(begun));
                let words = format!("{tokens} tokens, the first after {first} ms");
                let figures = json!({"tokens": tokens, "first_ms": first, "ms": ms(begun)});
                return Ok(Finding::new(words, figures));
            }
        }
    }
    Err(Error::Truncated)
}

async fn models(session: &Session) -> Result<(), Error> {
    let mut answer = session.ask_json(Op::Models, "{}").await?;
    while answer.next().await?.is_some() {}
    Ok(())
}

/// The proxy of this machine, where it runs.
async fn local_proxy(address: std::net::SocketAddr) -> Result<Finding, Failure> {
    if tokio::net::TcpStream::connect(address).await.is_err() {
        return Ok(Finding::new(format!("none runs at {address}"), json!({"runs": false})));
    }
    let file = keys::config_file("proxy.token")?;
    let token = if file.exists() { Some(keys::read_secret(&file)?) } else { None };
    let begun = Instant::now();
    let client = reqwest::Client::builder().no_proxy().timeout(ANSWER).build();
    let request = client.map(|client| {
        let request = client.get(format!("http://{address}/v1/models"));
        match &token {
            Some(token) => request.bearer_auth(token.trim()),
            None => request,
        }
    });
    let status = match request {
        Ok(request) => request.send().await.map(|response| response.status().as_u16()),
        Err(error) => Err(error),
    };
    match status {
        Ok(200) => Ok(Finding::timed(format!("it answers at {address}"), begun, json!({"runs": true}))),
        Ok(401) => Err(Failure::new(
            Exit::Usage,
            format!(
                "the proxy at {address} does not know the token in {}: it is another user's",
                file.display()
            ),
        )),
        Ok(status) => Err(Failure::new(
            Exit::Connect,
            format!("the proxy at {address} answers {status}: see what it says on its standard error"),
        )),
        Err(_) => Err(Failure::new(
            Exit::Connect,
            format!("what listens at {address} is no proxy of this program: start it with another --listen"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_wrong_is_said_to_be_behind_or_ahead() {
        let (from, until) = (100_000, 190_000);
        assert!(wrong_time(from, until, from - 3600).what().contains("60 minutes behind"));
        assert!(wrong_time(from, until, until + 7200).what().contains("120 minutes ahead"));
        assert_eq!(certified(r#"{"node":{"certificate":{"notBefore":5,"notAfter":7}}}"#), (5, 7));
        assert_eq!(certified("x"), (0, 0));
    }
}
