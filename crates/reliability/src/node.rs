//! The node as its operator runs it: a process on a free port of loopback, with a log, and what the kernel says of it.

use std::{
    fs::{self, File},
    io::{Read as _, Seek as _, SeekFrom},
    net::SocketAddr,
    path::Path,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use fabstir_protocol::identity::PublicKey;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    process::{Child, Command},
    time::{sleep, timeout},
};
use tokio_util::task::TaskTracker;

/// How long starting, stopping and answering may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Most of a log that is kept: at its most talkative a node says gigabytes.
const MOST_SAID: usize = 64 << 20;

/// As many sessions in a minute as the memory of inits holds: most rows are not about that limit.
const ROOM: [(&str, &str); 2] = [("INITS_PER_MINUTE", "6000"), ("SESSION_KEY_TTL_SECONDS", "600")];

/// A running node. Killed on drop.
#[derive(Debug)]
pub(crate) struct Node {
    child: Child,
    pid: u32,
    said: Said,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// Its identity.
    pub(crate) key: PublicKey,
    /// Its identity's text.
    pub(crate) secret: String,
    /// Where it runs, with nothing else in it.
    pub(crate) folder: Arc<TempDir>,
}

/// What a process has said.
#[derive(Clone, Debug, Default)]
pub(crate) struct Said {
    text: Arc<Mutex<String>>,
    ears: TaskTracker,
}

impl Said {
    fn lock(&self) -> MutexGuard<'_, String> {
        self.text.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything that a process has said which has ended: what it said last may not have been read yet.
    pub(crate) async fn whole(&self) -> anyhow::Result<String> {
        self.ears.close();
        timeout(PATIENCE, self.ears.wait())
            .await
            .context("somebody still holds what the process spoke into")?;
        Ok(self.text())
    }

    pub(crate) fn text(&self) -> String {
        self.lock().clone()
    }

    pub(crate) fn has(&self, words: &str) -> bool {
        self.lock().contains(words)
    }

    fn listen(&self, stream: impl AsyncRead + Unpin + Send + 'static) {
        let said = self.clone();
        self.ears.spawn(async move {
            let mut lines = BufReader::new(stream).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let mut text = said.lock();
                if text.len() < MOST_SAID {
                    text.push_str(&line);
                    text.push('\n');
                }
            }
        });
    }
}

/// How a node is started.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    pub(crate) settings: Vec<(String, String)>,
    pub(crate) address: String,
    pub(crate) secret: String,
    pub(crate) folder: Arc<TempDir>,
    /// What is put before the binary: `prlimit`, `faketime`.
    pub(crate) wrapper: Vec<String>,
}

impl Launch {
    pub(crate) fn new(settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed)?;
        Ok(Self {
            settings: ROOM
                .iter()
                .chain(settings)
                .map(|(name, value)| ((*name).into(), (*value).into()))
                .collect(),
            address: "127.0.0.1:0".into(),
            secret: const_hex::encode(seed),
            folder: Arc::new(tempfile::tempdir()?),
            wrapper: Vec::new(),
        })
    }

    /// The process, whatever becomes of it.
    pub(crate) fn spawn(&self, binary: &Path) -> anyhow::Result<(Child, Said)> {
        let mut command = match self.wrapper.split_first() {
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(binary);
                command
            }
            None => Command::new(binary),
        };
        let mut child = command
            .env_clear()
            .env("HOST_PRIVATE_KEY", &self.secret)
            .env("LISTEN_ADDR", &self.address)
            .env("XDG_CACHE_HOME", self.folder.path())
            .envs(self.settings.iter().map(|(name, value)| (name, value)))
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{} cannot be started", binary.display()))?;
        let said = Said::default();
        said.listen(child.stdout.take().context("no output")?);
        said.listen(child.stderr.take().context("no output")?);
        Ok((child, said))
    }

    pub(crate) async fn start(self, binary: &Path) -> anyhow::Result<Node> {
        let (mut child, said) = self.spawn(binary)?;
        let start = tokio::time::Instant::now();
        let (key, address) = loop {
            if let Some(found) = introduced(&said.text()) {
                break found;
            }
            if let Some(status) = child.try_wait()? {
                bail!("the node did not start ({status}):\n{}", said.whole().await?);
            }
            ensure!(start.elapsed() < PATIENCE, "the node does not listen:\n{}", said.text());
            sleep(Duration::from_millis(5)).await;
        };
        ensure!(address.ip().is_loopback(), "only loopback is loaded, not {address}");
        let pid = child.id().context("the node has ended")?;
        Ok(Node { child, pid, said, address, key, secret: self.secret, folder: self.folder })
    }
}

/// Who a node says that it is, and where.
fn introduced(log: &str) -> Option<(PublicKey, SocketAddr)> {
    let field = |line: &str, name: &str| -> Option<String> {
        Some(line.split_once(name)?.1.split(' ').next()?.to_owned())
    };
    let key = log.lines().find_map(|line| field(line, "public_key=")?.parse().ok())?;
    let listening = log.lines().find(|line| line.contains(" listening"))?;
    Some((key, field(listening, "address=")?.parse().ok()?))
}

impl Node {
    pub(crate) async fn start(binary: &Path, settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        Launch::new(settings)?.start(binary).await
    }

    pub(crate) fn url(&self) -> String {
        format!("ws://{}/v1/ws", self.address)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn said(&self) -> &Said {
        &self.said
    }

    /// Another node in this one's place: the same key, folder and port.
    pub(crate) fn successor(&self, settings: &[(&str, &str)]) -> anyhow::Result<Launch> {
        Ok(Launch {
            address: self.address.to_string(),
            secret: self.secret.clone(),
            folder: Arc::clone(&self.folder),
            ..Launch::new(settings)?
        })
    }

    pub(crate) async fn signal(&self, name: &str) -> anyhow::Result<()> {
        let sent = Command::new("kill").args([format!("-{name}"), self.pid.to_string()]).status().await?;
        ensure!(sent.success(), "the node took no {name}: it has ended");
        Ok(())
    }

    /// Waits until it has ended; how, and what it said.
    pub(crate) async fn ended(&mut self) -> anyhow::Result<(ExitStatus, String)> {
        let status = timeout(PATIENCE, self.child.wait()).await.context("the node does not end")??;
        Ok((status, self.said.whole().await?))
    }

    /// SIGTERM, and the end; anything but 0 is an error.
    pub(crate) async fn stop(mut self) -> anyhow::Result<String> {
        self.signal("TERM").await?;
        let (status, said) = self.ended().await?;
        ensure!(status.success(), "the node did not stop cleanly ({status}):\n{said}");
        ensure!(!said.contains("panicked"), "the node panicked:\n{said}");
        Ok(said)
    }

    /// Resident memory, in KiB.
    pub(crate) fn resident(&self) -> anyhow::Result<f64> {
        self.status("VmRSS:")
    }

    pub(crate) fn threads(&self) -> anyhow::Result<f64> {
        self.status("Threads:")
    }

    /// How many of its threads are called `name`.
    pub(crate) fn threads_named(&self, name: &str) -> anyhow::Result<usize> {
        let mut count = 0_usize;
        for task in fs::read_dir(format!("/proc/{}/task", self.pid))? {
            // It may have ended meanwhile.
            let comm = fs::read_to_string(task?.path().join("comm")).unwrap_or_default();
            count = count.saturating_add(usize::from(comm.trim_end() == name));
        }
        Ok(count)
    }

    pub(crate) fn descriptors(&self) -> anyhow::Result<f64> {
        let open = fs::read_dir(format!("/proc/{}/fd", self.pid))?.count();
        Ok(crate::statistics::float(open))
    }

    fn status(&self, name: &str) -> anyhow::Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        Ok(line.context("the kernel does not say")?.trim().trim_end_matches("kB").trim().parse()?)
    }

    /// How often each of `needles` stands in the process's writable private memory.
    pub(crate) fn find_in_memory(&self, needles: &[Vec<u8>]) -> anyhow::Result<Vec<usize>> {
        let maps = fs::read_to_string(format!("/proc/{}/maps", self.pid))?;
        let mut memory = File::open(format!("/proc/{}/mem", self.pid))?;
        let mut found = vec![0_usize; needles.len()];
        for (from, to) in maps.lines().filter_map(writable) {
            let mut bytes = vec![0; usize::try_from(to.saturating_sub(from))?];
            memory.seek(SeekFrom::Start(from))?;
            // A mapping may have gone since the list was read.
            if memory.read_exact(&mut bytes).is_ok() {
                for (count, needle) in found.iter_mut().zip(needles) {
                    *count = count.saturating_add(occurrences(&bytes, needle));
                }
            }
        }
        Ok(found)
    }

    /// A metric's value; the sum where it has labels.
    pub(crate) async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        Http::connect(self.address).await?.metric(name).await
    }
}

/// The range of a mapping that is the process's own to write.
fn writable(map: &str) -> Option<(u64, u64)> {
    let mut fields = map.split_whitespace();
    let (from, to) = fields.next()?.split_once('-')?;
    let mode = fields.next()?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    (mode.starts_with("rw") && mode.ends_with('p')).then_some((number(from)?, number(to)?))
}

fn occurrences(bytes: &[u8], needle: &[u8]) -> usize {
    memchr::memmem::find_iter(bytes, needle).count()
}

/// A connection that asks by HTTP, again and again.
#[derive(Debug)]
pub(crate) struct Http {
    socket: BufReader<TcpStream>,
}

impl Http {
    pub(crate) async fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        let socket =
            timeout(PATIENCE, TcpStream::connect(address)).await.context("no connection in time")??;
        socket.set_nodelay(true)?;
        Ok(Self { socket: BufReader::new(socket) })
    }

    /// Status and body of `GET path`.
    pub(crate) async fn get(&mut self, path: &str) -> anyhow::Result<(u16, String)> {
        timeout(PATIENCE, self.ask(path)).await.context("no answer in time")?
    }

    async fn ask(&mut self, path: &str) -> anyhow::Result<(u16, String)> {
        let request = format!("GET {path} HTTP/1.1\r\nhost: node\r\n\r\n");
        self.socket.get_mut().write_all(request.as_bytes()).await?;
        let (mut status, mut length) = (None, None);
        loop {
            let mut line = String::new();
            ensure!(self.socket.read_line(&mut line).await? > 0, "the node closed the connection");
            let line = line.trim_end().to_ascii_lowercase();
            if status.is_none() {
                status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse::<usize>().ok();
            }
            if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length.context("an answer of unknown length")?];
        self.socket.read_exact(&mut body).await?;
        Ok((status.context("no status")?, String::from_utf8(body)?))
    }

    /// A metric's value; the sum where it has labels; 0 where nothing was counted yet.
    pub(crate) async fn metric(&mut self, name: &str) -> anyhow::Result<f64> {
        let (_, page) = self.get("/metrics").await?;
        Ok(read_metric(&page, name))
    }
}

fn read_metric(page: &str, name: &str) -> f64 {
    let of_it = page.lines().filter_map(|line| line.strip_prefix(name)?.split_once(' '));
    of_it
        .filter(|(labels, _)| labels.is_empty() || labels.starts_with('{'))
        .filter_map(|(_, value)| value.parse::<f64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_the_sum_over_its_labels_and_no_others() {
        let page =
            "# HELP a_total x\na_total{result=\"ok\"} 2\na_total{result=\"BAD\"} 3\na_total_more 9\nb 1.5\n";
        assert!((read_metric(page, "a_total") - 5.0).abs() < 1e-9);
        assert!((read_metric(page, "b") - 1.5).abs() < 1e-9);
        assert!(read_metric(page, "c").abs() < 1e-9);
    }

    #[test]
    fn what_is_in_memory_is_counted_wherever_it_begins() {
        assert_eq!(occurrences(b"aaab", b"aab"), 1);
        assert_eq!(occurrences(b"abab", b"ab"), 2);
        assert_eq!(occurrences(b"abab", b"x"), 0);
    }

    #[test]
    fn only_what_a_process_may_write_alone_is_looked_at() {
        assert_eq!(writable("00ff-0100 rw-p 00000000 00:00 0 [heap]"), Some((0xff, 0x100)));
        assert_eq!(writable("00ff-0100 r--p 00000000 00:00 0"), None);
        assert_eq!(writable("00ff-0100 rw-s 00000000 00:00 0"), None);
    }
}
