//! What is allowed: the policy language of Fumehood, as pure code.
//!
//! A policy file is TOML. [`Policy::parse`] turns its bytes into a [`Policy`] or into every error it has, each with line and
//! column. [`Policy::decide`] answers a [`Request`]: [`Decision::Allowed`] with the [`Grants`] that the daemon lowers to a
//! sandbox, or [`Decision::Denied`] with the rule and what would allow it. There is no IO here, no clock and no Linux:
//! paths are text until the daemon looks at them.

mod builtin;
mod decide;
mod digest;
mod environment;
mod error;
pub mod learn;
mod model;
mod parse;

pub use builtin::{builtin, builtin_names};
pub use decide::{Decision, Denial, Grants, Request, RequestedLimits, Tool};
pub use digest::Digest;
pub use error::{ParseError, ParseErrors};
pub use model::*;
