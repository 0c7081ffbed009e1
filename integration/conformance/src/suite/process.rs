// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Fds in other processes: handed over a socket, and inherited over exec.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, ChildStdin, Command, Stdio};

use super::{Behaviour, World, behaviours};
use crate::check::{Outcome, failed, refuses, same, works};
use crate::stream::{drain, fill, same_stream, save};
use crate::sys;
use crate::vf::{RESUMING, RUNNING, STOP, STOP_COPY, Vf, group_path};

pub(super) fn behaviours() -> Vec<Behaviour> {
    behaviours!["process":
        save_fd_handed_to_another_process_works_there,
        save_fd_inherited_by_another_program_works_there,
        restore_fd_handed_to_another_process_works_there,
        handed_over_fd_is_dead_after_the_state_is_left,
        device_fd_handed_to_another_process_works_there,
        device_is_open_as_long_as_another_process_has_it,
        vf_of_a_killed_process_can_be_opened_again,
    ]
}

/// What this program does when it is started as the other process: `conformance helper ROLE`, an fd or a socket on stdin.
pub fn helper(role: &str) -> Outcome {
    let stdin = works("dup of stdin", sys::dup(std::io::stdin().as_fd()))?;
    let mut out = std::io::stdout();
    match role {
        "read-stdin" => {
            let bytes = drain(stdin.as_fd())?;
            out.write_all(&bytes)
                .or_else(|error| failed(format_args!("stdout: {error}")))
        }
        "read" => {
            let fd = works("receive", sys::receive_fd(stdin.as_fd()))?;
            let bytes = drain(fd.as_fd())?;
            out.write_all(&bytes)
                .or_else(|error| failed(format_args!("stdout: {error}")))
        }
        "write" => {
            let fd = works("receive", sys::receive_fd(stdin.as_fd()))?;
            let mut bytes = Vec::new();
            UnixStream::from(stdin)
                .read_to_end(&mut bytes)
                .or_else(|error| failed(format_args!("stdin: {error}")))?;
            fill(fd.as_fd(), &bytes)
        }
        "stop" => {
            let fd = works("receive", sys::receive_fd(stdin.as_fd()))?;
            same(
                "state there",
                &works("GET", crate::vf::state_of(fd.as_fd()))?.0,
                &RUNNING,
            )
        }
        // Holds whatever it was given until its stdin ends.
        "hold" => {
            let fd = works("receive", sys::receive_fd(stdin.as_fd()))?;
            works("tell", sys::write(stdin.as_fd(), b"!"))?;
            let _ = sys::read(stdin.as_fd(), &mut [0; 1]);
            drop(fd);
            Ok(())
        }
        _ => failed(format_args!("no such role: {role}")),
    }
}

fn start(role: &str, stdin: OwnedFd) -> Outcome<Child> {
    let program =
        std::env::current_exe().or_else(|error| failed(format_args!("own path: {error}")))?;
    Command::new(program)
        .args(["helper", role])
        .stdin(Stdio::from(stdin))
        .stdout(Stdio::piped())
        .spawn()
        .or_else(|error| failed(format_args!("start of a process: {error}")))
}

/// A process with `fd`, and our end of its socket.
fn start_with(role: &str, fd: &OwnedFd) -> Outcome<(Child, UnixStream)> {
    let (ours, theirs) =
        UnixStream::pair().or_else(|error| failed(format_args!("socketpair: {error}")))?;
    let child = start(role, theirs.into())?;
    works("send", sys::send_fd(ours.as_fd(), fd.as_fd()))?;
    Ok((child, ours))
}

fn output(child: Child) -> Outcome<Vec<u8>> {
    let output = child
        .wait_with_output()
        .or_else(|error| failed(format_args!("wait: {error}")))?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        failed("the other process failed")
    }
}

fn save_fd_handed_to_another_process_works_there(world: &World) -> Outcome {
    let vf = Vf::open(&world.device)?;
    let whole = save(&vf)?;
    let fd = vf.set_for_fd(STOP_COPY)?;
    let (child, _socket) = start_with("read", &fd)?;
    same_stream("stream read there", &output(child)?, &whole)?;
    works("SET STOP", vf.set(STOP)).map(drop)
}

fn save_fd_inherited_by_another_program_works_there(world: &World) -> Outcome {
    let vf = Vf::open(&world.device)?;
    let whole = save(&vf)?;
    let fd = vf.set_for_fd(STOP_COPY)?;
    same_stream(
        "stream read there",
        &output(start("read-stdin", fd)?)?,
        &whole,
    )
}

fn restore_fd_handed_to_another_process_works_there(world: &World) -> Outcome {
    let vf = Vf::open(&world.device)?;
    let whole = save(&vf)?;
    let fd = vf.set_for_fd(RESUMING)?;
    let (child, mut socket) = start_with("write", &fd)?;
    socket
        .write_all(&whole)
        .or_else(|error| failed(format_args!("socket: {error}")))?;
    let _ = socket.shutdown(std::net::Shutdown::Write);
    output(child)?;
    works("SET STOP", vf.set(STOP)).map(drop)
}

fn hold(fd: &OwnedFd) -> Outcome<(Child, UnixStream)> {
    let (child, mut socket) = start_with("hold", fd)?;
    match socket.read_exact(&mut [0; 1]) {
        Ok(()) => Ok((child, socket)),
        Err(error) => failed(format_args!("the other process does not answer: {error}")),
    }
}

fn handed_over_fd_is_dead_after_the_state_is_left(world: &World) -> Outcome {
    let vf = Vf::open(&world.device)?;
    let fd = vf.set_for_fd(STOP_COPY)?;
    drain(fd.as_fd())?;
    let (child, socket) = hold(&fd)?;
    works("SET STOP", vf.set(STOP))?;
    refuses("read", sys::read(fd.as_fd(), &mut [0; 8]), libc::ENODEV)?;
    drop(socket);
    output(child).map(drop)
}

fn device_fd_handed_to_another_process_works_there(world: &World) -> Outcome {
    let vf = Vf::open(&world.device)?;
    let (child, _socket) = start_with("stop", &vf.device)?;
    output(child).map(drop)
}

fn device_is_open_as_long_as_another_process_has_it(world: &World) -> Outcome {
    let vf = Vf::open(&world.device)?;
    let (child, socket) = hold(&vf.device)?;
    drop(vf);
    refuses(
        "open of the group",
        sys::open(&group_path(&world.device)?, libc::O_RDWR),
        libc::EBUSY,
    )?;
    drop(socket);
    output(child)?;
    Vf::open(&world.device).map(drop)
}

/// Started with the device and our own fds closed, so that the other process is the VF's only owner when it dies.
fn vf_of_a_killed_process_can_be_opened_again(world: &World) -> Outcome {
    let vf = Vf::open(&world.device)?;
    works("SET STOP", vf.set(STOP))?;
    let (mut child, socket) = hold(&vf.device)?;
    drop(vf);
    let _: Option<ChildStdin> = child.stdin.take();
    let killed = child.kill().and_then(|()| child.wait());
    if let Err(error) = killed {
        return failed(format_args!("kill: {error}"));
    }
    drop(socket);
    let vf = Vf::open(&world.device)?;
    same("state", &vf.state()?, &RUNNING)?;
    save(&vf).map(drop)
}
