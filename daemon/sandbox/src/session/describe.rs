//! Looks at what is in a session. Bounded, and in a child of init: to read a process's command line is to wait for a lock of its memory, which
//! it can hold for as long as it likes, as one does that forks without end.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use nix::unistd::SysconfVar;

use crate::description::{
    Description, Listening, MAX_COMMAND_LINE_BYTES, MAX_LISTENING, MAX_PROCESSES, MAX_TEMPORARY_FILES, Process,
    Protocol, TemporaryFile,
};
use crate::processes::{self, Stat};
use crate::spec::Network;

/// Entries of a directory that are looked at; as [`Description::temporary_file_count`] says.
const MAX_LOOKED_AT: usize = 16_384;
/// Bytes of a table of sockets that are read: 150 to a socket. On the machine's own network it holds others' as well.
const MAX_TABLE_BYTES: u64 = 4 << 20;
/// Descriptors that are looked at to find out whose sockets are.
const MAX_DESCRIPTORS: usize = 65_536;

/// `TCP_LISTEN` and `TCP_CLOSE` of linux/tcp_states.h, the latter of a UDP socket that is connected to nobody.
const LISTENING: &str = "0A";
const UNCONNECTED: &str = "07";

/// A run's tree.
pub(super) struct Kept {
    /// Below this process.
    pub keeper: i32,
    pub run: u64,
    pub background: bool,
}

/// Looks. Memory is the sum of resident sets. Without `command_lines` nobody can make it wait.
pub(super) fn describe(kept: &[Kept], network: &Network, command_lines: bool) -> Description {
    let all: Vec<(i32, Stat)> = processes::all().collect();
    let owners = owners(&all, kept);
    // What is below no keeper is init, spawner or keeper; or about to be killed.
    let own = |(pid, _): &&(i32, Stat)| owners.contains_key(pid);
    let found: Vec<&(i32, Stat)> = all.iter().filter(own).collect();
    let page = processes::system_constant(SysconfVar::PAGE_SIZE);
    let uptime = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let uptime = Duration::new(
        uptime.tv_sec.try_into().unwrap_or(0),
        uptime.tv_nsec.try_into().unwrap_or(0),
    );
    let process = |(pid, stat): &(i32, Stat)| {
        let owner = owners.get(pid).map(|index| &kept[*index]);
        Process {
            pid: *pid,
            parent_pid: stat.parent(),
            run: owner.map(|owner| owner.run),
            background: owner.is_some_and(|owner| owner.background),
            command_line: match command_lines {
                true => command_line(*pid),
                false => Vec::new(),
            },
            name: stat.comm.clone(),
            state: stat.state(),
            cpu_us: processes::micros(stat.number(14) + stat.number(15)),
            memory_bytes: stat.number(24) * page,
            age_us: (uptime.as_micros() as u64).saturating_sub(processes::micros(stat.number(22))),
        }
    };
    let (mut temporary_files, temporary_file_count) = temporary_files();
    temporary_files.truncate(MAX_TEMPORARY_FILES);
    Description {
        process_count: found.len() as u32,
        memory_bytes: found.iter().map(|(_, stat)| stat.number(24) * page).sum(),
        listening: listening(&found.iter().map(|(pid, _)| *pid).collect::<Vec<_>>(), network),
        processes: found.into_iter().take(MAX_PROCESSES).map(process).collect(),
        temporary_files,
        temporary_file_count,
    }
}

/// Whose each process is: the index among `kept` of the keeper above it.
fn owners(all: &[(i32, Stat)], kept: &[Kept]) -> HashMap<i32, usize> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for (pid, stat) in all {
        children.entry(stat.parent()).or_default().push(*pid);
    }
    let mut owners = HashMap::new();
    for (index, kept) in kept.iter().enumerate() {
        let mut work = children.get(&kept.keeper).cloned().unwrap_or_default();
        while let Some(pid) = work.pop() {
            // Numbers that changed hands while they were read could make a circle.
            if owners.insert(pid, index).is_none() {
                work.extend(children.get(&pid).into_iter().flatten());
            }
        }
    }
    owners
}

fn command_line(pid: i32) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Ok(file) = File::open(format!("/proc/{pid}/cmdline")) {
        let _ = file.take(MAX_COMMAND_LINE_BYTES as u64).read_to_end(&mut bytes);
    }
    bytes
}

/// What listens: in a network namespace of the sandbox's own everything, in the machine's what these processes have open.
fn listening(pids: &[i32], network: &Network) -> Vec<Listening> {
    let tables = [
        (Protocol::Tcp, "/proc/net/tcp", LISTENING),
        (Protocol::Tcp, "/proc/net/tcp6", LISTENING),
        (Protocol::Udp, "/proc/net/udp", UNCONNECTED),
        (Protocol::Udp, "/proc/net/udp6", UNCONNECTED),
    ];
    let mut sockets: HashMap<u64, Listening> = HashMap::new();
    for (protocol, table, state) in tables {
        let mut text = Vec::new();
        if let Ok(file) = File::open(table) {
            let _ = file.take(MAX_TABLE_BYTES).read_to_end(&mut text);
        }
        for line in String::from_utf8_lossy(&text).lines() {
            if let Some((address, inode)) = socket(line, state) {
                let pid = 0;
                sockets.insert(inode, Listening { protocol, address, pid });
            }
        }
    }
    let mut unknown = sockets.len();
    let mut looked_at = 0;
    'processes: for pid in pids {
        for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten()
            .flatten()
        {
            looked_at += 1;
            if unknown == 0 || looked_at > MAX_DESCRIPTORS {
                break 'processes;
            }
            let target = std::fs::read_link(entry.path()).ok();
            let inode = target.as_deref().and_then(Path::to_str).and_then(inode_of);
            if let Some(found) = inode.and_then(|inode| sockets.get_mut(&inode))
                && found.pid == 0
            {
                found.pid = *pid;
                unknown -= 1;
            }
        }
    }
    let is_sessions = |socket: &Listening| match network {
        Network::Host { .. } => socket.pid != 0,
        // The daemon answers there.
        Network::Loopback {
            refusal_port: Some(port),
        } => socket.pid != 0 || socket.address != SocketAddr::from((Ipv4Addr::LOCALHOST, *port)),
        Network::Loopback { refusal_port: None } | Network::None => true,
    };
    let mut found: Vec<Listening> = sockets.into_values().filter(is_sessions).collect();
    found.sort_by_key(|socket| (socket.protocol, socket.address.port(), socket.address, socket.pid));
    found.truncate(MAX_LISTENING);
    found
}

/// The number in `socket:[123]`.
fn inode_of(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// Address and inode of a line of `/proc/net/tcp` and its like (proc_pid_net(5)), if its state is this one.
fn socket(line: &str, state: &str) -> Option<(SocketAddr, u64)> {
    let mut fields = line.split_ascii_whitespace();
    let local = fields.nth(1)?;
    if fields.nth(1)? != state {
        return None;
    }
    let inode = fields.nth(5)?.parse().ok()?;
    let (address, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    // Words of 32 bits in the byte order of the machine, whose bytes are in that of the network.
    let word = |index: usize| {
        let text = address.get(index * 8..index * 8 + 8)?;
        Some(u32::from_str_radix(text, 16).ok()?.to_ne_bytes())
    };
    let address: IpAddr = match address.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let mut bytes = [0; 16];
            for (index, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(index)?);
            }
            Ipv6Addr::from(bytes).into()
        }
        _ => return None,
    };
    Some((SocketAddr::new(address, port), inode))
}

/// What lies in the two directories, the largest first, and how many there are.
fn temporary_files() -> (Vec<TemporaryFile>, u32) {
    let mut found = Vec::new();
    let mut seen = Vec::new();
    for directory in ["/tmp", "/var/tmp"] {
        let Ok(metadata) = std::fs::metadata(directory) else {
            continue;
        };
        let identity = (metadata.dev(), metadata.ino());
        if seen.contains(&identity) {
            continue;
        }
        seen.push(identity);
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        found.extend(entries.take(MAX_LOOKED_AT).filter_map(|entry| {
            // Of the entry itself, not of what a link leads to.
            let metadata = entry.metadata().ok()?;
            let directory = metadata.is_dir();
            Some(TemporaryFile {
                path: entry.path().into_os_string().into_vec(),
                size_bytes: if directory { 0 } else { metadata.len() },
                directory,
            })
        }));
    }
    let count = found.len() as u32;
    found.sort_by(|a, b| b.size_bytes.cmp(&a.size_bytes).then_with(|| a.path.cmp(&b.path)));
    (found, count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_sockets_are_read_from_the_kernels_tables() {
        let line =
            "   0: 0100007F:0BB8 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0 100 0";
        let expected = if cfg!(target_endian = "little") {
            "127.0.0.1:3000"
        } else {
            "1.0.0.127:3000"
        };
        assert_eq!(socket(line, LISTENING), Some((expected.parse().unwrap(), 4711)));
        assert_eq!(socket(line, UNCONNECTED), None);
        let zeroes = "0".repeat(32);
        let line = format!("   1: {zeroes}:1F90 {zeroes}:0000 0A 0:0 0:0 0 1000 0 12 1");
        assert_eq!(socket(&line, LISTENING), Some(("[::]:8080".parse().unwrap(), 12)));
        let ones = "FFFFFFFF".repeat(4);
        let line = format!("   1: {ones}:FFFF {ones}:0000 0A 0:0 0:0 0 1000 0 12 1");
        let all = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535";
        assert_eq!(socket(&line, LISTENING), Some((all.parse().unwrap(), 12)));
        for torn in [
            "",
            "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode",
            " 0: 0100007F:0BB8 00000000:0000 0A",
            " 0: 0100007:0BB8 0:0 0A 0 0 0 0 0 7",
            " 0: zzzzzzzz:0BB8 0:0 0A 0 0 0 0 0 7",
            " 0: ääää:0BB8 0:0 0A 0 0 0 0 0 7",
        ] {
            assert_eq!(socket(torn, LISTENING), None, "{torn}");
        }
    }

    #[test]
    fn a_process_belongs_to_the_run_whose_keeper_is_above_it() {
        let stat = |parent: i32| Stat {
            comm: b"x".to_vec(),
            fields: vec!["S".to_owned(), parent.to_string()],
        };
        let all =
            [(1, 0), (2, 1), (3, 1), (4, 2), (5, 4), (6, 3), (7, 8), (8, 7)].map(|(pid, parent)| (pid, stat(parent)));
        let kept = |keeper, run| Kept {
            keeper,
            run,
            background: false,
        };
        let owners = owners(&all, &[kept(2, 20), kept(3, 30), kept(7, 70)]);
        let mut found: Vec<_> = owners.into_iter().collect();
        found.sort_unstable();
        assert_eq!(found, [(4, 0), (5, 0), (6, 1), (7, 2), (8, 2)]);
    }
}
