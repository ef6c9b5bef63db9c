//! The node: language-model answers over end-to-end encrypted WebSocket sessions.
//!
//! Read it in the order of the data: [`server`] accepts sockets, [`connection`] runs one socket to its end,
//! [`crypto`] holds keys and sessions, [`answer`] turns a request into sealed chunks, [`channel`]
//! does all of that for version 2. The bytes on the wire
//! are `fabstir_protocol`'s business, tokens are `fabstir_engine`'s.

pub mod answer;
pub mod channel;
pub mod command;
pub mod config;
pub mod connection;
pub mod conversation;
pub mod crypto;
pub mod engine;
pub mod http;
pub mod logging;
pub mod metrics;
pub mod model;
pub mod node;
mod pieces;
pub mod server;
#[doc(hidden)] // for examples/echo_ws.rs, which is held to the suites of others
pub mod websocket;
