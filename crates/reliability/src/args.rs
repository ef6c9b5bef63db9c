//! What may be asked for.

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, ValueEnum as _};

use crate::rows::Row;

/// Runs the rows of the reliability suite against the node's binary
#[derive(Debug, Parser)]
#[command(version)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Names the rows
    List,
    /// Runs rows, all of them where none is named
    Run(Run),
    /// Writes the page anew from the results that are there
    Report(Report),
}

/// Which rows, and where what comes of them is kept.
#[derive(Debug, clap::Args)]
pub struct Run {
    /// The rows
    #[arg(value_enum)]
    pub(crate) rows: Vec<Row>,
    /// The short form: fewer of everything, and ten times as long for what must not take long
    #[arg(long)]
    pub(crate) short: bool,
    /// The node's binary
    #[arg(long, value_name = "FILE")]
    pub(crate) node: PathBuf,
    /// The GGUF file that is served where words matter; rows that need it are left out without it
    #[arg(long, value_name = "FILE")]
    pub(crate) model: Option<PathBuf>,
    /// A WebSocket server that answers what it is told, behind the node's own upgrade
    #[arg(long, value_name = "FILE")]
    pub(crate) echo_server: Option<PathBuf>,
    /// The conformance runner (kosoku)
    #[arg(long, value_name = "FILE")]
    pub(crate) conformance: Option<PathBuf>,
    /// Runs rows again although this commit has a result of them
    #[arg(long)]
    pub(crate) fresh: bool,
    /// Where results and page are
    #[command(flatten)]
    pub(crate) report: Report,
}

/// Where results are kept, and the page that is written from them.
#[derive(Debug, clap::Args)]
pub struct Report {
    /// The results
    #[arg(long, value_name = "FILE")]
    pub(crate) results: PathBuf,
    /// The page
    #[arg(long, value_name = "FILE")]
    pub(crate) page: Option<PathBuf>,
}

#[expect(clippy::print_stdout, reason = "the list is what was asked for")]
pub(crate) fn list() -> anyhow::Result<ExitCode> {
    for row in Row::value_variants() {
        println!("{:<14} {}", row.name(), row.what());
    }
    Ok(ExitCode::SUCCESS)
}
