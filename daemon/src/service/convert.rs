//! What goes out: from this house's types to the wire's. Every member is named, so that a new one is not forgotten.

use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use fumehood_policies::Limits;
use fumehood_proto::convert::{duration_from_std, errno_name, signal_name, timestamp_from_system};
use fumehood_proto::v1;
use fumehood_sandbox::event::{DiskResource, Leftover};
use fumehood_sandbox::spec::{Protection, State};

use super::approvals;
use crate::run::{
    CancelCause, Denial, Denials, Ending, Enforcement, Event, Evidence, Finished, Item, Phase, Requirement, Run,
    Snapshot, Spilled, Started, Stream, Subject, TimeLimit, Usage,
};

/// In a list, argv is cut to so many arguments and bytes; the wire documents it.
const LISTED_ARGUMENTS: usize = 64;
const LISTED_BYTES: usize = 4096;

pub(super) fn event(run_id: &str, item: Item) -> v1::RunEvent {
    use v1::run_event::Event as Wire;
    let (seq, time, event) = match item {
        Item::Gap {
            seq,
            next_seq,
            time,
            lost_bytes: [stdout_bytes, stderr_bytes],
        } => (
            seq,
            time,
            Wire::Gap(v1::Gap {
                next_seq,
                stdout_bytes,
                stderr_bytes,
            }),
        ),
        Item::Event(entry) => {
            let event = match entry.event {
                Event::Accepted { queue_position } => Wire::Accepted(v1::Accepted { queue_position }),
                Event::ApprovalRequested(question) => Wire::ApprovalRequested(approvals::requested(question)),
                Event::ApprovalResolved {
                    approval_id,
                    resolution,
                } => Wire::ApprovalResolved(approvals::resolved(&approval_id, &resolution)),
                Event::Started(started) => Wire::Started(self::started(&started)),
                Event::Output { stream, offset, data } => Wire::Output(v1::Output {
                    stream: output_stream(stream).into(),
                    offset,
                    data,
                }),
                Event::Exited {
                    status,
                    leftovers,
                    leftover_count,
                } => Wire::Exited(v1::ProcessExited {
                    status: Some(ending(&status)),
                    leftovers: leftovers.into_iter().map(leftover).collect(),
                    leftover_count,
                }),
                Event::Closed {
                    stream,
                    total_bytes,
                    end_of_file,
                } => Wire::Closed(v1::Closed {
                    stream: output_stream(stream).into(),
                    total_bytes,
                    end_of_file,
                }),
                Event::Denial(denial) => Wire::Denial(self::denial(&denial)),
                Event::Finished(finished) => Wire::Finished(self::finished(&finished)),
            };
            (entry.seq, entry.time, event)
        }
    };
    v1::RunEvent {
        run_id: run_id.to_owned(),
        seq,
        time: Some(timestamp_from_system(time)),
        event: Some(event),
    }
}

fn leftover(Leftover { pid, comm }: Leftover) -> v1::Leftover {
    v1::Leftover { pid, comm: comm.into() }
}

pub(super) fn output_stream(stream: Stream) -> v1::OutputStream {
    match stream {
        Stream::Stdout => v1::OutputStream::Stdout,
        Stream::Stderr => v1::OutputStream::Stderr,
    }
}

fn started(
    Started {
        enforcement,
        policy_name,
        policy_digest,
        pid,
        limits,
        layers,
        not_given,
    }: &Started,
) -> v1::Started {
    v1::Started {
        enforcement: Some(self::enforcement(enforcement)),
        policy_name: policy_name.clone(),
        policy_digest: policy_digest.to_vec().into(),
        pid: *pid,
        limits: Some(effective_limits(limits)),
        layers: layers.clone(),
        not_given: not_given.clone(),
    }
}

pub(super) fn enforcement(entries: &[Enforcement]) -> v1::Enforcement {
    let entries = entries.iter().map(
        |Enforcement {
             protection,
             state,
             requirement,
         }| {
            let (state, detail) = self::state(state);
            v1::EnforcementEntry {
                protection: self::protection(*protection).into(),
                state: state.into(),
                detail,
                requirement: match requirement {
                    Requirement::Required => v1::Requirement::Required,
                    Requirement::Preferred => v1::Requirement::Preferred,
                    Requirement::None => v1::Requirement::None,
                }
                .into(),
            }
        },
    );
    v1::Enforcement {
        entries: entries.collect(),
    }
}

pub(super) fn state(state: &State) -> (v1::ProtectionState, String) {
    match state {
        State::Active(detail) => (v1::ProtectionState::Active, detail.clone()),
        State::Degraded(detail) => (v1::ProtectionState::Degraded, detail.clone()),
        State::Off(detail) => (v1::ProtectionState::Off, detail.clone()),
    }
}

pub(super) fn protection(protection: Protection) -> v1::Protection {
    match protection {
        Protection::FilesystemView => v1::Protection::FilesystemView,
        Protection::FilesystemRights => v1::Protection::FilesystemRights,
        Protection::ProtectedPaths => v1::Protection::ProtectedPaths,
        Protection::Processes => v1::Protection::Processes,
        Protection::Network => v1::Protection::Network,
        Protection::Ipc => v1::Protection::Ipc,
        Protection::SystemCalls => v1::Protection::SystemCalls,
        Protection::Privileges => v1::Protection::Privileges,
        Protection::Resources => v1::Protection::Resources,
        Protection::Descriptors => v1::Protection::Descriptors,
        Protection::Environment => v1::Protection::Environment,
    }
}

pub(super) fn effective_limits(limits: &Limits) -> v1::EffectiveLimits {
    let Limits {
        wall,
        idle,
        cpu_time,
        grace,
        memory_bytes,
        processes,
        cpu_millis,
        open_files_soft: _,
        open_files_hard: _,
        file_bytes,
        disk_bytes,
        files,
        output_bytes,
    } = *limits;
    v1::EffectiveLimits {
        wall: wall.map(duration_from_std),
        idle: idle.map(duration_from_std),
        cpu_time: cpu_time.map(duration_from_std),
        memory_bytes,
        processes,
        cpu_millis,
        output_bytes,
        grace: Some(duration_from_std(grace)),
        disk_bytes,
        files,
        file_bytes,
    }
}

fn ending(ending: &Ending) -> v1::Ending {
    use v1::ending::Kind;
    let errno = |errno: i32| errno_name(errno).unwrap_or_default().to_owned();
    let kind = match ending.clone() {
        Ending::Exited { code } => Kind::Exited(v1::Exited { code }),
        Ending::Signaled { signal, core } => Kind::Signaled(v1::Signaled {
            signal,
            name: signal_name(signal).unwrap_or_default().to_owned(),
            core_dumped: core,
        }),
        Ending::TimedOut { limit, after } => {
            let limit = match limit {
                TimeLimit::Wall => v1::TimeLimit::Wall,
                TimeLimit::Idle => v1::TimeLimit::Idle,
                TimeLimit::Cpu => v1::TimeLimit::Cpu,
            };
            Kind::TimedOut(v1::TimedOut {
                limit: limit.into(),
                after: Some(duration_from_std(after)),
            })
        }
        Ending::Cancelled { cause, by, reason } => {
            let cause = match cause {
                CancelCause::Kill => v1::CancelCause::Kill,
                CancelCause::Disconnect => v1::CancelCause::Disconnect,
                CancelCause::Drain => v1::CancelCause::Drain,
                CancelCause::Session => v1::CancelCause::Session,
            };
            Kind::Cancelled(v1::Cancelled {
                cause: cause.into(),
                by,
                reason,
            })
        }
        Ending::OutOfMemory { limit_bytes } => Kind::OutOfMemory(v1::OutOfMemory { limit_bytes }),
        Ending::OutputLimit { stream, limit_bytes } => Kind::OutputLimit(v1::OutputLimit {
            stream: output_stream(stream).into(),
            limit_bytes,
        }),
        Ending::DiskLimit { resource, limit, used } => {
            let resource = match resource {
                DiskResource::Space => v1::DiskResource::Space,
                DiskResource::Files => v1::DiskResource::Files,
            };
            Kind::DiskLimit(v1::DiskLimit {
                resource: resource.into(),
                limit,
                used,
            })
        }
        Ending::Denied { rule, explanation } => Kind::Denied(v1::Denied { rule, explanation }),
        Ending::SpawnFailed {
            stage,
            errno: number,
            path,
        } => Kind::SpawnFailed(v1::SpawnFailed {
            stage,
            errno: number,
            errno_name: errno(number),
            path: path.into(),
        }),
        Ending::SandboxFailed {
            protection,
            stage,
            errno: number,
            path,
            hint,
        } => Kind::SandboxFailed(v1::SandboxFailed {
            protection: protection.map_or(v1::Protection::Unspecified, self::protection).into(),
            stage,
            errno: number,
            errno_name: errno(number),
            path: path.into(),
            hint,
        }),
        Ending::Lost { why } => Kind::Lost(v1::Lost { why }),
    };
    v1::Ending { kind: Some(kind) }
}

fn denial(
    Denial {
        protection,
        operation,
        subject,
        rule,
        remedy,
        evidence,
    }: &Denial,
) -> v1::Denial {
    use v1::denial::Subject as Wire;
    let subject = match subject.clone() {
        Subject::Path(path) => Wire::Path(path.into()),
        Subject::SystemCall(name) => Wire::SystemCall(name),
        Subject::Address(address) => Wire::Address(address),
    };
    let evidence = match evidence {
        Evidence::Observed => v1::Evidence::Observed,
        Evidence::Inferred => v1::Evidence::Inferred,
    };
    v1::Denial {
        protection: self::protection(*protection).into(),
        operation: operation.name().to_owned(),
        subject: Some(subject),
        rule: rule.clone(),
        remedy: remedy.clone(),
        evidence: evidence.into(),
    }
}

fn finished(
    Finished {
        ending,
        usage,
        denials: Denials { list, count },
        not_carried,
        // Asked for by itself: it may be large.
        recorded: _,
    }: &Finished,
) -> v1::Finished {
    v1::Finished {
        ending: Some(self::ending(ending)),
        shell_code: ending.shell_code(),
        usage: Some(self::usage(usage)),
        denials: list.iter().map(denial).collect(),
        denial_count: *count,
        not_carried: not_carried.clone(),
    }
}

fn usage(usage: &Usage) -> v1::Usage {
    let Usage {
        wall,
        cpu_user,
        cpu_system,
        memory_peak_bytes,
        oom_kills,
        fork_failures,
        throttled,
        from_cgroup,
        output_bytes: [stdout_bytes, stderr_bytes],
        queued,
        setup,
    } = *usage;
    let duration = |duration: Duration| Some(duration_from_std(duration));
    let source = match from_cgroup {
        Some(true) => v1::UsageSource::Cgroup,
        Some(false) => v1::UsageSource::Rusage,
        None => v1::UsageSource::Unspecified,
    };
    v1::Usage {
        wall: duration(wall),
        cpu_user: duration(cpu_user),
        cpu_system: duration(cpu_system),
        memory_peak_bytes,
        source: source.into(),
        stdout_bytes,
        stderr_bytes,
        queued: duration(queued),
        setup: duration(setup),
        oom_kills,
        fork_failures,
        throttled: throttled.map(duration_from_std),
    }
}

/// What is known of a run; `listed` cuts long command lines.
pub(super) fn run_info(run: &Run, listed: bool) -> v1::RunInfo {
    let Snapshot {
        phase,
        awaiting,
        started_at,
        finished_at,
        started,
        finished,
        terminal,
    } = run.snapshot();
    let state = match phase {
        Phase::AwaitingApproval => v1::RunState::AwaitingApproval,
        Phase::Queued => v1::RunState::Queued,
        Phase::Starting => v1::RunState::Starting,
        Phase::Running => v1::RunState::Running,
        Phase::Ending => v1::RunState::Ending,
        Phase::Finished => v1::RunState::Finished,
    };
    let mut left = if listed { LISTED_BYTES } else { usize::MAX };
    let argv = run.argv.iter().take(if listed { LISTED_ARGUMENTS } else { usize::MAX });
    let argv = argv.map_while(|argument| {
        let cut = &argument[..argument.len().min(left)];
        let fits = left > 0;
        left -= cut.len();
        fits.then(|| cut.to_vec().into())
    });
    let [stdout, stderr] = run.output_bytes();
    v1::RunInfo {
        run_id: run.id.clone(),
        state: state.into(),
        argv: argv.collect(),
        workspace: run.workspace.as_os_str().as_bytes().to_vec().into(),
        cwd: run.cwd.as_os_str().as_bytes().to_vec().into(),
        peer: run.peer.to_string(),
        policy_name: run.policy_name.clone(),
        policy_digest: run.policy_digest.to_vec().into(),
        accepted_at: Some(timestamp_from_system(run.accepted_at)),
        started_at: started_at.map(timestamp_from_system),
        finished_at: finished_at.map(timestamp_from_system),
        labels: run.labels.clone(),
        enforcement: started.map(|started| enforcement(&started.enforcement)),
        last_seq: run.last_seq(),
        finished: finished.map(|finished| self::finished(&finished)),
        approval_id: awaiting.map(|pending| pending.id.clone()).unwrap_or_default(),
        input_bytes: run.input_bytes(),
        output_bytes: Some(v1::StreamOffsets { stdout, stderr }),
        spill: run
            .spilled()
            .map(|Spilled { bytes, stopped }| v1::Spill { bytes, stopped }),
        terminal: terminal.map(|size| v1::TerminalSize {
            rows: size.rows.into(),
            columns: size.columns.into(),
        }),
        followers: run.followers(),
        session: run.session.clone().unwrap_or_default(),
    }
}
