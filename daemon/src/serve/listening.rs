//! Where the daemon listens.
//!
//! What serves has copies of the listeners: the originals stay open beside it, so that another daemon can be given them, and so that this one can
//! serve again when that one died.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixListener;

use super::ServeError;
use crate::cli;
use crate::config::Config;
use crate::handover::{Handed, Offer, Places, TakeOver, bytes};
use crate::listen::{Endpoint, tls, unix};
use crate::systemd;

/// The listeners.
#[derive(Debug)]
pub(super) struct Listening {
    unix: Vec<UnixListener>,
    /// With the address as it was configured.
    tcp: Option<(SocketAddr, TcpListener, tls::Acceptor)>,
    /// Its own socket, where no service manager holds it.
    socket: Option<unix::Socket>,
}

impl Listening {
    /// What another daemon or systemd handed over, or the configured socket; and TCP where configured.
    pub(super) fn new(
        config: &Config,
        inherited: Vec<UnixListener>,
        tcp: Option<(TcpListener, tls::Acceptor)>,
        take_over: Option<&mut TakeOver>,
    ) -> Result<Listening, ServeError> {
        let failed = |error: io::Error| ServeError::Serve(error.to_string());
        let reach = unix::Reach::of(&config.allowed_uids, config.uid);
        let (mut unix, mut socket) = (inherited, None);
        if let Some(there) = take_over {
            unix = std::mem::take(&mut there.unix);
            let lock = there.lock.take().zip(there.offer.own_socket);
            socket = lock.map(|(lock, inode)| unix::Socket::handed(&config.socket, inode, lock));
        }
        for listener in &unix {
            listener.set_nonblocking(true).map_err(failed)?;
        }
        if unix.is_empty() {
            let (listener, own) = unix::bind(&config.socket, reach)?;
            unix.push(listener.into_std().map_err(failed)?);
            socket = Some(own);
        }
        let tcp = tcp.zip(config.tcp.as_ref());
        Ok(Listening {
            unix,
            tcp: tcp.map(|((listener, acceptor), tcp)| (tcp.listen, listener, acceptor)),
            socket,
        })
    }

    /// What is to be accepted on.
    pub(super) fn endpoints(&self) -> io::Result<Vec<Endpoint>> {
        let mut endpoints = Vec::new();
        for listener in &self.unix {
            endpoints.push(Endpoint::Unix(tokio::net::UnixListener::from_std(
                listener.try_clone()?,
            )?));
        }
        if let Some((_, listener, acceptor)) = &self.tcp {
            let listener = tokio::net::TcpListener::from_std(listener.try_clone()?)?;
            endpoints.push(Endpoint::Tls(listener, acceptor.clone()));
        }
        Ok(endpoints)
    }

    /// What another daemon may take.
    pub(super) fn handed(&self, config: &Config) -> io::Result<Handed> {
        let mut offer = Offer {
            unix: self.unix.len() as u32,
            places: Places::of(config),
            ..Offer::default()
        };
        let copies = self.unix.iter().map(|listener| listener.as_fd().try_clone_to_owned());
        let mut descriptors = copies.collect::<io::Result<Vec<_>>>()?;
        if let Some(socket) = &self.socket {
            let (inode, lock) = socket.hand_over()?;
            offer.own_socket = Some(inode);
            descriptors.push(lock.into());
        }
        if let Some((address, listener, _)) = &self.tcp {
            offer.tcp = Some(*address);
            descriptors.push(listener.as_fd().try_clone_to_owned()?);
        }
        let directory = std::env::current_dir().map(|path| bytes(&path)).unwrap_or_default();
        Ok(Handed {
            offer,
            arguments: (cli::own_arguments(), directory),
            descriptors,
            supervised: systemd::is_supervised(),
        })
    }

    /// Listens no more over TCP: the daemon that serves listens elsewhere, or not at all.
    pub(super) fn close_tcp(&mut self) {
        self.tcp = None;
    }

    /// This process serves from here on, in another one's place: its socket is for whom the configuration names.
    pub(super) fn take_place(&self, config: &Config) {
        let Some(socket) = &self.socket else { return };
        let reach = unix::Reach::of(&config.allowed_uids, config.uid);
        if let Err(error) = socket.note_process().and_then(|()| socket.open_to(reach)) {
            tracing::warn!(%error, "the socket's lock or mode is still as the daemon before this one had it");
        }
    }

    /// Takes its own socket away; what systemd holds stays.
    pub(super) fn remove(self) {
        if let Some(Err(error)) = self.socket.map(unix::Socket::remove) {
            tracing::warn!(%error, "the socket is left behind");
        }
    }
}
