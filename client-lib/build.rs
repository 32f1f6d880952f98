//! Compiles every schema of this crate without needing `protoc` on the machine.

use std::path::PathBuf;

/// Packages whose messages carry secrets: they get no `Debug`, so that nothing can print them by accident.
const SILENT: [&str; 3] = ["posthorn.identity.v1", "posthorn.group.v2", "posthorn.store.v1"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=schema");
    // By which CI documents, and checks the links of, what is not part of the face (`lib.rs`).
    println!("cargo:rustc-check-cfg=cfg(inside)");
    let mut schemas: Vec<PathBuf> = std::fs::read_dir("schema")?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    schemas.retain(|path| path.extension().is_some_and(|end| end == "proto"));
    schemas.sort();
    let descriptors = protox::compile(&schemas, ["schema"])?;
    prost_build::Config::new().skip_debug(SILENT).compile_fds(descriptors)?;
    Ok(())
}
