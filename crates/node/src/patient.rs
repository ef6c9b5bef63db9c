//! A stream that waits for a peer who does not read, but not for ever.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

/// Whether a stream is somebody else's to watch: a WebSocket has a deadline for each frame.
#[derive(Clone, Debug, Default)]
pub(crate) struct Relieved(Arc<AtomicBool>);

impl Relieved {
    /// From now on.
    pub(crate) fn relieve(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A stream on which what there is to say must be said in time, from the first byte that has to wait to the last one:
/// whoever reads a byte now and then gains nothing by it. hyper flushes when a response is out.
#[derive(Debug)]
pub(crate) struct Patient<S> {
    stream: S,
    patience: Duration,
    relieved: Relieved,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    pub(crate) fn new(stream: S, patience: Duration, relieved: Relieved) -> Self {
        Self { stream, patience, relieved, waiting: None }
    }

    /// The deadline, begun with the first call since the last flush.
    fn poll_deadline(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        if self.relieved.is_set() {
            return Poll::Pending;
        }
        let patience = self.patience;
        let until = || Instant::now().checked_add(patience).unwrap_or_else(Instant::now);
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep_until(until())));
        waiting.as_mut().poll(context).map(|()| io::ErrorKind::TimedOut.into())
    }

    fn or_deadline<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match written {
            Poll::Ready(written) => Poll::Ready(written),
            Poll::Pending => self.poll_deadline(context).map(Err),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.or_deadline(context, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(context, parts);
        this.or_deadline(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.stream).poll_flush(context);
        if flushed.is_ready() {
            this.waiting = None;
        }
        this.or_deadline(context, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let shut = Pin::new(&mut this.stream).poll_shutdown(context);
        this.or_deadline(context, shut)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, duplex},
        time::{advance, timeout},
    };

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_reader_of_a_byte_now_and_then_is_given_up_in_time() {
        let (near, mut far) = duplex(16);
        let mut stream = Patient::new(near, PATIENCE, Relieved::default());
        let begun = Instant::now();
        let reading = tokio::spawn(async move {
            while far.read_u8().await.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        let error = stream.write_all(&[0; 1000]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() < PATIENCE + Duration::from_secs(2), "{:?}", begun.elapsed());
        drop(stream);
        reading.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn each_answer_has_its_own_time() {
        let (near, mut far) = duplex(16);
        let mut stream = Patient::new(near, PATIENCE, Relieved::default());
        let reading = tokio::spawn(async move {
            let mut read = [0; 8];
            while far.read_exact(&mut read).await.is_ok() {
                tokio::time::sleep(Duration::from_secs(5)).await;
            }
        });
        for _ in 0..20 {
            stream.write_all(&[0; 32]).await.unwrap();
            stream.flush().await.unwrap();
        }
        drop(stream);
        reading.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_websocket_has_deadlines_of_its_own() {
        let (near, _far) = duplex(16);
        let relieved = Relieved::default();
        let mut stream = Patient::new(near, PATIENCE, relieved.clone());
        relieved.relieve();
        assert!(timeout(10 * PATIENCE, stream.write_all(&[0; 1000])).await.is_err());
        advance(PATIENCE).await;
    }
}
