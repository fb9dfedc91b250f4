//! Client library of Fumehood.
//!
//! [`Client`] speaks to a daemon over its Unix socket ([`Client::connect_unix`]) or over TCP with mutual TLS
//! ([`Client::connect_tls`]). [`Client::run`] starts a command and gives a [`RunHandle`]: its events on one side, its
//! input on the other, each to be used by a task of its own. The messages are those of [`fumehood_proto::v1`]; how a
//! command ended is data in the last event, never an [`Error`].
//!
//! Starting a daemon is not done here: that is the command-line program's.
//!
//! ```no_run
//! use fumehood_client::{Client, socket_path};
//! use fumehood_proto::v1::{RunSpec, StartRequest, run_event::Event};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect_unix(socket_path()?).await?;
//! let spec = RunSpec {
//!     argv: vec!["echo".into(), "hello".into()],
//!     workspace: "/home/me/project".into(),
//!     ..RunSpec::default()
//! };
//! let run = client.run(StartRequest { run_id: String::new(), spec: Some(spec) }).await?;
//! let (_input, mut events) = run.split();
//! while let Some(event) = events.next().await? {
//!     match event.event {
//!         Some(Event::Output(output)) => print!("{}", String::from_utf8_lossy(&output.data)),
//!         Some(Event::Finished(finished)) => println!("as a shell would say: {}", finished.shell_code),
//!         _ => {}
//!     }
//! }
//! # Ok(())
//! # }
//! ```

mod approvals;
mod client;
mod connect;
pub mod directory;
mod error;
mod run;
mod socket;

pub use approvals::ApprovalChanges;
pub use client::Client;
pub use connect::{ConnectError, TlsOptions};
pub use directory::DirectoryError;
pub use error::{Error, FieldViolation, PreconditionViolation};
pub use fumehood_proto as proto;
pub use run::{Input, MAX_STDIN_BYTES, RunEvents, RunHandle, RunInput};
pub use socket::{SOCKET_VARIABLE, SocketPathError, prepare_directory, socket_path};
