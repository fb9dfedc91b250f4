//! Sessions: sandboxes that live on, for several runs. One task owns each, others hold handles.
//!
//! ```text
//! model.rs       what a session is made of, where it is in its life, why it ended: plain types
//! handle.rs      a session as everybody but its task sees it; what its runs share
//! actor.rs       the task that owns its sandbox: from the first to the last process, through resets
//! background.rs  what processes write to the output of runs that are over
//! shell.rs       lines for a shell, and what one leaves for the next
//! table.rs       every session that is known, and how many there may be
//! ```
//!
//! A run in a session is a run like others: `run/actor.rs` decides, records and follows it. What differs is where its command is
//! executed, and what is left in place when it is over.

mod actor;
mod background;
mod handle;
mod model;
mod shell;
mod table;

pub use background::Background;
pub use handle::{Entered, FILES_NUMBER, Presence, Session};
pub use model::*;
pub use shell::{Carried, Carry, Left, MAX_STATE_BYTES, NotLeft, Shell, StateFile, plain_command_line};
pub use table::{CreateError, SessionBounds, SessionTable};
