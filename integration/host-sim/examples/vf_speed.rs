// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How fast a VF's data fd is read and written: the floor under every migration on this machine.
//!
//! `cargo run --release -p host-sim --example vf_speed [MIB]`

use std::os::unix::fs::FileExt;
use std::time::Instant;

use host_sim::host::{Host, HostConfig};
use host_sim::vf::{SessionId, State, Transition, Vf};

const MIB: u64 = 1 << 20;

fn session(vf: &Vf, state: State) -> SessionId {
    match vf.set_state(state as u32).expect("the state is entered") {
        Transition::Save(id) | Transition::Load(id) => id,
        Transition::None => unreachable!("both states have a data fd"),
    }
}

fn main() {
    let mib = std::env::args()
        .nth(1)
        .map_or(1024, |mib| mib.parse().expect("a number of MiB"));
    for populate in [false, true] {
        let dir = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
        let config = HostConfig {
            vram: mib * MIB,
            flr_ms: 0,
            populate,
            ..HostConfig::default()
        };
        let host = Host::create(&dir.path().join("host"), &config).expect("a host");
        let (from, to) = (host.vf(1).expect("VF 1"), host.vf(2).expect("VF 2"));
        for vf in [&from, &to] {
            vf.device_opened(1).expect("it opens");
        }
        let mut buf: Vec<u8> = (0..MIB as usize)
            .map(|i| (i * 7 + i / 251) as u8 | 1)
            .collect();
        for at in 0..mib {
            from.memory_file()
                .write_all_at(&buf, 4 * MIB + at * MIB)
                .expect("VRAM");
        }
        println!(
            "VRAM {mib} MiB, {}",
            if populate { "populated" } else { "sparse" }
        );
        for round in ["first", "again"] {
            let (save, load) = (
                session(&from, State::StopCopy),
                session(&to, State::Resuming),
            );
            let (mut reading, mut writing, mut total) = (0.0, 0.0, 0);
            loop {
                let begun = Instant::now();
                let n = from.data_read(save, &mut buf).expect("read");
                reading += begun.elapsed().as_secs_f64();
                if n == 0 {
                    break;
                }
                let begun = Instant::now();
                to.data_write(load, &buf[..n]).expect("write");
                writing += begun.elapsed().as_secs_f64();
                total += n;
            }
            let mb = total as f64 / 1e6;
            println!(
                "  {round}: read {:6.0} MB/s, write {:6.0} MB/s",
                mb / reading,
                mb / writing
            );
            for vf in [&from, &to] {
                vf.set_state(State::Stop as u32)
                    .expect("everything was moved");
            }
        }
        let begun = Instant::now();
        to.reset().expect("reset");
        let seconds = begun.elapsed().as_secs_f64();
        println!("  reset: {:.0} ms", seconds * 1e3);
    }
}
