// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a device fd answers: regions, configuration space, interrupts, features.

use std::os::fd::AsRawFd;

use vfio_ioctls::{VfioDevice, VfioRegionInfoCap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::common::*;

const CONFIG: u32 = 7;

fn read32(device: &VfioDevice, at: u64) -> u32 {
    let mut bytes = [0; 4];
    device.region_read(CONFIG, &mut bytes, at);
    u32::from_le_bytes(bytes)
}

fn write32(device: &VfioDevice, at: u64, value: u32) {
    device.region_write(CONFIG, &value.to_le_bytes(), at);
}

#[test]
fn both_ways_in_show_the_same_regions() {
    let host = TestHost::new();
    for device in [host.by_group(1), host.by_cdev(2)] {
        let device = &device.vfio;
        assert_eq!(device.get_region_size(0), 8 * MIB);
        assert_eq!(device.get_region_caps(0), [VfioRegionInfoCap::MsixMappable]);
        assert_eq!(device.get_region_flags(0) & 7, 7);
        assert_eq!(device.get_region_size(2), 8 * MIB);
        assert_eq!(device.get_region_flags(2), 7);
        assert_eq!(device.get_region_offset(2), 2 << 40);
        for absent in [1, 3, 4, 5, 6] {
            assert_eq!(device.get_region_size(absent), 0, "region {absent}");
        }
        assert_eq!(device.get_region_size(CONFIG), 4096);
        assert_eq!(device.max_interrupts(), 4);
        assert_eq!(read32(device, 0), 0xe211_8086);
        assert_eq!(read32(device, 8), 0x0380_0000);
    }
}

#[test]
fn bars_are_sized_by_writing_ones() {
    let host = TestHost::new();
    let device = host.by_group(1);
    let device = &device.vfio;
    let before: Vec<u32> = (0..6).map(|i| read32(device, 0x10 + 4 * i)).collect();
    for i in 0..6 {
        write32(device, 0x10 + 4 * i, !0);
    }
    let sizes: Vec<u32> = (0..6).map(|i| read32(device, 0x10 + 4 * i)).collect();
    assert_eq!(sizes, [0xff80_0000, 0, 0xff80_000c, !0, 0, 0]);
    for (i, value) in (0..).zip(&before) {
        write32(device, 0x10 + 4 * i, *value);
        assert_eq!(read32(device, 0x10 + 4 * i), *value);
    }
    write32(device, 4, 0x7);
    assert_eq!(
        read32(device, 4) & 0xffff,
        0x6,
        "memory and bus master, no I/O"
    );
    write32(device, 0, 0);
    assert_eq!(read32(device, 0), 0xe211_8086, "the ids stay");
}

#[test]
fn capabilities_have_msix_with_four_vectors_and_flr() {
    let host = TestHost::new();
    let device = host.by_group(1);
    let device = &device.vfio;
    let mut found = Vec::new();
    let mut at = u64::from(read32(device, 0x34) & 0xff);
    while at != 0 {
        let head = read32(device, at);
        found.push((head & 0xff, at));
        at = u64::from(head >> 8 & 0xff);
    }
    let at = |id| {
        found
            .iter()
            .find(|(i, _)| *i == id)
            .unwrap_or_else(|| panic!("capability {id:#x}"))
            .1
    };
    let msix = at(0x11);
    assert_eq!(read32(device, msix) >> 16 & 0x7ff, 3);
    assert_eq!(
        (read32(device, msix + 4), read32(device, msix + 8)),
        (0x1000, 0x1800)
    );
    let exp = at(0x10);
    assert_ne!(read32(device, exp + 4) & 1 << 28, 0, "FLR");
    at(0x01);
    // An FLR by configuration space is a reset.
    device.set_migration_state(STOP).expect("STOP");
    write32(device, exp + 8, 1 << 15);
    assert_eq!(device.get_migration_state().expect("GET"), RUNNING);
    assert_eq!(read32(device, exp + 8) & 1 << 15, 0);
}

#[test]
fn bars_can_be_mapped_and_are_the_same_memory_as_by_pread() {
    let host = TestHost::new();
    let device = host.by_cdev(1);
    let fd = device.vfio.as_raw_fd();
    let map = |region: i64, offset: i64, len, flags| {
        // SAFETY: a new mapping somewhere.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                flags,
                fd,
                (region << 40) + offset,
            )
        };
        if at == libc::MAP_FAILED {
            Err(errno(-1))
        } else {
            Ok(at.cast::<u32>())
        }
    };
    let bar0 = map(0, 0x2000, 0x6000, libc::MAP_SHARED).expect("part of BAR0");
    let bar2 = map(2, 0, 8 << 20, libc::MAP_SHARED).expect("BAR2");
    assert_eq!(map(0, 0, 0x1000, libc::MAP_PRIVATE), Err(libc::EINVAL));
    assert_eq!(
        map(0, 8 << 20, 0x1000, libc::MAP_SHARED),
        Err(libc::EINVAL),
        "past the end"
    );
    assert_eq!(
        map(1, 0, 0x1000, libc::MAP_SHARED),
        Err(libc::EINVAL),
        "no such BAR"
    );
    assert_eq!(
        map(7, 0, 0x1000, libc::MAP_SHARED),
        Err(libc::EINVAL),
        "configuration space"
    );
    // SAFETY: within the mappings made above.
    unsafe {
        bar2.add(16).write_volatile(0x1234_5678);
        bar0.write_volatile(0x9abc_def0);
    }
    let read = |region, at| {
        let mut bytes = [0; 4];
        device.vfio.region_read(region, &mut bytes, at);
        u32::from_le_bytes(bytes)
    };
    assert_eq!(
        read(0, 0x40_0040),
        0x1234_5678,
        "the window in BAR0 shows VRAM"
    );
    assert_eq!(read(2, 0x40), 0x1234_5678);
    assert_eq!(read(0, 0x2000), 0x9abc_def0);
    assert_eq!(read(0, 0), guest::abi::ID_VALUE);
    device.vfio.region_write(2, &7u32.to_le_bytes(), 0x80);
    // SAFETY: as above.
    assert_eq!(unsafe { bar2.add(32).read_volatile() }, 7);
}

#[test]
fn interrupts_are_set_triggered_and_taken_away() {
    let host = TestHost::new();
    let device = host.by_group(1);
    let device = &device.vfio;
    let events: Vec<_> = (0..4)
        .map(|_| EventFd::new(EFD_NONBLOCK).expect("an eventfd"))
        .collect();
    assert!(device.trigger_irq(2, 0).is_err(), "not enabled");
    device.enable_msix(events.iter().collect()).expect("enable");
    device.trigger_irq(2, 3).expect("trigger");
    assert_eq!(events[3].read().expect("signalled"), 1);
    assert!(events[0].read().is_err(), "another vector");
    device.disable_msix().expect("disable");
    assert!(device.disable_msix().is_err(), "not enabled");
    assert!(device.enable_msi(vec![&events[0]]).is_err(), "no MSI");
    assert!(device.unmask_irq(0).is_err(), "no INTx");
    let too_many: Vec<_> = events.iter().chain(&events[..1]).collect();
    assert!(device.enable_msix(too_many).is_err());
    // Error and request interrupts take one eventfd each.
    for index in [3, 4] {
        device.enable_irq(index, vec![&events[1]]).expect("enable");
        device.trigger_irq(index, 0).expect("trigger");
        assert_eq!(events[1].read().expect("signalled"), 1);
        device.disable_irq(index).expect("disable");
    }
}

#[test]
fn an_eventfd_may_be_closed_after_it_was_handed_over() {
    let host = TestHost::new();
    let device = host.by_group(1);
    let event = EventFd::new(EFD_NONBLOCK).expect("an eventfd");
    let kept = event.try_clone().expect("a copy");
    device.vfio.enable_msix(vec![&event]).expect("enable");
    drop(event);
    device.vfio.trigger_irq(2, 0).expect("trigger");
    assert_eq!(kept.read().expect("signalled"), 1);
}

#[test]
fn features_answer_as_the_vfio_core_does() {
    let host = TestHost::new();
    let device = host.by_group(1);
    let fd = device.vfio.as_raw_fd();
    assert_eq!(feature(fd, GET | 1, 16, 0), Ok(3), "STOP_COPY and P2P");
    assert_eq!(feature(fd, GET | SET | 2, 16, 0), Err(libc::EINVAL));
    assert_eq!(feature(fd, GET | 1, 15, 0), Err(libc::EINVAL), "short");
    assert_eq!(
        feature(fd, GET | 1, 7, 0),
        Err(libc::EINVAL),
        "shorter than the header"
    );
    assert_eq!(feature(fd, SET | 1, 16, 0), Err(libc::EINVAL), "read-only");
    assert_eq!(feature(fd, 1, 16, 0), Err(libc::EINVAL), "neither");
    assert_eq!(
        feature(fd, GET | 1 << 19 | 1, 16, 0),
        Err(libc::EINVAL),
        "unknown flag"
    );
    assert_eq!(
        feature(fd, PROBE | GET | SET | 2, 16, 77),
        Ok(77),
        "a probe changes nothing"
    );
    assert_eq!(feature(fd, PROBE | SET | 9, 16, 0), Err(libc::EINVAL));
    for unknown in [0, 3, 6, 7, 8, 10, 99] {
        assert_eq!(
            feature(fd, GET | unknown, 16, 0),
            Err(libc::ENOTTY),
            "feature {unknown}"
        );
    }
    assert!(feature(fd, GET | 9, 16, 0).expect("MIG_DATA_SIZE") > 8 * MIB);
    assert_eq!(ioctl_value(fd, 0x3bff, 0), Err(libc::ENOTTY));
    let mut hot_reset = [12u32, 0, 0];
    assert_eq!(ioctl(fd, 0x3b70, &mut hot_reset), Err(libc::ENODEV));
}

#[test]
fn a_host_without_migration_opens_its_vfs_all_the_same() {
    let host = TestHost::with(&host_sim::host::HostConfig {
        migration: false,
        ..config()
    });
    let device = host.by_group(1);
    assert_eq!(
        device.vfio.query_migration_support().expect("an answer"),
        None
    );
    for number in [1, 2, 9] {
        assert_eq!(
            feature(device.vfio.as_raw_fd(), GET | number, 16, 0),
            Err(libc::ENOTTY)
        );
    }
}

#[test]
fn a_reset_brings_running_from_any_state() {
    let host = TestHost::new();
    let device = host.by_group(1);
    let fd = device.vfio.as_raw_fd();
    for state_before in [STOP, RUNNING, STOP_COPY, RESUMING, 5] {
        let data = set_state(fd, state_before).expect("SET");
        assert_eq!(ioctl_value(fd, 0x3b6f, 0), Ok(0));
        assert_eq!(state(fd), RUNNING);
        if data >= 0 {
            close(data);
        }
    }
}
