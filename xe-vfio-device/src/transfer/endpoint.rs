// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where a VF's state goes to or comes from, as a URL.
//!
//! | URL | meaning |
//! |---|---|
//! | `tcp:HOST:PORT`, `tcp://HOST:PORT` | a TCP connection |
//! | `unix:PATH`, `unix://PATH` | a unix socket |
//! | `file:PATH`, `file://PATH` | a file, or `<device id>.xevf` in a directory |

use std::fmt;
use std::io;
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

use thiserror::Error;

use super::cancel::Cancel;
use super::connection::Connection;
use crate::uapi::wait_readable;

/// A URL that cannot be used.
#[derive(Debug, Error)]
pub enum EndpointError {
    /// Not one of the known forms.
    #[error("{0:?} is no place for device state: use tcp:HOST:PORT, unix:PATH or file:PATH")]
    Form(String),
    /// Nothing can be connected to there, or listened on.
    #[error("{doing} {endpoint} failed")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// Where.
        endpoint: Endpoint,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Nobody came in time.
    #[error("Nobody connected to {endpoint} within {waited:?}")]
    Nobody {
        /// Where.
        endpoint: Endpoint,
        /// How long.
        waited: Duration,
    },
    /// It was cancelled.
    #[error("Waiting for a connection was cancelled")]
    Cancelled,
    /// A file is not a connection.
    #[error("{0} is a file and takes no connection")]
    File(Endpoint),
}

/// A place for a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// `HOST:PORT`.
    Tcp(String),
    /// Path of a unix socket.
    Unix(PathBuf),
    /// Path of a file or directory.
    File(PathBuf),
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(url: &str) -> Result<Self, EndpointError> {
        let form = || EndpointError::Form(url.to_owned());
        let (scheme, rest) = url.split_once(':').ok_or_else(form)?;
        let rest = rest.strip_prefix("//").unwrap_or(rest);
        match scheme {
            "tcp" => {
                let (host, port) = rest.rsplit_once(':').ok_or_else(form)?;
                let good = !host.is_empty() && port.parse::<u16>().is_ok();
                if good {
                    Ok(Self::Tcp(rest.to_owned()))
                } else {
                    Err(form())
                }
            }
            "unix" if !rest.is_empty() => Ok(Self::Unix(rest.into())),
            "file" if !rest.is_empty() => Ok(Self::File(rest.into())),
            _ => Err(form()),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp:{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

impl Endpoint {
    /// Connects within `deadline`.
    ///
    /// # Errors
    /// [`EndpointError`].
    pub fn connect(&self, deadline: Duration) -> Result<Box<dyn Connection>, EndpointError> {
        let io = |source| EndpointError::Io {
            doing: "Connecting to",
            endpoint: self.clone(),
            source,
        };
        match self {
            Self::Tcp(address) => Ok(Box::new(connect_tcp(address, deadline).map_err(io)?)),
            Self::Unix(path) => {
                let stream = UnixStream::connect(path).map_err(io)?;
                stream.widen();
                Ok(Box::new(stream))
            }
            Self::File(_) => Err(EndpointError::File(self.clone())),
        }
    }

    /// Listens here.
    ///
    /// # Errors
    /// [`EndpointError`].
    pub fn listen(&self) -> Result<Listener, EndpointError> {
        let io = |source| EndpointError::Io {
            doing: "Listening on",
            endpoint: self.clone(),
            source,
        };
        let socket = match self {
            Self::Tcp(address) => Socket::Tcp(TcpListener::bind(address.as_str()).map_err(io)?),
            Self::Unix(path) => Socket::Unix(
                UnixListener::bind(path).map_err(io)?,
                SocketPath(path.clone()),
            ),
            Self::File(_) => return Err(EndpointError::File(self.clone())),
        };
        // A connection that is gone again between the wait and the accept must not block it.
        match &socket {
            Socket::Tcp(listener) => listener.set_nonblocking(true).map_err(io)?,
            Socket::Unix(listener, _) => listener.set_nonblocking(true).map_err(io)?,
        }
        Ok(Listener {
            socket,
            endpoint: self.clone(),
        })
    }
}

fn connect_tcp(address: &str, deadline: Duration) -> io::Result<TcpStream> {
    let end = Instant::now() + deadline;
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in address.to_socket_addrs()? {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match TcpStream::connect_timeout(&address, left) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A listening socket; a unix socket's path is removed with it.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    endpoint: Endpoint,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener, SocketPath),
}

#[derive(Debug)]
struct SocketPath(PathBuf);

impl Drop for SocketPath {
    fn drop(&mut self) {
        // Somebody else may have removed it.
        _ = std::fs::remove_file(&self.0);
    }
}

impl Listener {
    /// Where it listens; for TCP port 0 with the port that the kernel chose.
    pub fn endpoint(&self) -> Endpoint {
        match &self.socket {
            Socket::Tcp(listener) => listener.local_addr().map_or_else(
                |_| self.endpoint.clone(),
                |address| Endpoint::Tcp(address.to_string()),
            ),
            Socket::Unix(_, path) => Endpoint::Unix(Path::new(&path.0).to_owned()),
        }
    }

    /// Waits for a connection.
    ///
    /// # Errors
    /// [`EndpointError`]; `Cancelled` at most 100 ms after `cancel`.
    pub fn accept(
        &self,
        deadline: Duration,
        cancel: &Cancel,
    ) -> Result<Box<dyn Connection>, EndpointError> {
        const SLICE: Duration = Duration::from_millis(100);
        let io = |source| EndpointError::Io {
            doing: "Accepting on",
            endpoint: self.endpoint(),
            source,
        };
        let end = Instant::now() + deadline;
        loop {
            if cancel.is_cancelled() {
                return Err(EndpointError::Cancelled);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(EndpointError::Nobody {
                    endpoint: self.endpoint(),
                    waited: deadline,
                });
            }
            let fd = match &self.socket {
                Socket::Tcp(listener) => listener.as_fd(),
                Socket::Unix(listener, _) => listener.as_fd(),
            };
            if !wait_readable(fd, left.min(SLICE)) {
                continue;
            }
            match self.accept_now() {
                Ok(connection) => return Ok(connection),
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                    ) => {}
                Err(error) => return Err(io(error)),
            }
        }
    }

    fn accept_now(&self) -> io::Result<Box<dyn Connection>> {
        match &self.socket {
            Socket::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(false)?;
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
            Socket::Unix(listener, _) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(false)?;
                Ok(Box::new(stream))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[track_caller]
    fn parsed(url: &str) -> Endpoint {
        url.parse().unwrap()
    }

    #[test]
    fn urls_are_read_in_both_forms() {
        assert_eq!(parsed("tcp:10.0.0.1:4444"), parsed("tcp://10.0.0.1:4444"));
        assert_eq!(parsed("tcp:[::1]:1"), Endpoint::Tcp("[::1]:1".to_owned()));
        assert_eq!(parsed("unix:/run/a"), parsed("unix:///run/a"));
        assert_eq!(parsed("file:///var/a"), Endpoint::File("/var/a".into()));
        assert_eq!(parsed("file:a"), Endpoint::File("a".into()));
    }

    #[test]
    fn other_urls_are_refused() {
        for url in [
            "",
            "tcp",
            "tcp:",
            "tcp:host",
            "tcp::1",
            "tcp:host:65536",
            "unix:",
            "file://",
            "http://host/",
            "/path",
        ] {
            assert!(
                matches!(url.parse::<Endpoint>(), Err(EndpointError::Form(_))),
                "{url}"
            );
        }
    }

    #[track_caller]
    fn talk(listener: &Listener) {
        let wait = Duration::from_secs(10);
        let mut there = listener.endpoint().connect(wait).unwrap();
        let mut here = listener.accept(wait, &Cancel::new()).unwrap();
        there.write_all(b"x").unwrap();
        let mut got = [0];
        here.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"x");
    }

    #[test]
    fn two_sides_meet_over_tcp_and_over_a_unix_socket() {
        talk(&parsed("tcp:127.0.0.1:0").listen().unwrap());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = Endpoint::Unix(path.clone()).listen().unwrap();
        talk(&listener);
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn nobody_comes_and_a_cancel_ends_the_wait() {
        let listener = parsed("tcp:127.0.0.1:0").listen().unwrap();
        let wait = Duration::from_millis(50);
        assert!(matches!(
            listener.accept(wait, &Cancel::new()),
            Err(EndpointError::Nobody { .. })
        ));
        let cancel = Cancel::new();
        cancel.cancel();
        assert!(matches!(
            listener.accept(Duration::from_secs(60), &cancel),
            Err(EndpointError::Cancelled)
        ));
    }

    #[test]
    fn a_port_that_nobody_listens_on_is_told_by_name() {
        let gone = parsed("tcp:127.0.0.1:0").listen().unwrap().endpoint();
        let error = gone.connect(Duration::from_secs(5)).err().unwrap();
        assert_eq!(error.to_string(), format!("Connecting to {gone} failed"));
    }
}
