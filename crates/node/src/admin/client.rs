//! The operator's side: asks a node that runs, and shows what it answers.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use axum::body::{Body, to_bytes};
use directories::BaseDirs;
use hyper::{Request, header::HOST};
use hyper_util::rt::TokioIo;
use tokio::{
    net::UnixStream,
    time::{sleep, timeout},
};

use super::{AdminAnswer, AdminRequest, Status};
use crate::ledger::{Counts, DayOfUsage, SessionLine};

/// Most bytes of an answer.
const MOST_BYTES: usize = 256 << 20;

/// How often it is looked whether a node is gone.
const LOOK: Duration = Duration::from_millis(100);

/// Why the node did not answer.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the message of each says it")]
pub enum AdminError {
    #[error(
        "ADMIN_SOCKET is not set, and there is no /run/fabstir/admin.sock: it names the socket at which the node listens for its operator"
    )]
    NotSet,
    #[error("no node answers at {path}: {cause}")]
    Nobody { path: PathBuf, cause: io::Error },
    #[error("the node broke off: only its own user and root may ask")]
    BrokenOff,
    #[error("the node's answer cannot be read: is it of another version?")]
    Unreadable,
    #[error(
        "the node does not answer in time: is its process stopped, or its machine too busy? It may still do what it was asked"
    )]
    Late,
    #[error("the node refuses: {0}")]
    Refused(String),
    #[error("not everything was read again; what was before goes on:\n{0}")]
    NotReloaded(String),
}

/// How an answer is shown.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Shown {
    /// For people.
    Table,
    /// For programs.
    Json,
    /// For spreadsheets.
    Csv,
}

/// Where `init` has a node listen for its operator, if a socket is there, or may be: of a folder that this user may not
/// enter, asking there says so.
pub fn usual_socket() -> Option<PathBuf> {
    let of_user = BaseDirs::new().and_then(|folders| Some(folders.runtime_dir()?.join("fabstir/admin.sock")));
    of_user
        .into_iter()
        .chain([PathBuf::from("/run/fabstir/admin.sock")])
        .find(|path| path.try_exists().unwrap_or(true))
}

/// Asks the node at `socket`, and says its answer as `shown`.
///
/// # Errors
/// [`AdminError`], which says what to do.
pub async fn ask(socket: Option<&Path>, request: AdminRequest, shown: Shown) -> Result<String, AdminError> {
    let answer = fetch(socket.ok_or(AdminError::NotSet)?, request).await?;
    Ok(match (answer, shown) {
        (AdminAnswer::Refused { message }, _) => return Err(AdminError::Refused(message)),
        (answer, Shown::Json) => serde_json::to_string_pretty(&answer).map_err(|_| AdminError::Unreadable)?,
        (AdminAnswer::Usage(days), Shown::Csv) => lines(&usage_rows(&days), |row| row.join(",")),
        (AdminAnswer::Usage(days), Shown::Table) => table(&usage_rows(&days)),
        (AdminAnswer::Sessions(sessions), _) => table(&session_rows(&sessions)),
        (AdminAnswer::Status(status), _) => table(&status_rows(&status)),
        (AdminAnswer::Metrics(page), _) => page,
        (AdminAnswer::Draining { seconds }, _) => {
            format!("the node drains: running answers have {seconds} seconds to finish")
        }
        (AdminAnswer::Reloaded(all), _) if all.is_empty() => "there is nothing to read again".to_owned(),
        (AdminAnswer::Reloaded(all), _) => {
            let whole = all.iter().all(|one| one.ok);
            let row = |ok: bool| if ok { "read again" } else { "NOT read again" };
            let rows = all.into_iter().map(|one| vec![one.what, row(one.ok).to_owned(), one.message]);
            let told = table(&rows.collect::<Vec<_>>());
            if !whole {
                return Err(AdminError::NotReloaded(told));
            }
            told
        }
    })
}

/// Asks the node at `path`.
///
/// # Errors
/// [`AdminError`], which says what to do.
pub(crate) async fn fetch(path: &Path, request: AdminRequest) -> Result<AdminAnswer, AdminError> {
    timeout(request.patience(), exchange(path, request)).await.map_err(|_| AdminError::Late)?
}

async fn exchange(path: &Path, request: AdminRequest) -> Result<AdminAnswer, AdminError> {
    let nobody = |cause| AdminError::Nobody { path: path.to_owned(), cause };
    let socket = UnixStream::connect(path).await.map_err(nobody)?;
    let broken_off = |_| AdminError::BrokenOff;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.map_err(broken_off)?;
    tokio::spawn(connection);
    let asked = Request::builder()
        .method(request.route().method)
        .uri(request.target())
        .header(HOST, "node")
        .body(Body::empty())
        .map_err(|_| AdminError::Unreadable)?;
    let response = sender.send_request(asked).await.map_err(broken_off)?;
    let bytes =
        to_bytes(Body::new(response.into_body()), MOST_BYTES).await.map_err(|_| AdminError::BrokenOff)?;
    serde_json::from_slice(&bytes).map_err(|_| AdminError::Unreadable)
}

/// Returns once nobody listens at `socket` any more.
pub async fn wait_until_gone(socket: &Path) {
    while UnixStream::connect(socket).await.is_ok() {
        sleep(LOOK).await;
    }
}

fn count_cells(counts: &Counts) -> Vec<String> {
    let Counts { requests, cancelled, prompt_tokens, completion_tokens, reused_tokens } = counts;
    [requests, cancelled, prompt_tokens, completion_tokens, reused_tokens].map(u64::to_string).into()
}

const COUNTS: [&str; 5] = ["requests", "cancelled", "prompt_tokens", "completion_tokens", "reused_tokens"];

fn head(columns: &[&str]) -> Vec<String> {
    columns.iter().map(|&column| column.to_owned()).collect()
}

fn usage_rows(days: &[DayOfUsage]) -> Vec<Vec<String>> {
    let columns = [["day", "client"].as_slice(), COUNTS.as_slice()].concat();
    let mut rows = vec![head(&columns)];
    for DayOfUsage { day, clients } in days {
        for line in clients {
            rows.push([vec![day.clone(), line.client.clone()], count_cells(&line.counts)].concat());
        }
    }
    rows
}

fn session_rows(sessions: &[SessionLine]) -> Vec<Vec<String>> {
    let first = ["session", "version", "state", "age", "idle", "client"];
    let mut rows = vec![head(&[first.as_slice(), COUNTS.as_slice()].concat())];
    for line in sessions {
        let first = [
            line.session_id.clone(),
            line.version.to_string(),
            line.state.clone(),
            format!("{} s", line.age_seconds),
            format!("{} s", line.idle_seconds),
            line.client.clone(),
        ];
        rows.push([first.to_vec(), count_cells(&line.counts)].concat());
    }
    rows
}

fn status_rows(status: &Status) -> Vec<Vec<String>> {
    let rows = [
        ("state", status.state.clone()),
        ("version", status.version.clone()),
        ("pid", status.pid.to_string()),
        ("uptime", format!("{} s", status.uptime_seconds)),
        ("address", status.address.clone().unwrap_or_else(|| "none: plaintext".to_owned())),
        ("models", status.models.join(", ")),
        ("connections", status.connections.to_string()),
        ("sessions", status.sessions.to_string()),
        ("waiting", status.waiting.to_string()),
        ("running", status.running.to_string()),
        ("engine restarts", status.engine_restarts.to_string()),
    ];
    rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect()
}

fn lines(rows: &[Vec<String>], line: impl Fn(&Vec<String>) -> String) -> String {
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Columns side by side. What a client chose as a name is shown without control characters: a terminal obeys them.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{:width$}", harmless(cell)));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    lines(rows, line)
}

/// What somebody else chose as a name, without what a terminal would obey.
pub(crate) fn harmless(cell: &str) -> String {
    cell.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_a_client_chose_gives_the_terminal_no_orders() {
        let rows = [vec!["evil\u{1b}[2J".to_owned(), "x".to_owned()]];
        assert_eq!(table(&rows), "evil\u{fffd}[2J  x");
    }

    #[test]
    fn usage_in_csv_has_a_head_and_a_line_for_each_client_and_day() {
        let counts = Counts { requests: 1, prompt_tokens: 2, completion_tokens: 3, ..Counts::default() };
        let line = crate::ledger::UsageLine { client: "0xab".to_owned(), counts };
        let days = [DayOfUsage { day: "2026-11-25".to_owned(), clients: vec![line] }];
        assert_eq!(
            lines(&usage_rows(&days), |row| row.join(",")),
            "day,client,requests,cancelled,prompt_tokens,completion_tokens,reused_tokens\n2026-11-25,0xab,1,0,2,3,0"
        );
    }
}
