//! What is allowed: the policy language of Fumehood, as pure code.
//!
//! A policy file is TOML; `policies/README.md` is the language on one page. The way of a file:
//!
//! ```text
//! bytes ──PolicyFile::parse──► PolicyFile     what one file states, each value with its place; every error at once
//!       ──resolve────────────► Resolved       with what it extends: a Policy, and the file and line of every part (origins)
//!       ──Policy::narrowed_by► Policy         what is left of it under a ceiling
//!       ──Policy::decide─────► Decision       Allowed with the Grants that the daemon lowers to a sandbox, or Denied
//! ```
//!
//! [`Policy::parse`] is the first two steps for a file that extends nothing but built-in policies. [`Policy::allows`] answers a single
//! question (this path, that host) without running anything. [`Policy::to_toml`] prints the whole policy in its canonical form, of which
//! the digest is taken. [`KEYS`] is the table of every key: the parser, the printer and the JSON Schema are made from it.
//!
//! For tools that explain: [`Statements::get`] gives for a key (`"filesystem.read"`) the [`Statement`] with its entries; each
//! [`Entry`] has its [`Value`], its [`Place`] (origin, line, column), and whether nobody stated it and it is `default`'s.
//! [`Value::spelled`] prints it. [`PolicyFile::tests`] are the expectations.
//!
//! For people: [`Resolved::lines`] and [`Resolved::explain`] say where everything comes from and why, [`Diff::of`] what one policy lets
//! through that another does not, [`lint`] what in a file is of no use or dangerous, [`Resolved::try_all`] whether expectations hold.
//!
//! There is no IO here, no clock and no Linux: paths are text until the daemon looks at them.
//!
//! Bounds: a file has at most 1 MiB, 1024 entries to a list and 80 levels; at most 32 files are taken in, 8 deep; a policy's canonical form
//! has at most 1 MiB as well.

mod allows;
mod builtin;
mod calls;
pub mod command;
mod decide;
mod diff;
mod digest;
mod environment;
mod error;
mod expect;
mod explain;
mod file;
mod form;
mod keys;
pub mod learn;
mod lint;
mod model;
mod narrow;
mod parse;
mod pattern;
mod print;
mod resolve;
mod statement;
mod widens;
mod words;

pub use allows::{Access, Facts};
pub use builtin::{builtin, builtin_file, builtin_names};
pub use calls::{CallKind, call_kind, calls};
pub use decide::{Decision, Denial, Grants, Question, Request, RequestedLimits};
pub use diff::{Change, Diff, Group};
pub use digest::Digest;
pub use error::{ParseError, ParseErrors};
pub use expect::{Tried, parse_tests};
pub use explain::{Answer, Line, Reason};
pub use file::{Expectation, Expected, PolicyFile, Reference, Subject};
pub use keys::{Absent, KEYS, Key, Kind, Nature, key_named};
pub use lint::{Level, Lint, lint};
pub use model::*;
pub use pattern::matches_name;
pub use resolve::{Load, LoadError, MAX_DEPTH, MAX_FILES, Resolved, read, resolve};
pub use statement::{Entry, Place, Statement, Statements, Value};
pub use widens::{More, Widening};
