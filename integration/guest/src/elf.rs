// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Packs segments into an ELF64 executable that carries a PVH entry point.
//!
//! ELF64 although the code is 32-bit: the loaders of rust-vmm and Cloud Hypervisor take nothing else, and the PVH
//! entry is 32-bit by definition.

const HEADER_SIZE: u64 = 64;
const PROGRAM_HEADER_SIZE: u64 = 56;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const READ_WRITE_EXECUTE: u32 = 7;
const READ: u32 = 4;
const ET_EXEC: u16 = 2;
const EM_X86_64: u16 = 62;
const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;
/// File offsets of loaded segments agree with their addresses modulo this.
const PAGE: u64 = 0x1000;

/// Bytes to be loaded at a physical address.
pub(crate) struct Segment<'a> {
    pub address: u32,
    pub bytes: &'a [u8],
}

/// The executable: ELF header, program headers, the note, then the segments, each at its page in the file.
pub(crate) fn pack(entry: u32, segments: &[Segment]) -> Vec<u8> {
    let note = entry_note(entry);
    let header_count = segments.len() as u64 + 1;
    let note_offset = HEADER_SIZE + header_count * PROGRAM_HEADER_SIZE;
    let mut next = (note_offset + note.len() as u64).next_multiple_of(PAGE);

    let mut file = file_header(entry, header_count);
    let mut body = Vec::new();
    for segment in segments {
        let offset = next + u64::from(segment.address) % PAGE;
        file.extend(program_header(
            PT_LOAD,
            READ_WRITE_EXECUTE,
            offset,
            segment.address,
            segment.bytes.len() as u64,
            PAGE,
        ));
        body.push((offset, segment.bytes));
        next = (offset + segment.bytes.len() as u64).next_multiple_of(PAGE);
    }
    file.extend(program_header(
        PT_NOTE,
        READ,
        note_offset,
        0,
        note.len() as u64,
        4,
    ));
    file.extend(note);
    for (offset, bytes) in body {
        file.resize(usize::try_from(offset).expect("an image is small"), 0);
        file.extend(bytes);
    }
    file
}

fn file_header(entry: u32, program_headers: u64) -> Vec<u8> {
    let mut header = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0];
    header.resize(16, 0);
    header.extend(ET_EXEC.to_le_bytes());
    header.extend(EM_X86_64.to_le_bytes());
    header.extend(1u32.to_le_bytes());
    header.extend(u64::from(entry).to_le_bytes());
    header.extend(HEADER_SIZE.to_le_bytes());
    header.extend(0u64.to_le_bytes()); // no section headers
    header.extend(0u32.to_le_bytes());
    header.extend((HEADER_SIZE as u16).to_le_bytes());
    header.extend((PROGRAM_HEADER_SIZE as u16).to_le_bytes());
    header.extend((program_headers as u16).to_le_bytes());
    header.extend([0; 6]);
    debug_assert_eq!(header.len() as u64, HEADER_SIZE);
    header
}

fn program_header(
    kind: u32,
    flags: u32,
    offset: u64,
    address: u32,
    size: u64,
    align: u64,
) -> Vec<u8> {
    let mut header = Vec::new();
    header.extend(kind.to_le_bytes());
    header.extend(flags.to_le_bytes());
    header.extend(offset.to_le_bytes());
    header.extend(u64::from(address).to_le_bytes());
    header.extend(u64::from(address).to_le_bytes());
    header.extend(size.to_le_bytes());
    header.extend(size.to_le_bytes());
    header.extend(align.to_le_bytes());
    header
}

/// The entry as 64 bits: QEMU reads as many in an ELF64, rust-vmm the lower half.
fn entry_note(entry: u32) -> Vec<u8> {
    let mut note = Vec::new();
    note.extend(4u32.to_le_bytes());
    note.extend(8u32.to_le_bytes());
    note.extend(XEN_ELFNOTE_PHYS32_ENTRY.to_le_bytes());
    note.extend(b"Xen\0");
    note.extend(u64::from(entry).to_le_bytes());
    note
}
