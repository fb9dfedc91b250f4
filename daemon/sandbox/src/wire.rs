//! Messages with descriptors over `SOCK_SEQPACKET`, and payloads in memory files.
//!
//! A message keeps its borders and arrives whole or not at all. What can be long (a spec with its argv and environment) travels in
//! a memory file instead, because a packet is bounded by the socket's buffer (about 200 KiB).

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg, socketpair,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::event::MAX_MESSAGE_BYTES;
use crate::sys;

/// Most descriptors in one message.
const MAX_FDS: usize = 8;

/// Most bytes of a spec in a memory file: argv and environment (2 MiB), contents of synthesised files, paths.
const MAX_SPEC_BYTES: u64 = 16 * 1024 * 1024;

/// A connected pair, close-on-exec at both ends.
///
/// # Errors
/// When no descriptor is left.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )?)
}

/// How long a message with descriptors waits for others' to be taken, and how often it is tried. The kernel bounds the descriptors that are under way
/// of one user, all processes together (`ETOOMANYREFS` past RLIMIT_NOFILE): with many sandboxes starting at once, that passes.
const CROWD_PATIENCE: Duration = Duration::from_secs(5);
const CROWD_PAUSE: Duration = Duration::from_millis(2);

/// Sends one message. Fails with EPIPE, not with a signal, when the other end is gone.
///
/// # Errors
/// Also when the message is longer than 32 KiB.
pub fn send<M: Serialize>(socket: BorrowedFd<'_>, message: &M, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = encode(message)?;
    if bytes.len() > MAX_MESSAGE_BYTES {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    let raw: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    let begun = Instant::now();
    loop {
        match sendmsg::<()>(
            socket.as_raw_fd(),
            &[IoSlice::new(&bytes)],
            control,
            MsgFlags::MSG_NOSIGNAL,
            None,
        ) {
            Ok(_) => return Ok(()),
            Err(nix::errno::Errno::EINTR) => {}
            Err(nix::errno::Errno::ETOOMANYREFS) if begun.elapsed() < CROWD_PATIENCE => {
                std::thread::sleep(CROWD_PAUSE);
            }
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Receives one message; `None` at end of file. A non-blocking socket gives `WouldBlock`.
///
/// # Errors
/// Also when what came is no such message.
pub fn receive<M: DeserializeOwned>(socket: BorrowedFd<'_>) -> io::Result<Option<(M, Vec<OwnedFd>)>> {
    let mut bytes = vec![0u8; MAX_MESSAGE_BYTES];
    let mut control = nix::cmsg_space!([std::os::fd::RawFd; MAX_FDS]);
    let mut slices = [IoSliceMut::new(&mut bytes)];
    let (length, truncated, fds) = loop {
        match recvmsg::<()>(
            socket.as_raw_fd(),
            &mut slices,
            Some(&mut control),
            MsgFlags::MSG_CMSG_CLOEXEC,
        ) {
            Ok(message) => {
                let mut fds = Vec::new();
                for item in message.cmsgs()? {
                    if let ControlMessageOwned::ScmRights(raw) = item {
                        fds.extend(sys::received(raw));
                    }
                }
                let truncated = message.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC);
                break (message.bytes, truncated, fds);
            }
            Err(nix::errno::Errno::EINTR) => {}
            // A socket whose other end was closed with messages unread says so once.
            Err(nix::errno::Errno::ECONNRESET) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        }
    };
    if length == 0 {
        return Ok(None);
    }
    if truncated {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    Ok(Some((decode(&bytes[..length])?, fds)))
}

/// Puts a value into a fresh memory file, positioned at its beginning.
pub(crate) fn memory_file<M: Serialize>(value: &M) -> io::Result<OwnedFd> {
    let bytes = encode(value)?;
    if bytes.len() as u64 > MAX_SPEC_BYTES {
        return Err(io::Error::from_raw_os_error(libc::E2BIG));
    }
    let fd = rustix::fs::memfd_create("fumehood-spec", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut file = File::from(fd);
    file.write_all(&bytes)?;
    file.rewind()?;
    Ok(file.into())
}

/// Reads a value back from a memory file.
pub(crate) fn read_memory_file<M: DeserializeOwned>(fd: OwnedFd) -> io::Result<M> {
    let mut bytes = Vec::new();
    File::from(fd).take(MAX_SPEC_BYTES).read_to_end(&mut bytes)?;
    decode(&bytes)
}

/// The bytes of a value.
pub(crate) fn encode<M: Serialize>(value: &M) -> io::Result<Vec<u8>> {
    postcard::to_stdvec(value).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// The value of bytes.
pub(crate) fn decode<M: DeserializeOwned>(bytes: &[u8]) -> io::Result<M> {
    postcard::from_bytes(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Takes bytes for a message or a spec of every kind, as if they had come from the other side, and panics when what they decode to does not
/// encode to the same value. For fuzzing.
#[doc(hidden)]
pub fn try_decoders(bytes: &[u8]) {
    fn one<M: Serialize + DeserializeOwned>(bytes: &[u8]) {
        let Ok(value) = decode::<M>(bytes) else { return };
        let once = encode(&value).expect("what was decoded can be encoded");
        let again = decode::<M>(&once).expect("what was encoded can be decoded");
        assert_eq!(once, encode(&again).expect("what was decoded can be encoded"));
    }
    one::<crate::event::Event>(bytes);
    one::<crate::event::Request>(bytes);
    one::<crate::files::Operation>(bytes);
    one::<crate::files::Reply>(bytes);
    one::<crate::description::Description>(bytes);
    one::<crate::launcher::Command>(bytes);
    one::<crate::launcher::Greeting>(bytes);
    one::<std::path::PathBuf>(bytes);
    one::<crate::starter::Order>(bytes);
    one::<crate::starter::Answer>(bytes);
    one::<crate::spec::SandboxSpec>(bytes);
    one::<crate::spec::CommandSpec>(bytes);
}

/// Marks a socket non-blocking, for use with an event loop.
pub(crate) fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    rustix::io::ioctl_fionbio(fd.as_fd(), true)?;
    Ok(())
}
