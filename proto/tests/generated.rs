//! The checked-in code is what the generator makes of the `.proto` files, and every declaration in them is explained.

use std::fs;
use std::path::PathBuf;

use prost::Message;

#[path = "../examples/generate.rs"]
mod generate;

const MEND: &str = "run `cargo run -p fumehood-proto --example generate` and commit the result";

#[test]
fn checked_in_code_is_what_the_generator_writes() {
    let fresh = tempfile::tempdir().unwrap();
    generate::generate(fresh.path()).unwrap();

    let checked_in = generate::package().join("src/gen");
    for name in [generate::CODE, generate::DESCRIPTOR] {
        let expected = fs::read(fresh.path().join(name)).unwrap();
        let found = fs::read(checked_in.join(name)).unwrap_or_default();
        assert!(
            expected == found,
            "{} differs from what the .proto files say: {MEND}",
            checked_in.join(name).display()
        );
    }

    let names = |directory: &std::path::Path| {
        let mut names: Vec<_> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        names
    };
    assert_eq!(
        names(&checked_in),
        names(fresh.path()),
        "src/gen holds files the generator does not write: {MEND}"
    );
}

#[test]
fn descriptor_set_holds_the_services_for_reflection() {
    let set = prost_types::FileDescriptorSet::decode(fumehood_proto::FILE_DESCRIPTOR_SET).unwrap();
    let services: Vec<_> = set
        .file
        .iter()
        .filter(|file| file.package() == "fumehood.v1")
        .flat_map(|file| file.service.iter().map(|service| service.name().to_owned()))
        .collect();
    assert_eq!(
        services,
        ["Approvals", "Runs", "Sessions", "Files", "Policies", "Learning", "Node"]
    );
    let imported = set
        .file
        .iter()
        .any(|file| file.name() == "google/protobuf/timestamp.proto");
    assert!(imported, "reflection needs the imported files as well");
}

#[test]
fn every_declaration_has_a_comment() {
    let mut missing = Vec::new();
    for source in sources() {
        let text = fs::read_to_string(&source).unwrap();
        let mut previous = "";
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if is_declaration(line) && !previous.starts_with("//") {
                missing.push(format!("{}:{}: no comment above `{line}`", source.display(), index + 1));
            }
            previous = line;
        }
    }
    assert!(
        missing.is_empty(),
        "say what it means, with unit, default and consequence:\n{}",
        missing.join("\n")
    );
}

#[test]
fn declarations_are_told_from_the_rest() {
    let declarations = [
        "message RunSpec {",
        "message SignalResponse {}",
        "enum RunState {",
        "service Runs {",
        "oneof kind {",
        "rpc Run(stream RunRequest) returns (stream RunEvent);",
        "bytes cwd = 5;",
        "FLOW_CONTROL_DROP = 1;",
        "repeated bytes argv = 1;",
        "map<string, string> labels = 11;",
        "optional uint64 memory_bytes = 4;",
    ];
    for line in declarations {
        assert!(is_declaration(line), "{line}");
    }
    for line in [
        "",
        "}",
        "// bytes cwd = 5;",
        "syntax = \"proto3\";",
        "package fumehood.v1;",
        "import \"a.proto\";",
    ] {
        assert!(!is_declaration(line), "{line}");
    }
}

/// Whether a trimmed line declares a message, field, enum, enum value, oneof, rpc or service.
fn is_declaration(line: &str) -> bool {
    let keyword = line.split_whitespace().next().unwrap_or_default();
    match keyword {
        "message" | "enum" | "service" | "rpc" | "oneof" => true,
        "syntax" | "package" | "import" | "option" | "reserved" => false,
        _ if keyword.starts_with("//") => false,
        // Fields and enum values: `... = NUMBER;`.
        _ => line.ends_with(';') && line.contains(" = "),
    }
}

/// Every `.proto` file of the package: those the generator compiles must be all there are.
fn sources() -> Vec<PathBuf> {
    let directory = generate::package().join("proto/fumehood/v1");
    let mut files: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "proto"))
        .collect();
    files.sort();
    let mut compiled: Vec<_> = generate::SOURCES
        .iter()
        .map(|name| generate::package().join("proto").join(name))
        .collect();
    compiled.sort();
    assert_eq!(
        files, compiled,
        "examples/generate.rs does not compile every .proto file"
    );
    files
}
