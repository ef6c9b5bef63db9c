//! What a client and the model have said to each other. Held in memory only, wiped when it goes.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use fabstir_engine::{Engine, Message, Role};
use fabstir_protocol::seal::Words;

use crate::limits::{Party, Share};

/// One exchange: what was asked, what was answered.
#[derive(Debug)]
struct Turn {
    asked: Words,
    answered: Words,
}

/// The turns of one conversation. What no longer fits the model's context is forgotten, so its size is
/// bounded by the context.
#[derive(Debug, Default)]
pub struct Conversation {
    turns: Mutex<Vec<Turn>>,
    computed: OnceLock<Computed>,
    /// Its place among its owner's sessions.
    room: OnceLock<Share<Party>>,
}

/// What an engine has computed for a conversation, by the number that the engine knows it under. It goes with
/// the conversation.
#[derive(Debug)]
struct Computed {
    session: u64,
    engine: Arc<dyn Engine>,
}

impl Drop for Computed {
    fn drop(&mut self) {
        self.engine.forget(self.session);
    }
}

impl Conversation {
    /// Holds a place among its owner's sessions for as long as it is there, if it has none yet.
    pub fn occupy(&self, room: Option<Share<Party>>) {
        if let Some(room) = room {
            // One is enough: a second is given back.
            let _ = self.room.set(room);
        }
    }

    /// The conversation so far and `prompt` after it, as the engine takes it.
    pub fn with(&self, system: Option<&str>, prompt: &Words) -> Vec<Message> {
        let turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let message = |role, words: &str| Message::new(role, words);
        let system = system.map(|words| message(Role::System, words));
        let before = turns.iter().flat_map(|turn| {
            [message(Role::User, turn.asked.as_str()), message(Role::Assistant, turn.answered.as_str())]
        });
        system.into_iter().chain(before).chain([message(Role::User, prompt.as_str())]).collect()
    }

    /// Adds an exchange, and forgets the oldest `dropped` messages, which the engine left out of it.
    pub fn add(&self, asked: Words, answered: Words, dropped: usize) {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        // The engine drops messages, this memory keeps pairs: half a pair is of no use.
        let pairs = dropped.div_ceil(2).min(turns.len());
        turns.drain(..pairs);
        turns.push(Turn { asked, answered });
    }

    /// The number that the engine knows this conversation under; `new` gives one that no other has.
    pub fn session(&self, engine: &Arc<dyn Engine>, new: impl FnOnce() -> u64) -> u64 {
        let computed = || Computed { session: new(), engine: Arc::clone(engine) };
        self.computed.get_or_init(computed).session
    }

    /// Exchanges that are remembered.
    pub fn len(&self) -> usize {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether nothing was said yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(conversation: &Conversation) -> Vec<(Role, String)> {
        let messages = conversation.with(Some("be brief"), &Words::from("now"));
        messages.iter().map(|m| (m.role, m.content.as_str().to_owned())).collect()
    }

    #[test]
    fn a_prompt_comes_after_what_was_said() {
        let conversation = Conversation::default();
        conversation.add(Words::from("a"), Words::from("b"), 0);
        let expected =
            [(Role::System, "be brief"), (Role::User, "a"), (Role::Assistant, "b"), (Role::User, "now")];
        assert_eq!(said(&conversation), expected.map(|(role, text)| (role, text.to_owned())));
    }

    #[test]
    fn what_the_engine_left_out_is_forgotten() {
        let conversation = Conversation::default();
        conversation.add(Words::from("1"), Words::from("2"), 0);
        conversation.add(Words::from("3"), Words::from("4"), 0);
        conversation.add(Words::from("5"), Words::from("6"), 3);
        assert_eq!(conversation.len(), 1);
        conversation.add(Words::from("7"), Words::from("8"), 99);
        assert_eq!(conversation.len(), 1);
    }
}
