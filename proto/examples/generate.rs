//! Writes `src/gen/` from `proto/`: `cargo run -p fumehood-proto --example generate`.
//!
//! The generated code is checked in, so that building needs neither this program nor `protoc`; `tests/generated.rs`
//! fails when the two have drifted apart.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use prost::Message;

/// The sources, relative to `proto/`, in the order they are compiled.
pub const SOURCES: [&str; 8] = [
    "fumehood/v1/types.proto",
    "fumehood/v1/approvals.proto",
    "fumehood/v1/runs.proto",
    "fumehood/v1/sessions.proto",
    "fumehood/v1/files.proto",
    "fumehood/v1/policies.proto",
    "fumehood/v1/learning.proto",
    "fumehood/v1/node.proto",
];

/// The generated code's name below the output directory.
pub const CODE: &str = "fumehood.v1.rs";

/// The file descriptor set's name below the output directory.
pub const DESCRIPTOR: &str = "descriptor.bin";

/// The package's directory.
pub fn package() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Compiles the sources and writes [`CODE`] and [`DESCRIPTOR`] into `out`, which must exist.
pub fn generate(out: &Path) -> Result<(), Box<dyn Error>> {
    let include = package().join("proto");
    let mut compiler = protox::Compiler::new([&include])?;
    compiler.include_imports(true).include_source_info(true);
    for source in SOURCES {
        compiler.open_file(source)?;
    }
    let mut descriptors = compiler.file_descriptor_set();

    // Comments become doc comments, so the generator gets the source info ...
    tonic_prost_build::configure()
        .build_client(true)
        .build_server(true)
        // Output and input pass through as reference-counted slices of the receive buffer, not as copies.
        .bytes(".")
        // A fixed order of map entries: equal messages encode to equal bytes, which request digests rely on.
        .btree_map(".")
        .emit_rerun_if_changed(false)
        .out_dir(out)
        .compile_fds(descriptors.clone())?;
    // The well-known types come from prost-types; the generator leaves an empty file for their package.
    let _ = fs::remove_file(out.join("google.protobuf.rs"));

    // ... and reflection, which shows names and types only, goes without: a fifth of the size.
    for file in &mut descriptors.file {
        file.source_code_info = None;
    }
    fs::write(out.join(DESCRIPTOR), descriptors.encode_to_vec())?;
    Ok(())
}

#[allow(dead_code)] // tests/generated.rs includes this file for `generate`.
fn main() -> Result<(), Box<dyn Error>> {
    let out = package().join("src/gen");
    fs::create_dir_all(&out)?;
    generate(&out)?;
    println!("wrote {CODE} and {DESCRIPTOR} to {}", out.display());
    Ok(())
}
