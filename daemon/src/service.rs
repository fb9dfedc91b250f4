//! The door: where wire types begin and end.
//!
//! ```text
//! runs.rs      service Runs          request.rs   a request, checked field by field
//! sessions.rs  service Sessions      place.rs     where a request wants to run, and under what
//! policies.rs  service Policies      convert.rs   what goes out
//! approvals.rs service Approvals
//! learning.rs  service Learning
//! files.rs     service Files
//! node.rs      service Node          status.rs    every gRPC status there is
//! explain.rs   what is said about policies
//! intake.rs    what a peer may have on its way here at once
//! ```

mod approvals;
mod convert;
mod explain;
mod files;
mod forward;
mod intake;
mod learning;
mod node;
mod place;
mod policies;
mod request;
mod runs;
mod sessions;
mod status;

pub use approvals::ApprovalsService;
pub use files::FilesService;
pub use forward::{Forward, ForwardLayer, Here, Moved, from_successor};
pub use intake::{Calls, IntakeLayer};
pub use learning::LearningService;
pub use node::NodeService;
pub use policies::PoliciesService;
pub use request::Door;
pub use runs::RunsService;
pub use sessions::SessionsService;

/// The status for a peer that may not use this daemon.
pub fn refuse(error: crate::peer::PeerError) -> tonic::Status {
    status::Refused::from(error).into()
}

#[doc(hidden)]
pub use request::try_request;
