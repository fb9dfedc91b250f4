//! Runs: one task owns each, others hold handles.
//!
//! ```text
//! model.rs     what a run is asked, what happens in it, how it ends: plain types
//! journal.rs   its events, kept within a bound, read by any number of readers at their own pace
//! spill.rs     its whole output in a file, and all that outlives its daemon; saved.rs the form of that
//! input.rs     what clients give to its standard input
//! actor.rs     the task that owns it: from the decision to the last event; actor/ask.rs where that is a question to people
//! prepare.rs   from grants to a sandbox that can take a command
//! deeds.rs     who did what to it, for the audit log
//! denials.rs   what the sandbox refused: what was told of it, and what a failed command's messages let one conclude
//! table.rs     every run that is known, and how many may run at once
//! find.rs      what is on the machine for the patterns of a policy
//! learn.rs     what a run to learn from asked for
//! host.rs      facts about this machine and this caller that a sandbox is made from
//! ```

mod actor;
mod deeds;
mod denials;
mod find;
mod host;
mod input;
mod journal;
mod learn;
mod model;
pub(crate) mod prepare;
mod programs;
mod saved;
mod spill;
mod table;
mod worktree;

pub use actor::{Kill, Surroundings};
pub use find::{FindError, find};
pub use host::{Asked, Host, WorkspaceError};
pub use input::InputError;
pub use journal::{Entry, Item, Journal, Position, Reader, Slice};
pub use learn::Recorded;
pub use model::*;
pub use saved::try_read as try_saved;
pub use spill::{Adopted, Keeper, SpillBounds, SpillError, SpillStore, Spilled};
pub(crate) use table::may_see;
pub use table::{Bounds, Follower, Run, RunTable, Sender, StartError};
