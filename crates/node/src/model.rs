//! From the name of a model to its file on this machine.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use directories::BaseDirs;
use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};
use tokio::{
    fs,
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
};

/// The one description of the default model and how to fetch it; `make` runs the same file.
const FETCH_DEFAULT: &str = include_str!("../../../scripts/fetch-model.sh");
/// The environment variable that names another place to look `hf:` names up: a mirror, or a test.
pub const HF_ENDPOINT: &str = "HF_ENDPOINT";
/// Where they are looked up otherwise.
const HUB: &str = "https://huggingface.co";

/// Which model to serve.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ModelSource {
    /// The small one that is fetched once.
    Default,
    /// A GGUF file on this machine.
    File(PathBuf),
    /// A file of a repository on the hub.
    Hub {
        /// owner/repo
        repo: String,
        /// The file's path in it.
        file: String,
    },
}

/// Why there is no model file.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the message of each says it")]
pub enum ModelError {
    #[error("{0} is not a file; set MODEL_PATH to a GGUF file, or leave it out for the default model")]
    NotAFile(PathBuf),
    #[error("there is no home directory to keep models in; set MODEL_PATH to a GGUF file")]
    NoCache,
    #[error("the default model could not be fetched: {0}")]
    Fetch(String),
    #[error("{name} could not be fetched: {reason}")]
    Hub { name: String, reason: String },
    #[error("{path}: {cause}")]
    File { path: PathBuf, cause: std::io::Error },
}

impl ModelSource {
    /// Reads MODEL_PATH and MODEL, of which at most one is set.
    ///
    /// # Errors
    /// The text, where it names no model.
    pub fn read(path: Option<PathBuf>, name: Option<&str>) -> Result<Self, String> {
        match (path, name) {
            (Some(path), _) => Ok(Self::File(path)),
            (None, None | Some("default")) => Ok(Self::Default),
            (None, Some(text)) => match text.strip_prefix("hf:") {
                Some(name) => Self::hub(name).ok_or_else(|| text.to_owned()),
                None => Ok(Self::File(PathBuf::from(text))),
            },
        }
    }

    fn hub(name: &str) -> Option<Self> {
        let (owner, rest) = name.split_once('/')?;
        let (repo, file) = rest.split_once('/')?;
        let plain = |part: &str| {
            !part.is_empty() && part != "." && part != ".." && !part.contains(['?', '#', '\\', '%'])
        };
        let whole = plain(owner) && plain(repo) && file.split('/').all(plain) && file.ends_with(".gguf");
        whole.then(|| Self::Hub { repo: format!("{owner}/{repo}"), file: file.to_owned() })
    }

    /// The file, fetched first where it is missing.
    ///
    /// # Errors
    /// [`ModelError`], which says what to do.
    pub async fn locate(&self, hub: Option<&str>) -> Result<PathBuf, ModelError> {
        match self {
            Self::File(path) if path.is_file() => Ok(path.clone()),
            Self::File(path) => Err(ModelError::NotAFile(path.clone())),
            Self::Default => fetch_default(&models_dir()?).await,
            Self::Hub { repo, file } => fetch_from_hub(hub.unwrap_or(HUB), repo, file, &models_dir()?).await,
        }
    }
}

fn models_dir() -> Result<PathBuf, ModelError> {
    Ok(BaseDirs::new().ok_or(ModelError::NoCache)?.cache_dir().join("fabstir").join("models"))
}

async fn fetch_default(models: &Path) -> Result<PathBuf, ModelError> {
    let failed = |reason: &str| ModelError::Fetch(reason.to_owned());
    // The script's progress and complaints go to the terminal as they come; its last line is the path.
    let script = Command::new("sh")
        .args(["-c", FETCH_DEFAULT, "fetch-model"])
        .arg(models)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed(&format!("sh cannot be run: {error}")))?;
    let output = script.wait_with_output().await.map_err(|error| failed(&error.to_string()))?;
    if !output.status.success() {
        return Err(failed("see the lines above"));
    }
    let path = String::from_utf8_lossy(&output.stdout).lines().last().map(PathBuf::from);
    path.filter(|path| path.is_file()).ok_or_else(|| failed("the script named no file"))
}

/// Fetches `file` of `repo`: continues where an earlier fetch broke off, checks the SHA-256 that the hub
/// publishes for it, and moves it into place only when it is whole.
async fn fetch_from_hub(
    endpoint: &str,
    repo: &str,
    file: &str,
    models: &Path,
) -> Result<PathBuf, ModelError> {
    let name = format!("hf:{repo}/{file}");
    let target = models.join("hub").join(repo).join(file);
    if target.is_file() {
        return Ok(target);
    }
    let fetch = HubFetch { url: format!("{endpoint}/{repo}/resolve/main/{file}"), target: target.clone() };
    fetch.run().await.map_err(|reason| ModelError::Hub { name, reason })?;
    Ok(target)
}

struct HubFetch {
    url: String,
    target: PathBuf,
}

impl HubFetch {
    async fn run(&self) -> Result<(), String> {
        let part = self.target.with_extension("gguf.part");
        let folder = self.target.parent().ok_or("the file has no folder")?;
        fs::create_dir_all(folder).await.map_err(|error| format!("{}: {error}", folder.display()))?;
        let expected = self.published_digest().await?;
        self.download(&part).await?;
        let digest = digest_of(&part).await.map_err(|error| format!("{}: {error}", part.display()))?;
        if digest != expected {
            let _ = fs::remove_file(&part).await;
            return Err(format!(
                "its SHA-256 is {digest}, the hub says {expected}; what was fetched is removed"
            ));
        }
        fs::rename(&part, &self.target).await.map_err(|error| format!("{}: {error}", self.target.display()))
    }

    /// The hub answers for a large file with a redirect that carries the file's SHA-256 as its linked etag.
    async fn published_digest(&self) -> Result<String, String> {
        let no_redirect = reqwest::redirect::Policy::none();
        let client =
            reqwest::Client::builder().redirect(no_redirect).build().map_err(|error| error.to_string())?;
        let response =
            client.head(&self.url).send().await.map_err(|error| error.without_url().to_string())?;
        if response.status().is_client_error() || response.status().is_server_error() {
            return Err(format!("the hub answers {}", response.status()));
        }
        let etag = response.headers().get("x-linked-etag").and_then(|value| value.to_str().ok());
        let digest = etag.map(|text| text.trim_start_matches("W/").trim_matches('"').to_lowercase());
        let is_sha256 = |text: &String| text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        digest.filter(is_sha256).ok_or_else(|| "the hub publishes no SHA-256 for it".to_owned())
    }

    async fn download(&self, part: &Path) -> Result<(), String> {
        let have = fs::metadata(part).await.map_or(0, |data| data.len());
        let request = reqwest::Client::new().get(&self.url).header("range", format!("bytes={have}-"));
        let mut response = request.send().await.map_err(|error| error.without_url().to_string())?;
        let append = match response.status().as_u16() {
            206 => true,
            200 => false,
            // Nothing is left to fetch: the digest decides whether that is right.
            416 => return Ok(()),
            status => return Err(format!("the hub answers {status}")),
        };
        let mut file = fs::OpenOptions::new()
            .create(true)
            .write(true)
            .append(append)
            .truncate(!append)
            .open(part)
            .await
            .map_err(|error| format!("{}: {error}", part.display()))?;
        let start = if append { have } else { 0 };
        let progress = ProgressBar::new(response.content_length().unwrap_or(0).saturating_add(start))
            .with_position(start);
        if let Ok(style) =
            ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}")
        {
            progress.set_style(style);
        }
        while let Some(chunk) = response.chunk().await.map_err(|error| error.without_url().to_string())? {
            file.write_all(&chunk).await.map_err(|error| format!("{}: {error}", part.display()))?;
            progress.inc(u64::try_from(chunk.len()).unwrap_or(0));
        }
        progress.finish_and_clear();
        file.sync_all().await.map_err(|error| format!("{}: {error}", part.display()))
    }
}

async fn digest_of(path: &Path) -> std::io::Result<String> {
    let mut file = fs::File::open(path).await?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer).await?;
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
        hash.update(bytes);
    }
    Ok(const_hex::encode(<[u8; 32]>::from(hash.finalize())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_a_path_a_hub_name_or_the_default() {
        let read = |name| ModelSource::read(None, name);
        assert_eq!(read(None), Ok(ModelSource::Default));
        assert_eq!(read(Some("default")), Ok(ModelSource::Default));
        assert_eq!(read(Some("a.gguf")), Ok(ModelSource::File("a.gguf".into())));
        let hub = ModelSource::Hub { repo: "owner/repo".into(), file: "q4/model.gguf".into() };
        assert_eq!(read(Some("hf:owner/repo/q4/model.gguf")), Ok(hub));
        for wrong in [
            "hf:",
            "hf:a",
            "hf:a/b",
            "hf:a/b/c.bin",
            "hf:a/../c.gguf",
            "hf:a/b/../../c.gguf",
            "hf:a/b/c?.gguf",
        ] {
            assert_eq!(read(Some(wrong)), Err(wrong.to_owned()));
        }
    }

    /// A hub of one file, over a real socket: `HEAD` publishes a digest, `GET` honours `Range`.
    async fn hub(file: &'static [u8], digest: String) -> String {
        use axum::{Router, extract::Request, response::IntoResponse as _, routing::get};
        let serve = move |request: Request| {
            let digest = digest.clone();
            async move {
                let range = request.headers().get("range").and_then(|range| range.to_str().ok());
                let from = range
                    .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
                let etag = [("x-linked-etag", format!("\"{digest}\""))];
                match from {
                    Some(from) if from < file.len() => {
                        (axum::http::StatusCode::PARTIAL_CONTENT, etag, &file[from..]).into_response()
                    }
                    Some(_) => axum::http::StatusCode::RANGE_NOT_SATISFIABLE.into_response(),
                    None => (etag, file).into_response(),
                }
            }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/owner/repo/resolve/main/m.gguf", get(serve));
        tokio::spawn(async move { axum::serve(listener, router).await });
        format!("http://{address}")
    }

    const FILE: &[u8] = b"GGUF and the rest of a model";

    fn sha256(bytes: &[u8]) -> String {
        const_hex::encode(<[u8; 32]>::from(Sha256::digest(bytes)))
    }

    #[tokio::test]
    async fn a_hub_file_is_fetched_checked_and_kept() {
        let cache = tempfile::tempdir().unwrap();
        let hub = hub(FILE, sha256(FILE)).await;
        let path = fetch_from_hub(&hub, "owner/repo", "m.gguf", cache.path()).await.unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), FILE);
        let again = fetch_from_hub("http://127.0.0.1:1", "owner/repo", "m.gguf", cache.path()).await;
        assert_eq!(again.unwrap(), path, "what is there is not fetched again");
    }

    #[tokio::test]
    async fn a_broken_fetch_is_continued() {
        let cache = tempfile::tempdir().unwrap();
        let folder = cache.path().join("hub/owner/repo");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("m.gguf.part"), &FILE[..7]).unwrap();
        let path = fetch_from_hub(&hub(FILE, sha256(FILE)).await, "owner/repo", "m.gguf", cache.path())
            .await
            .unwrap();
        assert_eq!(std::fs::read(path).unwrap(), FILE);
    }

    #[tokio::test]
    async fn a_file_with_another_digest_is_refused_and_removed() {
        let cache = tempfile::tempdir().unwrap();
        let hub = hub(FILE, sha256(b"another file")).await;
        let error = fetch_from_hub(&hub, "owner/repo", "m.gguf", cache.path()).await.unwrap_err();
        assert!(error.to_string().contains("SHA-256"), "{error}");
        let left: Vec<_> = std::fs::read_dir(cache.path().join("hub/owner/repo")).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}
