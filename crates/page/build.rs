//! Takes what web/build.mjs made. Where nobody has made it (a plain `cargo build`), a page takes its place that says how.

use std::{env, fs, path::Path};

const FILES: [&str; 4] = ["index.html", "app.js", "style.css", "icon.svg"];
const INSTEAD: &str = "<!doctype html><html lang=en><meta charset=utf-8><title>fabstir-llm-node</title>\
<p>The node serves, but this binary was built without its chat page: run <code>make build</code>.</p></html>";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let web = Path::new("../../web/dist");
    println!("cargo:rerun-if-changed=../../web/dist");
    println!("cargo:rerun-if-changed=build.rs");
    let out = env::var("OUT_DIR")?;
    let made = FILES.iter().all(|file| web.join(file).is_file());
    for file in FILES {
        let bytes = match fs::read(web.join(file)) {
            Ok(bytes) if made => bytes,
            Ok(_) | Err(_) if file == "index.html" => INSTEAD.into(),
            Ok(_) | Err(_) => Vec::new(),
        };
        fs::write(Path::new(&out).join(file), bytes)?;
    }
    Ok(())
}
