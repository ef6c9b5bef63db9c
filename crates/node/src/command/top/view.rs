//! The screen.

use ratatui::{
    buffer::Buffer,
    layout::{Constraint, Layout, Rect},
    style::{Color, Style, Stylize as _},
    text::{Line, Span},
    widgets::{Block, Gauge, Paragraph, Row, Sparkline, Table, Widget},
};

use super::desk::{Desk, TOKENS, whole};
use crate::{admin::harmless, ledger::SessionLine};

/// Rows of the parts that do not grow.
const HEAD: u16 = 2;
const GAUGES: u16 = 3;
const MIDDLE: u16 = 8;
const FOOT: u16 = 1;
/// Columns of the states and of the limits: names, and numbers of four digits. On 80 columns the speed has what it needs beside them.
const STATES: u16 = 17;
const LIMITS: u16 = 30;
/// Sessions in a picture as text. The number of all of them stands above.
const MOST_ROWS: u16 = 500;

impl Desk {
    /// Rows that everything needs.
    pub(super) fn height(&self) -> u16 {
        let sessions = u16::try_from(self.newest().sessions.len()).unwrap_or(u16::MAX).min(MOST_ROWS);
        // The table's own border and head.
        [HEAD, GAUGES, MIDDLE, FOOT, sessions.saturating_add(3)].into_iter().fold(0, u16::saturating_add)
    }
}

impl Widget for &Desk {
    fn render(self, area: Rect, buffer: &mut Buffer) {
        // However little room there is: whether what is seen is true comes first.
        let (head, below) = (HEAD.min(area.height), FOOT.min(area.height.saturating_sub(HEAD)));
        let parts = [Constraint::Length(head), Constraint::Fill(1), Constraint::Length(below)];
        let [head, rest, foot] = Layout::vertical(parts).areas(area);
        let parts = [Constraint::Length(GAUGES), Constraint::Length(MIDDLE), Constraint::Min(3)];
        let [gauges, middle, sessions] = Layout::vertical(parts).areas(rest);
        self.head(head, buffer);
        self.gauges(gauges, buffer);
        let columns = [Constraint::Fill(1), Constraint::Length(STATES), Constraint::Length(LIMITS)];
        let [tokens, states, limits] = Layout::horizontal(columns).areas(middle);
        self.speed(tokens, buffer);
        self.states(states, buffer);
        self.limits(limits, buffer);
        self.table(sessions, buffer);
        let keys = format!(" q end   s order: {}   \u{2191}\u{2193} move", self.order().as_str());
        Line::from(keys).dim().render(foot, buffer);
    }
}

impl Desk {
    fn head(&self, area: Rect, buffer: &mut Buffer) {
        let status = &self.newest().status;
        let state = Span::from(status.state.clone()).bold();
        let state = if status.state == "serving" { state.fg(Color::Green) } else { state.fg(Color::Red) };
        let mut first = Line::from(vec![
            " ".into(),
            state,
            format!(
                "   {} {}   up {}   {} connections",
                env!("CARGO_PKG_NAME"),
                status.version,
                duration(status.uptime_seconds),
                status.connections,
            )
            .into(),
        ]);
        if status.engine_restarts > 0 {
            first.push_span(
                format!("   engine started again {} times", status.engine_restarts).fg(Color::Yellow),
            );
        }
        let second = match self.fault() {
            Some(fault) => {
                Line::from(format!(" what is seen is old: {}", harmless(fault))).fg(Color::Red).bold()
            }
            None => Line::from(format!(
                " {}   {}",
                harmless(&status.models.join(", ")),
                status.address.as_deref().unwrap_or("no key: plaintext"),
            ))
            .dim(),
        };
        let lines = if self.fault().is_some() { vec![second, first] } else { vec![first, second] };
        Paragraph::new(lines).render(area, buffer);
    }

    fn gauges(&self, area: Rect, buffer: &mut Buffer) {
        let thirds = [Constraint::Fill(1), Constraint::Fill(1), Constraint::Fill(1)];
        let [slots, memory, descriptors] = Layout::horizontal(thirds).areas(area);
        let status = &self.newest().status;
        let page = &self.newest().page;
        let title = format!(" slots, {} waiting ", status.waiting);
        let running = u64::try_from(status.running).ok();
        gauge(title, running, page.value("fabstir_engine_slots").map(whole), slots, buffer);
        let kv = |name| page.value(name).map(whole);
        let (used, room) = (kv("fabstir_engine_kv_tokens_used"), kv("fabstir_engine_kv_tokens"));
        gauge(" tokens in memory ".to_owned(), used, room, memory, buffer);
        let (open, most) = (kv("process_open_fds"), kv("process_max_fds"));
        gauge(" descriptors ".to_owned(), open, most, descriptors, buffer);
    }

    fn speed(&self, area: Rect, buffer: &mut Buffer) {
        let rate = |name| self.rate(name).map_or_else(|| "-".to_owned(), |rate| number(whole(rate)));
        let block = Block::bordered().title(format!(" tokens/s, lately {} ", rate(TOKENS)));
        let inside = block.inner(area);
        block.render(area, buffer);
        let [chart, said] = Layout::vertical([Constraint::Min(1), Constraint::Length(4)]).areas(inside);
        let width = usize::from(chart.width);
        let mut newest: Vec<u64> = self.tokens().rev().take(width).collect();
        newest.reverse();
        Sparkline::default().data(newest).style(Style::new().fg(Color::Cyan)).render(chart, buffer);
        let below = |name, share| self.quantile(name, share).map_or_else(|| "-".to_owned(), seconds);
        let (first, gap) = ("fabstir_time_to_first_token_seconds", "fabstir_token_gap_seconds");
        let (read, sent) = (rate("fabstir_received_bytes_total"), rate("fabstir_sent_bytes_total"));
        let lines = [
            format!("1st token p50 {} p99 {}", below(first, 0.5), below(first, 0.99)),
            format!("token gap p99 {}", below(gap, 0.99)),
            format!("prompt tokens/s {}", rate("fabstir_tokens_prefilled_total")),
            format!("bytes/s in {read} out {sent}"),
        ];
        Paragraph::new(lines.map(Line::from).to_vec()).render(said, buffer);
    }

    fn states(&self, area: Rect, buffer: &mut Buffer) {
        let rows = self.newest().page.by("fabstir_sessions", "state");
        let rows = rows.into_iter().map(|(state, count)| format!("{state:<9} {:>5}", number(whole(count))));
        list(format!(" {} sessions ", self.newest().sessions.len()), rows, area, buffer);
    }

    fn limits(&self, area: Rect, buffer: &mut Buffer) {
        let rows = self.lately("fabstir_limits_hit_total", "limit");
        let rows = rows.into_iter().filter(|(_, count)| *count > 0.0);
        let rows = rows.map(|(limit, count)| format!("{:>5} {limit}", number(whole(count))));
        list(" limits hit lately ".to_owned(), rows, area, buffer);
    }

    fn table(&self, area: Rect, buffer: &mut Buffer) {
        let head = ["session", "v", "state", "client", "age", "idle", "requests", "prompt", "answers"];
        let widths = [
            Constraint::Min(14),
            Constraint::Length(1),
            Constraint::Length(8),
            Constraint::Length(13),
            Constraint::Length(7),
            Constraint::Length(7),
            Constraint::Length(8),
            Constraint::Length(8),
            Constraint::Length(8),
        ];
        let height = usize::from(area.height);
        let rows: Vec<Row<'_>> = self.sessions().into_iter().take(height).map(row).collect();
        let block = Block::bordered().title(" sessions ");
        Table::new(rows, widths).header(Row::new(head).bold()).block(block).render(area, buffer);
    }
}

fn row(line: &SessionLine) -> Row<'_> {
    let state = match line.state.as_str() {
        "live" | "attached" => Style::new().fg(Color::Green),
        "lost" | "grace" => Style::new().fg(Color::Yellow),
        _ => Style::new().dim(),
    };
    let counts = &line.counts;
    Row::new([
        Span::from(harmless(&line.session_id)),
        Span::from(line.version.to_string()),
        Span::styled(line.state.clone(), state),
        Span::from(shortened(&line.client)),
        Span::from(duration(line.age_seconds)),
        Span::from(duration(line.idle_seconds)),
        Span::from(number(counts.requests)),
        Span::from(number(counts.prompt_tokens)),
        Span::from(number(counts.completion_tokens)),
    ])
}

fn gauge(title: String, used: Option<u64>, room: Option<u64>, area: Rect, buffer: &mut Buffer) {
    let block = Block::bordered().title(title);
    let (used, Some(room)) = (used.unwrap_or(0), room.filter(|room| *room > 0)) else {
        // Without an end there is nothing to fill.
        return Paragraph::new(used.map_or_else(|| "-".to_owned(), number)).block(block).render(area, buffer);
    };
    #[expect(clippy::cast_precision_loss, reason = "a share, for the eye")]
    let share = (used as f64 / room as f64).clamp(0.0, 1.0);
    let color = if share < 0.8 { Color::Green } else { Color::Red };
    Gauge::default()
        .block(block)
        .ratio(share)
        .label(format!("{} of {}", number(used), number(room)))
        .gauge_style(Style::new().fg(color))
        .render(area, buffer);
}

fn list(title: String, rows: impl Iterator<Item = String>, area: Rect, buffer: &mut Buffer) {
    let lines: Vec<Line<'_>> = rows.map(Line::from).collect();
    Paragraph::new(lines).block(Block::bordered().title(title)).render(area, buffer);
}

/// An address by its ends, as people compare them.
fn shortened(client: &str) -> String {
    match (client.get(..6), client.get(client.len().saturating_sub(4)..)) {
        (Some(first), Some(last)) if client.starts_with("0x") && client.len() > 13 => {
            format!("{first}\u{2026}{last}")
        }
        _ => client.to_owned(),
    }
}

/// Four digits at the most: more are not read on a screen.
fn number(value: u64) -> String {
    match value {
        0..10_000 => value.to_string(),
        10_000..10_000_000 => format!("{}k", value / 1000),
        10_000_000..10_000_000_000 => format!("{}M", value / 1_000_000),
        _ => format!("{}G", value / 1_000_000_000),
    }
}

fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// A bound of a histogram.
fn seconds(bound: f64) -> String {
    if bound.is_infinite() {
        return "very long".to_owned();
    }
    if bound < 1.0 { format!("<{}ms", whole(bound * 1000.0)) } else { format!("<{bound}s") }
}

#[cfg(test)]
mod tests {
    use super::super::{desk::tests::look, picture};
    use super::*;

    #[test]
    fn the_screen_says_what_an_operator_asks() {
        let mut desk = Desk::new(look(0, 1, 100));
        desk.sees(look(10, 1, 300));
        let text = picture(&desk);
        for said in [
            "serving",
            "2 connections",
            "a model",
            "tokens/s, lately 20",
            "1 of 4",
            "attached",
            "200 inits",
            "quiet",
            "busy\u{fffd}[2J",
            "1m30s",
            "order: tokens",
        ] {
            assert!(text.contains(said), "{said}: {text}");
        }
        assert!(text.find("busy") < text.find("quiet"), "{text}");
        desk.misses("no node answers".to_owned());
        assert!(picture(&desk).contains("what is seen is old: no node answers"));
    }

    /// The size that terminals have: no number is cut, and no two limits look alike.
    #[test]
    fn what_is_counted_is_whole_on_eighty_columns() {
        let look = |second, count: u64| {
            let mut look = look(second, 1, count);
            let page = format!(
                "fabstir_sessions{{version=\"2\",state=\"attached\"}} {count}\n\
                 fabstir_limits_hit_total{{limit=\"connections\"}} {count}\n\
                 fabstir_limits_hit_total{{limit=\"connections_per_network\"}} {}\n\
                 fabstir_tokens_prefilled_total {count}\nfabstir_received_bytes_total {}\nfabstir_sent_bytes_total {}\n",
                2 * count,
                12_345 * count,
                23_456 * count
            );
            look.page = page.parse().unwrap();
            look
        };
        let mut desk = Desk::new(look(0, 0));
        desk.sees(look(1, 9_999));
        let area = Rect::new(0, 0, 80, 24);
        let mut buffer = Buffer::empty(area);
        desk.render(area, &mut buffer);
        let cells: Vec<_> = buffer.content().iter().map(ratatui::buffer::Cell::symbol).collect();
        let text: Vec<_> = cells.chunks(80).map(<[&str]>::concat).collect();
        let text = text.join("\n");
        for said in [
            "\u{2502}attached   9999\u{2502}",
            "9999 connections   ",
            "19k connections_per_net",
            "prompt tokens/s 99",
            "M out 23",
        ] {
            assert!(text.contains(said), "{said}:\n{text}");
        }
    }

    /// A screen of any size is drawn, however small.
    #[test]
    fn no_size_is_too_small() {
        let desk = Desk::new(look(0, 1, 0));
        for (width, height) in [(1, 1), (3, 30), (200, 2), (40, 9)] {
            let area = Rect::new(0, 0, width, height);
            desk.render(area, &mut Buffer::empty(area));
        }
    }

    #[test]
    fn that_the_node_is_gone_is_seen_on_the_smallest_screen() {
        let mut desk = Desk::new(look(0, 1, 0));
        desk.misses("no node answers".to_owned());
        for height in [1, 2, 5, 9, 30] {
            let area = Rect::new(0, 0, 60, height);
            let mut buffer = Buffer::empty(area);
            desk.render(area, &mut buffer);
            let seen: String = buffer.content().iter().map(ratatui::buffer::Cell::symbol).collect();
            assert!(seen.contains("what is seen is old: no node answers"), "{height}: {seen}");
        }
    }

    #[test]
    fn what_is_long_is_shortened() {
        assert_eq!(shortened("0x14791697260E4c9A71f18484C9f997B308e59325"), "0x1479\u{2026}9325");
        assert_eq!(shortened("anonymous"), "anonymous");
        let numbers = [9_999, 10_000, 12_345_678, 10_000_000_000].map(number);
        assert_eq!(numbers, ["9999", "10k", "12M", "10G"]);
        let durations = [59, 60, 3_661, 90_000].map(duration);
        assert_eq!(durations, ["59s", "1m00s", "1h01m", "1d01h"]);
        assert_eq!([0.025, 1.0, 2.5, f64::INFINITY].map(seconds), ["<25ms", "<1s", "<2.5s", "very long"]);
    }
}
