//! Shell completions and man pages of a binary, made of the very commands that it parses: they cannot say anything else.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use clap::{Args, Command, Subcommand};
use clap_complete::Shell;
use clap_mangen::Man;

/// What a binary says of itself to a shell and to `man`.
#[derive(Clone, Debug, Subcommand)]
pub enum ManualCommand {
    /// Print what a shell completes this program's commands by: to be sourced, or put where the shell looks for them
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
                clap_complete::generate(shell, &mut command, name.clone(), &mut text);
                let text = String::from_utf8(text).map_err(io::Error::other)?;
                // For bash a name with hyphens is written in two ways, which do not meet below the first level.
                let text = text.replace(&name.replace('-', "__subcmd__"), &name.replace('-', "__"));
                out.write_all(text.as_bytes())
            }
            Self::Manual(ManualFolder { folder }) => {
                fs::create_dir_all(&folder).map_err(|error| in_folder(&folder, &error))?;
                let program = format!("{} {}", command.get_name(), command.get_version().unwrap_or_default());
                command.build();
                write_pages(command, &program, &folder, out)
            }
        }
    }
}

/// The page of `command` and those of the commands in it; `program` is what each belongs to.
fn write_pages(command: Command, program: &str, folder: &Path, out: &mut impl Write) -> io::Result<()> {
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set() && inner.get_name() != "help")
    {
        write_pages(inner.clone(), program, folder, out)?;
    }
    let page = Man::new(command).source(program).generate_to(folder);
    writeln!(out, "{}", page.map_err(|error| in_folder(folder, &error))?.display())
}

/// A fault of the folder's, and not of what is said of the pages.
fn in_folder(folder: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", folder.display()))
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

    /// bash itself completes a command below the first level, of a program with hyphens in its name.
    #[test]
    fn bash_completes_what_is_below_the_first_level() {
        let rotate = Command::new("rotate").arg(Arg::new("to").long("to").help("Where"));
        let keys = Command::new("keys").subcommand(rotate);
        let mut out = Vec::new();
        let completions = ManualCommand::Completions { shell: Shell::Bash };
        completions.run(Command::new("a-thing-of-mine").subcommand(keys), &mut out).unwrap();
        let script = format!(
            "{}\nCOMP_WORDS=(a-thing-of-mine keys ro) COMP_CWORD=2\n\
             of=$(complete -p a-thing-of-mine | sed 's/.*-F \\([^ ]*\\) .*/\\1/'); $of a-thing-of-mine ro keys\n\
             echo \"${{COMPREPLY[@]}}\"",
            String::from_utf8(out).unwrap()
        );
        let said = std::process::Command::new("bash").args(["--norc", "-c", &script]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), "rotate", "{said:?}");
    }

    #[test]
    fn a_folder_that_cannot_be_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        let manual = ManualCommand::Manual(ManualFolder { folder: dir.path().join("file/man1") });
        let refused = manual.run(command(), &mut Vec::new()).unwrap_err().to_string();
        assert!(refused.contains("file/man1: "), "{refused}");
    }

    #[test]
    fn there_is_a_page_for_each_command() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("new/man1");
        let mut out = Vec::new();
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("other.1"), "somebody else's").unwrap();
        let manual = ManualCommand::Manual(ManualFolder { folder: folder.clone() });
        manual.run(command(), &mut out).unwrap();
        let said = String::from_utf8(out).unwrap();
        assert!(said.contains("thing.1\n") && said.contains("thing-keys.1\n"), "{said}");
        assert!(!said.contains("other.1"), "{said}");
        let page = fs::read_to_string(folder.join("thing-keys.1")).unwrap();
        assert!(page.contains("The key") && page.contains("Where"), "{page}");
        assert!(page.contains("\"thing 1.2.3\""), "each says what it is of: {page}");
    }
}
