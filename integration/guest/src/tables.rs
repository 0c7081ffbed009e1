// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The descriptor tables and strings of the image, at fixed places in one page.
//!
//! A flat GDT (code 0x08, data 0x10), an IDT of interrupt gates, the two pointers that `lgdt` and `lidt` take, and
//! the zero-terminated strings that the program prints.

use crate::layout::TABLES;
use crate::program::Assembled;

/// Selector of the flat code segment.
pub(crate) const CODE_SELECTOR: u16 = 0x08;
/// Selector of the flat data segment.
pub(crate) const DATA_SELECTOR: u16 = 0x10;
/// Operand of `lgdt`.
pub(crate) const GDT_POINTER: u32 = TABLES + 0x20;
/// Operand of `lidt`.
pub(crate) const IDT_POINTER: u32 = TABLES + 0x28;
const STRINGS: u32 = TABLES + 0x40;
const IDT: u32 = TABLES + 0x800;
const TABLES_SIZE: usize = 0x1000;
const GATES: u32 = 256;

/// Accessed, so that the processor need not write it.
const FLAT_CODE: u64 = 0x00cf_9b00_0000_ffff;
const FLAT_DATA: u64 = 0x00cf_9300_0000_ffff;
const GDT: [u64; 3] = [0, FLAT_CODE, FLAT_DATA];
/// Present, 32-bit, clears IF.
const INTERRUPT_GATE: u64 = 0x8e00;

/// Strings and the addresses they will have; equal strings are kept once.
#[derive(Default)]
pub(crate) struct Strings(Vec<u8>);

impl Strings {
    /// Address of `text`, which the image ends with a zero byte.
    pub fn address(&mut self, text: &str) -> u32 {
        let bytes: Vec<u8> = text.bytes().chain([0]).collect();
        let position = self.0.windows(bytes.len()).position(|known| known == bytes);
        let offset = position.unwrap_or_else(|| {
            self.0.extend(&bytes);
            self.0.len() - bytes.len()
        });
        STRINGS + offset as u32
    }
}

/// The page, for a program whose addresses are known.
pub(crate) fn build(program: &Assembled) -> Vec<u8> {
    let mut page = vec![0; TABLES_SIZE];
    let mut put = |address: u32, bytes: &[u8]| {
        let at = (address - TABLES) as usize;
        page[at..at + bytes.len()].copy_from_slice(bytes);
    };
    put(TABLES, &GDT.map(u64::to_le_bytes).concat());
    put(GDT_POINTER, &table_pointer(TABLES, 8 * GDT.len() as u32));
    put(IDT_POINTER, &table_pointer(IDT, 8 * GATES));
    assert!(
        STRINGS as usize + program.strings.0.len() <= IDT as usize,
        "strings reach into the IDT"
    );
    put(STRINGS, &program.strings.0);
    for &(vector, handler) in &program.handlers {
        put(IDT + 8 * u32::from(vector), &gate(handler).to_le_bytes());
    }
    page
}

fn table_pointer(base: u32, size: u32) -> [u8; 6] {
    let mut pointer = [0; 6];
    pointer[..2].copy_from_slice(&((size - 1) as u16).to_le_bytes());
    pointer[2..].copy_from_slice(&base.to_le_bytes());
    pointer
}

fn gate(handler: u32) -> u64 {
    let handler = u64::from(handler);
    (handler & 0xffff)
        | u64::from(CODE_SELECTOR) << 16
        | INTERRUPT_GATE << 32
        | (handler >> 16) << 48
}
