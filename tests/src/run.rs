//! Requests, and what became of them, through the client library.

use bytes::Bytes;
use fumehood_client::proto::v1::{
    Closed, Denial, Ending, Finished, Gap, InlinePolicy, OutputStream, PolicyReference, ProcessExited, RunEvent,
    RunSpec, StartRequest, Started, ending::Kind, policy_reference::Reference, run_event::Event,
};
use fumehood_client::{Client, RunEvents};

use crate::house::House;
use crate::wait::within;

/// The arguments as the wire has them.
#[must_use]
pub fn argv(arguments: &[&str]) -> Vec<Bytes> {
    arguments
        .iter()
        .map(|argument| Bytes::copy_from_slice(argument.as_bytes()))
        .collect()
}

/// A policy by its text.
#[must_use]
pub fn inline(toml: &str) -> Option<PolicyReference> {
    let inline = InlinePolicy {
        toml: Bytes::copy_from_slice(toml.as_bytes()),
        origin: "test.toml".to_owned(),
        ..InlinePolicy::default()
    };
    Some(PolicyReference {
        reference: Some(Reference::Inline(inline)),
    })
}

/// A policy by its name.
#[must_use]
pub fn named_policy(name: &str) -> Option<PolicyReference> {
    Some(PolicyReference {
        reference: Some(Reference::Name(name.to_owned())),
    })
}

impl House {
    /// A request to run `arguments` in the workspace.
    #[must_use]
    pub fn spec(&self, arguments: &[&str]) -> RunSpec {
        use std::os::unix::ffi::OsStrExt;
        RunSpec {
            argv: argv(arguments),
            workspace: Bytes::copy_from_slice(self.workspace().as_os_str().as_bytes()),
            ..RunSpec::default()
        }
    }

    /// A request to run `sh -c SCRIPT` in the workspace.
    #[must_use]
    pub fn script(&self, script: &str) -> RunSpec {
        self.spec(&["sh", "-c", script])
    }
}

/// Everything that a run's events told, from the first to the last.
#[derive(Debug, Default)]
pub struct Told {
    /// The events as they came.
    pub events: Vec<RunEvent>,
}

/// Runs a request to its end.
pub async fn send(client: &Client, spec: RunSpec) -> Told {
    let request = StartRequest {
        run_id: String::new(),
        spec: Some(spec),
    };
    let mut run = within("the run's first event", client.run(request))
        .await
        .expect("a run");
    Told::all(run.events()).await
}

impl Told {
    /// Takes events to the last one.
    pub async fn all(events: &mut RunEvents) -> Self {
        let mut told = Self::default();
        while let Some(event) = within("the next event", events.next()).await.expect("events") {
            told.events.push(event);
        }
        told
    }

    /// Takes events until `enough`, the one that is enough included.
    pub async fn until(events: &mut RunEvents, enough: impl Fn(&Event) -> bool) -> Self {
        let mut told = Self::default();
        loop {
            let event = within("the next event", events.next())
                .await
                .expect("events")
                .expect("an event");
            let done = event.event.as_ref().is_some_and(&enough);
            told.events.push(event);
            if done {
                return told;
            }
        }
    }

    fn each(&self) -> impl Iterator<Item = &Event> {
        self.events.iter().filter_map(|event| event.event.as_ref())
    }

    /// The run's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.events.first().expect("an event").run_id
    }

    /// The kinds of the events, output of a stream counted once in a row.
    #[must_use]
    pub fn order(&self) -> Vec<&'static str> {
        let mut order: Vec<&'static str> = self
            .each()
            .map(|event| match event {
                Event::Accepted(_) => "accepted",
                Event::Started(_) => "started",
                Event::Output(_) => "output",
                Event::Gap(_) => "gap",
                Event::Exited(_) => "exited",
                Event::Closed(_) => "closed",
                Event::Denial(_) => "denial",
                Event::ApprovalRequested(_) => "approval_requested",
                Event::ApprovalResolved(_) => "approval_resolved",
                Event::Finished(_) => "finished",
            })
            .collect();
        order.dedup_by(|a, b| a == b && *a == "output");
        order
    }

    /// What a stream said, put together by offset.
    ///
    /// # Panics
    /// When an offset is not where the one before ended, and no gap accounts for it.
    #[must_use]
    pub fn output(&self, stream: OutputStream) -> Vec<u8> {
        let mut all = Vec::new();
        // Who has not seen the beginning begins anywhere.
        let first = self.each().find_map(|event| match event {
            Event::Output(output) if output.stream() == stream => Some(output.offset),
            _ => None,
        });
        let from_beginning = self.events.first().is_some_and(|event| event.seq == 1);
        let mut next = if from_beginning { 0 } else { first.unwrap_or(0) };
        for event in self.each() {
            match event {
                Event::Output(output) if output.stream() == stream => {
                    assert_eq!(output.offset, next, "offsets are contiguous");
                    next += output.data.len() as u64;
                    all.extend_from_slice(&output.data);
                }
                Event::Gap(gap) => {
                    next += if stream == OutputStream::Stdout {
                        gap.stdout_bytes
                    } else {
                        gap.stderr_bytes
                    };
                }
                _ => {}
            }
        }
        all
    }

    /// Standard output as text.
    #[must_use]
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.output(OutputStream::Stdout)).into_owned()
    }

    /// Standard error as text.
    #[must_use]
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.output(OutputStream::Stderr)).into_owned()
    }

    /// The last event.
    #[must_use]
    #[track_caller]
    pub fn finished(&self) -> &Finished {
        match self.events.last().and_then(|event| event.event.as_ref()) {
            Some(Event::Finished(finished)) => finished,
            other => panic!("the last event is {other:?}"),
        }
    }

    /// How it ended.
    #[must_use]
    #[track_caller]
    pub fn ending(&self) -> &Kind {
        let Some(Ending { kind: Some(kind) }) = &self.finished().ending else {
            panic!("an ending without a kind")
        };
        kind
    }

    /// Its start.
    #[must_use]
    #[track_caller]
    pub fn started(&self) -> &Started {
        let started = self.each().find_map(|event| {
            if let Event::Started(started) = event {
                Some(started)
            } else {
                None
            }
        });
        started.unwrap_or_else(|| panic!("it did not start: {:?}", self.events.last()))
    }

    /// The end of its main process.
    #[must_use]
    #[track_caller]
    pub fn exited(&self) -> &ProcessExited {
        let exited = self.each().find_map(|event| {
            if let Event::Exited(exited) = event {
                Some(exited)
            } else {
                None
            }
        });
        exited.unwrap_or_else(|| panic!("it did not exit: {:?}", self.events.last()))
    }

    /// The ends of its streams.
    #[must_use]
    pub fn closed(&self) -> Vec<&Closed> {
        self.each()
            .filter_map(|event| {
                if let Event::Closed(closed) = event {
                    Some(closed)
                } else {
                    None
                }
            })
            .collect()
    }

    /// What the sandbox refused, as the events told it.
    #[must_use]
    pub fn denials(&self) -> Vec<&Denial> {
        self.each()
            .filter_map(|event| {
                if let Event::Denial(denial) = event {
                    Some(denial)
                } else {
                    None
                }
            })
            .collect()
    }

    /// What was lost to this reader.
    #[must_use]
    pub fn gaps(&self) -> Vec<&Gap> {
        self.each()
            .filter_map(|event| if let Event::Gap(gap) = event { Some(gap) } else { None })
            .collect()
    }
}
