//! From bytes of tokens to text that may be shown: whole characters, and nothing of a stop text.

use zeroize::Zeroize as _;

/// Carries the bytes of a character that is not whole yet.
#[derive(Debug, Default)]
pub(crate) struct Utf8Carry(Vec<u8>);

impl Utf8Carry {
    /// Adds bytes and gives the characters that are whole now. Bytes that can never become a character come
    /// out as U+FFFD.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> String {
        self.0.extend_from_slice(bytes);
        let mut text = String::with_capacity(self.0.len());
        let mut rest = self.0.as_slice();
        let whole = loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    break self.0.len();
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(std::str::from_utf8(valid).unwrap_or_default());
                    let Some(invalid) = error.error_len() else {
                        break self.0.len().saturating_sub(after.len());
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = after.get(invalid..).unwrap_or_default();
                }
            }
        };
        self.0.drain(..whole);
        text
    }

    /// What is left at the end: U+FFFD, if half a character is.
    pub(crate) fn finish(&mut self) -> &'static str {
        let half = !self.0.is_empty();
        self.0.zeroize();
        if half { "\u{fffd}" } else { "" }
    }
}

/// Holds back text that may begin a stop text.
#[derive(Debug)]
pub(crate) struct StopFilter {
    stops: Vec<String>,
    held: String,
}

/// What a [`StopFilter`] lets through.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Passed {
    /// This may be shown.
    Text(String),
    /// A stop text came up; this was before it.
    Stopped(String),
}

impl StopFilter {
    pub(crate) fn new(mut stops: Vec<String>) -> Self {
        stops.retain(|stop| !stop.is_empty());
        Self { stops, held: String::new() }
    }

    pub(crate) fn push(&mut self, text: &str) -> Passed {
        if self.stops.is_empty() {
            return Passed::Text(text.to_owned());
        }
        self.held.push_str(text);
        let first = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min();
        if let Some(at) = first {
            self.held.truncate(at);
            return Passed::Stopped(std::mem::take(&mut self.held));
        }
        let safe = self.held.len().saturating_sub(self.longest_beginning());
        Passed::Text(self.held.drain(..safe).collect())
    }

    /// What was held back, when nothing more comes.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Bytes at the end of what is held that may be the beginning of a stop text.
    fn longest_beginning(&self) -> usize {
        let longest = |stop: &String| {
            let beginnings = stop.char_indices().map(|(at, _)| at).skip(1).chain([stop.len()]);
            let fits = beginnings.filter_map(|end| stop.get(..end)).filter(|head| self.held.ends_with(head));
            fits.map(str::len).max().unwrap_or(0)
        };
        self.stops.iter().map(longest).max().unwrap_or(0)
    }
}

impl Drop for StopFilter {
    fn drop(&mut self) {
        self.held.zeroize();
        self.stops.zeroize();
    }
}

impl Drop for Utf8Carry {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn half_a_character_waits_for_the_other_half() {
        let mut carry = Utf8Carry::default();
        let bytes = "a😀é".as_bytes();
        let pieces: Vec<String> = bytes.chunks(1).map(|byte| carry.push(byte)).collect();
        assert_eq!(pieces, ["a", "", "", "", "😀", "", "é"]);
        assert_eq!(carry.finish(), "");
    }

    #[test]
    fn bytes_that_are_no_character_are_replaced() {
        let mut carry = Utf8Carry::default();
        assert_eq!(carry.push(b"a\xffb\xe2\x82"), "a\u{fffd}b");
        assert_eq!(carry.finish(), "\u{fffd}");
    }

    #[test]
    fn a_stop_text_over_several_pieces_is_found_and_not_shown() {
        let mut filter = StopFilter::new(vec!["END".into(), "\n\n".into()]);
        assert_eq!(filter.push("one E"), Passed::Text("one ".into()));
        assert_eq!(filter.push("N"), Passed::Text(String::new()));
        assert_eq!(filter.push("X"), Passed::Text("ENX".into()));
        assert_eq!(filter.push("two EN"), Passed::Text("two ".into()));
        assert_eq!(filter.push("D three"), Passed::Stopped(String::new()));
    }

    #[test]
    fn what_was_held_back_comes_out_at_the_end() {
        let mut filter = StopFilter::new(vec!["END".into()]);
        assert_eq!(filter.push("the EN"), Passed::Text("the ".into()));
        assert_eq!(filter.finish(), "EN");
    }

    proptest! {
        #[test]
        fn carried_bytes_read_as_the_whole_would(bytes: Vec<u8>, cut in 1_usize..7) {
            let mut carry = Utf8Carry::default();
            let mut text: String = bytes.chunks(cut).map(|piece| carry.push(piece)).collect();
            text.push_str(carry.finish());
            prop_assert_eq!(text, String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn the_filter_cuts_at_the_first_stop_and_nowhere_else(pieces in proptest::collection::vec("[abé]{0,3}", 0..12)) {
            let stops = vec!["aba".to_owned(), "éé".to_owned()];
            let whole = pieces.concat();
            let expected = stops.iter().filter_map(|stop| whole.find(stop.as_str())).min();
            let mut filter = StopFilter::new(stops);
            let mut shown = String::new();
            let mut stopped = false;
            for piece in &pieces {
                match filter.push(piece) {
                    Passed::Text(text) => shown.push_str(&text),
                    Passed::Stopped(text) => { shown.push_str(&text); stopped = true; break }
                }
            }
            if !stopped { shown.push_str(&filter.finish()); }
            // A stop that begins earlier may be completed later than another one: what counts is what came up.
            prop_assert_eq!(stopped, expected.is_some());
            prop_assert!(whole.starts_with(&shown));
            if !stopped { prop_assert_eq!(shown, whole); }
        }
    }
}
