//! Records about what somebody did to a run otherwise than over the stream that started it.

use serde::Serialize;

use super::record::Entry;
use super::text::Text;

/// What somebody did to a run, once or several times since the last such record. Kinds `run_attached`, `run_input`, `run_signalled`,
/// `run_killed`, `run_released`.
#[derive(Clone, Debug)]
pub struct Deed {
    /// The run's id, as in its intent.
    pub run_id: String,
    /// Who did it.
    pub peer: String,
    /// The process id of who did it last, when it connected; information only.
    pub peer_pid: Option<i32>,
    /// What was done.
    pub what: DeedKind,
    /// How many times the record stands for; for input, how many attachments sent it. At least 1, but for input of an attachment that
    /// was counted before.
    pub count: u64,
}

/// What can be done to a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeedKind {
    /// Its events were followed. Kind `run_attached`.
    Attached,
    /// Input was sent. Kind `run_input`. The contents are never recorded.
    Input {
        /// How many bytes, those included that were sent again after a broken connection.
        bytes: u64,
    },
    /// Signals were sent. Kind `run_signalled`.
    Signalled {
        /// Which, each once, in the order of their numbers.
        signals: Vec<i32>,
    },
    /// It was asked to end. Kind `run_killed`; whether that ended it, its end says.
    Killed,
    /// It was forgotten, with its output. Kind `run_released`.
    Released,
}

impl Deed {
    pub(super) fn entry(&self) -> Result<Entry, serde_json::Error> {
        #[derive(Serialize)]
        struct Payload<'a> {
            run_id: &'a str,
            peer: Text<'a>,
            peer_pid: Option<i32>,
            count: u64,
            #[serde(skip_serializing_if = "Option::is_none")]
            bytes: Option<u64>,
            #[serde(skip_serializing_if = "Option::is_none")]
            signals: Option<&'a [i32]>,
        }
        let (kind, bytes, signals) = match &self.what {
            DeedKind::Attached => ("run_attached", None, None),
            DeedKind::Input { bytes } => ("run_input", Some(*bytes), None),
            DeedKind::Signalled { signals } => ("run_signalled", None, Some(signals.as_slice())),
            DeedKind::Killed => ("run_killed", None, None),
            DeedKind::Released => ("run_released", None, None),
        };
        Entry::new(
            kind,
            &Payload {
                run_id: &self.run_id,
                peer: Text(self.peer.as_bytes()),
                peer_pid: self.peer_pid,
                count: self.count,
                bytes,
                signals,
            },
        )
    }
}
