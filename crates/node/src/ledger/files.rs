//! The usage on disk: a file for each day, to which lines are only ever added.
//!
//! A line says what was used since the line before it. So a process that still drains and the one that follows it may
//! write to the same file, and their lines add up. A line ends with the moment at which it was written and an end of
//! line: what is cut off before that, by a crash or a full disk, is not counted.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use jiff::{Timestamp, civil::Date};

use super::{Counts, usage::Lines};
use crate::regular;

/// The first line of each file.
const HEAD: &str = "client,requests,cancelled,prompt_tokens,completion_tokens,reused_tokens,written";

/// A folder of usage.
#[derive(Debug)]
pub(super) struct Files(PathBuf);

impl Files {
    /// The folder `dir`, made where there is none, for this user alone.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let files = Self(dir.to_owned());
        files.make()?;
        Ok(files)
    }

    fn make(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.0)
    }

    fn path(&self, day: Date) -> PathBuf {
        self.0.join(format!("usage-{day}.csv"))
    }

    /// Every line that was written for `first` and the days after it.
    pub(super) fn read(&self, first: Date) -> io::Result<Vec<(Date, String, Counts)>> {
        let mut lines = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            let name = entry?.file_name();
            let Some(day) = name.to_str().and_then(day_of).filter(|day| *day >= first) else { continue };
            let path = self.path(day);
            let named =
                |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
            let mut bytes = Vec::new();
            regular::open(&path).and_then(|mut file| file.read_to_end(&mut bytes)).map_err(named)?;
            let text = String::from_utf8_lossy(&bytes).into_owned();
            // Without its end of line a line came back to whoever wrote it.
            let ended = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
            let before = lines.len();
            lines.extend(ended.filter_map(parse).map(|(client, counts)| (day, client, counts)));
            let counted = lines.len().saturating_sub(before);
            let uncounted = text.lines().filter(|line| *line != HEAD).count().saturating_sub(counted);
            if uncounted > 0 {
                tracing::warn!(file = %path.display(), uncounted, "lines of usage that are not whole do not count");
            }
        }
        Ok(lines)
    }

    /// Adds lines. What could not be written comes back: those lines that are on disk whole are not among it.
    pub(super) fn append(&self, day: Date, lines: Lines) -> (Lines, io::Result<()>) {
        // Somebody may have taken the folder away meanwhile.
        let mut file = match self.make().and_then(|()| open(&self.path(day))) {
            Ok(file) => file,
            Err(error) => return (lines, Err(error)),
        };
        let written = Timestamp::try_from(SystemTime::now()).unwrap_or(Timestamp::UNIX_EPOCH);
        let mut left = Lines::new();
        let mut result = Ok(());
        for (client, counts) in lines {
            if result.is_ok() {
                result = write_line(&mut file, &line(&client, &counts, written));
            }
            if result.is_err() {
                left.insert(client, counts);
            }
        }
        let synced = file.sync_data();
        (left, result.and(synced))
    }
}

/// What ends a line that was cut off: with it no line is whole, not even one that lacked its end of line alone.
const CUT_OFF: &[u8] = b",cut off\n";

/// Opens a day's file to add to it. A last line that was cut off is ended as such, so that the next one begins anew.
fn open(path: &Path) -> io::Result<File> {
    let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    let length = file.seek(SeekFrom::End(0))?;
    if length == 0 {
        writeln!(file, "{HEAD}")?;
        return Ok(file);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    if last != *b"\n" {
        file.write_all(CUT_OFF)?;
    }
    Ok(file)
}

/// One call for one line: lines of two processes do not mix.
fn write_line(file: &mut File, line: &str) -> io::Result<()> {
    match file.write(line.as_bytes()) {
        Ok(written) if written == line.len() => Ok(()),
        Ok(_) => Err(io::ErrorKind::StorageFull.into()),
        Err(error) => Err(error),
    }
}

fn day_of(name: &str) -> Option<Date> {
    name.strip_prefix("usage-")?.strip_suffix(".csv")?.parse().ok()
}

fn line(client: &str, counts: &Counts, written: Timestamp) -> String {
    let Counts { requests, cancelled, prompt_tokens, completion_tokens, reused_tokens } = counts;
    format!(
        "{client},{requests},{cancelled},{prompt_tokens},{completion_tokens},{reused_tokens},{written:.0}\n"
    )
}

/// What a line says; `None` for the head, and for what was cut off.
fn parse(line: &str) -> Option<(String, Counts)> {
    let mut fields = line.split(',');
    let client = fields.next().filter(|client| !client.is_empty())?.to_owned();
    let mut number = || fields.next()?.parse::<u64>().ok();
    let counts = Counts {
        requests: number()?,
        cancelled: number()?,
        prompt_tokens: number()?,
        completion_tokens: number()?,
        reused_tokens: number()?,
    };
    let whole = fields.next()?.parse::<Timestamp>().is_ok() && fields.next().is_none();
    whole.then_some((client, counts))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(requests: u64) -> Counts {
        Counts { requests, cancelled: 1, prompt_tokens: 20, completion_tokens: 30, reused_tokens: 4 }
    }

    fn lines(requests: u64) -> Lines {
        [("0xabc".to_owned(), counts(requests))].into()
    }

    fn day() -> Date {
        "2026-11-25".parse().unwrap()
    }

    fn sum(files: &Files) -> u64 {
        files.read(day()).unwrap().iter().map(|(_, _, counts)| counts.requests).sum()
    }

    #[test]
    fn lines_of_two_processes_add_up() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (Files::open(dir.path()).unwrap(), Files::open(dir.path()).unwrap());
        assert!(one.append(day(), lines(1)).1.is_ok());
        assert!(other.append(day(), lines(10)).1.is_ok());
        assert!(one.append(day(), lines(100)).1.is_ok());
        assert_eq!(sum(&one), 111);
        assert_eq!(one.read(day()).unwrap()[0], (day(), "0xabc".to_owned(), counts(1)));
        assert!(one.read("2026-11-26".parse().unwrap()).unwrap().is_empty());
    }

    #[test]
    fn a_folder_that_was_taken_away_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::open(&dir.path().join("usage")).unwrap();
        fs::remove_dir(&files.0).unwrap();
        assert!(files.append(day(), lines(3)).1.is_ok());
        assert_eq!(sum(&files), 3);
        assert_eq!(fs::metadata(&files.0).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_line_that_was_cut_off_is_not_counted_and_spoils_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::open(dir.path()).unwrap();
        assert!(files.append(day(), lines(1)).1.is_ok());
        let path = files.path(day());
        let whole = fs::read_to_string(&path).unwrap();
        let last = whole.lines().last().unwrap();
        for cut in 0..=last.len() {
            fs::write(&path, format!("{whole}{}", &last[..cut])).unwrap();
            assert_eq!(sum(&files), 1, "before the next line, cut after {cut} bytes");
            assert!(files.append(day(), lines(10)).1.is_ok());
            assert_eq!(sum(&files), 11, "cut after {cut} bytes");
        }
    }

    #[test]
    fn what_cannot_be_written_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::open(dir.path()).unwrap();
        fs::create_dir(files.path(day())).unwrap();
        let (left, result) = files.append(day(), lines(3));
        assert!(result.is_err() && left == lines(3));
    }

    #[test]
    fn nobody_else_may_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("usage");
        let files = Files::open(&dir).unwrap();
        assert!(files.append(day(), lines(1)).1.is_ok());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&dir), mode(&files.path(day()))), (0o700, 0o600));
    }
}
