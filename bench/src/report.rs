//! Tables and plots of what was measured.

use std::{collections::BTreeSet, fmt::Write as _, fs, path::Path};

use anyhow::Context as _;
use plotters::prelude::{
    ChartBuilder, Circle, IntoDrawingArea as _, IntoLogRange as _, LineSeries, RGBColor, SVGBackend, WHITE,
};

use crate::{Results, Turn, alone::Alone, channel::Channels, load::Load, server::Who};

/// Between these lines of the page stands what this program writes.
const BEGIN: &str = "<!-- make bench writes from here -->";
const END: &str = "<!-- to here -->";

/// Prints the tables, and writes them into the page, and the plots beside it, where one is given.
#[expect(clippy::print_stdout, reason = "the tables are what the program is for")]
pub(crate) fn write(results: &Results, page: Option<&Path>) -> anyhow::Result<()> {
    let turns = results.turns.as_slice();
    let mut tables = tables(turns)?;
    if let Some(alone) = &results.alone {
        write_alone(&mut tables, alone)?;
    }
    if let Some(channels) = &results.channels {
        write_channels(&mut tables, channels)?;
    }
    println!("{tables}");
    let Some(page) = page else { return Ok(()) };
    let text = fs::read_to_string(page)?;
    let (before, rest) = text.split_once(BEGIN).context("the page has no place for the tables")?;
    let (_, after) = rest.split_once(END).context("the page's place for the tables has no end")?;
    fs::write(page, format!("{before}{BEGIN}\n\n{tables}{END}{after}"))?;
    let plots = page.with_extension("");
    fs::create_dir_all(&plots)?;
    let rate = |load: &Load| load.tokens_per_second;
    plot(turns, &plots.join("throughput.svg"), "tokens a second, all streams", rate)?;
    plot(turns, &plots.join("first-token.svg"), "ms to the first token, median", |load| median(&load.first))
}

/// One figure of a load.
type Measure = fn(&Load) -> f64;

fn tables(turns: &[Turn]) -> anyhow::Result<String> {
    let mut out = String::new();
    let measures: [(&str, Measure); 6] = [
        ("tokens a second, all streams", |load| load.tokens_per_second),
        ("first token, p50, ms", |load| median(&load.first)),
        ("first token, p99, ms", |load| percentile(&load.first, 0.99)),
        ("gap between pieces, p50, ms", |load| median(&load.gaps)),
        ("gap between pieces, p99, ms", |load| percentile(&load.gaps, 0.99)),
        ("gap between pieces, longest, ms", |load| percentile(&load.gaps, 1.0)),
    ];
    for (name, measure) in measures {
        writeln!(out, "### {name}\n")?;
        writeln!(
            out,
            "| streams | node, encrypted | llama-server, clear | node : peer, min | median | max |"
        )?;
        writeln!(out, "|---|---|---|---|---|---|")?;
        for streams in streams(turns) {
            let of = |who| by_alternation(turns, who, |turn| find(turn, streams).map(measure));
            row(&mut out, &streams.to_string(), &of(Who::Node), &of(Who::Peer))?;
        }
        writeln!(out)?;
    }
    writeln!(out, "### a second turn on a history of about 500 tokens\n")?;
    writeln!(
        out,
        "| ms to the first token | node, encrypted | llama-server, clear | node : peer, min | median | max |"
    )?;
    writeln!(out, "|---|---|---|---|---|---|")?;
    let first = |who| by_alternation(turns, who, |turn| Some(turn.turns.first));
    let second = |who| by_alternation(turns, who, |turn| Some(turn.turns.second));
    let share = |who| by_alternation(turns, who, |turn| Some(turn.turns.second / turn.turns.first));
    row(&mut out, "first turn", &first(Who::Node), &first(Who::Peer))?;
    row(&mut out, "second turn", &second(Who::Node), &second(Who::Peer))?;
    row(&mut out, "second : first", &share(Who::Node), &share(Who::Peer))?;
    Ok(out)
}

fn write_alone(out: &mut String, alone: &Alone) -> std::fmt::Result {
    let (clear, sealed) = (median(&alone.clear), median(&alone.sealed));
    writeln!(out, "\n### the node alone, with an engine that takes no time\n\n| what | figure |\n|---|---|")?;
    writeln!(out, "| sessions opened a second, in turn on one connection | {:.0} |", alone.inits_in_turn)?;
    writeln!(out, "| the same, eight connections side by side | {:.0} |", alone.inits_side_by_side)?;
    writeln!(out, "| question to first words in the clear, median, µs | {clear:.0} |")?;
    writeln!(out, "| the same, sealed and opened, the session being open | {sealed:.0} |")?;
    writeln!(out, "| what encryption adds, both sides together, µs | {:.0} |", sealed - clear)?;
    writeln!(out, "| bytes of frames to the client for each token | {:.0} |", alone.bytes_per_token)?;
    let (count, kib) = (alone.idle_sessions, alone.kib_per_session);
    writeln!(out, "| memory of an idle encrypted session, {count} of them open, KiB | {kib:.1} |")
}

fn write_channels(out: &mut String, channels: &Channels) -> std::fmt::Result {
    let Channels { opening, resuming, off, bucket } = channels;
    writeln!(out, "\n### channels of version 2\n\n| what | median | p99 |\n|---|---|---|")?;
    let times = [
        ("opening one: connection, handshake and welcome, both sides on one machine, ms", opening),
        ("a lost connection replaced by ticket, to the first words of an answer, ms", resuming),
    ];
    for (what, took) in times {
        writeln!(out, "| {what} | {:.2} | {:.2} |", median(took), percentile(took, 0.99))?;
    }
    writeln!(
        out,
        "\n| shape | tokens a second | bytes to the client for each token | records for each token |\n|---|---|---|---|"
    )?;
    for (shape, wire) in [("off", off), ("bucket", bucket)] {
        let each =
            |count: u64| f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / f64::from(wire.tokens.max(1));
        let (speed, bytes, records) = (wire.tokens_per_second, each(wire.bytes), each(wire.records));
        writeln!(out, "| {shape} | {speed:.0} | {bytes:.0} | {records:.2} |")?;
    }
    Ok(())
}

fn row(out: &mut String, name: &str, node: &[f64], peer: &[f64]) -> std::fmt::Result {
    let ratios: Vec<f64> = node.iter().zip(peer).map(|(node, peer)| node / peer).collect();
    let (least, most) = (percentile(&ratios, 0.0), percentile(&ratios, 1.0));
    let (node, peer, middle) = (median(node), median(peer), median(&ratios));
    writeln!(out, "| {name} | {node:.2} | {peer:.2} | {least:.2} | {middle:.2} | {most:.2} |")
}

fn streams(turns: &[Turn]) -> BTreeSet<usize> {
    turns.iter().flat_map(|turn| turn.loads.iter().map(|load| load.streams)).collect()
}

fn find(turn: &Turn, streams: usize) -> Option<&Load> {
    turn.loads.iter().find(|load| load.streams == streams)
}

/// One figure for each alternation, in their order.
fn by_alternation(turns: &[Turn], who: Who, figure: impl Fn(&Turn) -> Option<f64>) -> Vec<f64> {
    let mut figures: Vec<(usize, f64)> = turns
        .iter()
        .filter(|turn| turn.who == who)
        .filter_map(|turn| Some((turn.alternation, figure(turn)?)))
        .collect();
    figures.sort_by_key(|(alternation, _)| *alternation);
    figures.into_iter().map(|(_, figure)| figure).collect()
}

fn median(figures: &[f64]) -> f64 {
    percentile(figures, 0.5)
}

/// Nearest rank; no figure at all is not a number.
fn percentile(figures: &[f64], share: f64) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    // Lengths here are far below 2^32.
    let place = f64::from(u32::try_from(last).unwrap_or(u32::MAX)) * share;
    let place = (0..=last).min_by(|a, b| {
        let far = |at: &usize| (f64::from(u32::try_from(*at).unwrap_or(u32::MAX)) - place).abs();
        far(a).total_cmp(&far(b))
    });
    place.and_then(|place| sorted.get(place)).copied().unwrap_or(f64::NAN)
}

const NODE: RGBColor = RGBColor(0, 92, 190);
const PEER: RGBColor = RGBColor(200, 90, 0);

fn plot(turns: &[Turn], path: &Path, caption: &str, measure: impl Fn(&Load) -> f64) -> anyhow::Result<()> {
    let points = |who| -> Vec<(f64, f64)> {
        let streams = streams(turns).into_iter();
        streams
            .map(|streams| {
                let figures = by_alternation(turns, who, |turn| find(turn, streams).map(&measure));
                (f64::from(u32::try_from(streams).unwrap_or(u32::MAX)), median(&figures))
            })
            .collect()
    };
    let (node, peer) = (points(Who::Node), points(Who::Peer));
    let most = node.iter().chain(&peer).map(|(_, figure)| *figure).fold(0.0, f64::max);
    let widest = node.last().map_or(1.0, |(streams, _)| *streams);
    let area = SVGBackend::new(path, (640, 360)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(caption, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(56)
        .build_cartesian_2d((1.0..widest * 1.1).log_scale(), 0.0..most * 1.15)?;
    chart.configure_mesh().x_desc("streams").x_label_formatter(&|streams| format!("{streams:.0}")).draw()?;
    for (who, points, colour) in [(Who::Node, node, NODE), (Who::Peer, peer, PEER)] {
        chart.draw_series(points.iter().map(|point| Circle::new(*point, 3, colour)))?;
        chart.draw_series(LineSeries::new(points, &colour))?.label(who.to_string()).legend(move |(x, y)| {
            plotters::element::PathElement::new(vec![(x, y), (x.saturating_add(18), y)], colour)
        });
    }
    chart.configure_series_labels().background_style(WHITE).border_style(RGBColor(180, 180, 180)).draw()?;
    area.present()?;
    Ok(())
}
