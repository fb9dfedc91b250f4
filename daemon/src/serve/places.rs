//! Where the daemon keeps what it writes, and what no command may reach.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::ServeError;
use crate::audit::{self, AuditLog};
use crate::config::Config;
use crate::policy::Policies;
use crate::run::{Adopted, Keeper, RunTable, SpillBounds, SpillStore};

/// Opens the audit log. Where nobody chose its place and another daemon of this user writes there (one was started in a login
/// session, one by cron), the next free of `audit-2.jsonl` to `audit-9.jsonl` beside it is taken; where that place cannot be written
/// (a service user without a home), the scratch directory, which is on disk and private to the user too.
pub(super) async fn open_audit(config: &Config) -> Result<Option<AuditLog>, ServeError> {
    let mut paths = vec![config.audit.path.clone()];
    if audit::default_path().as_ref() == Some(&config.audit.path) {
        paths.extend((2..=audit::MAX_LOGS).map(|number| audit::further_path(&config.audit.path, number)));
    }
    let instance = RunTable::new_id();
    let elsewhere = (paths.len() > 1).then(|| config.scratch_dir.join("audit.jsonl"));
    let open = move || {
        let mut opened = AuditLog::open(&paths[0], &instance);
        for path in &paths[1..] {
            if !matches!(opened, Err(audit::OpenError::InUse { .. })) {
                break;
            }
            opened = AuditLog::open(path, &instance);
        }
        if let (Err(audit::OpenError::Io { .. }), Some(elsewhere)) = (&opened, &elsewhere) {
            tracing::warn!(path = %elsewhere.display(), "the usual place of the audit log cannot be written; taking another");
            opened = AuditLog::open(elsewhere, &instance);
        }
        opened
    };
    let opened = tokio::task::spawn_blocking(open).await;
    match opened.map_err(|error| ServeError::Serve(error.to_string()))? {
        Ok(audit) => Ok(Some(audit)),
        Err(error) if config.audit.required => Err(error.into()),
        Err(error) => {
            tracing::error!(%error, "there is no audit log, and the configuration does not require one");
            Ok(None)
        }
    }
}

/// Takes the place for files of output, with the runs that earlier daemons of the socket left there. Without one, runs go on: each says so
/// that asks for a file.
pub(super) async fn open_spill(config: &Config) -> Result<Result<(SpillStore, Vec<Adopted>), String>, ServeError> {
    let bounds = SpillBounds {
        run_bytes: config.output.run_bytes,
        total_bytes: config.output.total_bytes,
        reserve_bytes: config.output.reserve_bytes,
    };
    let (directory, instance) = (config.output.dir.clone(), RunTable::new_id());
    let keeper = Keeper {
        socket: config.socket.clone(),
        retain_for: config.retain_for,
    };
    let opened = tokio::task::spawn_blocking(move || SpillStore::open(&directory, &instance, bounds, &keeper)).await;
    let opened = opened.map_err(|error| ServeError::Serve(error.to_string()))?;
    Ok(opened.map_err(|error| {
        let why = crate::telemetry::chain(&error).to_string();
        tracing::error!(
            why,
            "no output of runs is written to files, and no run will be known when the daemon is started again"
        );
        why
    }))
}

/// Where answers for always are: beside the audit log, in a directory of their own.
pub(super) fn answers_directory(config: &Config, audit: Option<&AuditLog>) -> PathBuf {
    let log = audit.map(|audit| audit.path()).unwrap_or(&config.audit.path);
    log.with_file_name("approvals")
}

/// What no command may reach: the daemon's socket, audit log, answers for always, configuration, policies, list of trusted files and scratch
/// directory and the output of runs. Where one of them lies in
/// the directory that Fumehood makes for it, that directory.
pub(super) fn private_places(config: &Config, audit: Option<&AuditLog>, policies: &Policies) -> Arc<[PathBuf]> {
    let log = audit.map(|audit| audit.path()).unwrap_or(&config.audit.path);
    let head = log.with_extension("head");
    let answers = answers_directory(config, audit);
    let files = [
        Some(config.socket.as_path()),
        config.file.as_deref(),
        Some(&config.audit.path),
        Some(log),
        Some(&head),
        Some(policies.trust().path()),
        Some(&answers),
    ];
    let own_name = std::ffi::OsString::from(format!("fumehood-{}", config.uid));
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let place = |path: &Path| {
        let path = real(path);
        let ours = |parent: &&Path| {
            parent
                .file_name()
                .is_some_and(|name| name == "fumehood" || *name == *own_name)
        };
        path.parent().filter(ours).map(Path::to_owned).unwrap_or(path)
    };
    let directories = config
        .policy_dirs
        .iter()
        .chain(&config.system_policy_dirs)
        .chain([&config.scratch_dir, &config.output.dir])
        .map(|path| real(path));
    let mut places: Vec<_> = files.into_iter().flatten().map(place).chain(directories).collect();
    places.sort();
    places.dedup();
    places.into()
}
