//! Which policy decides about a request, of everything that has a word in it.
//!
//! ```text
//! what the request names or brings, or the project's own file     narrows, or stands by itself if it may
//!   under the policy that would hold otherwise                     unless it is trusted or named
//!     under the ceilings of the access rules and of the machine    always
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use fumehood_policies::{Digest, Policy, Resolved, Widening};

use super::access::{Allowance, Inline, allowance};
use super::project::{Outside, ProjectError, read_inline, read_project};
use super::store::{PolicyStore, StoreError, Stored};
use super::{Policies, hex};
use crate::peer::{Identity, Peer};

/// Who asks, and what decides their request by what they say.
#[derive(Clone, Copy, Debug)]
pub struct Asking<'a> {
    /// Who.
    pub peer: &'a Peer,
    /// The request's labels.
    pub labels: &'a BTreeMap<String, String>,
    /// The workspace, without links, and as which user the command runs: the project's file is read there.
    pub workspace: Option<(&'a std::path::Path, u32)>,
}

/// What a request says about its policy.
#[derive(Clone, Copy, Debug)]
pub enum Reference<'a> {
    /// Nothing: the project's own file, or the default.
    None,
    /// A policy by name.
    Name(&'a str),
    /// A policy of its own.
    Inline(Brought<'a>),
}

/// A policy that a request brings.
#[derive(Clone, Copy, Debug, Default)]
pub struct Brought<'a> {
    /// Its text.
    pub toml: &'a [u8],
    /// Where it says it is from.
    pub origin: &'a str,
    /// The name of the policy that it stands under. Empty: the project's own if that is trusted, else the default.
    pub under: &'a str,
    /// Whether what is too much is taken away, instead of the request being refused.
    pub cut: bool,
}

/// The policy that decides.
#[derive(Clone, Debug)]
pub struct Choice {
    /// The policy.
    pub policy: Arc<Policy>,
    /// The same without the ceilings over it.
    pub own: Arc<Policy>,
    /// What it comes from, the request's own first, the ceilings last: `shop (.fumehood.toml, untrusted)`, `default`, `ceiling (system)`.
    pub layers: Vec<String>,
    /// What the project's file or the request's own policy states and does not give, because nobody trusted it.
    pub not_given: Vec<Widening>,
}

/// One of the policies that stand over each other.
#[derive(Clone, Debug)]
pub struct Layer {
    /// As in [`Choice::layers`].
    pub name: String,
    /// The policy by itself.
    pub resolved: Arc<Resolved>,
    /// Whether it is the project's own file: what it says need not be for the caller to read.
    pub project: bool,
}

/// What would decide about a request.
#[derive(Debug)]
pub struct Explained {
    /// The policy, if there is one.
    pub choice: Option<Choice>,
    /// What it comes from, in the order of [`Choice::layers`].
    pub layers: Vec<Layer>,
    /// Why the request would be refused all the same. The policy is what would hold without what is too much.
    pub refusal: Option<Refusal>,
}

/// Why no policy decides, and the request is refused.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// There is no policy so named.
    #[error("there is no policy {name:?}; there are: {known}")]
    NoSuchPolicy {
        /// The name.
        name: String,
        /// Those there are.
        known: String,
    },
    /// What the request brings is wrong.
    #[error(transparent)]
    Inline(StoreError),
    /// The project's file is wrong.
    #[error(transparent)]
    Project(ProjectError),
    /// No access rule is about this peer.
    #[error("no access rule is about {0}{labels}; whoever runs this daemon writes them: [[access]] in its configuration", labels = if *.1 { " with these labels" } else { "" })]
    NoAccess(String, bool),
    /// The peer may not name this policy.
    #[error("{peer} may not name the policy {name:?}; it may name: {may}")]
    NotYours {
        /// Who.
        peer: String,
        /// The policy.
        name: String,
        /// What it may name.
        may: String,
    },
    /// The peer has to name a policy: the default is none of those that it may use.
    #[error(
        "{peer} must name a policy: it may not use the default {name:?}; it may name: {may}. Whoever runs this daemon: `default = ...` in [[access]] says which holds otherwise"
    )]
    NoDefault {
        /// Who.
        peer: String,
        /// The default.
        name: String,
        /// What it may name.
        may: String,
    },
    /// The daemon takes no policies from this peer's requests, or only trusted ones.
    #[error("{0}")]
    NoInline(&'static str),
    /// What the request brings is more than it may have.
    #[error(
        "the policy `{name}` gives more than `{base}`, which holds for this request: {}; trust the file with `fumehood policy trust`, or leave that out",
        words(widenings)
    )]
    Widens {
        /// Its name.
        name: String,
        /// The name of what holds otherwise.
        base: String,
        /// Its digest, as trusted policies have it.
        digest: String,
        /// What it gives beyond that.
        widenings: Vec<Widening>,
    },
}

fn in_words(names: &[&str]) -> String {
    match names {
        [] => "none".to_owned(),
        names => names.join(", "),
    }
}

fn words(widenings: &[Widening]) -> String {
    let first: Vec<_> = widenings.iter().take(4).map(ToString::to_string).collect();
    match widenings.len().saturating_sub(4) {
        0 => first.join("; "),
        more => format!("{}; and {more} more", first.join("; ")),
    }
}

/// What a file outside the policy directories would be worth.
#[derive(Clone, Debug)]
pub struct Examined {
    /// The file and its policy.
    pub outside: Outside,
    /// Whether it is trusted as it is.
    pub trusted: bool,
    /// Whether it was trusted with other content.
    pub changed: bool,
    /// What trusting it gives beyond what holds otherwise. Under the ceilings: what they take away is not in it.
    pub widenings: Vec<Widening>,
    /// The name of what holds otherwise.
    pub base: String,
    /// The ceilings that hold over it.
    pub ceilings: Vec<String>,
}

/// A policy while it is put together.
struct Layers<'a> {
    policy: Arc<Policy>,
    layers: Vec<Layer>,
    store: &'a PolicyStore,
}

impl<'a> Layers<'a> {
    fn new(store: &'a PolicyStore, policy: Arc<Policy>, name: String, resolved: Arc<Resolved>) -> Self {
        let layer = Layer {
            name,
            resolved,
            project: false,
        };
        Layers {
            policy,
            layers: vec![layer],
            store,
        }
    }

    fn stored(store: &'a PolicyStore, stored: &Stored) -> Self {
        let (policy, resolved) = (Arc::clone(&stored.policy), Arc::clone(&stored.resolved));
        Layers::new(store, policy, stored.policy.name.clone(), resolved)
    }

    fn outside(store: &'a PolicyStore, outside: Outside, from: &str) -> Self {
        let name = format!("{} ({from})", outside.policy.name);
        Layers::new(store, Arc::new(outside.policy), name, outside.resolved)
    }

    fn under(&mut self, above: Layers<'_>) {
        // A policy under itself is itself.
        if above.policy.digest != self.policy.digest {
            self.policy = Arc::new(self.policy.narrowed_by(&above.policy));
        }
        self.layers.extend(above.layers);
    }

    fn under_ceilings(mut self, allowed: &Allowance<'_>) -> Self {
        for (stored, from) in ceilings(self.store, allowed) {
            let own = self.layers.iter().any(|layer| layer.name == stored.policy.name);
            if own && stored.policy.digest == self.policy.digest {
                continue;
            }
            let mut above = Layers::stored(self.store, stored);
            for layer in &mut above.layers {
                layer.name = format!("{} ({from})", layer.name);
            }
            self.under(above);
        }
        self
    }

    fn names(&self) -> Vec<String> {
        self.layers.iter().map(|layer| layer.name.clone()).collect()
    }

    /// With the ceilings over it, what decides.
    fn choice(self, not_given: Vec<Widening>, allowed: &Allowance<'_>) -> (Choice, Vec<Layer>) {
        let own = Arc::clone(&self.policy);
        let whole = self.under_ceilings(allowed);
        let choice = Choice {
            layers: whole.names(),
            policy: whole.policy,
            own,
            not_given,
        };
        (choice, whole.layers)
    }
}

fn ceilings<'s>(store: &'s PolicyStore, allowed: &Allowance<'_>) -> Vec<(&'s Stored, &'static str)> {
    let ruled = allowed.ceilings.iter().filter_map(|name| store.get(name));
    let ruled = ruled.filter(|stored| !stored.ceiling).map(|stored| (stored, "access"));
    ruled.chain(store.ceilings().map(|stored| (stored, "system"))).collect()
}

impl Policies {
    /// The policy that decides about a request. Blocks: the workspace is looked at.
    ///
    /// # Errors
    /// Why the request gets none.
    pub fn choose(&self, asking: Asking<'_>, reference: Reference<'_>) -> Result<Choice, Refusal> {
        let store = self.current();
        let allowed = self.allowed(asking)?;
        let (layers, not_given) = self.without_ceilings(&store, &allowed, asking, reference)?;
        Ok(layers.choice(not_given, &allowed).0)
    }

    /// What [`choose`](Self::choose) says to the same, with what it is made of. What refuses the request at the door is told beside it, and a
    /// policy that a request brings is explained without what is too much of it. Blocks.
    ///
    /// # Errors
    /// When there is nothing to explain: there is no such policy, or a file is wrong.
    pub fn explain(&self, asking: Asking<'_>, reference: Reference<'_>) -> Result<Explained, Refusal> {
        let store = self.current();
        let refused = |refusal| Explained {
            choice: None,
            layers: Vec::new(),
            refusal: Some(refusal),
        };
        let mut allowed = match self.allowed(asking) {
            Ok(allowed) => allowed,
            Err(refusal) => return Ok(refused(refusal)),
        };
        let explained = |found: (Layers<'_>, Vec<Widening>), allowed: &Allowance<'_>, refusal| {
            let (choice, layers) = found.0.choice(found.1, allowed);
            Explained {
                choice: Some(choice),
                layers,
                refusal,
            }
        };
        let refusal = match self.without_ceilings(&store, &allowed, asking, reference) {
            Ok(found) => return Ok(explained(found, &allowed, None)),
            Err(refusal) => refusal,
        };
        match (reference, refusal) {
            (Reference::Inline(brought), refusal @ (Refusal::Widens { .. } | Refusal::NoInline(_))) => {
                allowed.inline = Inline::Narrow;
                let cut = Reference::Inline(Brought { cut: true, ..brought });
                match self.without_ceilings(&store, &allowed, asking, cut) {
                    Ok(found) => Ok(explained(found, &allowed, Some(refusal))),
                    Err(wrong @ Refusal::Inline(_)) => Err(wrong),
                    Err(_) => Ok(refused(refusal)),
                }
            }
            (
                _,
                refusal @ (Refusal::NoAccess(..)
                | Refusal::NotYours { .. }
                | Refusal::NoDefault { .. }
                | Refusal::NoInline(_)
                | Refusal::Widens { .. }),
            ) => Ok(refused(refusal)),
            (_, wrong @ (Refusal::NoSuchPolicy { .. } | Refusal::Inline(_) | Refusal::Project(_))) => Err(wrong),
        }
    }

    fn without_ceilings<'s>(
        &self,
        store: &'s PolicyStore,
        allowed: &Allowance<'_>,
        asking: Asking<'_>,
        reference: Reference<'_>,
    ) -> Result<(Layers<'s>, Vec<Widening>), Refusal> {
        Ok(match reference {
            Reference::Name(name) if !name.is_empty() => (self.named(store, allowed, asking, name)?, Vec::new()),
            Reference::Inline(brought) => self.brought(store, allowed, asking, brought)?,
            Reference::Name(_) | Reference::None => {
                let base = base(store, allowed, asking.peer)?;
                match self.of_project(store, asking)? {
                    Some(project) => self.under_base(project, base, allowed),
                    None => (base, Vec::new()),
                }
            }
        })
    }

    /// The digest of the policy that requests get that name it, with the ceilings over it. `None`: there is none so named, or access rules
    /// set ceilings, and then it depends on who asks.
    pub fn digest_by_name(&self, name: &str) -> Option<Digest> {
        let store = self.current();
        let stored = store.get(name).filter(|_| !name.is_empty())?;
        let mut rules = self.access().iter().flat_map(|file| &file.rules);
        if rules.any(|rule| rule.ceiling.is_some()) {
            return None;
        }
        let layers = Layers::stored(&store, stored);
        Some(layers.under_ceilings(&Allowance::default()).policy.digest)
    }

    fn allowed(&self, asking: Asking<'_>) -> Result<Allowance<'_>, Refusal> {
        allowance(self.access(), self.inline(), asking.peer, asking.labels)
            .ok_or_else(|| Refusal::NoAccess(asking.peer.to_string(), !asking.labels.is_empty()))
    }

    fn named<'s>(
        &self,
        store: &'s PolicyStore,
        allowed: &Allowance<'_>,
        asking: Asking<'_>,
        name: &str,
    ) -> Result<Layers<'s>, Refusal> {
        let may = |name: &str| {
            let listed = allowed.policies.as_ref().is_none_or(|list| list.contains(&name));
            listed || allowed.defaults == [name]
        };
        if !may(name) {
            let list = store.all().map(|(stored, _)| stored.policy.name.as_str());
            let list: Vec<_> = list.filter(|name| may(name)).collect();
            return Err(Refusal::NotYours {
                peer: asking.peer.to_string(),
                name: name.to_owned(),
                may: in_words(&list),
            });
        }
        let stored = store.get(name).ok_or_else(|| Refusal::NoSuchPolicy {
            name: name.to_owned(),
            known: store.names(),
        })?;
        Ok(Layers::stored(store, stored))
    }

    fn brought<'s>(
        &self,
        store: &'s PolicyStore,
        allowed: &Allowance<'_>,
        asking: Asking<'_>,
        Brought {
            toml,
            origin,
            under,
            cut,
        }: Brought<'_>,
    ) -> Result<(Layers<'s>, Vec<Widening>), Refusal> {
        if allowed.inline == Inline::None {
            return Err(Refusal::NoInline(
                "this daemon takes no policies from requests (inline_policies = \"none\", or an access rule says so); name one of its own",
            ));
        }
        let brought = read_inline(store, std::path::Path::new(origin), toml).map_err(Refusal::Inline)?;
        let name = brought.policy.name.clone();
        if allowed.inline == Inline::Any {
            return Ok((Layers::outside(store, brought, "request"), Vec::new()));
        }
        if self.is_trusted_content(&brought, asking) {
            return Ok((Layers::outside(store, brought, "request, trusted"), Vec::new()));
        }
        if allowed.inline == Inline::Trusted {
            return Err(Refusal::NoInline(
                "this daemon takes policies from requests only when they are trusted (inline = \"trusted\"): see `fumehood policy trust`",
            ));
        }
        let base = match under {
            "" => match self.of_project(store, asking) {
                Ok(Some(project)) if self.is_trusted(&project) => {
                    self.under_base(project, base(store, allowed, asking.peer)?, allowed).0
                }
                // A project's file that is wrong, or that nobody vouches for, has no say in what a request brings.
                _ => base(store, allowed, asking.peer)?,
            },
            name => self.named(store, allowed, asking, name)?,
        };
        let widenings = brought.policy.widens(&base.policy);
        if !(cut || widenings.is_empty()) {
            return Err(Refusal::Widens {
                name,
                base: base.policy.name.clone(),
                digest: brought.policy.digest.to_string(),
                widenings,
            });
        }
        // What was judged to widen nothing is narrowed as well: the promise does not hang on the judgement.
        let mut layers = Layers::outside(store, brought, "request");
        layers.under(base);
        Ok((layers, widenings))
    }

    fn of_project(&self, store: &PolicyStore, asking: Asking<'_>) -> Result<Option<Outside>, Refusal> {
        let Some((workspace, owner)) = asking.workspace else {
            return Ok(None);
        };
        let mut owners = vec![owner, store.uid()];
        if let Identity::Unix { uid, .. } = asking.peer.identity {
            owners.push(uid);
        }
        let strange = !asking.peer.is_user(0) && !asking.peer.is_user(store.uid());
        read_project(store, workspace, &owners).map_err(|error| {
            Refusal::Project(match strange {
                // What is quoted may be what this peer cannot read by itself.
                true => error.without_text(),
                false => error,
            })
        })
    }

    /// A peer that may bring no policies of its own gets none by way of its project either: that only narrows.
    fn under_base<'s>(
        &self,
        project: Outside,
        base: Layers<'s>,
        allowed: &Allowance<'_>,
    ) -> (Layers<'s>, Vec<Widening>) {
        let trusted = allowed.inline > Inline::None && self.is_trusted(&project);
        let word = if trusted { "trusted" } else { "untrusted" };
        let mut layers = Layers::outside(base.store, project, &format!(".fumehood.toml, {word}"));
        for layer in &mut layers.layers {
            layer.project = true;
        }
        if trusted {
            return (layers, Vec::new());
        }
        let widenings = layers.policy.widens(&base.policy);
        layers.under(base);
        (layers, widenings)
    }

    /// Whether the file at this path is trusted as it is. A list that cannot be read trusts nothing, and the log says so.
    fn is_trusted(&self, file: &Outside) -> bool {
        self.trusted_entries().iter().any(|known| {
            known.path == file.path
                && known.policy_digest == file.policy.digest.to_string()
                && known.file_digest == hex(&file.file_digest)
        })
    }

    /// Whether a policy that a request brings was trusted as a file, whatever that file's path: its content is what is trusted. A project's
    /// own file was trusted for its workspace and holds there only.
    fn is_trusted_content(&self, brought: &Outside, asking: Asking<'_>) -> bool {
        self.trusted_entries().iter().any(|known| {
            let project = known.path.file_name() == Some(super::project::PROJECT_FILE.as_ref());
            let here = asking
                .workspace
                .is_some_and(|(workspace, _)| known.path.parent() == Some(workspace));
            known.policy_digest == brought.policy.digest.to_string()
                && known.file_digest == hex(&brought.file_digest)
                && (!project || here)
        })
    }

    fn trusted_entries(&self) -> Vec<super::Trusted> {
        self.trust().list().unwrap_or_else(|error| {
            tracing::warn!(error = %crate::telemetry::chain(&error), "no file is trusted");
            Vec::new()
        })
    }

    /// What a file would be worth for a peer: of a project if it is named so, else of requests that bring it. Blocks.
    ///
    /// # Errors
    /// What is wrong with it; [`Refusal::NoSuchPolicy`] when there is no such file.
    pub fn examine(&self, peer: &Peer, path: &std::path::Path) -> Result<Examined, Refusal> {
        let labels = BTreeMap::new();
        let asking = Asking {
            peer,
            labels: &labels,
            workspace: None,
        };
        let store = self.current();
        let allowed = self.allowed(asking)?;
        let read_error = |source: std::io::Error| {
            Refusal::Project(ProjectError::Read {
                path: path.to_owned(),
                source,
            })
        };
        let project = path.file_name() == Some(super::project::PROJECT_FILE.as_ref());
        let outside = match (project, path.parent()) {
            (true, Some(workspace)) => {
                let asking = Asking {
                    workspace: Some((workspace, store.uid())),
                    ..asking
                };
                let found = self.of_project(&store, asking)?;
                found.ok_or_else(|| read_error(std::io::ErrorKind::NotFound.into()))?
            }
            _ => {
                let bytes = super::project::read_plain(path).map_err(read_error)?;
                read_inline(&store, path, &bytes).map_err(Refusal::Inline)?
            }
        };
        let base = base(&store, &allowed, peer)?;
        let above = ceilings(&store, &allowed);
        // What a ceiling takes away, trusting does not give.
        let given = Layers::outside(&store, outside.clone(), "examined").under_ceilings(&allowed);
        let widenings = given.policy.widens(&base.policy);
        let entries = self.trusted_entries();
        let trusted = self.is_trusted(&outside);
        let changed = !trusted && entries.iter().any(|known| known.path == outside.path);
        Ok(Examined {
            trusted,
            changed,
            widenings,
            base: base.names().join(" under "),
            ceilings: above
                .iter()
                .map(|(stored, from)| format!("{} ({from})", stored.policy.name))
                .collect(),
            outside,
        })
    }
}

/// What holds for a request that names nothing, where there is no project's file.
fn base<'s>(store: &'s PolicyStore, allowed: &Allowance<'_>, peer: &Peer) -> Result<Layers<'s>, Refusal> {
    let get = |name: &str| {
        store.get(name).ok_or_else(|| Refusal::NoSuchPolicy {
            name: name.to_owned(),
            known: store.names(),
        })
    };
    let first = get(allowed.defaults.first().copied().unwrap_or(""))?;
    let name = first.policy.name.as_str();
    // A list of policies is all that there is: the daemon's default is none of them unless it says so.
    if let (Some(list), true) = (&allowed.policies, allowed.defaults.is_empty())
        && !list.contains(&name)
    {
        return Err(Refusal::NoDefault {
            peer: peer.to_string(),
            name: name.to_owned(),
            may: in_words(list),
        });
    }
    let mut layers = Layers::stored(store, first);
    for name in allowed.defaults.iter().skip(1) {
        layers.under(Layers::stored(store, get(name)?));
    }
    Ok(layers)
}
