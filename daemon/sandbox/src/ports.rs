//! Refused ports, told: Landlock answers EACCES to a TCP port that the policy does not list, and says nobody why.
//!
//! connect(2) and bind(2) wait for a look at their address and then go on in every case: Landlock alone decides, with the address
//! that it copies itself. A thread that changes it meanwhile only makes what is told wrong.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::net::{AddressFamily, SocketType, sockopt};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::event::{Denial, Subject};
use crate::seccomp::{Arch, Call, Notify};
use crate::spec::Network;
use crate::sys::notify::{self, Notification};

/// The calls that are looked at.
pub(crate) const WATCHED: &[Notify] = &[
    Notify {
        call: Call::connect,
        when: &[],
    },
    Notify {
        call: Call::bind,
        when: &[],
    },
];

/// `sizeof(struct sockaddr_in6)` without its scope: as far as is read.
pub(crate) const ADDRESS_BYTES: usize = 24;

/// The TCP ports that remain; `None` is every one.
#[derive(Debug)]
pub(crate) struct Ports {
    connect: Option<Vec<u16>>,
    bind: Option<Vec<u16>>,
}

impl Ports {
    /// `None` where every port may be used, or none is the machine's.
    pub(crate) fn of(network: &Network) -> Option<Ports> {
        match network {
            Network::Host { connect, bind } if connect.is_some() || bind.is_some() => Some(Ports {
                connect: connect.clone(),
                bind: bind.clone(),
            }),
            _ => None,
        }
    }

    /// What Landlock is going to refuse, if it is.
    pub(crate) fn refused(&self, listener: BorrowedFd<'_>, call: &Notification) -> Option<Denial> {
        let number = u32::try_from(call.number).ok()?;
        let (listens, given, rule) = match Call::of(Arch::NATIVE, number)? {
            Call::connect => (false, &self.connect, "network.tcp-connect does not list the port"),
            Call::bind => (true, &self.bind, "network.tcp-bind does not list the port"),
            _ => return None,
        };
        let given = given.as_ref()?;
        let [socket, address, length, ..] = call.arguments;
        let mut bytes = [0; ADDRESS_BYTES];
        let length = usize::try_from(length).ok()?.min(ADDRESS_BYTES);
        let read = notify::read_memory(call.thread, address, &mut bytes[..length]).ok()?;
        let address = parse(&bytes[..read]).filter(|address| !given.contains(&address.port()))?;
        // Other protocols are not restricted. The caller may have ended and its number be another's: then it waits no more.
        let is_tcp = is_tcp(call.thread, i32::try_from(socket).ok()?)?;
        (is_tcp && notify::waits(listener, call.id)).then(|| Denial {
            subject: Subject::Port { address, listens },
            rule: rule.to_owned(),
        })
    }
}

/// The address of the two families that have ports.
pub(crate) fn parse(bytes: &[u8]) -> Option<SocketAddr> {
    let family = libc::sa_family_t::from_ne_bytes(*bytes.first_chunk()?);
    let port = u16::from_be_bytes(*bytes[2..].first_chunk()?);
    let ip = match i32::from(family) {
        libc::AF_INET => IpAddr::from(Ipv4Addr::from(*bytes[4..].first_chunk::<4>()?)),
        // After the flow information.
        libc::AF_INET6 => IpAddr::from(Ipv6Addr::from(*bytes[8..].first_chunk::<16>()?)),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

fn is_tcp(thread: i32, socket: i32) -> Option<bool> {
    // Only threads that lead a process have a pidfd before Linux 6.9.
    let process = std::fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    let process = process.lines().find_map(|line| line.strip_prefix("Tgid:"))?;
    let process = pidfd_open(Pid::from_raw(process.trim().parse().ok()?)?, PidfdFlags::empty()).ok()?;
    let socket = notify::descriptor_of(process.as_fd(), socket).ok()?;
    let inet = matches!(
        sockopt::socket_domain(&socket),
        Ok(AddressFamily::INET | AddressFamily::INET6)
    );
    let protocol = sockopt::socket_protocol(&socket).ok()?;
    Some(
        inet && sockopt::socket_type(&socket) == Ok(SocketType::STREAM)
            && protocol.is_none_or(|protocol| protocol == rustix::net::ipproto::TCP),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_two_families_are_read_and_others_passed_over() {
        let v4 = [2, 0, 0x1f, 0x90, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(parse(&v4), Some("127.0.0.1:8080".parse().unwrap()));
        let mut v6 = [0; ADDRESS_BYTES];
        (v6[0], v6[3], v6[23]) = (10, 80, 1);
        assert_eq!(parse(&v6), Some("[::1]:80".parse().unwrap()));
        assert_eq!(parse(&v6[..23]), None);
        for bytes in [
            &[][..],
            &[2],
            &[2, 0, 1],
            &[2, 0, 0, 80, 127],
            &[1, 0, b'/', b'x', 0, 0, 0, 0],
        ] {
            assert_eq!(parse(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn sockets_of_tcp_are_told_from_others() {
        use std::os::fd::AsRawFd;
        let own = std::process::id() as i32;
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(is_tcp(own, tcp.as_raw_fd()), Some(true));
        assert_eq!(is_tcp(own, udp.as_raw_fd()), Some(false));
        assert_eq!(is_tcp(own, 9999), None);
    }

    #[test]
    fn only_lists_of_ports_are_watched() {
        let host = |connect, bind| Ports::of(&Network::Host { connect, bind }).is_some();
        assert!(host(Some(vec![]), None) && host(None, Some(vec![80])));
        assert!(!host(None, None) && Ports::of(&Network::None).is_none());
    }
}
