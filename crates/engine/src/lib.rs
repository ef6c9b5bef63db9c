//! Tokens from text.
//!
//! An [`Engine`] takes a [`Request`] and answers with a [`Generation`], a bounded stream of
//! [`Output`]s that ends with exactly one [`Output::Finished`] or [`Output::Failed`]. It knows no
//! session, no key and no socket. Three facts hold for every engine:
//!
//! * [`Engine::submit`] never blocks: it queues the request or refuses it at once;
//! * dropping a [`Generation`] cancels its work at the next decode step;
//! * a reader that does not read holds up only its own generation.

use std::{fmt, path::PathBuf, time::Duration};

use tokio::sync::mpsc;
use zeroize::Zeroize;
