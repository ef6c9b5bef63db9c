//! `fabstir inspect`: what an outsider sees of a session.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, BufRead as _, BufReader, Write},
    path::Path,
};

use fabstir_protocol::v2::Kind;
use serde_json::Value;

use crate::{
    capture::{Dir, Line},
    failure::{Exit, Failure},
};

/// A record of version 2, whatever it says.
const RECORD: &str = "record";
/// Bytes that sealing adds: the tag of Poly1305.
const TAG: usize = 16;

pub(crate) fn run(path: &Path) -> Result<Exit, Failure> {
    let file = File::open(path).map_err(|error| Failure::file(path, error))?;
    let mut rows = Vec::new();
    for (text, number) in BufReader::new(file).lines().zip(1..) {
        let text = text.map_err(|error| Failure::file(path, error))?;
        let line = serde_json::from_str(&text).map_err(|_| {
            Failure::file(path, format_args!("line {number} is not of a capture; make one with --capture"))
        })?;
        rows.push(Row::of(&line));
    }
    if rows.is_empty() {
        return Err(Failure::file(path, "there is no frame in it; make a capture with --capture"));
    }
    let mut out = io::stdout().lock();
    table(&mut out, &rows)?;
    if rows.iter().any(|row| row.kind == RECORD || row.kind == "m1") {
        paragraph_v2(&mut out, &rows)?;
    } else {
        paragraph(&mut out, &rows)?;
    }
    out.flush()?;
    Ok(Exit::Ok)
}

/// What one frame shows to whoever carries it.
#[derive(Debug)]
struct Row {
    at_ms: u64,
    dir: Dir,
    kind: String,
    wire: usize,
    ciphertext: Option<usize>,
    aad: Option<String>,
    tokens: Option<u64>,
    session_id: Option<String>,
    /// Other things in the clear, by name.
    address: Option<String>,
    usage: Option<String>,
}

impl Row {
    fn of(line: &Line) -> Self {
        if let Some(hex) = &line.bytes {
            return Self::of_binary(line, &const_hex::decode(hex).unwrap_or_default());
        }
        let text = line.frame.as_deref().unwrap_or_default();
        let wire = text.len();
        let frame: Value = serde_json::from_str(text).unwrap_or_default();
        let text = |value: Option<&Value>| value.and_then(Value::as_str).map(cell);
        let payload = frame.get("payload");
        let of_payload = |name| payload.and_then(|payload| payload.get(name));
        let aad = of_payload("aadHex").and_then(Value::as_str);
        let aad = aad.and_then(|hex| const_hex::decode(hex).ok());
        let ciphertext = of_payload("ciphertextHex").and_then(Value::as_str);
        Self {
            at_ms: line.at_ms,
            dir: line.dir,
            kind: text(frame.get("type")).unwrap_or_else(|| "?".to_owned()),
            wire,
            ciphertext: ciphertext.map(|hex| hex.strip_prefix("0x").unwrap_or(hex).len() / 2),
            aad: aad.map(|aad| cell(&String::from_utf8_lossy(&aad))),
            tokens: frame.get("tokens").or_else(|| frame.get("tokens_used")).and_then(Value::as_u64),
            session_id: text(frame.get("session_id")),
            address: text(frame.get("client_address")),
            usage: frame.get("usage").map(|usage| shown(&usage.to_string(), 600)),
        }
    }

    /// A frame of version 2: its kind is all that is in the clear, and of handshakes a little more.
    fn of_binary(line: &Line, frame: &[u8]) -> Self {
        let kind = Kind::split(frame).ok().map(|(kind, _)| kind);
        let name = match kind {
            Some(Kind::M1) => "m1",
            Some(Kind::M2) => "m2",
            Some(Kind::M3) => "m3",
            Some(Kind::R1) => "r1",
            Some(Kind::R2) => "r2",
            Some(Kind::Record) => RECORD,
            None => "?",
        };
        Self {
            at_ms: line.at_ms,
            dir: line.dir,
            kind: name.to_owned(),
            wire: frame.len(),
            ciphertext: (kind == Some(Kind::Record)).then(|| frame.len().saturating_sub(2)),
            aad: None,
            tokens: None,
            session_id: None,
            address: None,
            usage: None,
        }
    }

    fn plaintext(&self) -> Option<usize> {
        self.ciphertext.and_then(|bytes| bytes.checked_sub(TAG))
    }

    fn cells(&self) -> [String; 9] {
        let dir = match self.dir {
            Dir::Sent => "sent",
            Dir::Received => "received",
        };
        [
            format!("{}", self.at_ms),
            dir.to_owned(),
            self.kind.clone(),
            self.wire.to_string(),
            optional(self.ciphertext),
            optional(self.plaintext()),
            match self.aad.as_deref() {
                Some("") => "(empty)".to_owned(),
                Some(aad) => aad.to_owned(),
                None => "-".to_owned(),
            },
            optional(self.tokens),
            self.session_id.clone().unwrap_or_else(|| "-".to_owned()),
        ]
    }
}

/// A capture may come from anybody: no escape sequences, no lines of its own, no endless cells.
fn cell(text: &str) -> String {
    shown(text, 160)
}

fn shown(text: &str, most: usize) -> String {
    text.chars().filter(|c| !c.is_control()).take(most).collect()
}

fn optional(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

const HEAD: [&str; 9] = ["ms", "direction", "type", "wire", "sealed", "words", "aad", "tokens", "session_id"];

fn table(out: &mut impl Write, rows: &[Row]) -> io::Result<()> {
    let head = HEAD.map(str::to_owned);
    let lines: Vec<_> = std::iter::once(head).chain(rows.iter().map(Row::cells)).collect();
    let mut widths = [0; HEAD.len()];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = cell.chars().count().max(*width);
        }
    }
    for line in &lines {
        let mut text = String::new();
        for (cell, width) in line.iter().zip(widths) {
            text.push_str(&format!("{cell:width$}  "));
        }
        writeln!(out, "{}", text.trim_end())?;
    }
    writeln!(
        out,
        "\nwire: bytes of the frame; sealed: bytes of its ciphertext; words: bytes of what is sealed"
    )
}

fn paragraph_v2(out: &mut impl Write, rows: &[Row]) -> io::Result<()> {
    let records = |dir: Dir| rows.iter().filter(move |row| row.kind == RECORD && row.dir == dir);
    let bytes = |dir: Dir| records(dir).map(|row| row.wire).sum::<usize>();
    let sizes: BTreeSet<_> = rows.iter().filter_map(Row::plaintext).map(|size| size.to_string()).collect();
    let (first, last) = (rows.first().map_or(0, |row| row.at_ms), rows.last().map_or(0, |row| row.at_ms));
    writeln!(out, "\nWhoever carries these frames sees:")?;
    writeln!(
        out,
        "  records      {} of {} bytes to the node, {} of {} bytes from it; which of them ask, answer, cancel or end \
         does not show",
        records(Dir::Sent).count(),
        bytes(Dir::Sent),
        records(Dir::Received).count(),
        bytes(Dir::Received),
    )?;
    writeln!(out, "  sizes        padded to {} bytes", list(sizes.iter().map(String::as_str)))?;
    writeln!(out, "  timing       when each frame went, {} ms in all", last.saturating_sub(first))?;
    writeln!(out, "  the node     its address and channel key, which it tells everybody")?;
    writeln!(
        out,
        "\nIt does not see what is asked or answered, who asks, the model and settings asked for, token counts, or how \
         an answer ended. It cannot change, repeat, reorder or leave out a record unnoticed: a session that it cuts is \
         cut, and its client knows. Who steals every key later, the wallet's too, still opens nothing of this recording. \
         How many bytes went and when can still give something away: padding hides lengths, not the length of an answer."
    )
}

fn paragraph(out: &mut impl Write, rows: &[Row]) -> io::Result<()> {
    let words =
        |kind: &str| -> usize { rows.iter().filter(|row| row.kind == kind).filter_map(Row::plaintext).sum() };
    let count = |kind: &str| rows.iter().filter(|row| row.kind == kind).count();
    let addresses: BTreeSet<_> = rows.iter().filter_map(|row| row.address.as_deref()).collect();
    let sessions: BTreeSet<_> = rows.iter().filter_map(|row| row.session_id.as_deref()).collect();
    let usages: Vec<_> = rows.iter().filter_map(|row| row.usage.as_deref()).collect();
    writeln!(out, "\nWhoever carries these frames sees:")?;
    writeln!(
        out,
        "  lengths      {} bytes asked in {} messages, {} bytes answered in {} pieces",
        words("encrypted_message"),
        count("encrypted_message"),
        words("encrypted_chunk"),
        count("encrypted_chunk"),
    )?;
    let (first, last) = (rows.first().map_or(0, |row| row.at_ms), rows.last().map_or(0, |row| row.at_ms));
    writeln!(out, "  timing       when each frame went, {} ms in all", last.saturating_sub(first))?;
    let tokens: u64 =
        rows.iter().filter(|row| row.kind == "encrypted_chunk").filter_map(|row| row.tokens).sum();
    writeln!(out, "  token counts of each piece, {tokens} in all")?;
    writeln!(out, "  session id   {}", list(sessions))?;
    writeln!(out, "  who asks     {}, in the ack and in the init's signature", list(addresses))?;
    writeln!(out, "  usage        {}", list(usages))?;
    writeln!(out, "  the end      how each answer ended, as stream_end says it")?;
    writeln!(
        out,
        "Lengths and timing can give away much of a text that is guessed at. None of these is bound to what is \
         sealed: whoever carries the frames can change them, and can leave out the last pieces of an answer."
    )?;
    writeln!(
        out,
        "\nIt does not see what is asked or answered, the system's words, the model and settings asked for, or \
         the session's key. It cannot change, repeat or reorder pieces of an answer unnoticed. Version 1 has no \
         forward secrecy: who steals the node's key later opens what was recorded."
    )
}

fn list<'a>(items: impl IntoIterator<Item = &'a str>) -> String {
    let items: Vec<_> = items.into_iter().collect();
    if items.is_empty() { "none here".to_owned() } else { items.join(", ") }
}
