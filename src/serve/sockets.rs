//! The sockets that a server listens on: taken by itself, or handed on by what started it.
//!
//! A service manager passes sockets on by the variables `LISTEN_FDS`, `LISTEN_PID` and
//! `LISTEN_FDNAMES` (sd_listen_fds(3)); so does a server to the process that follows it. A
//! connection that comes while none of both accepts waits in the socket's queue. Two servers
//! with `SO_REUSEPORT` would each have a queue of their own, and what waits in the older one's
//! would be refused when it ends.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use listenfd::ListenFd;
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use zako_core::server::{ListenAddr, ListenSocket};

use crate::failure::{Exit, Failure};

/// What sockets are for, by their names in `LISTEN_FDNAMES` and in the order of those that
/// have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    Grpc,
    Http,
    Admin,
}

/// The sockets of a server.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    inherited: Vec<(Use, ListenSocket)>,
    /// Those that are served, once more.
    held: Vec<(Use, ListenSocket)>,
    /// The paths that go with this server.
    paths: Vec<std::path::PathBuf>,
    from_outside: bool,
}

/// Sockets that survive `exec`, and the variables that tell of them.
#[derive(Debug)]
pub(super) struct Legacy {
    pub(super) variables: Vec<(&'static str, String)>,
    /// Open until the process is another one.
    _sockets: Vec<OwnedFd>,
}

impl Use {
    const ALL: [Self; 3] = [Self::Grpc, Self::Http, Self::Admin];

    fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Http => "http",
            Self::Admin => "admin",
        }
    }
}

impl Sockets {
    /// Those that were handed on to this process. To be asked once.
    ///
    /// # Errors
    /// They are of no use.
    pub(super) fn from_environment() -> Result<Self, Failure> {
        let mut passed = ListenFd::from_env();
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let uses = uses(passed.len(), &names)?;
        let mut inherited = Vec::new();
        for (at, its_use) in uses.into_iter().enumerate() {
            let name = its_use.name();
            let unusable = |error: &dyn std::fmt::Display| {
                Failure::new(
                    Exit::Usage,
                    format!("the socket {name} that was handed on: {error}"),
                )
            };
            let socket = match passed.take_tcp_listener(at) {
                Ok(Some(socket)) => ListenSocket::tcp(socket),
                _ => match passed.take_unix_listener(at) {
                    Ok(Some(socket)) => ListenSocket::unix(socket),
                    Ok(None) => continue,
                    Err(_) => return Err(unusable(&"it is no stream of TCP, nor a Unix socket")),
                },
            };
            inherited.push((its_use, socket.map_err(|error| unusable(&error))?));
        }
        Ok(Self {
            from_outside: !inherited.is_empty(),
            inherited,
            ..Self::default()
        })
    }

    /// Whether something else holds sockets of this server.
    pub(super) fn are_from_outside(&self) -> bool {
        self.from_outside
    }

    /// The addresses of all sockets that were handed on.
    pub(super) fn all_inherited(&self) -> impl Iterator<Item = &ListenAddr> {
        self.inherited.iter().map(|(_, socket)| socket.addr())
    }

    /// The address of a socket that was handed on.
    pub(super) fn inherited(&self, its_use: Use) -> Option<&ListenAddr> {
        let socket = self.inherited.iter().find(|(one, _)| *one == its_use);
        socket.map(|(_, socket)| socket.addr())
    }

    /// Where the server's own port is, if it is configured to be at `listen`.
    pub(super) fn grpc_address(&self, listen: &ListenAddr) -> ListenAddr {
        self.inherited(Use::Grpc).unwrap_or(listen).clone()
    }

    /// The socket for this use: the one that was handed on, else a new one on `addr`.
    ///
    /// # Errors
    /// The address can't be taken.
    pub(super) async fn take(
        &mut self,
        its_use: Use,
        addr: &ListenAddr,
    ) -> zako_core::cas::Result<ListenSocket> {
        let at = self.inherited.iter().position(|(one, _)| *one == its_use);
        let socket = match at {
            Some(at) => self.inherited.remove(at).1,
            None => {
                let socket = ListenSocket::bind(addr).await?;
                if let ListenAddr::Unix(path) = addr {
                    self.paths.push(path.clone());
                }
                socket
            }
        };
        self.held.push((its_use, socket.try_clone()?));
        Ok(socket)
    }

    /// Names sockets that nothing here serves: who connects to them would wait for ever.
    pub(super) fn close_unused(&mut self) {
        for (its_use, socket) in self.inherited.drain(..) {
            tracing::warn!(
                "the socket {} ({}) was handed on, and nothing is configured to serve it",
                its_use.name(),
                socket.addr()
            );
        }
    }

    /// Lets go of them: unless something else holds them too, who connects is refused when
    /// they are no longer served.
    pub(super) fn let_go(&mut self) {
        self.held.clear();
        for path in self.paths.drain(..) {
            // A leftover is taken over by the next server all the same.
            let _ = std::fs::remove_file(path);
        }
    }

    /// Makes those that are served outlive this program in this process.
    ///
    /// # Errors
    /// There are no more file descriptors.
    pub(super) fn bequeath(&self) -> Result<Legacy, Failure> {
        let failed = |error: rustix::io::Errno| {
            Failure::new(Exit::Failed, format!("handing sockets on: {error}"))
        };
        let (first, sockets) = self.in_a_row().map_err(failed)?;
        for socket in &sockets {
            fcntl_setfd(socket, FdFlags::empty()).map_err(failed)?;
        }
        let names: Vec<_> = self
            .held
            .iter()
            .map(|(its_use, _)| its_use.name())
            .collect();
        Ok(Legacy {
            variables: vec![
                ("LISTEN_FDS", sockets.len().to_string()),
                // They can't be from 3 on, as the standard has it: those are in use.
                ("LISTEN_FDS_FIRST_FD", first.to_string()),
                ("LISTEN_FDNAMES", names.join(":")),
                ("LISTEN_PID", std::process::id().to_string()),
            ],
            _sockets: sockets,
        })
    }

    /// Copies with numbers in a row.
    fn in_a_row(&self) -> Result<(i32, Vec<OwnedFd>), rustix::io::Errno> {
        let mut first = 100;
        'from: loop {
            let mut copies = Vec::new();
            for (at, (_, socket)) in (0_i32..).zip(&self.held) {
                let copy = fcntl_dupfd_cloexec(socket.as_fd(), first + at)?;
                if copy.as_raw_fd() != first + at {
                    first = copy.as_raw_fd() + 1;
                    continue 'from;
                }
                copies.push(copy);
            }
            return Ok((first, copies));
        }
    }
}

/// What each socket is for.
fn uses(count: usize, names: &str) -> Result<Vec<Use>, Failure> {
    let mut names = names.split(':');
    let mut uses = Vec::new();
    for at in 0..count {
        let name = names.next().unwrap_or_default();
        let by_name = Use::ALL.into_iter().find(|one| one.name() == name);
        // Without names of their own, systemd gives sockets that of their unit.
        let nameless = matches!(name, "" | "unknown" | "stored") || name.ends_with(".socket");
        let by_place = Use::ALL.get(at).copied().filter(|_| nameless);
        let Some(its_use) = by_name.or(by_place) else {
            return Err(Failure::usage(format!(
                "a socket named {name:?} was handed on: their names are grpc, http and admin"
            ))
            .advise("FileDescriptorName= in the .socket unit names them."));
        };
        if uses.contains(&its_use) {
            return Err(Failure::usage(format!(
                "two sockets named {} were handed on",
                its_use.name()
            )));
        }
        uses.push(its_use);
    }
    Ok(uses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_told_apart_by_names_or_else_by_their_order() {
        use Use::{Admin, Grpc, Http};
        assert_eq!(uses(2, "http:grpc").unwrap(), [Http, Grpc]);
        assert_eq!(uses(3, "").unwrap(), [Grpc, Http, Admin]);
        assert_eq!(uses(2, "zako.socket:http").unwrap(), [Grpc, Http]);
        assert_eq!(uses(0, "grpc").unwrap(), []);
        for bad in ["grpc:grpc", "grpc:ftp"] {
            assert!(uses(2, bad).is_err(), "{bad}");
        }
        assert!(uses(4, "").is_err());
    }

    #[tokio::test]
    async fn what_is_bequeathed_is_in_a_row_and_survives() {
        let mut sockets = Sockets::default();
        for its_use in Use::ALL {
            let addr = "127.0.0.1:0".parse().unwrap();
            sockets.take(its_use, &addr).await.unwrap();
        }
        let legacy = sockets.bequeath().unwrap();
        let first: i32 = legacy.variables[1].1.parse().unwrap();
        for (number, socket) in (first..).zip(&legacy._sockets) {
            assert_eq!(socket.as_raw_fd(), number);
            assert_eq!(rustix::io::fcntl_getfd(socket).unwrap(), FdFlags::empty());
        }
        assert_eq!(legacy.variables[0], ("LISTEN_FDS", "3".to_owned()));
        assert_eq!(legacy.variables[2].1, "grpc:http:admin");
    }
}
