//! Where answers go, and which requests wait for theirs.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::mpsc;

use crate::{Failure, Generation, Output, scheduler::has_room};

/// Outputs that may wait for their reader.
const OUTPUTS: usize = 32;
/// Places kept free for the end of an answer, so that it can always be told: words and calls of the last token
/// and of what was held back, and the reason.
const LAST_OUTPUTS: usize = 5;

/// The writing end of a [`Generation`].
#[derive(Debug)]
pub(crate) struct Outputs {
    sender: mpsc::Sender<Output>,
    /// Its place among the requests in flight, given up on drop.
    place: Option<(InFlight, u64)>,
}

impl Outputs {
    pub(crate) fn channel() -> (Self, Generation) {
        let (sender, outputs) = mpsc::channel(OUTPUTS);
        (Self { sender, place: None }, Generation { outputs })
    }

    /// Whether nobody reads any more, or waits for more.
    pub(crate) fn is_cancelled(&self) -> bool {
        let failed = |(in_flight, number): &(InFlight, u64)| !in_flight.lock().by_number.contains_key(number);
        self.sender.is_closed() || self.place.as_ref().is_some_and(failed)
    }

    /// Takes note that the request has left the line.
    pub(crate) fn leave_line(&self) {
        if let Some((in_flight, number)) = &self.place
            && let Some(entry) = in_flight.lock().by_number.get_mut(number)
        {
            entry.waits = false;
        }
    }

    /// Whether another step's output can be taken.
    pub(crate) fn has_room(&self) -> bool {
        self.sender.capacity() > LAST_OUTPUTS
    }

    /// Sends; a reader that is gone or has no room for even the last outputs hears nothing.
    pub(crate) fn send(&self, output: Output) {
        let _ = self.sender.try_send(output);
    }
}

impl Drop for Outputs {
    fn drop(&mut self) {
        if let Some((in_flight, number)) = self.place.take() {
            in_flight.lock().by_number.remove(&number);
        }
    }
}

/// The requests in flight: how many wait, and how to tell them of a failure from outside of the thread at work.
#[derive(Clone, Debug, Default)]
pub(crate) struct InFlight(Arc<Mutex<Entries>>);

#[derive(Debug, Default)]
struct Entries {
    /// Never used twice: an old request that is dropped late must not take a new one's place with it.
    next: u64,
    by_number: BTreeMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    sender: mpsc::Sender<Output>,
    client: u64,
    waits: bool,
}

impl InFlight {
    /// Enters a request of `client`, if the line still has room for one of that client's ([`has_room`]).
    pub(crate) fn enter(&self, mut outputs: Outputs, client: u64, limit: usize) -> Option<Outputs> {
        let mut entries = self.lock();
        if !has_room(entries.waiting_of(client), entries.waiting(), limit) {
            return None;
        }
        let number = entries.next;
        entries.next = number.saturating_add(1);
        entries.by_number.insert(number, Entry { sender: outputs.sender.clone(), client, waits: true });
        drop(entries);
        outputs.place = Some((self.clone(), number));
        Some(outputs)
    }

    pub(crate) fn waiting(&self) -> usize {
        self.lock().waiting()
    }

    /// Tells them all that there is no answer. Whoever works on them finds them cancelled.
    pub(crate) fn fail_all(&self) {
        for entry in std::mem::take(&mut self.lock().by_number).into_values() {
            let _ = entry.sender.try_send(Output::Failed(Failure::Engine));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entries {
    fn waiting(&self) -> usize {
        self.by_number.values().filter(|entry| entry.waits).count()
    }

    fn waiting_of(&self, client: u64) -> usize {
        self.by_number.values().filter(|entry| entry.waits && entry.client == client).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_request_that_is_dropped_late_takes_no_new_one_with_it() {
        let in_flight = InFlight::default();
        let enter = || {
            let (outputs, generation) = Outputs::channel();
            (in_flight.enter(outputs, 1, 9).unwrap(), generation)
        };
        let (old, mut told) = enter();
        in_flight.fail_all();
        assert_eq!(told.outputs.try_recv(), Ok(Output::Failed(Failure::Engine)));
        assert!(old.is_cancelled(), "nobody works on it any more");
        let (new, _generation) = enter();
        drop(old);
        assert!(!new.is_cancelled());
        assert_eq!(in_flight.waiting(), 1);
    }

    #[test]
    fn the_line_is_bounded_and_left_when_a_request_runs_or_is_dropped() {
        let in_flight = InFlight::default();
        let enter = |client| in_flight.enter(Outputs::channel().0, client, 2);
        let (first, second) = (enter(1).unwrap(), enter(2).unwrap());
        assert!(enter(3).is_none());
        first.leave_line();
        assert!(enter(2).is_none(), "who waits already leaves the last place to another");
        let third = enter(3);
        assert!(third.is_some() && enter(4).is_none());
        drop(second);
        assert!(enter(4).is_some());
    }
}
