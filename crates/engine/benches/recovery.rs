//! How soon a failure is told to the requests in flight, and how soon the engine answers again:
//! `cargo bench -p fabstir-engine --bench recovery`.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "a benchmark measures what works, and prints it"
)]

use std::{path::PathBuf, time::Instant};

use fabstir_engine::{
    Engine as _, Failure, InjectedFault, LlamaConfig, LlamaEngine, Message, Output, Prompt, Request, Role,
};

fn asking() -> Request {
    Request::new(Prompt::Chat(vec![Message::new(Role::User, "Write a very long story.")]))
}

/// Milliseconds from a fault to the word of it, and to the first word of a new answer.
async fn measure(engine: &LlamaEngine, fault: InjectedFault) -> (f64, f64) {
    let mut running = engine.submit(asking()).unwrap();
    // In the middle of an answer: between its first pieces the engine does other things than steps.
    let mut heard = 0;
    while heard < 5 {
        heard += u32::from(matches!(running.outputs.recv().await.unwrap(), Output::Text { .. }));
    }
    let start = Instant::now();
    engine.inject(fault);
    while running.outputs.recv().await.unwrap_or(Output::Failed(Failure::Engine))
        != Output::Failed(Failure::Engine)
    {}
    let told = start.elapsed();
    loop {
        let mut next = engine.submit(asking()).unwrap();
        while let Some(output) = next.outputs.recv().await {
            if matches!(output, Output::Text { .. }) {
                return (told.as_secs_f64() * 1e3, start.elapsed().as_secs_f64() * 1e3);
            }
        }
    }
}

fn main() {
    let home = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"))).unwrap();
    let path = home.join("fabstir/models/SmolLM2-135M-Instruct.Q4_1.gguf");
    let config = LlamaConfig { max_sequences: Some(4), ..LlamaConfig::new(path, "smollm2") };
    let engine = LlamaEngine::load(config, |_| {}).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    println!(
        "| failure | told after, ms (least, median, most of 9) | first word of a new answer after, ms (median) |"
    );
    println!("|---|---|---|");
    for fault in [InjectedFault::Step, InjectedFault::Panic] {
        let mut runs: Vec<(f64, f64)> = (0..9).map(|_| runtime.block_on(measure(&engine, fault))).collect();
        runs.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (least, middle, most) = (runs[0].0, runs[4].0, runs[8].0);
        let mut again: Vec<f64> = runs.iter().map(|run| run.1).collect();
        again.sort_by(f64::total_cmp);
        println!("| {fault:?} | {least:.1}, {middle:.1}, {most:.1} | {:.0} |", again[4]);
    }
}
