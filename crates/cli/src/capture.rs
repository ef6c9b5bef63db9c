//! Frames as they are on the wire, one JSON object a line.

use std::{fs::File, io::Write as _, path::Path, time::Instant};

use fabstir_client::{Capture, Direction, Frame};
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, complain};

/// One line of a capture.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Line {
    pub(crate) at_ms: u64,
    pub(crate) dir: Dir,
    /// Of a text frame.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) frame: Option<String>,
    /// Of a binary frame, in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) bytes: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Dir {
    Sent,
    Received,
}

/// What [`fabstir_client::Config::capture`] is to be, writing to `path`.
pub(crate) fn to_file(path: &Path) -> Result<Capture, Failure> {
    let mut file = File::create(path).map_err(|error| Failure::file(path, error))?;
    let start = Instant::now();
    let mut failed = false;
    Ok(Box::new(move |direction, frame| {
        let dir = match direction {
            Direction::Sent => Dir::Sent,
            Direction::Received => Dir::Received,
        };
        let at_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (frame, bytes) = match frame {
            Frame::Text(text) => (Some(text.to_owned()), None),
            Frame::Binary(bytes) => (None, Some(const_hex::encode(bytes))),
        };
        let line = Line { at_ms, dir, frame, bytes };
        // An object of a number and two strings: serde_json has nothing to refuse here.
        let json = serde_json::to_string(&line).unwrap_or_default();
        if let Err(error) = writeln!(file, "{json}")
            && !failed
        {
            failed = true;
            complain(&format!("the capture is not whole: {error}"));
        }
    }))
}
