//! How a policy is enforced: launcher, init and every layer of a sandbox.
//!
//! Synchronous mechanism, without policy names and without gRPC. The daemon starts a [`Starter`], has it start
//! one [`Launcher`] and asks that for a [`Sandbox`] per
//! [`SandboxSpec`]; events of each sandbox arrive on a descriptor that can be waited for.
//!
//! ```text
//! launcher.rs   one process, one thread: makes sandboxes, reaps inits, cleans up
//! init.rs       pid 1 of a sandbox: builds it, confines itself, starts and reaps the command
//! command.rs    from init's fork to execve      terminal.rs  the terminal it may have
//! files.rs      operations on files, by a process confined as a command
//! view.rs       the file tree (mounts)          rights.rs    Landlock
//! guard.rs      protected paths in it, through init's hands
//! waiting.rs    calls that wait for init: refused and told, or the guard's
//! ports.rs      refused ports, told
//! seccomp.rs    system calls                    cgroup.rs    limits and usage
//! idmap.rs      user namespace maps             scratch.rs   directories on disk
//! session.rs    init of a sandbox that lives on   processes.rs processes as /proc shows them
//! watch.rs      limits that init holds by looking
//! selftest.rs   everything that must not work, tried
//! starter.rs    starts launchers for a daemon that cannot start anything any more
//! shed.rs       what the daemon gives up before it serves
//! handle.rs     the daemon's side               wire.rs      messages with descriptors
//! running.rs    the same of one run in a session
//! sys.rs        the floor: raw calls
//! ```

mod cgroup;
mod command;
pub mod description;
pub mod event;
pub mod files;
mod guard;
mod handle;
mod idmap;
mod init;
mod launcher;
mod lister;
mod ports;
mod processes;
mod recorder;
mod rights;
mod running;
mod scratch;
pub mod seccomp;
pub mod selftest;
mod session;
mod shed;
pub mod spec;
mod starter;
mod sys;
mod terminal;
mod view;
mod waiting;
mod watch;
mod wire;

#[doc(hidden)]
pub use guard::{named_programs as git_programs, try_change as try_git_config, value as git_value, words as git_words};
pub use handle::{LaunchError, Launcher, Sandbox, Starter};
pub use launcher::{Cgroups, become_launcher_if_asked};
pub use lister::Lister;
pub use running::Running;
pub use shed::{Needs, Shed, ShedError, shed};
pub use sys::{forget_caller, landlock_abi};
pub use terminal::resize as resize_terminal;
#[doc(hidden)]
pub use view::is_kernels_file_system;
pub use wire::try_decoders;
pub use wire::{pair as packet_pair, receive as receive_packet, send as send_packet};
