//! Which policy decides: what is read, what counts of it, who may use it, and what holds over it.
//!
//! ```text
//! counted.rs   which files count: nobody but root and the daemon's user can have written them
//! store.rs     the policies by name, as they were last read
//! access.rs    who may use which of them, under which ceiling: the [[access]] rules. Pure
//! project.rs   the project's own .fumehood.toml
//! trust.rs     which files the user has trusted, by digest
//! choice.rs    of all that, the policy that decides about a request, and the names of its layers
//! ```
//!
//! # What holds over what
//!
//! A policy of the machine's own directory that says `ceiling = true` holds over every policy of every request; so does the `ceiling` of
//! an access rule that matches. Below them stands what the request names. Where it names nothing, that is the default policy, and under it the
//! project's file, until the daemon's user trusts the file: then it stands in the default's place. A policy that a request brings is taken if it
//! is trusted, if it gives nothing that the default does not, or as the configuration says. Whatever stands under something is narrowed by it
//! (`Policy::narrowed_by`), so that no way of writing it gives more.
//!
//! # Reading again
//!
//! SIGHUP and `fumehood policy reload` read the directories again, all or nothing: with an error in a file that counts, what was there stays. A
//! run keeps the policy that it started with. The configuration itself, and so the access rules, is read at the start only.

mod access;
mod choice;
mod counted;
mod project;
mod store;
mod trust;

use std::sync::{Arc, PoisonError, RwLock};

use crate::peer::Peer;

pub use access::{Allowance, Inline, Rule, Rules, allowance};
pub use choice::{Asking, Brought, Choice, Examined, Explained, Layer, Reference, Refusal};
pub use counted::{CountError, Uncounted, read_path};
pub use project::{Outside, PROJECT_FILE, ProjectError};
pub use store::{Ignored, MAX_POLICY_BYTES, PolicyStore, SYSTEM_DIR, Sources, StoreError, Stored};
pub use trust::{TrustError, TrustStore, Trusted};

/// The policies as they are now, with everything that decides which of them holds. Clones share it.
#[derive(Clone, Debug)]
pub struct Policies {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    sources: Sources,
    access: Vec<Rules>,
    inline: Inline,
    trust: TrustStore,
    current: RwLock<PolicyStore>,
}

/// What reading again changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Names of policies that are new.
    pub added: Vec<String>,
    /// Names of those that are no more.
    pub removed: Vec<String>,
    /// Names of those that say something else.
    pub changed: Vec<String>,
    /// What was found and has no effect.
    pub ignored: Vec<Ignored>,
}

impl Policies {
    /// Reads the policies, and looks whether the access rules name some that exist.
    ///
    /// # Errors
    /// As [`PolicyStore::load`]; and when a rule names a policy that does not exist.
    pub fn load(
        sources: Sources,
        access: Vec<Rules>,
        inline: Inline,
        trust: TrustStore,
    ) -> Result<Policies, StoreError> {
        let store = PolicyStore::load(&sources)?;
        check(&access, &store)?;
        tell_ignored(store.ignored());
        let inner = Inner {
            sources,
            access,
            inline,
            trust,
            current: RwLock::new(store),
        };
        Ok(Policies { inner: Arc::new(inner) })
    }

    /// The built-in policies, and requests with any of their own: for tests and fuzzing.
    #[doc(hidden)]
    pub fn built_in(trust: TrustStore) -> Policies {
        let sources = Sources {
            system: Vec::new(),
            user: Vec::new(),
            default: "default".to_owned(),
            uid: nix::unistd::geteuid().as_raw(),
        };
        let inner = Inner {
            sources,
            access: Vec::new(),
            inline: Inline::Any,
            trust,
            current: RwLock::new(PolicyStore::built_in()),
        };
        Policies { inner: Arc::new(inner) }
    }

    /// The policies as they are now; a request keeps what it got here.
    pub fn current(&self) -> PolicyStore {
        self.inner
            .current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Reads the directories again. Blocks.
    ///
    /// # Errors
    /// As [`Policies::load`]; what was there stays.
    pub fn reload(&self) -> Result<Changes, StoreError> {
        let new = PolicyStore::load(&self.inner.sources)?;
        check(&self.inner.access, &new)?;
        tell_ignored(new.ignored());
        let mut current = self.inner.current.write().unwrap_or_else(PoisonError::into_inner);
        let changes = difference(&current, &new);
        tell_looser_ceilings(&current, &new, &self.inner.access);
        *current = new;
        Ok(changes)
    }

    /// The files that were trusted.
    pub fn trust(&self) -> &TrustStore {
        &self.inner.trust
    }

    /// Whether a peer may look at a policy. The daemon's own user and root look at all.
    ///
    /// # Errors
    /// No access rule is about the peer.
    pub fn may_see(&self, peer: &Peer, policy: &str) -> Result<bool, Refusal> {
        if peer.is_user(0) || peer.is_user(self.inner.sources.uid) {
            return Ok(true);
        }
        access::may_see(self.access(), peer, policy).ok_or_else(|| Refusal::NoAccess(peer.to_string(), false))
    }

    fn access(&self) -> &[Rules] {
        &self.inner.access
    }

    fn inline(&self) -> Inline {
        self.inner.inline
    }
}

/// Whoever reads the log learns that what holds over everybody holds less now.
fn tell_looser_ceilings(old: &PolicyStore, new: &PolicyStore, access: &[Rules]) {
    let ruled = access
        .iter()
        .flat_map(|file| &file.rules)
        .filter_map(|rule| rule.ceiling.as_deref());
    let system = old.ceilings().map(|stored| stored.policy.name.as_str());
    let names: std::collections::BTreeSet<&str> = ruled.chain(system).collect();
    for name in names {
        let Some(was) = old.get(name) else { continue };
        match new.get(name).filter(|now| now.ceiling || !was.ceiling) {
            None => tracing::warn!(ceiling = name, "a ceiling is gone"),
            Some(now) => {
                let more = now.policy.widens(&was.policy);
                if let Some(first) = more.first() {
                    tracing::warn!(ceiling = name, more = more.len(), %first, "a ceiling gives more than before");
                }
            }
        }
    }
}

fn tell_ignored(ignored: &[Ignored]) {
    for Ignored { path, reason } in ignored {
        tracing::warn!(path = %path.display(), reason, "a policy file has no effect");
    }
}

fn check(access: &[Rules], store: &PolicyStore) -> Result<(), StoreError> {
    for file in access {
        for (number, rule) in file.rules.iter().enumerate() {
            let known = |name: &&String| store.get(name).is_some_and(|stored| stored.system || !file.system);
            if let Some(name) = rule.names().find(|name| !known(name)) {
                let known = store.all().filter(|(stored, _)| stored.system || !file.system);
                let known: Vec<_> = known.map(|(stored, _)| stored.policy.name.clone()).collect();
                return Err(StoreError::NoSuchPolicy {
                    rule: format!("{}: rule {} of [[access]]", file.origin, number + 1),
                    name: name.clone(),
                    system: file.system,
                    known: known.join(", "),
                });
            }
        }
    }
    Ok(())
}

fn difference(old: &PolicyStore, new: &PolicyStore) -> Changes {
    let mut changes = Changes {
        ignored: new.ignored().to_vec(),
        ..Changes::default()
    };
    let name = |stored: &Stored| stored.policy.name.clone();
    for (stored, _) in new.all() {
        match old.get(&stored.policy.name) {
            None => changes.added.push(name(stored)),
            Some(before) if before.policy.digest != stored.policy.digest || before.ceiling != stored.ceiling => {
                changes.changed.push(name(stored));
            }
            Some(_) => {}
        }
    }
    let gone = old.all().filter(|(stored, _)| new.get(&stored.policy.name).is_none());
    changes.removed = gone.map(|(stored, _)| name(stored)).collect();
    changes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
