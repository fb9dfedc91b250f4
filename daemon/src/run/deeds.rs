//! Who did what to a run, for the audit log: attached, sent input, signalled, killed, released.
//!
//! What comes over the stream that started the run is not among it: that is the run. Nor do further attachments count, or their input, of the very
//! process that started it, which the library makes when a connection broke and the command line to resize a terminal. Nothing waits for these records. A flood of
//! attachments does not become a flood of records: of what one peer does to one run, each kind is recorded the first [`EACH`] times, then the
//! 100th, the 1,000th and so on, and what is left when the run ends; each record says how many times it stands for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::audit::{AuditLog, Deed, DeedKind};
use crate::peer::Peer;

/// So many deeds of a kind get a record each.
const EACH: u64 = 10;

/// Peers that are told apart, for each run; what further ones do is counted under one name. Local users and certificates are fewer.
const MAX_PEERS: usize = 64;

/// The name of those.
const OTHERS: &str = "others";

/// What was done, and by whom, so far.
#[derive(Debug)]
pub(super) struct Deeds {
    /// `None` where there is no log.
    audit: Option<AuditLog>,
    /// The run's id, as in its intent.
    run_id: String,
    starter: Peer,
    done: Mutex<BTreeMap<String, ByOne>>,
}

/// What one peer did.
#[derive(Debug, Default)]
struct ByOne {
    pid: Option<i32>,
    attached: Count,
    input: Count,
    input_bytes: u64,
    signalled: Count,
    signals: BTreeSet<i32>,
    killed: Count,
}

#[derive(Debug, Default)]
struct Count {
    all: u64,
    /// Not in a record yet.
    untold: u64,
}

impl Count {
    fn one_more(&mut self) {
        self.all += 1;
        self.untold += 1;
    }

    /// What a record is to stand for, if one is due.
    fn take_due(&mut self) -> Option<u64> {
        let due = self.untold > 0 && (self.all <= EACH || is_power_of_ten(self.all));
        due.then(|| std::mem::take(&mut self.untold))
    }

    /// What has no record yet.
    fn take_rest(&mut self) -> Option<u64> {
        Some(std::mem::take(&mut self.untold)).filter(|untold| *untold > 0)
    }
}

fn is_power_of_ten(mut number: u64) -> bool {
    while number > 1 && number.is_multiple_of(10) {
        number /= 10;
    }
    number == 1
}

impl Deeds {
    pub(super) fn new(audit: Option<AuditLog>, run_id: String, starter: Peer) -> Self {
        Deeds {
            audit,
            run_id,
            starter,
            done: Mutex::default(),
        }
    }

    /// Whether a peer is the process that started the run. One that got its number later passes for it: who signals or ends the run is
    /// recorded in any case.
    fn is_starter(&self, peer: &Peer) -> bool {
        peer.pid().is_some() && *peer == self.starter
    }

    pub(super) fn attached(&self, peer: &Peer) {
        if self.is_starter(peer) {
            return;
        }
        self.note(peer, |by| {
            by.attached.one_more();
            by.attached.take_due().map(|count| (DeedKind::Attached, count))
        });
    }

    /// Input came from an attachment, its first or more of it. Recorded when the attachment ends, see [`Deeds::input_ended`].
    pub(super) fn input(&self, peer: &Peer, bytes: usize, first: bool) {
        if self.is_starter(peer) {
            return;
        }
        self.note(peer, |by| {
            if first {
                by.input.one_more();
            }
            by.input_bytes += bytes as u64;
            None
        });
    }

    /// An attachment that sent input is over.
    pub(super) fn input_ended(&self, peer: &Peer) {
        self.note(peer, |by| {
            let count = by.input.take_due()?;
            let bytes = std::mem::take(&mut by.input_bytes);
            Some((DeedKind::Input { bytes }, count))
        });
    }

    pub(super) fn signalled(&self, peer: &Peer, signal: i32) {
        self.note(peer, |by| {
            by.signalled.one_more();
            by.signals.insert(signal);
            let count = by.signalled.take_due()?;
            let signals = std::mem::take(&mut by.signals).into_iter().collect();
            Some((DeedKind::Signalled { signals }, count))
        });
    }

    pub(super) fn killed(&self, peer: &Peer) {
        self.note(peer, |by| {
            by.killed.one_more();
            by.killed.take_due().map(|count| (DeedKind::Killed, count))
        });
    }

    /// Happens once.
    pub(super) fn released(&self, peer: &Peer) {
        self.note(peer, |_| Some((DeedKind::Released, 1)));
    }

    /// Records what has no record yet: the run ends.
    pub(super) fn tell_rest(&self) {
        let mut done = self.lock();
        for (peer, by) in done.iter_mut() {
            let mut rest = Vec::new();
            rest.extend(by.attached.take_rest().map(|count| (DeedKind::Attached, count)));
            let bytes = std::mem::take(&mut by.input_bytes);
            let senders = by.input.take_rest().or((bytes > 0).then_some(0));
            rest.extend(senders.map(|count| (DeedKind::Input { bytes }, count)));
            let signals = std::mem::take(&mut by.signals).into_iter().collect();
            rest.extend(
                by.signalled
                    .take_rest()
                    .map(|count| (DeedKind::Signalled { signals }, count)),
            );
            rest.extend(by.killed.take_rest().map(|count| (DeedKind::Killed, count)));
            for (what, count) in rest {
                self.record(peer, by.pid, what, count);
            }
        }
    }

    fn note(&self, peer: &Peer, deed: impl FnOnce(&mut ByOne) -> Option<(DeedKind, u64)>) {
        if self.audit.is_none() {
            return;
        }
        let mut done = self.lock();
        let mut name = peer.to_string();
        if done.len() >= MAX_PEERS && !done.contains_key(&name) {
            name = OTHERS.to_owned();
        }
        let by = done.entry(name.clone()).or_default();
        by.pid = peer.pid();
        let pid = by.pid;
        if let Some((what, count)) = deed(by) {
            // Under the lock, so that the records of a peer come in the order of its deeds.
            self.record(&name, pid, what, count);
        }
    }

    fn record(&self, peer: &str, peer_pid: Option<i32>, what: DeedKind, count: u64) {
        if let Some(audit) = &self.audit {
            audit.deed(&Deed {
                run_id: self.run_id.clone(),
                peer: peer.to_owned(),
                peer_pid,
                what,
                count,
            });
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, ByOne>> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::RequestRefused;
    use crate::peer::Identity;

    fn certificate(name: &str) -> Peer {
        Peer {
            identity: Identity::Certificate { name: name.to_owned() },
            allowed: true,
        }
    }

    /// The records of the kind: by whom, and the number in `field`.
    fn records(path: &std::path::Path, kind: &str, field: &str) -> Vec<(String, u64)> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .filter(|record| record["kind"] == kind && record["run_id"] == "r@uid:1")
            .map(|record| {
                (
                    record["peer"].as_str().unwrap().to_owned(),
                    record[field].as_u64().unwrap(),
                )
            })
            .collect()
    }

    #[tokio::test]
    async fn a_flood_is_a_few_records_that_account_for_all_of_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        let audit = AuditLog::open(&path, "i").unwrap();
        let deeds = Deeds::new(Some(audit.clone()), "r@uid:1".to_owned(), certificate("starter"));
        let (one, other) = (certificate("one"), certificate("other"));
        for _ in 0..12_345 {
            deeds.attached(&one);
        }
        deeds.attached(&other);
        for signal in [15, 2, 15] {
            deeds.signalled(&other, signal);
        }
        deeds.tell_rest();
        deeds.tell_rest();
        deeds.released(&other);
        audit.close().await.unwrap();
        let attached = records(&path, "run_attached", "count");
        let counts: Vec<u64> = attached
            .iter()
            .filter(|(peer, _)| peer == "cert:one")
            .map(|(_, count)| *count)
            .collect();
        assert_eq!(counts, [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 90, 900, 9000, 2345]);
        assert_eq!(attached.len(), 15);
        assert_eq!(records(&path, "run_signalled", "count").len(), 3);
        assert_eq!(records(&path, "run_released", "count"), [("cert:other".to_owned(), 1)]);
    }

    #[tokio::test]
    async fn input_is_counted_once_an_attachment_and_at_the_end_of_the_run() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        let audit = AuditLog::open(&path, "i").unwrap();
        let deeds = Deeds::new(Some(audit.clone()), "r@uid:1".to_owned(), certificate("starter"));
        let (one, other) = (certificate("one"), certificate("other"));
        deeds.input(&one, 5, true);
        deeds.input(&one, 6, false);
        deeds.input_ended(&one);
        deeds.input(&other, 7, true);
        // It ends while they still send.
        deeds.tell_rest();
        deeds.input_ended(&other);
        audit.close().await.unwrap();
        let expected = [("cert:one".to_owned(), 11), ("cert:other".to_owned(), 7)];
        assert_eq!(records(&path, "run_input", "bytes"), expected);
        assert_eq!(records(&path, "run_input", "count").len(), 2);
    }

    #[tokio::test]
    async fn of_the_starting_process_only_what_it_asks_of_the_run_is_recorded() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        let audit = AuditLog::open(&path, "i").unwrap();
        let process = |pid| Peer {
            identity: Identity::Unix { uid: 1, gid: 1, pid },
            allowed: true,
        };
        for (starter, peer, recorded) in [
            (Some(7), Some(7), 0),
            (Some(7), Some(8), 1),
            // Of another pid namespace: nobody knows.
            (None, None, 1),
        ] {
            let before = records(&path, "run_attached", "count").len();
            let deeds = Deeds::new(Some(audit.clone()), "r@uid:1".to_owned(), process(starter));
            deeds.attached(&process(peer));
            deeds.input(&process(peer), 1, true);
            deeds.input_ended(&process(peer));
            deeds.killed(&process(peer));
            deeds.tell_rest();
            // Durable, and so are those before.
            let last = RequestRefused {
                peer: "uid:1".to_owned(),
                peer_pid: None,
                reason: String::new(),
            };
            audit.request_refused(&last).await.unwrap();
            let attached = records(&path, "run_attached", "count").len() - before;
            assert_eq!(attached, recorded, "{starter:?} {peer:?}");
        }
        assert_eq!(records(&path, "run_input", "count").len(), 2);
        assert_eq!(records(&path, "run_killed", "count").len(), 3);
    }

    #[tokio::test]
    async fn peers_without_number_are_counted_together() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        let audit = AuditLog::open(&path, "i").unwrap();
        let deeds = Deeds::new(Some(audit.clone()), "r@uid:1".to_owned(), certificate("starter"));
        for number in 0..3 * MAX_PEERS {
            deeds.attached(&certificate(&number.to_string()));
        }
        deeds.tell_rest();
        audit.close().await.unwrap();
        let attached = records(&path, "run_attached", "count");
        let all: u64 = attached.iter().map(|(_, count)| count).sum();
        assert_eq!(all, 3 * MAX_PEERS as u64);
        assert!(attached.len() <= MAX_PEERS + 13, "{}", attached.len());
    }
}
