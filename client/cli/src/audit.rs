//! `fumehood audit show`: the audit log as a story.
//!
//! It is read line by line, in bounded memory, and not verified: a line that looks like a record is told as one. Several logs of one user
//! are told as one, by the records' times; within a log the order stays that of its lines.

mod told;

use std::collections::VecDeque;
use std::io::{self, BufWriter, StdoutLock, Write as _};
use std::path::PathBuf;

use serde_json::Value;

use crate::args::AuditShowArgs;
use crate::daemon::{self, Heading, Next, Reader};
use crate::failure::Failure;
use crate::ids::Search;
use crate::render::safe;
use crate::tell;

pub use told::cut;

/// The exit code when a line was no record, or there is no such run.
const FOUND: u8 = 1;
/// Lines that are no records and are told one by one; further ones are counted.
const MALFORMED_TOLD: u64 = 20;

/// `audit show`.
pub fn show(args: AuditShowArgs) -> Result<u8, Failure> {
    let paths = daemon::audit_logs(args.file);
    if paths.is_empty() {
        return Err(Failure::NoAuditLog);
    }
    let run = match args.run.map(|wanted| find(&paths, wanted)).transpose()? {
        Some(Err(why)) => {
            tell(&why);
            return Ok(FOUND);
        }
        found => found.and_then(Result::ok),
    };
    let mut out = Out(BufWriter::new(io::stdout().lock()));
    let mut logs = Logs::open(&paths)?;
    let mut malformed = 0;
    let last = args.last.map(usize::from);
    let mut kept = VecDeque::new();
    while let Some(log) = logs.next()? {
        let told = match &log.next {
            Next::Record(heading) if run.is_some() && heading.run_id != run => continue,
            Next::Record(_) if args.json => Ok(log.line.clone()),
            Next::Record(heading) => serde_json::from_slice::<Value>(&log.line)
                .map(|record| told::line(heading, &record).into_bytes())
                .map_err(|error| format!("not a record: {error}")),
            Next::Malformed(why) => Err(format!("not a record: {why}")),
            Next::Half => Err("the line has no end: it is being written, or was left half written".to_owned()),
        };
        match (told, last) {
            (Ok(told), None) => out.line(&told)?,
            (Ok(told), Some(last)) => {
                if kept.len() == last {
                    kept.pop_front();
                }
                kept.push_back(told);
            }
            (Err(why), _) => {
                malformed += u64::from(log.next != Next::Half);
                if malformed <= MALFORMED_TOLD {
                    // What was told before it is to stand before it.
                    out.flush()?;
                    let (path, number) = (log.reader.path().display(), log.reader.number());
                    tell(&told::cut(
                        &safe(&format!("{path}, line {number}: {why}")),
                        told::LINE_CHARS,
                    ));
                }
            }
        }
    }
    kept.iter().try_for_each(|line| out.line(line))?;
    out.flush()?;
    if malformed > MALFORMED_TOLD {
        tell(&format!(
            "and {} more lines that are no records",
            malformed - MALFORMED_TOLD
        ));
    }
    Ok(if malformed > 0 { FOUND } else { 0 })
}

/// Standard output, a line at a time.
struct Out(BufWriter<StdoutLock<'static>>);

impl Out {
    fn line(&mut self, line: &[u8]) -> Result<(), Failure> {
        let written = self.0.write_all(line).and_then(|()| self.0.write_all(b"\n"));
        written.map_err(Self::failed)
    }

    fn flush(&mut self) -> Result<(), Failure> {
        self.0.flush().map_err(Self::failed)
    }

    fn failed(source: io::Error) -> Failure {
        Failure::Output {
            stream: "output",
            source,
        }
    }
}

/// A log and its line that is to be told next.
struct Log {
    reader: Reader,
    line: Vec<u8>,
    next: Next,
}

/// Logs that are read together.
struct Logs {
    logs: Vec<Log>,
    /// The one whose line was told last, and which must be read on.
    given: Option<usize>,
}

impl Logs {
    fn open(paths: &[PathBuf]) -> Result<Self, Failure> {
        let mut logs = Vec::with_capacity(paths.len());
        for path in paths {
            let (mut reader, mut line) = (Reader::open(path)?, Vec::new());
            if let Some(next) = reader.next(&mut line)? {
                logs.push(Log { reader, line, next });
            }
        }
        Ok(Logs { logs, given: None })
    }

    /// The line with the earliest time; what is no record has none and comes at once.
    fn next(&mut self) -> Result<Option<&Log>, Failure> {
        if let Some(given) = self.given.take()
            && let Some(log) = self.logs.get_mut(given)
        {
            match log.reader.next(&mut log.line)? {
                Some(next) => log.next = next,
                None => drop(self.logs.remove(given)),
            }
        }
        // All times are UTC and have the same form, so that their text has their order.
        let time = |log: &Log| match &log.next {
            Next::Record(heading) => heading.time.clone(),
            Next::Malformed(_) | Next::Half => String::new(),
        };
        self.given = (0..self.logs.len()).min_by_key(|&at| self.logs.get(at).map(time));
        Ok(self.given.and_then(|at| self.logs.get(at)))
    }
}

/// The recorded id of the one run that `wanted` stands for, or why it stands for none.
fn find(paths: &[PathBuf], wanted: String) -> Result<Result<String, String>, Failure> {
    let mut logs = Logs::open(paths)?;
    let mut search = Search::new("run", wanted);
    while let Some(log) = logs.next()? {
        let Next::Record(Heading {
            run_id: Some(recorded), ..
        }) = &log.next
        else {
            continue;
        };
        if search.look_at(recorded) {
            break;
        }
    }
    Ok(search.found())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "01a20627-101c-77f4-8db5-b7f87798714a";
    const OTHER: &str = "01a20627-6775-73ee-aa08-d90c9e304796@uid:1001";

    fn record(seq: u64, time: &str, run_id: &str) -> String {
        format!(r#"{{"seq":{seq},"time":"{time}","kind":"end","prev":"","run_id":"{run_id}","hash":""}}"#)
    }

    #[test]
    fn a_part_that_stands_for_more_than_one_run_stands_for_none() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let lines = [ONE, OTHER, ONE, "build", "build@uid:7", "deploy-build"].map(|id| record(1, "T", id));
        std::fs::write(&log, lines.join("\n") + "\nnonsense\n").unwrap();
        let find = |wanted: &str| find(std::slice::from_ref(&log), wanted.to_owned()).unwrap();
        assert_eq!(find("b7f87798714a"), Ok(ONE.to_owned()));
        assert_eq!(find("304796"), Ok(OTHER.to_owned()));
        assert_eq!(find("build"), Ok("build".to_owned()), "not the other peer's");
        assert_eq!(find("build@uid:7"), Ok("build@uid:7".to_owned()));
        let said = find("01a20627").unwrap_err();
        assert!(said.contains(ONE) && said.contains(OTHER), "{said}");
        assert!(find("nosuch").unwrap_err().contains("no run"));
        assert!(find("zz").unwrap_err().contains("6 characters"));
    }

    #[test]
    fn several_logs_are_one_story_and_each_keeps_its_order() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, records: &[(u64, &str)]| {
            let path = directory.path().join(name);
            let lines: String = records
                .iter()
                .map(|(seq, time)| record(*seq, time, name) + "\n")
                .collect();
            std::fs::write(&path, lines).unwrap();
            path
        };
        // The second one's clock was set back.
        let paths = [
            write("a", &[(1, "T1"), (2, "T4"), (3, "T6")]),
            write("b", &[(11, "T2"), (12, "T5"), (13, "T3")]),
            write("none", &[]),
        ];
        let mut logs = Logs::open(&paths).unwrap();
        let mut order = Vec::new();
        while let Some(log) = logs.next().unwrap() {
            if let Next::Record(heading) = &log.next {
                order.push(heading.seq);
            }
        }
        assert_eq!(order, [1, 11, 2, 12, 13, 3]);
    }
}
