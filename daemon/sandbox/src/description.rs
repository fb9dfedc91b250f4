//! What is in a session, as init sees it: processes, sockets that listen, memory, files in `/tmp`.
//!
//! Too long for a message, so it comes in a memory file with [`Event::Described`](crate::event::Event::Described). Fumehood's own
//! processes are left out.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use crate::wire;

/// Processes in a description, at most.
pub const MAX_PROCESSES: usize = 512;
/// Listening sockets in a description, at most.
pub const MAX_LISTENING: usize = 256;
/// Temporary files in a description, at most.
pub const MAX_TEMPORARY_FILES: usize = 512;
/// Longest command line in a description, in bytes.
pub const MAX_COMMAND_LINE_BYTES: usize = 4096;

/// What is in a session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// Its processes, by pid; at most [`MAX_PROCESSES`].
    pub processes: Vec<Process>,
    /// How many there are in all.
    pub process_count: u32,
    /// What listens, by protocol, port and address; at most [`MAX_LISTENING`].
    pub listening: Vec<Listening>,
    /// Memory in use, in bytes: the cgroup's figure, or the sum of resident sets where there is none.
    pub memory_bytes: u64,
    /// What lies in `/tmp` and `/var/tmp`, not below directories there; at most [`MAX_TEMPORARY_FILES`], the largest first.
    pub temporary_files: Vec<TemporaryFile>,
    /// How many there are in all, as far as they were counted (the first 16,384 of a directory).
    pub temporary_file_count: u32,
}

/// A process of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its pid inside.
    pub pid: i32,
    /// Its parent's. One of Fumehood's own, which is not in the description, where its parent has ended or it is a run's main process.
    pub parent_pid: i32,
    /// The number of the run that it came from, where that is known.
    pub run: Option<u64>,
    /// Whether the main process of that run has ended.
    pub background: bool,
    /// Its arguments, each with its NUL, cut at [`MAX_COMMAND_LINE_BYTES`]. Empty of one that has ended, and of all where
    /// reading them took too long.
    pub command_line: Vec<u8>,
    /// Its name (`comm`), at most 15 bytes.
    pub name: Vec<u8>,
    /// Its state as proc_pid_stat(5) has it: `R`, `S`, `D`, `T`, `Z`.
    pub state: char,
    /// CPU time that it used, in microseconds, in the kernel's ticks (10 ms).
    pub cpu_us: u64,
    /// Its resident set, in bytes.
    pub memory_bytes: u64,
    /// How long it has lived, in microseconds, in ticks.
    pub age_us: u64,
}

/// A protocol of [`Listening`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP, listening.
    Tcp,
    /// UDP, bound and connected to nobody.
    Udp,
}

/// A socket that something in a session listens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Listening {
    /// Its protocol.
    pub protocol: Protocol,
    /// Where.
    pub address: SocketAddr,
    /// A process that has it open; 0 where that cannot be seen.
    pub pid: i32,
}

/// Something in `/tmp` or `/var/tmp`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemporaryFile {
    /// Its path inside.
    pub path: Vec<u8>,
    /// Its length in bytes; of a directory, 0.
    pub size_bytes: u64,
    /// Whether it is a directory.
    pub directory: bool,
}

impl Description {
    /// Reads the memory file that came with [`Event::Described`](crate::event::Event::Described).
    pub fn read(file: OwnedFd) -> io::Result<Description> {
        wire::read_memory_file(file)
    }
}
