//! Bytes of one stream, for callers that ask instead of following.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::{Entry, Item, Journal};
use crate::run::model::{Event, Stream};

/// What there is of a stream from an offset on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Where the bytes begin.
    pub offset: u64,
    /// The bytes.
    pub data: Bytes,
    /// Bytes before them, from the asked offset on, that are not kept.
    pub lost_bytes: u64,
    /// The stream's length so far.
    pub total_bytes: u64,
    /// Whether the stream is closed and the bytes reach its end.
    pub end: bool,
}

impl Journal {
    /// Up to `most` bytes of a stream from `offset` on. Where there are none yet, waits for them, for the stream's end or for `wait`.
    pub async fn read(self: &Arc<Self>, stream: Stream, offset: u64, most: usize, wait: Duration) -> Slice {
        let until = Instant::now() + wait;
        loop {
            let appended = self.appended.notified();
            tokio::pin!(appended);
            appended.as_mut().enable();
            let slice = self.slice(stream, offset, most).await;
            let ready = !slice.data.is_empty() || slice.lost_bytes > 0 || slice.end || most == 0;
            if ready || tokio::time::timeout_at(until, appended).await.is_err() {
                return slice;
            }
        }
    }

    async fn slice(self: &Arc<Self>, stream: Stream, offset: u64, most: usize) -> Slice {
        let index = stream.index();
        // Nothing of the other stream.
        let mut offsets = [u64::MAX; 2];
        offsets[index] = offset;
        // Taken before the bytes: what is said to be the end has been read.
        let (total_bytes, ended) = {
            let inner = self.lock();
            (inner.end[index], inner.ended[index])
        };
        let mut slice = Slice {
            offset,
            data: Bytes::new(),
            lost_bytes: 0,
            total_bytes,
            end: ended && offset >= total_bytes,
        };
        if offset >= total_bytes {
            return slice;
        }
        let mut reader = self.reader_of(offsets);
        let mut data = BytesMut::new();
        while data.len() < most {
            // The first bytes may be in the file. What follows is taken if it is at hand, else it is the next call's.
            let item = match data.is_empty() {
                true => reader.ready().await,
                false => reader.try_next().unwrap_or(None),
            };
            match item {
                None => break,
                Some(Item::Event(Entry {
                    event: Event::Output { data: more, .. },
                    ..
                })) => {
                    data.extend_from_slice(&more[..more.len().min(most - data.len())]);
                }
                Some(Item::Event(_)) => {}
                Some(Item::Gap { .. }) if !data.is_empty() => break,
                Some(Item::Gap { lost_bytes, .. }) => {
                    slice.lost_bytes += lost_bytes[index];
                    slice.offset += lost_bytes[index];
                }
            }
        }
        slice.data = data.freeze();
        let reached = slice.offset + slice.data.len() as u64;
        slice.total_bytes = slice.total_bytes.max(reached);
        slice.end = ended && reached >= slice.total_bytes;
        slice
    }
}
