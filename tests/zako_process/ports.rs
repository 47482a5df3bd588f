//! Ports that stay a test's own.

use tokio::net::TcpSocket;

/// Ports in a row that nobody else gets as long as this lives. A server that is told to takes
/// them all the same, and again when it is started anew: they are bound and don't listen.
pub(crate) struct Ports {
    pub(crate) first: u16,
    _held: Vec<TcpSocket>,
}

impl Ports {
    pub(crate) fn in_a_row(count: u16) -> Self {
        let bound = |port: u16| {
            let socket = TcpSocket::new_v4()?;
            socket.bind(([127, 0, 0, 1], port).into())?;
            // Only now: it must be taken by nobody, and then be let to others.
            socket.set_reuseaddr(true)?;
            std::io::Result::Ok(socket)
        };
        loop {
            let socket = bound(0).unwrap();
            let first = socket.local_addr().unwrap().port();
            let next = (1..count).map(|at| bound(first.checked_add(at)?).ok());
            let next: Option<Vec<TcpSocket>> = next.collect();
            if let Some(mut held) = next {
                held.push(socket);
                return Self { first, _held: held };
            }
        }
    }
}
