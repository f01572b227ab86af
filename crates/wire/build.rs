//! Compiles `proto/` with protox: a pure Rust compiler, so that nobody has to install protoc.

use std::path::Path;

const FILES: [&str; 3] = ["member.proto", "raft.proto", "state_machine.proto"];

fn main() -> anyhow::Result<()> {
    let proto = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    // File by file: the guide beside them compiles to nothing.
    for file in FILES {
        println!("cargo::rerun-if-changed={}", proto.join(file).display());
    }
    let files = protox::compile(FILES, [&proto])?;
    tonic_prost_build::configure()
        .bytes(".")
        .compile_fds(files)?;
    Ok(())
}
