//! Shell completions and man pages of a binary, made of the very commands that it parses: they cannot say anything else.

use std::{
    fs,
    io::{self, Write},
    path::PathBuf,
};

use clap::{Args, Command, Subcommand};
use clap_complete::Shell;

/// What a binary says of itself to a shell and to `man`.
#[derive(Clone, Debug, Subcommand)]
pub enum ManualCommand {
    /// Print what a shell completes this program's commands by; its own words say where to put it
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Write the man pages, one for each command, into a folder
    Manual(ManualFolder),
}

/// Where man pages go.
#[derive(Args, Clone, Debug)]
pub struct ManualFolder {
    /// The folder, made where it is not there
    folder: PathBuf,
}

impl ManualCommand {
    /// Does it for `command`. What is said goes to `out`.
    ///
    /// # Errors
    /// Where `out` or the folder cannot be written.
    pub fn run(self, mut command: Command, out: &mut impl Write) -> io::Result<()> {
        match self {
            Self::Completions { shell } => {
                let name = command.get_name().to_owned();
                // In memory first: what is made writes on as if nothing could fail, and panics.
                let mut text = Vec::new();
                clap_complete::generate(shell, &mut command, name, &mut text);
                out.write_all(&text)
            }
            Self::Manual(ManualFolder { folder }) => {
                fs::create_dir_all(&folder)?;
                clap_mangen::generate_to(command, &folder)?;
                let mut pages: Vec<PathBuf> = fs::read_dir(&folder)?
                    .map(|page| page.map(|page| page.path()))
                    .collect::<Result<_, _>>()?;
                pages.sort();
                pages.iter().try_for_each(|page| writeln!(out, "{}", page.display()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::{Arg, ValueEnum as _};

    use super::*;

    fn command() -> Command {
        let inner = Command::new("keys").about("The key").arg(Arg::new("to").long("to").help("Where"));
        Command::new("thing").version("1.2.3").about("Does a thing").subcommand(inner)
    }

    #[test]
    fn each_shell_gets_the_commands_and_their_flags() {
        for shell in Shell::value_variants() {
            let mut out = Vec::new();
            ManualCommand::Completions { shell: *shell }.run(command(), &mut out).unwrap();
            let text = String::from_utf8(out).unwrap();
            assert!(text.contains("thing") && text.contains("keys") && text.contains("to"), "{shell}");
        }
    }

    #[test]
    fn there_is_a_page_for_each_command() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("new/man1");
        let mut out = Vec::new();
        let manual = ManualCommand::Manual(ManualFolder { folder: folder.clone() });
        manual.run(command(), &mut out).unwrap();
        let said = String::from_utf8(out).unwrap();
        assert!(said.contains("thing.1\n") && said.contains("thing-keys.1\n"), "{said}");
        let page = fs::read_to_string(folder.join("thing-keys.1")).unwrap();
        assert!(page.contains("The key") && page.contains("Where"), "{page}");
    }
}
