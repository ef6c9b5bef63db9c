//! The table of codes in docs/protocol.md is the one in the source.

#![allow(clippy::unwrap_used, reason = "a test is meant to panic")]

use fabstir_protocol::Code;

#[test]
fn the_table_in_the_document_is_the_one_in_the_source() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/protocol.md");
    let document = std::fs::read_to_string(path).unwrap();
    let rows: Vec<&str> =
        document.lines().filter(|line| line.starts_with("| `") && line.matches('|').count() == 5).collect();
    for code in Code::ALL {
        let row = format!(
            "| `{}` | {} | {} | {} |",
            code.as_str(),
            code.http_status(),
            code.retry().as_str(),
            code.meaning()
        );
        assert!(rows.contains(&row.as_str()), "docs/protocol.md, section 3, lacks this row:\n{row}");
    }
}
