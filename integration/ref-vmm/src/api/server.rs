// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The answering side: a thread per connection, so that a long migration does not keep others from asking.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::{Request, Response};
use crate::vmm::Vmm;

/// Longest request.
const MAX_REQUEST: u64 = 64 << 10;
/// How long a client may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(10);

/// The socket's path, removed with the server.
pub struct Server {
    path: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Answers on a socket until the process ends. A socket that nobody answers on any more is replaced.
///
/// # Errors
/// When the socket cannot be had, also because another VMM has it.
pub fn start(path: &Path, vmm: &Arc<Vmm>) -> io::Result<Server> {
    if UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another VMM answers there",
        ));
    }
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path)?;
    let vmm = vmm.clone();
    std::thread::Builder::new()
        .name("api".into())
        .spawn(move || {
            for stream in listener.incoming() {
                let vmm = vmm.clone();
                match stream {
                    Ok(stream) => {
                        let work = move || {
                            if let Err(error) = serve(stream, &vmm) {
                                tracing::debug!(%error, "a client went away");
                            }
                        };
                        if let Err(error) = std::thread::Builder::new()
                            .name("api-call".into())
                            .spawn(work)
                        {
                            tracing::error!(%error, "a request cannot be served");
                        }
                    }
                    Err(error) => tracing::warn!(%error, "accept on the API socket"),
                }
            }
        })?;
    Ok(Server { path: path.into() })
}

fn serve(mut stream: UnixStream, vmm: &Vmm) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    BufReader::new((&stream).take(MAX_REQUEST)).read_line(&mut line)?;
    let (response, exit) = match serde_json::from_str::<Request>(&line) {
        Ok(request) => vmm.handle(request),
        Err(e) => {
            let error = format!("The request cannot be read: {e}");
            (
                Response::Failed {
                    error,
                    state: vmm.state_name(),
                },
                None,
            )
        }
    };
    let mut answer = serde_json::to_vec(&response)?;
    answer.push(b'\n');
    let written = stream.write_all(&answer);
    // After the answer, so that the client has it.
    if let Some(code) = exit {
        vmm.exit(code);
    }
    written
}
