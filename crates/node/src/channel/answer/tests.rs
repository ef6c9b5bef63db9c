#![allow(clippy::unwrap_used, reason = "a test is meant to panic")]

use super::*;

fn words(count: usize) -> (Answer, String) {
    let mut answer = Answer::new(CancellationToken::new());
    let mut all = String::new();
    for number in 0..count {
        let word = format!("wörd{number} ");
        Piece::text(&word).into_iter().for_each(|piece| answer.push(piece));
        all.push_str(&word);
    }
    (answer, all)
}

fn sent(answer: &mut Answer) -> String {
    let mut text = Vec::new();
    while let Some((_, piece)) = answer.send() {
        text.extend_from_slice(&piece.body);
    }
    String::from_utf8(text).unwrap()
}

#[test]
fn words_that_wait_take_the_room_of_their_bytes() {
    let (mut answer, all) = words(50_000);
    let room: usize = answer.unsent.iter().map(|piece| piece.body.capacity()).sum();
    assert!(all.len() > 5 * MAX_BODY && answer.unsent.len() <= all.len().div_ceil(MAX_BODY) + 1);
    assert!(room <= all.len() + MAX_BODY, "{room} for {}", all.len());
    assert!(answer.unsent.iter().all(|piece| std::str::from_utf8(&piece.body).is_ok()));
    assert_eq!((answer.bytes(), answer.unsent_bytes()), (all.len(), all.len()));
    assert_eq!(sent(&mut answer), all);
}

#[test]
fn events_between_words_stay_where_they_are() {
    let (mut answer, _) = words(2);
    Piece::event(b"{}", false).into_iter().for_each(|piece| answer.push(piece));
    Piece::text("after").into_iter().for_each(|piece| answer.push(piece));
    assert_eq!(sent(&mut answer), "wörd0 wörd1 {}after");
    assert_eq!(answer.sent.len(), 3);
}

#[test]
fn an_answer_that_was_dropped_leaves_no_room_behind() {
    let (mut answer, _) = words(50_000);
    answer.send().unwrap();
    assert!(answer.unsent.capacity() > 0 && answer.sent.capacity() > 0);
    answer.drop_text();
    assert_eq!((answer.unsent.capacity(), answer.sent.capacity(), answer.bytes()), (0, 0, 0));
    assert!(!answer.resume(None) && answer.cancel.is_cancelled());
}
