// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Packets that are half written or half read: they belong to the VF, as in the Xe PF, and only a new save forgets them.

use host_sim::host::HostConfig;
use host_sim::vf::State::{Resuming, Running, Stop, StopCopy};
use host_sim::vf::{Errno, Transition, Vf};

use crate::common::*;

fn config() -> HostConfig {
    HostConfig { gts: 1, ..small() }
}

/// Writes `part` in a restore of its own, which is then given up.
fn give_up(vf: &Vf, part: &[u8]) {
    let id = begin_load(vf);
    write_all(vf, id, part, 1 << 20);
    vf.reset().expect("reset");
}

/// What a whole restore of `stream` comes to.
fn try_load(vf: &Vf, stream: &[u8]) -> Result<Transition, Errno> {
    let id = begin_load(vf);
    vf.data_write(id, stream)?;
    vf.set_state(Stop as u32)
}

#[test]
fn half_a_packet_outlives_reset_and_close_and_a_restore_goes_on_with_it() {
    let host = TestHost::new(&config());
    let stream = save(&host.opened(2));
    for closed in [false, true] {
        // In the descriptor's header, in its payload, and within the second packet.
        for cut in [1, 12, 30, 50, 40 + 24 + 2000] {
            let vf = host.opened(1);
            save(&vf);
            give_up(&vf, &stream[..cut]);
            if closed {
                vf.device_closed();
                host.opened(1);
            }
            load(&vf, &stream[cut..]);
            assert!(save(&vf) == stream, "cut at {cut}");
        }
    }
}

#[test]
fn a_restore_that_does_not_know_of_half_a_packet_is_misparsed() {
    let host = TestHost::new(&config());
    let stream = save(&host.opened(2));
    let vf = host.opened(1);
    give_up(&vf, &stream[..30]);
    assert!(try_load(&vf, &stream).is_err());
}

#[test]
fn entering_stop_copy_forgets_half_a_packet_and_whole_packets_leave_none() {
    let host = TestHost::new(&config());
    let stream = save(&host.opened(2));
    let vf = host.opened(1);
    give_up(&vf, &stream[..30]);
    begin_save(&vf);
    vf.reset().expect("reset");
    load(&vf, &stream);
    // Descriptor and GuC packet, and no byte more.
    vf.reset().expect("reset");
    give_up(&vf, &stream[..40 + 24 + 4096]);
    load(&vf, &stream);
}

#[test]
fn a_refused_write_leaves_no_half_packet() {
    let host = TestHost::new(&config());
    let stream = save(&host.opened(2));
    let vf = host.opened(1);
    let mut bad = stream.clone();
    bad[40] = 9;
    assert_eq!(try_load(&vf, &bad), Err(Errno::EINVAL));
    vf.reset().expect("reset");
    load(&vf, &stream);
}

#[test]
fn half_a_packet_of_a_save_is_taken_for_a_half_written_one() {
    let host = TestHost::new(&config());
    let whole = save(&host.opened(2));
    for read in [41, 60, 40 + 24 + 100] {
        let vf = host.opened(1);
        save(&vf);
        set(&vf, Running);
        let id = begin_save(&vf);
        assert_eq!(vf.data_read(id, &mut vec![0; read]), Ok(read));
        vf.reset().expect("reset");
        // The rest of that packet and what follows it.
        load(&vf, &whole[read..]);
        assert!(save(&vf) == whole, "after {read} bytes");
        vf.reset().expect("reset");
    }
    // A descriptor is kept apart.
    let vf = host.opened(1);
    save(&vf);
    let id = begin_save(&vf);
    assert_eq!(vf.data_read(id, &mut [0; 30]), Ok(30));
    vf.reset().expect("reset");
    load(&vf, &whole);
    assert_eq!(state(&vf), Stop);
}

#[test]
fn a_forbidden_way_into_stop_copy_forgets_it_too() {
    let host = TestHost::new(&config());
    let stream = save(&host.opened(2));
    let vf = host.opened(1);
    give_up(&vf, &stream[..30]);
    set(&vf, Stop);
    assert_eq!(vf.set_state(0), Err(Errno::EINVAL));
    assert_eq!(vf.set_state(StopCopy as u32), Err(Errno::EPERM));
    vf.reset().expect("reset");
    load(&vf, &stream);
}

#[test]
fn a_host_can_be_told_to_begin_every_restore_at_a_packet() {
    let host = TestHost::new(&HostConfig {
        keep_half_packets: false,
        ..config()
    });
    let stream = save(&host.opened(2));
    let vf = host.opened(1);
    give_up(&vf, &stream[..30]);
    load(&vf, &stream);
    set(&vf, Running);
    let id = begin_save(&vf);
    assert_eq!(vf.data_read(id, &mut [0; 50]), Ok(50));
    vf.reset().expect("reset");
    assert_eq!(set(&vf, Stop), Transition::None);
    assert!(matches!(set(&vf, Resuming), Transition::Load(_)));
    vf.reset().expect("reset");
    load(&vf, &stream);
}
