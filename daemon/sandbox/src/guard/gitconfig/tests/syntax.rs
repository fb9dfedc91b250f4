//! The parser against git itself.

use std::path::Path;
use std::process::Command;

use super::super::parse::{Entry, parse};

/// What git reads in a file; `None` when it refuses it.
fn as_git_reads(file: &Path) -> Option<Vec<Entry>> {
    let output = Command::new("git")
        .args(["config", "-z", "--list", "--no-includes", "-f"])
        .arg(file)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .output()
        .expect("these tests need git");
    let entry = |record: &[u8]| match record.iter().position(|&b| b == b'\n') {
        Some(at) => Entry {
            name: record[..at].to_vec(),
            value: Some(record[at + 1..].to_vec()),
        },
        None => Entry {
            name: record.to_vec(),
            value: None,
        },
    };
    let records = output.stdout.strip_suffix(b"\0").unwrap_or(&output.stdout);
    match output.status.success() {
        true if records.is_empty() => Some(Vec::new()),
        true => Some(records.split(|&b| b == 0).map(entry).collect()),
        false => None,
    }
}

#[track_caller]
fn same_as_git(file: &Path, content: &[u8]) {
    std::fs::write(file, content).expect("write the file");
    let ours = parse(content);
    assert_eq!(
        ours.ok(),
        as_git_reads(file),
        "content: {:?}",
        String::from_utf8_lossy(content)
    );
}

#[test]
fn known_oddities_are_read_as_git_reads_them() {
    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join("config");
    for content in [
        &b""[..],
        b"\n",
        b"\r\n",
        b"\xef\xbb\xbf[a]\nb = c\n",
        b"\xef\xbb[a]\nb = c\n",
        b"\xef",
        b"\n\xef\xbb\xbf[a]\nb=c\n",
        b"[a]b=c",
        b"[a]b",
        b"[a]b\r",
        b"[a]\r\nb=c\r\n",
        b"[a]\rb=c\rd\n",
        b"[a] ; x\nb=c",
        b"[a]#x\nb=c",
        b"[a] [b] c=d",
        b"[a]b=c [d]e=f",
        b"[A.B.c]D=e",
        b"[A \"B.c\"]D=e",
        b"[A.b \"C\"]D=e",
        b"[a\t\"b\"]c=d",
        b"[a\n\"b\"]c=d",
        b"[a \"b\" ]c=d",
        b"[a \"b\nc\"]d=e",
        b"[a \"b\\\nc\"]d=e",
        b"[a \"b\\\\\\\"\\n\"]d=e",
        b"[a\"b\"]c=d",
        b"[ a]b=c",
        b"[a ]b=c",
        b"[]b=c",
        b"[ \"x\"]b=c",
        b"[.]b=c",
        b"[a..b]c=d",
        b"[a_b]c=d",
        b"b=c",
        b"b",
        b"[a]b c=d",
        b"[a]b_c=d",
        b"[a]b-c = d",
        b"[a]-b=c",
        b"[a]1b=c",
        b"[a]b1=c",
        b"[a]b\t =\t c \t d \t\n",
        b"[a]b=\"c \" ",
        b"[a]b= \"\" c",
        b"[a]b=c\\\n  d",
        b"[a]b=c\\\r\n  d",
        b"[a]b=c \\\nd",
        b"[a]b=\"c\\\nd\"",
        b"[a]b=\"c\nd\"",
        b"[a]b=c\\",
        b"[a]b=c # d",
        b"[a]b=\"c # d\" ; e",
        b"[a]b=c\"d\"e",
        b"[a]b=\\t\\n\\b\\\\\\\"",
        b"[a]b=\\x",
        b"[a]b=\\;",
        b"[a]b=c\x0bd\x0c",
        b"[a]\x0bb=c",
        b"[a]b=c;d\\\ne=f",
        b";x\\\n[a]b=c",
        b"[a]b==c",
        b"[a]b=[c]",
        b"[a]b\\\n=c",
        b"[a \"\xff\xe4\"]b=\xff",
        b"[\xe4]b=c",
        b"[a]b\xe4=c",
        b"[a \"\"]b=c",
        b"[a \"b\"]",
        b"[a \"b\"",
        b"[a",
        b"[",
        b"]",
        b"=",
        b"[a]b=\r",
        b"[a]b=c\r\r\n",
        b"[a \"b\r\"]c=d",
    ] {
        same_as_git(&file, content);
    }
}

#[test]
fn generated_files_are_read_as_git_reads_them() {
    #[rustfmt::skip]
    const LINES: &[&[u8]] = &[
        b"[a]\n", b"[B.c]\n", b"[core \"Sub.x\"]\n", b"[a \"q\\\"q\"] ", b"\tkey = value\n", b"k=v # r\r\n", b" flag \n", b"k = \"v ; w\"  x\n",
        b"; remark \"\n", b"k = a\\\n  b \\\r\n c\n", b"k = \"\\t\\\\\" \n", b"\n", b"[d] k = 1\n", b"k\t=\n", b"K-2=x\ry\n",
    ];
    #[rustfmt::skip]
    const PIECES: &[&[u8]] = &[
        b"[", b"]", b"[a]", b"[core]", b"[A \"B\"]", b"[a.B]", b"\"", b"\"", b"\\", b"\\\n", b"\\\r\n", b"\\t", b"\\n", b"\\\"",
        b"\\q", b"\n", b"\n", b"\n", b"\r\n", b"\r", b" ", b" ", b"\t", b"=", b"=", b" = ", b"key", b"K-1", b"fsmonitor", b"x",
        b"#", b";", b".", b"-", b"_", b"0", b"\xef\xbb\xbf", b"\xe4", b"\x0b", b"\x0c", b"\x1b", b"!", b"[a]\nb = c\n", b"\tk = \"v ; w\" # r\n",
    ];
    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join("config");
    // xorshift64*, so that a failure can be repeated.
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut random = |below: usize| {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % below
    };
    let files = 1500;
    let mut readable = 0;
    for _ in 0..files {
        let mut content = Vec::new();
        if random(2) == 0 {
            // Good lines with a few odd pieces put in anywhere, or nearly no file could be read.
            for _ in 0..random(10) {
                content.extend_from_slice(LINES[random(LINES.len())]);
            }
            for _ in 0..random(4) {
                let at = random(content.len() + 1);
                let piece = PIECES[random(PIECES.len())];
                content.splice(at..at, piece.iter().copied());
            }
        } else {
            for _ in 0..random(14) {
                content.extend_from_slice(PIECES[random(PIECES.len())]);
            }
        }
        same_as_git(&file, &content);
        readable += usize::from(parse(&content).is_ok_and(|entries| entries.len() > 1));
    }
    assert!(readable > files / 20, "only {readable} of {files} files had entries");
}
