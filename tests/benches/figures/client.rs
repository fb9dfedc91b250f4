//! The same commands through the daemon, with the client library.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use fumehood_client::Client;
use fumehood_client::proto::v1::run_event::Event;
use fumehood_client::proto::v1::{
    CapabilitiesResponse, EnvironmentVariable, FlowControl, InlinePolicy, OutputOptions, OutputSpill, PolicyReference,
    RunEvent, RunSpec, RunState, StartRequest, policy_reference::Reference,
};
use tokio::runtime::{Builder, Runtime};

use crate::Result;
use crate::bare;
use crate::under_test::Daemon;

/// The smallest command everybody has.
pub const TRUE: &[&str] = &["/bin/true"];

/// How long many runs may take to be running.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection with the thread's own runtime: one client, as an agent's program is one.
pub struct Connection {
    runtime: Runtime,
    client: Client,
}

/// When things happened in one run, on the machine's clock.
pub struct Times {
    sent: SystemTime,
    accepted: SystemTime,
    started: SystemTime,
    exited: SystemTime,
    finished: SystemTime,
    received: SystemTime,
}

impl Times {
    /// Where the time went, in the order of events. Server times are those of the events.
    pub fn phases(&self) -> [(&'static str, Duration); 5] {
        let between = |from: SystemTime, to: SystemTime| to.duration_since(from).unwrap_or_default();
        [
            ("request sent to accepted", between(self.sent, self.accepted)),
            (
                "accepted to started (sandbox built, intent on disk)",
                between(self.accepted, self.started),
            ),
            (
                "started to exited (the command itself)",
                between(self.started, self.exited),
            ),
            (
                "exited to finished (sandbox gone, end on disk)",
                between(self.exited, self.finished),
            ),
            (
                "finished to received by the client",
                between(self.finished, self.received),
            ),
        ]
    }
}

impl Connection {
    /// Connects once, without patience: an error when nobody listens.
    pub fn open(socket: &Path) -> Result<Connection> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let client = runtime.block_on(Client::connect_unix(socket))?;
        Ok(Connection { runtime, client })
    }

    pub fn capabilities(&self) -> Result<CapabilitiesResponse> {
        Ok(self.runtime.block_on(self.client.capabilities())?)
    }

    /// Runs a command to its end; anything but exit code 0 is an error.
    pub fn run(&self, daemon: &Daemon, argv: &[&str]) -> Result<Times> {
        let mut events = Vec::with_capacity(8);
        let sent = SystemTime::now();
        self.follow(request(daemon, argv), |event| events.push(event))?;
        let received = SystemTime::now();
        let time = |kind: fn(&Event) -> bool, name: &str| -> Result<SystemTime> {
            let event = events.iter().find(|event| event.event.as_ref().is_some_and(kind));
            let time = event
                .and_then(|event| event.time)
                .ok_or(format!("no event `{name}` with a time"))?;
            Ok(time.try_into()?)
        };
        Ok(Times {
            sent,
            accepted: time(|event| matches!(event, Event::Accepted(_)), "accepted")?,
            started: time(|event| matches!(event, Event::Started(_)), "started")?,
            exited: time(|event| matches!(event, Event::Exited(_)), "exited")?,
            finished: time(|event| matches!(event, Event::Finished(_)), "finished")?,
            received,
        })
    }

    /// Runs a command and counts its output; a gap is an error. `spill` says whether the output goes to a file as well.
    pub fn streamed(&self, daemon: &Daemon, argv: &[&str], spill: OutputSpill) -> Result<u64> {
        let mut request = request(daemon, argv);
        if let Some(spec) = &mut request.spec {
            spec.output = Some(OutputOptions {
                flow: FlowControl::Block.into(),
                spill: spill.into(),
                ..OutputOptions::default()
            });
        }
        let (mut bytes, mut gap) = (0, false);
        self.follow(request, |event| match event.event {
            Some(Event::Output(output)) => bytes += output.data.len() as u64,
            Some(Event::Gap(_)) => gap = true,
            _ => {}
        })?;
        if gap {
            Err("the stream has a gap".into())
        } else {
            Ok(bytes)
        }
    }

    /// Runs a command to its end beside a reader that takes one event and no more; the bytes it wrote, and those in its file.
    pub fn flooded(&self, daemon: &Daemon, argv: &[&str]) -> Result<(u64, u64)> {
        self.runtime.block_on(async {
            let started = self.client.start(request(daemon, argv)).await?;
            let id = started.run.ok_or("the answer holds no run")?.run_id;
            let mut slow = self.client.attach(id.as_str(), 0).await?;
            slow.events().next().await?;
            let run = self.client.wait(id.as_str(), None).await?;
            let written = run.output_bytes.map_or(0, |bytes| bytes.stdout);
            Ok((written, run.spill.map_or(0, |spill| spill.bytes)))
        })
    }

    fn follow(&self, request: StartRequest, mut each: impl FnMut(RunEvent)) -> Result<()> {
        self.runtime.block_on(async {
            let mut run = self.client.run(request).await?;
            while let Some(event) = run.events().next().await? {
                if let Some(Event::Finished(finished)) = &event.event
                    && finished.shell_code != 0
                {
                    return Err(format!("the run did not end well: {:?}", finished.ending).into());
                }
                each(event);
            }
            Ok(())
        })
    }

    /// Starts so many runs and waits until all of them run; their ids.
    pub fn open_runs(&self, daemon: &Daemon, argv: &[&str], count: usize) -> Result<Vec<String>> {
        self.runtime.block_on(async {
            let mut ids = Vec::with_capacity(count);
            for _ in 0..count {
                let started = self.client.start(request(daemon, argv)).await?;
                ids.push(started.run.ok_or("the answer holds no run")?.run_id);
            }
            let give_up = Instant::now() + PATIENCE;
            for id in &ids {
                loop {
                    let state = self.client.get(id.as_str()).await?.state();
                    match state {
                        RunState::Running => break,
                        RunState::Queued | RunState::Starting if Instant::now() < give_up => {
                            tokio::time::sleep(Duration::from_millis(2)).await;
                        }
                        _ => return Err(format!("run {id} is {} and should run", state.as_str_name()).into()),
                    }
                }
            }
            Ok(ids)
        })
    }

    /// Starts a run under a policy of its own and waits until it runs; its id.
    pub fn start_under(&self, daemon: &Daemon, argv: &[&str], policy: &str) -> Result<String> {
        let mut request = request(daemon, argv);
        if let Some(spec) = &mut request.spec {
            let inline = InlinePolicy {
                toml: policy.as_bytes().to_vec().into(),
                origin: "neighbours".to_owned(),
                ..InlinePolicy::default()
            };
            spec.policy = Some(PolicyReference {
                reference: Some(Reference::Inline(inline)),
            });
        }
        self.runtime.block_on(async {
            let started = self.client.start(request).await?;
            let id = started.run.ok_or("the answer holds no run")?.run_id;
            let give_up = Instant::now() + PATIENCE;
            while self.client.get(id.as_str()).await?.state() != RunState::Running {
                if Instant::now() > give_up {
                    return Err(format!("run {id} does not start").into());
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            Ok(id)
        })
    }

    pub fn is_running(&self, id: &str) -> Result<bool> {
        let run = self.runtime.block_on(self.client.get(id))?;
        Ok(run.state() == RunState::Running)
    }

    /// Kills runs all at once and waits until they are gone.
    pub fn kill(&self, ids: &[String]) -> Result<()> {
        self.runtime.block_on(async {
            let mut kills = tokio::task::JoinSet::new();
            for id in ids {
                let (client, id) = (self.client.clone(), id.clone());
                kills.spawn(async move { client.kill(id, Some(Duration::ZERO), "measured").await });
            }
            while let Some(killed) = kills.join_next().await {
                killed??;
            }
            Ok(())
        })
    }
}

/// Commands per second by so many clients.
pub fn per_second(daemon: &Daemon, clients: usize, period: Duration) -> Result<f64> {
    bare::count(
        clients,
        period,
        |_| Connection::open(&daemon.socket),
        |connection| connection.run(daemon, TRUE).map(drop),
    )
}

fn request(daemon: &Daemon, argv: &[&str]) -> StartRequest {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let variable = |(name, value): (std::ffi::OsString, std::ffi::OsString)| EnvironmentVariable {
        name: name.into_vec().into(),
        value: value.into_vec().into(),
    };
    let spec = RunSpec {
        argv: argv
            .iter()
            .map(|argument| argument.as_bytes().to_vec().into())
            .collect(),
        // As the command-line program does: a client that sends nothing of it measures another request.
        caller_env: std::env::vars_os().map(variable).collect(),
        workspace: daemon.workspace.as_os_str().as_bytes().to_vec().into(),
        ..RunSpec::default()
    };
    StartRequest {
        run_id: String::new(),
        spec: Some(spec),
    }
}
