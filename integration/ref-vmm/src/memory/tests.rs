// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! RAM in one piece and in two, read, written, looked at and given up.

use std::os::unix::fs::MetadataExt;

use super::layout::HIGH_START;
use super::*;

#[track_caller]
fn seen(ram: &GuestRam, gpa: u64, length: usize) -> Vec<u8> {
    let mut seen = vec![9; length];
    ram.read(gpa, &mut seen).unwrap();
    seen
}

/// Bytes that RAM takes.
fn taken(ram: &GuestRam) -> u64 {
    ram.file.metadata().unwrap().blocks() * 512
}

#[test]
fn a_range_from_a_peer_cannot_leave_ram() {
    let ram = GuestRam::new(RAM_MIN).unwrap();
    assert!(ram.write(RAM_MIN - 1, &[1]).is_ok());
    assert!(matches!(
        ram.write(RAM_MIN - 1, &[1, 2]),
        Err(Error::Range { .. })
    ));
    assert!(matches!(ram.zero(u64::MAX, 2), Err(Error::Range { .. })));
    assert!(ram.host_address(RAM_MIN).is_err());
}

#[test]
fn zeroing_changes_what_was_written_and_nothing_beside_it() {
    let ram = GuestRam::new(RAM_MIN).unwrap();
    ram.write(0x1ffe, &[1, 2, 3, 4]).unwrap();
    ram.zero(0x1fff, 2).unwrap();
    assert_eq!(seen(&ram, 0x1ffe, 4), [1, 0, 0, 4]);
}

#[test]
fn looking_at_ram_does_not_touch_it() {
    let ram = GuestRam::new(RAM_MIN).unwrap();
    assert_eq!(seen(&ram, 0, 0x3000), [0; 0x3000]);
    ram.zero(0, 0x3000).unwrap();
    assert_eq!(ram.next_touched(0..RAM_MIN).unwrap(), None);
    ram.write(0x5800, &[1]).unwrap();
    assert_eq!(ram.next_touched(0..RAM_MIN).unwrap(), Some(0x5000..0x6000));
    assert_eq!(ram.next_touched(0x6000..RAM_MIN).unwrap(), None);
    assert_eq!(ram.next_touched(0..0x5000).unwrap(), None);
    // One page there, and holes on both sides.
    assert_eq!(seen(&ram, 0x4fff, 0x1802)[0x801], 1);
    assert_eq!(taken(&ram), PAGE_SIZE);
}

#[test]
fn what_the_file_was_given_and_what_the_mapping_was_given_are_both_read() {
    let ram = GuestRam::new(RAM_MIN).unwrap();
    ram.write(0x1000, &[1; 0x1000]).unwrap();
    let mapped = ram.host_address(0x2000).unwrap();
    // SAFETY: a byte of RAM that nobody else uses.
    unsafe { mapped.write_volatile(2) };
    assert_eq!(ram.next_touched(0..RAM_MIN).unwrap(), Some(0x1000..0x3000));
    let read = seen(&ram, 0xfff, 0x1002);
    assert_eq!((read[0], read[1], read[0x1001]), (0, 1, 2));
    let mut there = [0; 0x1001];
    ram.read_there(0x1000, &mut there).unwrap();
    assert_eq!(there[..], read[1..]);
}

#[test]
fn ram_above_4_gib_is_another_piece_of_the_same_file() {
    let ram = GuestRam::new(LOW_END + RAM_MIN).unwrap();
    ram.write(HIGH_START + 0x1000, b"high").unwrap();
    assert_eq!(seen(&ram, HIGH_START + 0x1000, 4), b"high");
    let mapped = ram.host_address(HIGH_START + 0x1000).unwrap();
    // SAFETY: a byte of RAM that nobody else uses.
    assert_eq!(unsafe { mapped.read_volatile() }, b'h');
    let high = HIGH_START..HIGH_START + RAM_MIN;
    let page = HIGH_START + 0x1000..HIGH_START + 0x2000;
    assert_eq!(ram.next_touched(high.clone()).unwrap(), Some(page));
    assert_eq!(ram.next_touched(0..LOW_END).unwrap(), None);
    assert!(
        ram.next_touched(0..high.end).is_err(),
        "the hole is not RAM"
    );
    assert!(ram.write(LOW_END, &[1]).is_err());
    assert_eq!(taken(&ram), PAGE_SIZE);
}

#[test]
fn memory_that_was_given_up_reads_as_zeros_and_takes_nothing() {
    let ram = GuestRam::new(RAM_MIN).unwrap();
    ram.write(0x1000, &[7; 0x3000]).unwrap();
    ram.discard(0x2000, 0x1000).unwrap();
    let kept = seen(&ram, 0x1000, 0x3000);
    assert_eq!((kept[0xfff], kept[0x1000], kept[0x2000]), (7, 0, 7));
    assert_eq!(taken(&ram), 2 * PAGE_SIZE);
}

#[test]
fn one_set_byte_anywhere_is_not_zero() {
    for at in 0..19 {
        let mut bytes = [0; 19];
        assert!(is_zero(&bytes));
        bytes[at] = 1;
        assert!(!is_zero(&bytes), "byte {at}");
    }
}
