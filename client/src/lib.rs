//! Client library of Fumehood.
//!
//! [`Client::connect`] finds this user's daemon; [`Client::connect_unix`] and [`Client::connect_tls`] reach others. [`Client::command`] then
//! is to sandboxes what `tokio::process::Command` is to processes: it starts a [`Run`], or gives an [`Output`]. How a command ended is data
//! ([`ExitStatus`]), never an [`Error`].
//!
//! ```no_run
//! use fumehood_client::Client;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect().await?;
//! let output = client.command("cargo").arg("test").current_dir("/home/me/project").output().await?;
//! println!("it {}: {}", output.status, String::from_utf8_lossy(&output.stdout));
//! # Ok(())
//! # }
//! ```
//!
//! A run that is to be watched, fed and stopped; output and input may be in two tasks:
//!
//! ```no_run
//! use fumehood_client::proto::v1::run_event::Event;
//!
//! # async fn example(client: fumehood_client::Client) -> Result<(), fumehood_client::Error> {
//! let mut run = client.command("sort").workspace("/home/me/project").pipe_stdin().kill_on_drop(true).spawn().await?;
//! let mut stdin = run.stdin.take().expect("it was piped");
//! tokio::spawn(async move {
//!     let _ = stdin.send("pear\napple\n").await; // dropped then, which is the end of input
//! });
//! while let Some(event) = run.next().await? {
//!     match event.event {
//!         Some(Event::Output(output)) => print!("{}", String::from_utf8_lossy(&output.data)),
//!         Some(Event::Gap(gap)) => eprintln!("{} bytes came too fast", gap.stdout_bytes),
//!         Some(Event::Finished(finished)) => println!("shell code {}", finished.shell_code),
//!         _ => {}
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A run that is handed over. The daemon has the run, not the connection, so any other program of this user continues with it:
//!
//! ```no_run
//! use fumehood_client::proto::v1::OnDisconnect;
//! use tokio::io::AsyncReadExt;
//!
//! # async fn example(client: fumehood_client::Client) -> Result<(), Box<dyn std::error::Error>> {
//! let server = client.command("npm").args(["run", "dev"]).on_disconnect(OnDisconnect::Keep).spawn().await?;
//! let id = server.detach().expect("it is kept");
//! // Later, or somewhere else:
//! let mut server = client.attach(id).start().await?;
//! let mut first = [0; 100];
//! let read = server.stdout().await?.read(&mut first).await?;
//! println!("{}", String::from_utf8_lossy(&first[..read]));
//! server.kill().await?;
//! # Ok(())
//! # }
//! ```
//!
//! A session: a sandbox that lives on between commands, with its `/tmp`, its servers, and the shell's directory and variables.
//!
//! ```no_run
//! # async fn example(client: fumehood_client::Client) -> Result<(), Box<dyn std::error::Error>> {
//! let session = client.session().workspace("/home/me/project").create().await?;
//! session.shell("cd web && export PORT=3000 && (npm run dev > /tmp/dev.log 2>&1 &)").status().await?;
//! let page = session.shell("curl -s localhost:$PORT").output().await?;
//! println!("{}", String::from_utf8_lossy(&page.stdout));
//! session.close().await?;
//! # Ok(())
//! # }
//! ```
//!
//! **Broken connections.** A [`Run`] whose connection breaks is attached to again, with pauses that grow, for as long as [`Reconnect`] says
//! ([`Client::with_reconnect`]): its events go on after the last one, and input that the daemon had not taken is said again by its place, so
//! that nothing is written twice. Starting, attaching and waiting are repeated in the same way, also while a daemon drains. The other calls are made
//! once; one that fails with [`Error::is_broken_connection`] may be made again.
//!
//! **Bounds.** Of a run that nobody reads, about 2 MiB are under way; of input, 1 MiB is kept for a repetition; of captured output, what
//! [`Command::capture`] says. What the daemon itself keeps, the request says (`RunSpec.output`).
//!
//! **The wire itself.** [`Client::run`] and [`Client::attach_stream`] follow a run over one connection and no further, with the messages of
//! [`fumehood_proto::v1`]. Starting a daemon is not done here: that is the command-line program's.

mod approvals;
mod client;
mod command;
mod connect;
pub mod directory;
mod error;
mod files;
mod outcome;
mod readers;
mod resume;
mod run;
mod running;
mod session;
mod socket;
mod unsent;

pub use approvals::ApprovalChanges;
pub use client::Client;
pub use command::{CAPTURE_BYTES, Command};
pub use connect::{ConnectError, TlsOptions};
pub use directory::DirectoryError;
pub use error::{Error, FieldViolation, PreconditionViolation};
pub use files::{FileError, FileReader, FileWriter, Files, FilesView, Writing};
pub use fumehood_proto as proto;
pub use outcome::{ExitStatus, Omitted, Output};
pub use resume::Reconnect;
pub use run::{Input, MAX_STDIN_BYTES, RunEvents, RunHandle, RunInput};
pub use running::{Attach, LostOutput, OutputReader, Piece, Position, Run, RunStdin};
pub use session::{NewSession, Session};
pub use socket::{SOCKET_VARIABLE, SocketPathError, prepare_directory, socket_path};
