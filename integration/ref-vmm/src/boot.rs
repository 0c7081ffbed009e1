// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Loading the guest: an ELF with a PVH entry note, started in flat 32-bit protected mode.
//!
//! PVH is the shortest way into a guest: one entry point, paging off, and EBX pointing at `hvm_start_info`
//! (Xen's public/arch-x86/hvm/start_info.h). No firmware, no boot protocol of an operating system.

use std::fs;
use std::io::{self, Cursor};
use std::path::{Path, PathBuf};

use linux_loader::loader::elf::{Elf, PvhBootCapability};
use linux_loader::loader::{Error as LoaderError, KernelLoader};

use crate::memory::{self, GuestRam, Region};

/// Where `hvm_start_info` is put: below every image, above the real-mode vectors.
pub const START_INFO: u64 = 0x6000;
/// Where the memory map of `hvm_start_info` is put.
const MEMORY_MAP: u64 = 0x6040;
/// `XEN_HVM_START_MAGIC_VALUE`.
const START_MAGIC: u32 = 0x336e_c578;
/// E820 type of usable RAM.
const E820_RAM: u32 = 1;

/// Why a guest image could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file.
    #[error("Kernel {path} could not be read")]
    Read {
        /// The file asked for.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The ELF.
    #[error("Kernel is not an ELF image that fits into guest memory")]
    Load(#[source] LoaderError),
    /// An ELF of another boot protocol.
    #[error("Kernel has no PVH entry note (Xen note type 18)")]
    NoPvhEntry,
    /// An entry that 32-bit code cannot have.
    #[error("Kernel's PVH entry {0:#x} lies above 4 GiB")]
    Entry(u64),
    /// Writing the start info.
    #[error("Boot information could not be written")]
    Memory(#[from] memory::Error),
}

/// Registers that PVH defines at entry; all others are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// First instruction.
    pub eip: u32,
    /// Address of `hvm_start_info`.
    pub ebx: u32,
}

/// Loads the ELF at `kernel`, or the built-in guest, and writes what PVH wants to find in memory.
///
/// # Errors
/// [`Error`]; RAM may hold parts of the image.
pub fn load(ram: &GuestRam, kernel: Option<&Path>) -> Result<Entry, Error> {
    let image = match kernel {
        Some(path) => fs::read(path).map_err(|source| Error::Read {
            path: path.to_path_buf(),
            source,
        })?,
        None => guest::image(),
    };
    let loaded = Elf::load(ram.mmap(), None, &mut Cursor::new(image), None).map_err(Error::Load)?;
    let PvhBootCapability::PvhEntryPresent(entry) = loaded.pvh_boot_cap else {
        return Err(Error::NoPvhEntry);
    };
    let eip = u32::try_from(entry.0).map_err(|_| Error::Entry(entry.0))?;
    let map: Vec<_> = ram.layout().regions().map(memory_map_entry).collect();
    #[allow(clippy::cast_possible_truncation)] // one entry or two
    ram.write(START_INFO, &start_info(map.len() as u32))?;
    ram.write(MEMORY_MAP, map.as_flattened())?;
    #[allow(clippy::cast_possible_truncation)] // a constant below 64 KiB
    Ok(Entry {
        eip,
        ebx: START_INFO as u32,
    })
}

/// `struct hvm_start_info`, version 1, with a memory map and neither modules nor ACPI.
fn start_info(entries: u32) -> [u8; 56] {
    let mut info = [0; 56];
    info[0..4].copy_from_slice(&START_MAGIC.to_le_bytes());
    info[4..8].copy_from_slice(&1u32.to_le_bytes());
    info[40..48].copy_from_slice(&MEMORY_MAP.to_le_bytes());
    info[48..52].copy_from_slice(&entries.to_le_bytes());
    info
}

/// `struct hvm_memmap_table_entry`.
fn memory_map_entry(region: &Region) -> [u8; 24] {
    let mut entry = [0; 24];
    entry[0..8].copy_from_slice(&region.gpa.to_le_bytes());
    entry[8..16].copy_from_slice(&region.size.to_le_bytes());
    entry[16..20].copy_from_slice(&E820_RAM.to_le_bytes());
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_guest_has_a_pvh_entry_in_ram() {
        let ram = GuestRam::new(memory::RAM_MIN * 4).unwrap();
        let entry = load(&ram, None).unwrap();
        assert!(u64::from(entry.eip) < ram.size());
        let mut magic = [0; 4];
        ram.read(u64::from(entry.ebx), &mut magic).unwrap();
        assert_eq!(u32::from_le_bytes(magic), START_MAGIC);
    }

    #[test]
    fn the_memory_map_has_an_entry_for_each_piece_of_ram() {
        let ram = GuestRam::new(5 << 30).unwrap();
        let entry = load(&ram, None).unwrap();
        let mut info = [0; 56];
        ram.read(u64::from(entry.ebx), &mut info).unwrap();
        assert_eq!(info[48..52], 2u32.to_le_bytes());
        let mut map = [0; 48];
        ram.read(MEMORY_MAP, &mut map).unwrap();
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| map[at + i]));
        let entries = [word(0), word(8), word(24), word(32)];
        assert_eq!(entries, [0, 3 << 30, 4 << 30, 2 << 30]);
    }

    #[test]
    fn a_file_that_is_no_elf_is_refused() {
        let ram = GuestRam::new(memory::RAM_MIN).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(
            file.path(),
            b"not an ELF, only some text that is long enough to be read as a header",
        )
        .unwrap();
        assert!(matches!(load(&ram, Some(file.path())), Err(Error::Load(_))));
    }
}
