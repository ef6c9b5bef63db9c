//! The way back to a connection: by the ticket, or by the key that may claim the session.

use fabstir_protocol::v2::{Claim, Resume};
use tokio::time::{Instant, timeout};

use super::{Driver, Kept, Live, hello, sealed_request, tell_all};
use crate::{
    Error,
    answer::Capture,
    dial::{Opened, reach},
};

/// A session without a connection.
pub(super) struct LostSession {
    pub(super) capture: Option<Capture>,
    pub(super) kept: Kept,
}

impl LostSession {
    pub(super) async fn attempt(&mut self) -> Result<Opened, Error> {
        let reached = reach(&self.kept.config, self.capture.take()).await;
        let (mut line, shown) = match reached {
            Ok(reached) => reached,
            Err((error, capture)) => {
                self.capture = capture;
                return Err(error);
            }
        };
        let received = self.kept.answers.received();
        self.kept.answers.reconnect();
        let limit = self.kept.config.connect_timeout;
        let shape = self.kept.config.shape;
        let opened = if let Some(ticket) = self.kept.ticket.take() {
            self.kept.answers.set_welcomed();
            timeout(limit, line.resume(ticket, &Resume { received, shape })).await
        } else {
            // The ticket is spent, and what it was spent for did not come: only the key can speak for the session.
            let node = match shown.pinned() {
                Ok(node) => node,
                Err(error) => {
                    self.capture = line.close().await;
                    return Err(error);
                }
            };
            let hello = hello(&self.kept.config, Some(Claim { session: self.kept.session, received }));
            let opening =
                line.handshake(&self.kept.config, &node, &hello, &mut self.kept.answers, |_| Ok(Vec::new()));
            let opened = timeout(limit, opening).await;
            self.kept.keyed = Instant::now();
            opened
        };
        match opened.map_err(|_| Error::Silent(limit)).flatten() {
            Ok((channel, welcome)) => Ok(Opened { line, channel, welcome }),
            Err(error) => {
                self.capture = line.close().await;
                Err(error)
            }
        }
    }

    /// Goes on with what the node knows, and sends again what it does not.
    pub(super) async fn open(mut self, opened: Opened, begun: Instant) -> Result<Driver, Error> {
        let known = opened.welcome.known.clone();
        let name = opened.channel.sid;
        let (live, ticket) = Live::of(opened, begun);
        let mut again = Vec::new();
        match known {
            Some(known) => {
                again = self.kept.answers.unknown_to(&known);
                for request in self.kept.answers.lost_to(&known) {
                    if let Some(asked) = self.kept.asked.remove(&request) {
                        let _ = asked.events.try_send(Err(Error::Truncated));
                    }
                }
            }
            None if self.kept.keeps => {
                // What was said is gone: to go on as if it were not would answer another question.
                tell_all(self.kept.asked, || Error::SessionLost);
                live.line.close().await;
                return Err(Error::SessionLost);
            }
            None => {
                // The node has another session for us: what it began of this one it does not have. Numbers go on, so that
                // no old answer is taken for a new one's.
                self.kept.session = name;
                self.kept.answers = self.kept.answers.anew();
                tell_all(std::mem::take(&mut self.kept.asked), || Error::Truncated);
            }
        }
        self.kept.ticket = ticket;
        let mut driver = Driver { live, kept: self.kept };
        for request in again {
            let Some(asked) = driver.kept.asked.get(&request) else { continue };
            let frames = sealed_request(&mut driver.live.sealer, request, &asked.body)?;
            for frame in frames {
                if driver.live.line.say(frame).await.is_err() {
                    // Lost again: the next attempt sends it.
                    return Box::pin(driver.recover()).await;
                }
            }
        }
        Ok(driver)
    }
}
