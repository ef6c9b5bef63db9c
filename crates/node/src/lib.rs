//! The node: language-model answers over end-to-end encrypted WebSocket sessions.
//!
//! Read it in the order of the data: [`server`] accepts sockets, [`tls`] ends TLS on them, [`connection`] runs one socket to its end,
//! [`crypto`] holds keys and sessions, [`answer`] turns a request into sealed chunks, [`channel`]
//! does all of that for version 2; [`ledger`] keeps account of it, [`admin`] is the operator's way in. The bytes on the wire
//! are `fabstir_protocol`'s business, tokens are `fabstir_engine`'s.

pub mod access;
pub mod admin;
pub mod answer;
pub mod aside;
mod audit;
pub mod channel;
pub mod command;
pub mod config;
pub mod connection;
pub mod conversation;
pub mod crypto;
pub mod engine;
pub mod http;
pub mod ledger;
pub mod limits;
pub mod listener;
pub mod logging;
pub mod metrics;
pub mod model;
pub mod node;
mod patient;
pub mod peer;
mod pieces;
mod process;
pub mod proxy_protocol;
mod regular;
pub mod reload;
pub mod server;
pub mod systemd;
pub mod tls;
pub mod traces;
#[doc(hidden)] // for examples/echo_ws.rs, which is held to the suites of others
pub mod websocket;
