//! The last lines or bytes of output.

use std::collections::VecDeque;

use fumehood_client::proto::v1::{Output, RunEvent, run_event::Event};

/// No more output than this is held to find its last lines.
pub const TAIL_BYTES: u64 = 16 * 1024 * 1024;

/// How much of the end is wanted, of both streams together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tail {
    Lines(u64),
    Bytes(u64),
}

impl Tail {
    /// Parses `20` (lines), `512B`, `64K`, `1M`.
    ///
    /// # Errors
    /// When it is neither, or more bytes than are held.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || "must be a number of lines, or of bytes with a unit: 20, 512B, 64K, 1M".to_owned();
        let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let factor: u64 = match unit {
            "" => return Ok(Self::Lines(number)),
            "B" | "b" => 1,
            "K" | "k" => 1024,
            "M" | "m" => 1024 * 1024,
            _ => return Err(wrong()),
        };
        number
            .checked_mul(factor)
            .filter(|bytes| *bytes <= TAIL_BYTES)
            .map(Self::Bytes)
            .ok_or_else(|| "must be at most 16M".to_owned())
    }

    /// Bytes that hold it, or as many as are looked through; at least one, so that the newest event is among them and shows where the end is.
    pub fn bytes(self) -> u64 {
        match self {
            Self::Lines(_) => TAIL_BYTES,
            Self::Bytes(bytes) => bytes.max(1),
        }
    }
}

/// Events, of whose output only the end is kept, as far as they had happened when this began.
pub struct Held {
    tail: Tail,
    /// The number of the newest of them.
    newest: u64,
    over: bool,
    events: VecDeque<RunEvent>,
    bytes: u64,
    lines: u64,
}

impl Held {
    pub fn new(tail: Tail, newest: u64) -> Self {
        Self {
            tail,
            newest,
            over: false,
            events: VecDeque::new(),
            bytes: 0,
            lines: 0,
        }
    }

    /// Takes an event that reaches to the number `seq` (a gap is about several); gives those that are to be shown now, in order. What
    /// happened after this began is shown whole.
    pub fn next(&mut self, event: RunEvent, seq: u64, last: bool) -> VecDeque<RunEvent> {
        if self.over {
            return VecDeque::from([event]);
        }
        let newer = event.seq > self.newest;
        let shown_whole = if newer {
            Some(event)
        } else {
            self.push(event);
            None
        };
        if !last && seq < self.newest {
            return VecDeque::new();
        }
        self.over = true;
        let mut shown = self.take();
        shown.extend(shown_whole);
        shown
    }

    /// Takes an event, and lets go of output that is not the end any more.
    fn push(&mut self, event: RunEvent) {
        if let Some(output) = output_of(&event) {
            self.bytes += output.data.len() as u64;
            self.lines += newlines(&output.data);
        }
        self.events.push_back(event);
        // By whole events, while what is left is enough all the same.
        while let Some(at) = self.events.iter().position(|event| output_of(event).is_some())
            && let Some(first) = self.events.get(at).and_then(output_of)
        {
            let (bytes, lines) = (first.data.len() as u64, newlines(&first.data));
            let spare = match self.tail {
                // One more, for a last line that has no end yet.
                Tail::Lines(wanted) => self.lines - lines > wanted || self.bytes > TAIL_BYTES,
                Tail::Bytes(wanted) => self.bytes - bytes >= wanted,
            };
            if !spare {
                break;
            }
            self.bytes -= bytes;
            self.lines -= lines;
            self.events.remove(at);
        }
    }

    /// The events, with the output cut to what is wanted.
    fn take(&mut self) -> VecDeque<RunEvent> {
        let mut excess = match self.tail {
            Tail::Bytes(wanted) => self.bytes.saturating_sub(wanted),
            Tail::Lines(wanted) => self.before_lines(wanted),
        };
        let mut events = std::mem::take(&mut self.events);
        events.retain_mut(|event| match &mut event.event {
            Some(Event::Output(output)) if excess > 0 => {
                let cut = usize::try_from(excess).unwrap_or(usize::MAX).min(output.data.len());
                drop(output.data.split_to(cut));
                output.offset += cut as u64;
                excess -= cut as u64;
                !output.data.is_empty()
            }
            _ => true,
        });
        events
    }

    /// How many bytes come before the last `wanted` lines.
    fn before_lines(&self, wanted: u64) -> u64 {
        let mut after = 0;
        let mut seen = 0;
        let pieces = self.events.iter().rev().filter_map(output_of);
        for (index, output) in pieces.enumerate() {
            for (place, byte) in output.data.iter().enumerate().rev() {
                // The very last byte ends a line and begins none.
                let last = index == 0 && place + 1 == output.data.len();
                if *byte == b'\n' && !last {
                    seen += 1;
                    if seen >= wanted {
                        return if wanted == 0 { self.bytes } else { self.bytes - after };
                    }
                }
                after += 1;
            }
        }
        if wanted == 0 { self.bytes } else { 0 }
    }
}

fn output_of(event: &RunEvent) -> Option<&Output> {
    match &event.event {
        Some(Event::Output(output)) => Some(output),
        _ => None,
    }
}

fn newlines(data: &[u8]) -> u64 {
    data.iter().filter(|byte| **byte == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use fumehood_client::proto::v1::{Accepted, Finished};

    fn kept(tail: Tail, pieces: &[&str]) -> String {
        let mut held = Held::new(tail, u64::MAX);
        let event = |event| RunEvent {
            event: Some(event),
            ..RunEvent::default()
        };
        held.push(event(Event::Accepted(Accepted::default())));
        let mut offset = 0;
        for piece in pieces {
            let data = bytes::Bytes::copy_from_slice(piece.as_bytes());
            let stream = 0;
            held.push(event(Event::Output(Output { stream, offset, data })));
            offset += piece.len() as u64;
        }
        held.push(event(Event::Finished(Finished::default())));
        let events = held.take();
        let others = events.iter().filter(|event| output_of(event).is_none()).count();
        assert_eq!(others, 2, "what is no output stays");
        let whole: String = pieces.concat();
        for output in events.iter().filter_map(output_of) {
            let at = output.offset as usize;
            assert_eq!(
                output.data,
                whole.as_bytes()[at..at + output.data.len()],
                "at its offset"
            );
        }
        let text = events
            .iter()
            .filter_map(output_of)
            .flat_map(|output| output.data.to_vec());
        String::from_utf8(text.collect()).unwrap()
    }

    #[test]
    fn the_last_lines_are_whole_however_they_came() {
        for pieces in [&["a\nb\nc\n"][..], &["a", "\nb", "\n", "c\n"], &["a\n", "b\n", "c\n"]] {
            assert_eq!(kept(Tail::Lines(2), pieces), "b\nc\n", "{pieces:?}");
            assert_eq!(kept(Tail::Lines(3), pieces), "a\nb\nc\n");
            assert_eq!(kept(Tail::Lines(9), pieces), "a\nb\nc\n");
            assert_eq!(kept(Tail::Lines(0), pieces), "");
        }
        assert_eq!(kept(Tail::Lines(2), &["a\nb\n", "unfinished"]), "b\nunfinished");
        assert_eq!(kept(Tail::Lines(1), &["\n\n"]), "\n");
        assert_eq!(kept(Tail::Lines(1), &[]), "");
    }

    #[test]
    fn the_last_bytes_are_exact() {
        assert_eq!(kept(Tail::Bytes(3), &["ab", "cd", "ef"]), "def");
        assert_eq!(kept(Tail::Bytes(4), &["ab", "cd", "ef"]), "cdef");
        assert_eq!(kept(Tail::Bytes(0), &["ab"]), "");
        assert_eq!(kept(Tail::Bytes(99), &["ab"]), "ab");
    }

    #[test]
    fn what_comes_after_the_beginning_is_shown_whole() {
        let event = |seq, event| RunEvent {
            seq,
            event: Some(event),
            ..RunEvent::default()
        };
        let output = |seq, data: &'static [u8]| {
            let data = data.into();
            let output = Output {
                data,
                ..Output::default()
            };
            event(seq, Event::Output(output))
        };
        let text = |events: VecDeque<RunEvent>| -> String {
            let pieces = events.iter().filter_map(output_of);
            pieces
                .map(|output| String::from_utf8_lossy(&output.data).into_owned())
                .collect()
        };
        for wanted in [Tail::Bytes(0), Tail::Lines(0)] {
            // Of what was there the end only was sent, and that is not its last event.
            let mut held = Held::new(wanted, 4);
            assert_eq!(
                text(held.next(event(1, Event::Accepted(Accepted::default())), 1, false)),
                ""
            );
            assert_eq!(text(held.next(output(3, b"first\n"), 3, false)), "");
            assert_eq!(
                text(held.next(output(5, b"second\n"), 5, false)),
                "second\n",
                "{wanted:?}"
            );
            assert_eq!(text(held.next(output(6, b"third\n"), 6, false)), "third\n");
            // And that is.
            let mut held = Held::new(wanted, 4);
            assert_eq!(text(held.next(output(4, b"first\n"), 4, false)), "");
            assert_eq!(text(held.next(output(5, b"second\n"), 5, false)), "second\n");
        }
        let mut held = Held::new(Tail::Bytes(3), 4);
        assert_eq!(text(held.next(output(3, b"first\n"), 3, false)), "");
        assert_eq!(text(held.next(output(5, b"second\n"), 5, false)), "st\nsecond\n");
        assert_eq!(Tail::Bytes(0).bytes(), 1, "so that the newest event comes");
    }

    #[test]
    fn a_number_is_lines_and_with_a_unit_bytes() {
        assert_eq!(Tail::parse("20"), Ok(Tail::Lines(20)));
        assert_eq!(Tail::parse("64K"), Ok(Tail::Bytes(65_536)));
        assert_eq!(Tail::parse("16M"), Ok(Tail::Bytes(TAIL_BYTES)));
        for wrong in ["", "x", "-1", "1G", "17M", "1 K", "99999999999999999999"] {
            assert!(Tail::parse(wrong).is_err(), "{wrong}");
        }
    }
}
