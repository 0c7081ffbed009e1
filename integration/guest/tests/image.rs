// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The image is what loaders expect.

use guest::layout;
use linux_loader::loader::{Elf, KernelLoader, elf::PvhBootCapability};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

type Memory = GuestMemoryMmap<()>;

fn memory() -> Memory {
    Memory::from_ranges(&[(GuestAddress(0), layout::MEMORY_END as usize)]).expect("memory")
}

#[test]
fn linux_loader_takes_the_image_and_finds_the_pvh_entry() {
    let memory = memory();
    let image = guest::image();
    let loaded = Elf::load(
        &memory,
        None,
        &mut std::io::Cursor::new(&image),
        Some(GuestAddress(layout::TABLES.into())),
    )
    .expect("an ELF that loads");
    let entry = GuestAddress(layout::CODE.into());
    assert_eq!(
        loaded.pvh_boot_cap,
        PvhBootCapability::PvhEntryPresent(entry)
    );
    assert_eq!(loaded.kernel_load, entry);
    assert!(loaded.kernel_end <= u64::from(layout::CODE + layout::CODE_SIZE));
    // cli; cld: the first instructions of the trampoline.
    assert_eq!(memory.read_obj::<u16>(entry).expect("code"), 0xfcfa);
}

#[test]
fn the_image_is_small_and_always_the_same() {
    let image = guest::image();
    assert!(image.len() < 32 << 10, "{} bytes", image.len());
    assert_eq!(image, guest::image());
}

#[test]
fn segments_are_where_their_addresses_are_modulo_a_page() {
    let image = guest::image();
    let word = |at: usize| u64::from_le_bytes(image[at..at + 8].try_into().expect("eight bytes"));
    let headers = usize::from(u16::from_le_bytes([image[56], image[57]]));
    assert_eq!(headers, 3);
    for header in (0..headers).map(|header| 64 + 56 * header) {
        let (offset, address, size) = (word(header + 8), word(header + 24), word(header + 32));
        assert!(offset + size <= image.len() as u64);
        if image[header] == 1 {
            assert_eq!(offset % 0x1000, address % 0x1000);
        }
    }
}
