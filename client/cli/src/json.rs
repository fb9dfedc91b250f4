//! Events as JSON lines (`run --json`) and findings as JSON (`doctor --json`).
//!
//! Each event is an object with `type`, `run_id`, `seq` and `time` (RFC 3339) and the members of its kind, named as on the
//! wire, every one of them present, null where the wire has nothing. Enum values are the wire's without their prefix, in
//! lower case; durations are numbers of seconds; digests are in hexadecimal. Bytes that are valid UTF-8 are a string under
//! their name, and under `NAME_base64` there is null; other bytes are the other way round. An ending is an object with
//! `kind` and its members.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fumehood_client::proto::v1::{
    self as wire, CapabilitiesResponse, Capability, Closed, Denial, EffectiveLimits, Ending, Enforcement,
    EnforcementEntry, Exited, Finished, Gap, Leftover, Lost, OutOfMemory, Output, OutputLimit, ProcessExited,
    Requirement, RunEvent, SandboxFailed, Signaled, SpawnFailed, Started, TimedOut, Usage, ending::Kind,
    run_event::Event,
};
use serde_json::{Map, Value, json};

/// One event, on one line without its end.
#[must_use]
pub fn event(event: &RunEvent) -> String {
    let RunEvent {
        run_id,
        seq,
        time,
        event,
    } = event;
    let (kind, members) = match event {
        Some(Event::Accepted(wire::Accepted { queue_position })) => {
            ("accepted", json!({ "queue_position": queue_position }))
        }
        Some(Event::ApprovalRequested(event)) => ("approval_requested", approval_requested(event)),
        Some(Event::ApprovalResolved(event)) => ("approval_resolved", approval_resolved(event)),
        Some(Event::Started(event)) => ("started", started(event)),
        Some(Event::Output(Output { stream, offset, data })) => {
            let mut members = json!({ "stream": stream_name(*stream), "offset": offset });
            put_bytes(&mut members, "data", data);
            ("output", members)
        }
        Some(Event::Gap(Gap {
            next_seq,
            stdout_bytes,
            stderr_bytes,
        })) => (
            "gap",
            json!({ "next_seq": next_seq, "stdout_bytes": stdout_bytes, "stderr_bytes": stderr_bytes }),
        ),
        Some(Event::Exited(event)) => ("exited", exited(event)),
        Some(Event::Closed(Closed {
            stream,
            total_bytes,
            end_of_file,
        })) => (
            "closed",
            json!({ "stream": stream_name(*stream), "total_bytes": total_bytes, "end_of_file": end_of_file }),
        ),
        Some(Event::Denial(event)) => ("denial", denial(event)),
        Some(Event::Finished(event)) => ("finished", finished(event)),
        // A newer daemon's: it is passed on with what can be said of it.
        None => ("unknown", json!({})),
    };
    let mut line = json!({
        "type": kind,
        "run_id": run_id,
        "seq": seq,
        "time": time.as_ref().map(ToString::to_string),
    });
    if let (Value::Object(line), Value::Object(members)) = (&mut line, members) {
        line.extend(members);
    }
    line.to_string()
}

/// What a machine can enforce, and how a trial run under the default policy went.
#[must_use]
pub fn capabilities(found: &CapabilitiesResponse, trial: Option<(&Enforcement, &Finished)>, ok: bool) -> Value {
    let CapabilitiesResponse {
        capabilities,
        kernel_release,
        landlock_abi,
        cgroup_version,
        daemon_uid,
    } = found;
    let each = |capability: &Capability| {
        let Capability {
            protection,
            name,
            state,
            detail,
            remedy,
        } = capability;
        json!({
            "protection": protection_name(*protection),
            "name": name,
            "state": state_name(*state),
            "detail": detail,
            "remedy": remedy,
        })
    };
    json!({
        "ok": ok,
        "kernel_release": kernel_release,
        "landlock_abi": landlock_abi,
        "cgroup_version": match wire::CgroupVersion::try_from(*cgroup_version) {
            Ok(wire::CgroupVersion::V1) => json!(1),
            Ok(wire::CgroupVersion::V2) => json!(2),
            _ => Value::Null,
        },
        "daemon_uid": daemon_uid,
        "capabilities": capabilities.iter().map(each).collect::<Vec<_>>(),
        "trial": trial.map(|(enforcement, finished_as)| json!({
            "enforcement": enforcement_entries(enforcement),
            "finished": finished(finished_as),
        })),
    })
}

/// What is known of a run.
#[must_use]
pub fn run(run: &wire::RunInfo) -> Value {
    let wire::RunInfo {
        run_id,
        state: _,
        argv,
        workspace,
        cwd,
        peer,
        policy_name,
        policy_digest,
        accepted_at,
        started_at,
        finished_at,
        labels,
        enforcement,
        last_seq,
        finished: ended,
        approval_id,
        input_bytes,
        output_bytes,
        spill,
        terminal,
        followers,
        session,
    } = run;
    let time = |at: &Option<prost_types::Timestamp>| at.as_ref().map(ToString::to_string);
    let argv = argv.iter().map(|argument| {
        let mut value = json!({});
        put_bytes(&mut value, "argument", argument);
        value
    });
    let mut value = json!({
        "run_id": run_id,
        "state": short(run.state().as_str_name(), "RUN_STATE_").to_lowercase(),
        "argv": argv.collect::<Vec<_>>(),
        "peer": peer,
        "policy_name": policy_name,
        "policy_digest": hex(policy_digest),
        "accepted_at": time(accepted_at),
        "started_at": time(started_at),
        "finished_at": time(finished_at),
        "labels": labels.iter().collect::<std::collections::BTreeMap<_, _>>(),
        "enforcement": enforcement.as_ref().map(enforcement_entries),
        "last_seq": last_seq,
        "finished": ended.as_ref().map(finished),
        "approval_id": Some(approval_id).filter(|id| !id.is_empty()),
        "input_bytes": input_bytes,
        "output_bytes": output_bytes.as_ref().map(|bytes| json!({ "stdout": bytes.stdout, "stderr": bytes.stderr })),
        "spill": spill.as_ref().map(|spill| json!({ "bytes": spill.bytes, "stopped": spill.stopped })),
        "terminal": terminal.as_ref().map(|size| json!({ "rows": size.rows, "columns": size.columns })),
        "followers": followers,
        "session": Some(session).filter(|id| !id.is_empty()),
    });
    put_bytes(&mut value, "workspace", workspace);
    put_bytes(&mut value, "cwd", cwd);
    value
}

/// What is known of a file. `path` is what it was asked for by.
#[must_use]
pub fn file(path: Option<&[u8]>, file: &wire::FileInfo) -> Value {
    let wire::FileInfo {
        name,
        kind: _,
        size,
        mode,
        uid,
        gid,
        modified_at,
        link_target,
        inode,
        device,
        links,
    } = file;
    let mut value = json!({
        "kind": short(file.kind().as_str_name(), "FILE_KIND_").to_lowercase(),
        "size": size,
        "mode": format!("{mode:04o}"),
        "uid": uid,
        "gid": gid,
        "modified_at": modified_at.as_ref().map(ToString::to_string),
        "inode": inode,
        "device": device,
        "links": links,
    });
    if let Some(path) = path {
        put_bytes(&mut value, "path", path);
    }
    put_bytes(&mut value, "name", name);
    put_bytes(&mut value, "link_target", link_target);
    value
}

/// What is known of a session.
#[must_use]
pub fn session(session: &wire::SessionInfo) -> Value {
    let wire::SessionInfo {
        session_id,
        state: _,
        end: _,
        end_detail,
        workspace,
        cwd,
        peer,
        policy_name,
        policy_digest,
        created_at,
        used_at,
        closed_at,
        closes_at,
        idle_timeout,
        lifetime,
        labels,
        enforcement,
        limits,
        active_runs,
        total_runs,
        resets,
    } = session;
    let time = |at: &Option<prost_types::Timestamp>| at.as_ref().map(ToString::to_string);
    let end = short(session.end().as_str_name(), "SESSION_END_").to_lowercase();
    let mut value = json!({
        "session_id": session_id,
        "state": short(session.state().as_str_name(), "SESSION_STATE_").to_lowercase(),
        "end": Some(end).filter(|_| session.end() != wire::SessionEnd::Unspecified),
        "end_detail": Some(end_detail).filter(|detail| !detail.is_empty()),
        "peer": peer,
        "policy_name": policy_name,
        "policy_digest": hex(policy_digest),
        "created_at": time(created_at),
        "used_at": time(used_at),
        "closed_at": time(closed_at),
        "closes_at": time(closes_at),
        "idle_timeout": seconds(idle_timeout.as_ref()),
        "lifetime": seconds(lifetime.as_ref()),
        "labels": labels.iter().collect::<std::collections::BTreeMap<_, _>>(),
        "enforcement": enforcement.as_ref().map(enforcement_entries),
        "limits": limits.as_ref().map(effective_limits),
        "active_runs": active_runs,
        "total_runs": total_runs,
        "resets": resets,
    });
    put_bytes(&mut value, "workspace", workspace);
    put_bytes(&mut value, "cwd", cwd);
    value
}

/// A session, and under `contents` what is in it.
#[must_use]
pub fn described_session(described: &wire::DescribeSessionResponse) -> Value {
    let wire::DescribeSessionResponse { session, contents } = described;
    let mut value = session.as_ref().map_or_else(|| json!({}), self::session);
    if let (Value::Object(members), Some(contents)) = (&mut value, contents) {
        put(members, "contents", session_contents(contents));
    }
    value
}

fn session_contents(contents: &wire::SessionContents) -> Value {
    let wire::SessionContents {
        processes,
        process_count,
        listening,
        memory_bytes,
        temporary_files,
        temporary_file_count,
        background,
    } = contents;
    let process = |process: &wire::SessionProcess| {
        let wire::SessionProcess {
            pid,
            parent_pid,
            run_id,
            background,
            command,
            name,
            state,
            cpu_time,
            memory_bytes,
            age,
        } = process;
        let mut value = json!({
            "pid": pid,
            "parent_pid": parent_pid,
            "run_id": Some(run_id).filter(|id| !id.is_empty()),
            "background": background,
            "state": state,
            "cpu_time": seconds(cpu_time.as_ref()),
            "memory_bytes": memory_bytes,
            "age": seconds(age.as_ref()),
        });
        put_bytes(&mut value, "command", command);
        put_bytes(&mut value, "name", name);
        value
    };
    let socket = |socket: &wire::ListeningSocket| {
        let wire::ListeningSocket {
            protocol,
            address,
            port,
            pid,
        } = socket;
        json!({ "protocol": protocol, "address": address, "port": port, "pid": Some(pid).filter(|pid| **pid > 0) })
    };
    let file = |file: &wire::TemporaryFile| {
        let wire::TemporaryFile { path, size, directory } = file;
        let mut value = json!({ "size": size, "directory": directory });
        put_bytes(&mut value, "path", path);
        value
    };
    let written = |output: &wire::BackgroundOutput| {
        let wire::BackgroundOutput {
            run_id,
            stream,
            total_bytes,
            tail,
        } = output;
        let mut value = json!({ "run_id": run_id, "stream": stream_name(*stream), "total_bytes": total_bytes });
        put_bytes(&mut value, "tail", tail);
        value
    };
    json!({
        "processes": processes.iter().map(process).collect::<Vec<_>>(),
        "process_count": process_count,
        "listening": listening.iter().map(socket).collect::<Vec<_>>(),
        "memory_bytes": memory_bytes,
        "temporary_files": temporary_files.iter().map(file).collect::<Vec<_>>(),
        "temporary_file_count": temporary_file_count,
        "background": background.iter().map(written).collect::<Vec<_>>(),
    })
}

/// A question of a policy.
#[must_use]
pub fn approval_requested(event: &wire::ApprovalRequested) -> Value {
    let wire::ApprovalRequested {
        approval_id,
        commands,
        rule,
        reason,
        expires_at,
        default_answer,
    } = event;
    json!({
        "approval_id": approval_id,
        "commands": commands,
        "rule": rule,
        "reason": reason,
        "expires_at": expires_at.as_ref().map(ToString::to_string),
        "default_answer": answer_name(*default_answer),
    })
}

/// An answer to one.
#[must_use]
pub fn approval_resolved(event: &wire::ApprovalResolved) -> Value {
    let wire::ApprovalResolved {
        approval_id,
        answer,
        means,
        by,
        reason,
        rule_ids,
    } = event;
    json!({
        "approval_id": approval_id,
        "answer": answer_name(*answer),
        "means": means_name(*means),
        "by": by,
        "reason": reason,
        "rule_ids": rule_ids,
    })
}

/// A question that waits: the members of the question, and of the run.
#[must_use]
pub fn pending_approval(pending: &wire::PendingApproval) -> Value {
    let wire::PendingApproval {
        question,
        run_id,
        peer,
        policy_name,
        workspace,
        cwd,
        session,
        env_names,
        requested_at,
        not_narrow,
        not_yours,
        once_only,
        earlier,
    } = pending;
    let mut value = question.as_ref().map_or_else(|| json!({}), approval_requested);
    value["run_id"] = json!(run_id);
    value["peer"] = json!(peer);
    value["policy_name"] = json!(policy_name);
    put_bytes(&mut value, "workspace", workspace);
    put_bytes(&mut value, "cwd", cwd);
    value["session"] = json!(session);
    value["env_names"] = env_names.iter().map(|name| String::from_utf8_lossy(name)).collect();
    value["requested_at"] = json!(requested_at.as_ref().map(ToString::to_string));
    value["not_narrow"] = json!(not_narrow);
    value["not_yours"] = json!(not_yours);
    value["once_only"] = json!(once_only);
    value["earlier"] = json!(earlier);
    value
}

/// An answer that holds for later runs.
#[must_use]
pub fn approval_rule(rule: &wire::ApprovalRule) -> Value {
    let wire::ApprovalRule {
        rule_id,
        answer,
        commands,
        peer,
        policy_name,
        workspace,
        session,
        by,
        means,
        reason,
        given_at,
        expires_at,
        cwd,
        policy_digest,
        not_applied,
    } = rule;
    let mut value = json!({
        "rule_id": rule_id,
        "answer": answer_name(*answer),
        "commands": commands,
        "peer": peer,
        "policy_name": policy_name,
        "session": session,
        "by": by,
        "means": means_name(*means),
        "reason": reason,
        "given_at": given_at.as_ref().map(ToString::to_string),
        "expires_at": expires_at.as_ref().map(ToString::to_string),
        "policy_digest": hex(policy_digest),
        "not_applied": not_applied,
    });
    put_bytes(&mut value, "workspace", workspace);
    put_bytes(&mut value, "cwd", cwd);
    value
}

fn answer_name(answer: i32) -> String {
    wire::ApprovalAnswer::try_from(answer)
        .map_or("UNSPECIFIED", |answer| short(answer.as_str_name(), "APPROVAL_ANSWER_"))
        .to_lowercase()
}

fn means_name(means: i32) -> String {
    wire::ApprovalMeans::try_from(means)
        .map_or("UNSPECIFIED", |means| short(means.as_str_name(), "APPROVAL_MEANS_"))
        .to_lowercase()
}

fn started(event: &Started) -> Value {
    let Started {
        enforcement,
        policy_name,
        policy_digest,
        pid,
        limits,
        layers,
        not_given,
    } = event;
    json!({
        "enforcement": enforcement.as_ref().map(enforcement_entries),
        "policy_name": policy_name,
        "policy_digest": hex(policy_digest),
        "pid": pid,
        "limits": limits.as_ref().map(effective_limits),
        "layers": layers,
        "not_given": not_given,
    })
}

fn requirement_name(number: i32) -> &'static str {
    match Requirement::try_from(number) {
        Ok(Requirement::Required) => "required",
        Ok(Requirement::Preferred) => "preferred",
        Ok(Requirement::None) => "none",
        Ok(Requirement::Unspecified) | Err(_) => "unknown",
    }
}

fn enforcement_entries(enforcement: &Enforcement) -> Value {
    let Enforcement { entries } = enforcement;
    let each = |entry: &EnforcementEntry| {
        let EnforcementEntry {
            protection,
            state,
            detail,
            requirement,
        } = entry;
        json!({
            "protection": protection_name(*protection),
            "state": state_name(*state),
            "detail": detail,
            "requirement": requirement_name(*requirement),
        })
    };
    entries.iter().map(each).collect()
}

fn effective_limits(limits: &EffectiveLimits) -> Value {
    let EffectiveLimits {
        wall,
        idle,
        cpu_time,
        memory_bytes,
        processes,
        cpu_millis,
        output_bytes,
        grace,
        disk_bytes,
        files,
        file_bytes,
    } = limits;
    json!({
        "wall": seconds(wall.as_ref()),
        "idle": seconds(idle.as_ref()),
        "cpu_time": seconds(cpu_time.as_ref()),
        "memory_bytes": memory_bytes,
        "processes": processes,
        "cpu_millis": cpu_millis,
        "output_bytes": output_bytes,
        "grace": seconds(grace.as_ref()),
        "disk_bytes": disk_bytes,
        "files": files,
        "file_bytes": file_bytes,
    })
}

fn exited(event: &ProcessExited) -> Value {
    let ProcessExited {
        status,
        leftovers,
        leftover_count,
    } = event;
    let leftover = |leftover: &Leftover| {
        let Leftover { pid, comm } = leftover;
        let mut value = json!({ "pid": pid });
        put_bytes(&mut value, "comm", comm);
        value
    };
    json!({
        "status": status.as_ref().map(ending),
        "leftovers": leftovers.iter().map(leftover).collect::<Vec<_>>(),
        "leftover_count": leftover_count,
    })
}

fn denial(denial: &Denial) -> Value {
    use wire::denial::Subject;
    let Denial {
        protection,
        operation,
        subject,
        rule,
        remedy,
        evidence,
    } = denial;
    let mut value = json!({
        "protection": protection_name(*protection),
        "operation": operation,
        "path": null,
        "path_base64": null,
        "system_call": null,
        "address": null,
        "rule": rule,
        "remedy": remedy,
        "evidence": wire::Evidence::try_from(*evidence).map_or("UNSPECIFIED", |evidence| short(evidence.as_str_name(), "EVIDENCE_")).to_lowercase(),
    });
    match subject {
        Some(Subject::Path(path)) => put_bytes(&mut value, "path", path),
        Some(Subject::SystemCall(name)) => value["system_call"] = json!(name),
        Some(Subject::Address(address)) => value["address"] = json!(address),
        None => {}
    }
    value
}

fn finished(event: &Finished) -> Value {
    let Finished {
        ending: ended,
        shell_code,
        usage: used,
        denials,
        denial_count,
        not_carried,
    } = event;
    json!({
        "denials": denials.iter().map(denial).collect::<Vec<_>>(),
        "denial_count": denial_count,
        "not_carried": Some(not_carried).filter(|why| !why.is_empty()),
        "ending": ended.as_ref().map(ending),
        "shell_code": shell_code,
        "usage": used.as_ref().map(usage),
    })
}

fn ending(ending: &Ending) -> Value {
    let Some(kind) = &ending.kind else { return Value::Null };
    match kind {
        Kind::Exited(Exited { code }) => json!({ "kind": "exited", "code": code }),
        Kind::Signaled(Signaled {
            signal,
            name,
            core_dumped,
        }) => {
            json!({ "kind": "signaled", "signal": signal, "name": name, "core_dumped": core_dumped })
        }
        Kind::TimedOut(TimedOut { limit, after }) => json!({
            "kind": "timed_out",
            "limit": wire::TimeLimit::try_from(*limit).map_or("UNSPECIFIED", |limit| short(limit.as_str_name(), "TIME_LIMIT_")).to_lowercase(),
            "after": seconds(after.as_ref()),
        }),
        Kind::Cancelled(wire::Cancelled { cause, by, reason }) => json!({
            "kind": "cancelled",
            "cause": wire::CancelCause::try_from(*cause).map_or("UNSPECIFIED", |cause| short(cause.as_str_name(), "CANCEL_CAUSE_")).to_lowercase(),
            "by": by,
            "reason": reason,
        }),
        Kind::OutOfMemory(OutOfMemory { limit_bytes }) => {
            json!({ "kind": "out_of_memory", "limit_bytes": limit_bytes })
        }
        Kind::OutputLimit(OutputLimit { stream, limit_bytes }) => {
            json!({ "kind": "output_limit", "stream": stream_name(*stream), "limit_bytes": limit_bytes })
        }
        Kind::DiskLimit(wire::DiskLimit { resource, limit, used }) => json!({
            "kind": "disk_limit",
            "resource": wire::DiskResource::try_from(*resource).map_or("UNSPECIFIED", |resource| short(resource.as_str_name(), "DISK_RESOURCE_")).to_lowercase(),
            "limit": limit,
            "used": used,
        }),
        Kind::Denied(wire::Denied { rule, explanation }) => {
            json!({ "kind": "denied", "rule": rule, "explanation": explanation })
        }
        Kind::SpawnFailed(SpawnFailed {
            stage,
            errno,
            errno_name,
            path,
        }) => {
            let mut value = json!({ "kind": "spawn_failed", "stage": stage, "errno": errno, "errno_name": errno_name });
            put_bytes(&mut value, "path", path);
            value
        }
        Kind::SandboxFailed(SandboxFailed {
            protection,
            stage,
            errno,
            errno_name,
            path,
            hint,
        }) => {
            let mut value = json!({
                "kind": "sandbox_failed",
                "protection": protection_name(*protection),
                "stage": stage,
                "errno": errno,
                "errno_name": errno_name,
                "hint": hint,
            });
            put_bytes(&mut value, "path", path);
            value
        }
        Kind::Lost(Lost { why }) => json!({ "kind": "lost", "why": why }),
    }
}

fn usage(usage: &Usage) -> Value {
    let Usage {
        wall,
        cpu_user,
        cpu_system,
        memory_peak_bytes,
        source,
        stdout_bytes,
        stderr_bytes,
        queued,
        setup,
        oom_kills,
        fork_failures,
        throttled,
    } = usage;
    json!({
        "wall": seconds(wall.as_ref()),
        "cpu_user": seconds(cpu_user.as_ref()),
        "cpu_system": seconds(cpu_system.as_ref()),
        "memory_peak_bytes": memory_peak_bytes,
        "source": wire::UsageSource::try_from(*source).map_or("UNSPECIFIED", |source| short(source.as_str_name(), "USAGE_SOURCE_")).to_lowercase(),
        "stdout_bytes": stdout_bytes,
        "stderr_bytes": stderr_bytes,
        "queued": seconds(queued.as_ref()),
        "setup": seconds(setup.as_ref()),
        "oom_kills": oom_kills,
        "fork_failures": fork_failures,
        "throttled": seconds(throttled.as_ref()),
    })
}

/// `filesystem_view`.
fn protection_name(value: i32) -> String {
    wire::Protection::try_from(value)
        .map_or("UNSPECIFIED", |protection| {
            short(protection.as_str_name(), "PROTECTION_")
        })
        .to_lowercase()
}

/// `active`.
fn state_name(value: i32) -> String {
    wire::ProtectionState::try_from(value)
        .map_or("UNSPECIFIED", |state| short(state.as_str_name(), "PROTECTION_STATE_"))
        .to_lowercase()
}

/// `stdout`.
fn stream_name(value: i32) -> &'static str {
    match wire::OutputStream::try_from(value) {
        Ok(wire::OutputStream::Stdout) => "stdout",
        Ok(wire::OutputStream::Stderr) => "stderr",
        _ => "unspecified",
    }
}

fn short(name: &'static str, prefix: &str) -> &'static str {
    name.strip_prefix(prefix).unwrap_or(name)
}

fn seconds(duration: Option<&prost_types::Duration>) -> Option<f64> {
    duration.map(|duration| duration.seconds as f64 + f64::from(duration.nanos) / 1e9)
}

/// Bytes as hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Puts bytes under `name` as text, or under `name_base64` when they are none.
fn put_bytes(object: &mut Value, name: &str, bytes: &[u8]) {
    let Value::Object(members) = object else { return };
    put(
        members,
        name,
        std::str::from_utf8(bytes).ok().map_or(Value::Null, Value::from),
    );
    let text = members.get(name).is_some_and(Value::is_string);
    let encoded = if text {
        Value::Null
    } else {
        Value::from(STANDARD.encode(bytes))
    };
    put(members, &format!("{name}_base64"), encoded);
}

fn put(members: &mut Map<String, Value>, name: &str, value: Value) {
    members.insert(name.to_owned(), value);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(inner: Event) -> Value {
        let time = Some(prost_types::Timestamp {
            seconds: 0,
            nanos: 500_000_000,
        });
        let line = event(&RunEvent {
            run_id: "r".to_owned(),
            seq: 7,
            time,
            event: Some(inner),
        });
        assert!(!line.contains('\n'), "an event is one line: {line}");
        serde_json::from_str(&line).unwrap()
    }

    fn output(data: &'static [u8]) -> Value {
        parsed(Event::Output(Output {
            stream: 2,
            offset: 3,
            data: data.into(),
        }))
    }

    #[test]
    fn every_event_says_what_which_and_when() {
        let line = parsed(Event::Accepted(wire::Accepted { queue_position: 2 }));
        let expected = json!({
            "type": "accepted", "run_id": "r", "seq": 7, "time": "1970-01-01T00:00:00.500Z", "queue_position": 2,
        });
        assert_eq!(line, expected);
    }

    #[test]
    fn text_is_a_string_and_other_bytes_are_base64() {
        let text = output("caf\u{e9}\n\"\u{0}".as_bytes());
        assert_eq!(text["data"], "caf\u{e9}\n\"\u{0}");
        assert_eq!(
            (&text["data_base64"], &text["stream"], &text["offset"]),
            (&Value::Null, &json!("stderr"), &json!(3))
        );
        let bytes = output(b"\xff\xfe");
        assert_eq!((&bytes["data"], &bytes["data_base64"]), (&Value::Null, &json!("//4=")));
    }

    #[test]
    fn an_ending_is_told_with_its_kind() {
        let timed_out = TimedOut {
            limit: 1,
            after: Some(prost_types::Duration {
                seconds: 1,
                nanos: 500_000_000,
            }),
        };
        let ending = Some(Ending {
            kind: Some(Kind::TimedOut(timed_out)),
        });
        let line = parsed(Event::Finished(Finished {
            not_carried: String::new(),
            ending,
            shell_code: 124,
            usage: Some(Usage::default()),
            denials: vec![Denial::default()],
            denial_count: 7,
        }));
        assert_eq!(
            (&line["denial_count"], &line["denials"][0]["path"]),
            (&json!(7), &Value::Null)
        );
        assert_eq!(
            line["ending"],
            json!({ "kind": "timed_out", "limit": "wall", "after": 1.5 })
        );
        assert_eq!(line["shell_code"], 124);
        assert_eq!(line["usage"]["wall"], Value::Null);

        let failed = SandboxFailed {
            protection: 1,
            stage: "mount /proc".into(),
            errno: 1,
            path: "/p".into(),
            ..Default::default()
        };
        let ending = Some(Ending {
            kind: Some(Kind::SandboxFailed(failed)),
        });
        let line = parsed(Event::Finished(Finished {
            ending,
            shell_code: 125,
            usage: None,
            ..Finished::default()
        }));
        assert_eq!(line["ending"]["protection"], "filesystem_view");
        assert_eq!(line["ending"]["path"], "/p");

        let passed = wire::DiskLimit {
            resource: wire::DiskResource::Files.into(),
            limit: 5,
            used: 6,
        };
        let ending = Some(Ending {
            kind: Some(Kind::DiskLimit(passed)),
        });
        let line = parsed(Event::Finished(Finished {
            ending,
            shell_code: 137,
            usage: None,
            ..Finished::default()
        }));
        assert_eq!(
            line["ending"],
            json!({ "kind": "disk_limit", "resource": "files", "limit": 5, "used": 6 })
        );
    }

    #[test]
    fn the_start_tells_policy_limits_and_enforcement() {
        let entry = EnforcementEntry {
            protection: 2,
            state: 1,
            detail: "Landlock ABI 7".into(),
            requirement: 1,
        };
        let line = parsed(Event::Started(Started {
            enforcement: Some(Enforcement { entries: vec![entry] }),
            policy_name: "default".to_owned(),
            policy_digest: vec![0xab, 0x01].into(),
            pid: 2,
            limits: Some(EffectiveLimits {
                memory_bytes: Some(9),
                ..Default::default()
            }),
            layers: vec!["default".to_owned(), "org (system)".to_owned()],
            not_given: vec![],
        }));
        assert_eq!(line["layers"], json!(["default", "org (system)"]));
        assert_eq!(line["policy_digest"], "ab01");
        assert_eq!(line["limits"]["memory_bytes"], 9);
        assert_eq!(line["limits"]["wall"], Value::Null);
        let expected = json!([{ "protection": "filesystem_rights", "state": "active", "detail": "Landlock ABI 7", "requirement": "required" }]);
        assert_eq!(line["enforcement"], expected);
    }

    #[test]
    fn an_event_of_a_newer_daemon_is_passed_on() {
        let line = event(&RunEvent {
            run_id: "r".to_owned(),
            seq: 1,
            time: None,
            event: None,
        });
        let line: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&line["type"], &line["time"]), (&json!("unknown"), &Value::Null));
    }
}
