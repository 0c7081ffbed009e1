// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A VF's state goes over several connections, and the guest finds nothing lost, or goes on at the source.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use e2e::{Rig, Setup};

fn setup() -> Setup {
    Setup {
        vmm: vec!["--connections", "4"],
        ..Setup::default()
    }
}

/// Gives VRAM bytes that travel, beyond those that the guest works with.
#[track_caller]
fn fill(rig: &Rig) {
    rig.source_host
        .command("fill", &["--vf", "1", "random", "--from", "4M"])
        .expect("host-sim fill");
}

#[test]
fn a_working_guest_moves_over_four_tcp_connections_and_finds_nothing_lost() {
    let mut rig = Rig::new(&setup());
    fill(&rig);
    let url = rig.tcp_url();
    let (_destination, answer) = rig.migrates(&url);
    let device = &answer["devices"]["vf1"];
    assert!(device["wire_bytes"].as_u64().expect("bytes") > 50 << 20);
}

#[test]
fn two_vfs_move_over_four_unix_connections_each() {
    let mut rig = Rig::new(&Setup { vfs: 2, ..setup() });
    let url = rig.unix_url();
    rig.migrates(&url);
}

/// What a proxy does to one of the connections that it passes on.
#[derive(Clone, Copy)]
enum Harm {
    /// Shuts it down after so many bytes.
    Kill(u64),
    /// Alters a byte behind so many.
    Alter(u64),
    /// Answers the connection before it and passes none of its bytes on.
    Swallow,
}

/// Passes connections on to `to`, with `harm` done to connection `number` (0 is the main one).
fn proxy(to: String, number: usize, harm: Harm) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its number");
    thread::spawn(move || {
        for (count, there) in listener.incoming().enumerate() {
            let (Ok(source), Ok(destination)) = (there, TcpStream::connect(&to)) else {
                return;
            };
            let harm = (count == number).then_some(harm);
            let back = (
                destination.try_clone().expect("an fd"),
                source.try_clone().expect("an fd"),
            );
            thread::spawn(move || pass(back.0, back.1, None));
            thread::spawn(move || pass(source, destination, harm));
        }
    });
    format!("tcp:{address}")
}

fn pass(mut from: TcpStream, mut to: TcpStream, harm: Option<Harm>) {
    let (mut buffer, mut passed) = (vec![0; 64 << 10], 0);
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let bytes = &mut buffer[..count];
        match harm {
            Some(Harm::Kill(after)) if passed > after => break,
            Some(Harm::Alter(after)) if passed > after => bytes[count / 2] ^= 1,
            Some(Harm::Swallow) => {
                passed += count as u64;
                continue;
            }
            _ => {}
        }
        if to.write_all(bytes).is_err() {
            break;
        }
        passed += count as u64;
    }
    // The other direction ends with it.
    _ = from.shutdown(Shutdown::Both);
    _ = to.shutdown(Shutdown::Both);
}

/// Migrates by way of a proxy that does harm to a connection of the VF's, and checks that the guest goes on at the source.
#[track_caller]
fn survives(number: usize, harm: Harm, more: &[&'static str]) -> String {
    let mut setup = setup();
    setup.vmm.extend_from_slice(more);
    let mut rig = Rig::new(&setup);
    fill(&rig);
    let url = rig.tcp_url();
    let _destination = rig.destination(&url);
    let by_way_of = proxy(url.replace("tcp:", ""), number, harm);
    let message = rig.fails_to_migrate(&by_way_of);
    rig.guest_still_works_at_the_source();
    assert_eq!(
        rig.vf_status(&rig.source_host)["state"],
        "RUNNING",
        "{message}"
    );
    message
}

#[test]
fn a_connection_that_dies_in_the_middle_leaves_the_guest_at_the_source() {
    // Connection 0 of the proxy is the main one, 1 to 4 are the VF's.
    let message = survives(3, Harm::Kill(3 << 20), &[]);
    assert!(message.contains("Connection 2 of 4"), "{message}");
}

#[test]
fn a_byte_altered_on_one_connection_leaves_the_guest_at_the_source() {
    let message = survives(4, Harm::Alter(3 << 20), &[]);
    assert!(message.contains("Connection 3 of 4"), "{message}");
    assert!(message.contains("checksum"), "{message}");
}

#[test]
fn a_silent_connection_is_given_up_and_leaves_the_guest_at_the_source() {
    let started = std::time::Instant::now();
    survives(2, Harm::Swallow, &["--silence-timeout", "3"]);
    assert!(started.elapsed() < Duration::from_secs(60));
}
