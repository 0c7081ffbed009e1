// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The asking side: connects, sends one request, waits for its answer however long the work takes.

use std::io::{self, BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use super::{Request, Response};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody there.
    #[error("No VMM answers at {path}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// It went away.
    #[error("The VMM went away before it answered")]
    Gone(#[source] io::Error),
    /// It says something else.
    #[error("The VMM's answer cannot be read")]
    Answer(#[source] serde_json::Error),
}

/// Asks the VMM behind a socket.
///
/// # Errors
/// [`Error`]; a command that fails is an answer, not an error.
pub fn ask(socket: &Path, request: &Request) -> Result<Response, Error> {
    let mut stream = UnixStream::connect(socket).map_err(|source| Error::Connect {
        path: socket.into(),
        source,
    })?;
    let mut line = serde_json::to_vec(request).map_err(Error::Answer)?;
    line.push(b'\n');
    stream.write_all(&line).map_err(Error::Gone)?;
    stream.shutdown(Shutdown::Write).map_err(Error::Gone)?;
    let mut answer = String::new();
    BufReader::new(stream)
        .read_line(&mut answer)
        .map_err(Error::Gone)?;
    if answer.is_empty() {
        return Err(Error::Gone(io::ErrorKind::UnexpectedEof.into()));
    }
    serde_json::from_str(&answer).map_err(Error::Answer)
}
