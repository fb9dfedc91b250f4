//! Reading a log line by line, to tell what is in it. Nothing is verified here: that is [`super::verify`].

use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use super::chain::{self, Envelope, Line};
use super::verify::{VerifyError, open_regular};

/// What every record says about itself, and the run it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heading {
    /// Its number.
    pub seq: u64,
    /// When it was written: RFC 3339, UTC. As the line has it: a log that was edited says what it likes.
    pub time: String,
    /// Its kind.
    pub kind: String,
    /// The run's id, with `@` and the peer's name behind it when the peer is not the daemon's own user.
    pub run_id: Option<String>,
}

/// What stands in the next line of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// A record, by its looks.
    Record(Heading),
    /// Something else: why it is no record.
    Malformed(String),
    /// The file ends without a newline: a daemon is writing, or one died in mid-write.
    Half,
}

/// A log that is read from its first line on, in bounded memory; a daemon may write to it meanwhile.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    lines: BufReader<File>,
    number: u64,
}

impl Reader {
    /// Opens the log at `path`.
    ///
    /// # Errors
    /// [`VerifyError::Read`] when it cannot be opened or is no regular file.
    pub fn open(path: &Path) -> Result<Reader, VerifyError> {
        let file = open_regular(path).map_err(|source| VerifyError::Read {
            path: path.to_owned(),
            source,
        })?;
        Ok(Reader {
            path: path.to_owned(),
            lines: BufReader::with_capacity(256 * 1024, file),
            number: 0,
        })
    }

    /// Where the log is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The number of the line that was read last, from 1.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Reads the next line into `line`, without its newline and at most [`super::MAX_LINE_BYTES`] of it; `None` at the log's end.
    ///
    /// # Errors
    /// [`VerifyError::Read`] when the file cannot be read.
    pub fn next(&mut self, line: &mut Vec<u8>) -> Result<Option<Next>, VerifyError> {
        self.step(line).map_err(|source| VerifyError::Read {
            path: self.path.clone(),
            source,
        })
    }

    fn step(&mut self, line: &mut Vec<u8>) -> io::Result<Option<Next>> {
        self.number += 1;
        Ok(Some(match chain::next_line(&mut self.lines, line)? {
            Line::End => return Ok(None),
            Line::Torn => Next::Half,
            Line::TooLong => {
                // The rest of it, so that the next line is one.
                while chain::next_line(&mut self.lines, line)? == Line::TooLong {}
                line.clear();
                Next::Malformed("longer than any record".to_owned())
            }
            Line::Whole => match serde_json::from_slice::<Envelope<'_>>(line) {
                Ok(record) => Next::Record(Heading {
                    seq: record.seq,
                    time: record.time.unwrap_or_default().into_owned(),
                    kind: record.kind.into_owned(),
                    run_id: record.run_id.map(|id| id.into_owned()),
                }),
                Err(error) => Next::Malformed(error.to_string()),
            },
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::MAX_LINE_BYTES;

    #[test]
    fn what_is_no_record_is_told_and_does_not_stop_the_rest() {
        let record =
            |seq: u64| format!(r#"{{"seq":{seq},"time":"T","kind":"end","prev":"p","run_id":"r","hash":"h"}}"#);
        let long = "x".repeat(2 * MAX_LINE_BYTES + 5);
        let text = format!("{}\n\n{{}}\n{long}\n\"\u{1b}\"\n{}\n{{\"seq\":3", record(1), record(2));
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        std::fs::write(&path, text).unwrap();
        let mut reader = Reader::open(&path).unwrap();
        let (mut line, mut told) = (Vec::new(), Vec::new());
        while let Some(next) = reader.next(&mut line).unwrap() {
            told.push((reader.number(), next));
            assert!(line.len() <= MAX_LINE_BYTES);
        }
        let seqs = told.iter().filter_map(|(number, next)| match next {
            Next::Record(heading) => Some((*number, heading.seq, heading.run_id.as_deref())),
            _ => None,
        });
        assert_eq!(seqs.collect::<Vec<_>>(), [(1, 1, Some("r")), (6, 2, Some("r"))]);
        let malformed = told.iter().filter(|(_, next)| matches!(next, Next::Malformed(_)));
        assert_eq!(malformed.map(|(number, _)| *number).collect::<Vec<_>>(), [2, 3, 4, 5]);
        assert_eq!(told.last(), Some(&(7, Next::Half)));
    }

    #[test]
    fn only_a_regular_file_is_read() {
        let directory = tempfile::tempdir().unwrap();
        assert!(Reader::open(directory.path()).is_err());
        assert!(Reader::open(&directory.path().join("none")).is_err());
    }
}
