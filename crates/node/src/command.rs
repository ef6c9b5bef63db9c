//! What the binary does beside serving.

use clap::Subcommand;

mod keys;

pub use keys::KeysCommand;

/// A task that is not serving.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// The identity key: make, import, show, rotate, back up
    #[command(subcommand)]
    Keys(KeysCommand),
    /// The settings
    #[command(subcommand)]
    Config(ConfigCommand),
}

/// What is done with the settings.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum ConfigCommand {
    /// Say whether the node would start with these settings
    Check,
}
