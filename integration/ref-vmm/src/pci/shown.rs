// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A BAR in the guest's sight: its direct pieces as memory slots, its trapped pieces on the MMIO bus.
//!
//! [`ShownBar`] remembers for each piece what it has claimed, and gives back that and nothing else: where a guest has put
//! a BAR over something that was there before, that something stays.

use std::sync::Arc;

use vm_device::DeviceMmio;

use super::mapping::MappedPiece;
use crate::accel::{self, Accelerator, Slot, SlotId};
use crate::bus::{self, Bus};

/// A piece that the guest does not see where it should.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No memory slot for a direct piece.
    #[error("BAR{index} could not be mapped for the guest at {gpa:#x}")]
    Map {
        /// Of the BAR.
        index: u8,
        /// Guest physical address of the piece.
        gpa: u64,
        /// Why.
        #[source]
        source: accel::Error,
    },
    /// The place of a trapped piece is taken.
    #[error("BAR{index} could not be trapped at {gpa:#x}")]
    Trap {
        /// Of the BAR.
        index: u8,
        /// Guest physical address of the piece.
        gpa: u64,
        /// Why.
        #[source]
        source: bus::Error,
    },
}

/// Who answers for a trapped piece, by the piece's offset in its BAR.
pub type Trap<'a> = &'a dyn Fn(u64) -> Arc<dyn DeviceMmio + Send + Sync>;

enum Claim {
    Slot(SlotId),
    Mmio(u64),
}

/// A BAR with its pieces; at first the guest does not see it.
pub struct ShownBar {
    index: u8,
    pieces: Vec<(MappedPiece, Option<Claim>)>,
    shown_at: Option<u64>,
}

impl ShownBar {
    /// A BAR made of these pieces.
    #[must_use]
    pub fn new(index: u8, pieces: Vec<MappedPiece>) -> Self {
        Self {
            index,
            pieces: pieces.into_iter().map(|piece| (piece, None)).collect(),
            shown_at: None,
        }
    }

    /// Index of its register.
    #[must_use]
    pub fn index(&self) -> u8 {
        self.index
    }

    /// Shows it at an address, or nowhere. Nothing happens when it is there already.
    ///
    /// # Errors
    /// The first [`Error`]; the other pieces are shown all the same.
    pub fn move_to(
        &mut self,
        wanted: Option<u64>,
        accelerator: &dyn Accelerator,
        bus: &Bus,
        trap: Trap<'_>,
    ) -> Result<(), Error> {
        if self.shown_at == wanted {
            return Ok(());
        }
        self.hide(accelerator, bus);
        match wanted {
            Some(address) => self.show(address, accelerator, bus, trap),
            None => Ok(()),
        }
    }

    fn show(
        &mut self,
        address: u64,
        accelerator: &dyn Accelerator,
        bus: &Bus,
        trap: Trap<'_>,
    ) -> Result<(), Error> {
        self.shown_at = Some(address);
        let index = self.index;
        let mut result = Ok(());
        for (MappedPiece { piece, mapping }, claim) in &mut self.pieces {
            let gpa = address + piece.offset;
            let claimed = match mapping {
                Some(mapping) => {
                    let slot = Slot {
                        gpa,
                        size: piece.size,
                        host: mapping.host(),
                    };
                    accelerator
                        .map(slot, false)
                        .map(Claim::Slot)
                        .map_err(|source| Error::Map { index, gpa, source })
                }
                None => bus
                    .claim_mmio(gpa, piece.size, trap(piece.offset))
                    .map(|()| Claim::Mmio(gpa))
                    .map_err(|source| Error::Trap { index, gpa, source }),
            };
            match claimed {
                Ok(claimed) => *claim = Some(claimed),
                Err(error) => result = result.and(Err(error)),
            }
        }
        result
    }

    /// Takes it out of the guest's sight. Memory whose slot does not go stays mapped in this process, since the guest can
    /// still reach it.
    pub fn hide(&mut self, accelerator: &dyn Accelerator, bus: &Bus) {
        self.shown_at = None;
        for (MappedPiece { mapping, .. }, claim) in &mut self.pieces {
            match claim.take() {
                Some(Claim::Slot(slot)) => {
                    if let Err(error) = accelerator.unmap(slot) {
                        tracing::error!(bar = self.index, %error, "a BAR stays mapped for the guest");
                        if let Some(mapping) = mapping {
                            mapping.keep();
                        }
                    }
                }
                Some(Claim::Mmio(base)) => bus.release_mmio(base),
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use vm_device::bus::{MmioAddress, MmioAddressOffset};

    use super::*;
    use crate::accel::soft::Soft;
    use crate::pci::bar::Piece;

    struct Answers(u8);

    impl DeviceMmio for Answers {
        fn mmio_read(&self, _: MmioAddress, _: MmioAddressOffset, data: &mut [u8]) {
            data.fill(self.0);
        }

        fn mmio_write(&self, _: MmioAddress, _: MmioAddressOffset, _: &[u8]) {}
    }

    const AT: u64 = 0xc000_0000;

    fn trapped_bar() -> ShownBar {
        let piece = |offset| MappedPiece {
            piece: Piece {
                offset,
                size: 0x1000,
                direct: false,
            },
            mapping: None,
        };
        ShownBar::new(0, vec![piece(0), piece(0x1000)])
    }

    fn seen(bus: &Bus, address: u64) -> u8 {
        let mut data = [0];
        bus.read_mmio(address, &mut data);
        data[0]
    }

    #[test]
    fn a_piece_whose_place_is_taken_is_an_error_and_leaves_the_owner_where_it_is() {
        let bus = Arc::new(Bus::default());
        let accelerator = Soft::new(bus.clone()).unwrap();
        bus.claim_mmio(AT, 0x1000, Arc::new(Answers(7))).unwrap();
        let mut bar = trapped_bar();
        let trap: Trap<'_> = &|_| Arc::new(Answers(1));
        let error = bar.move_to(Some(AT), &accelerator, &bus, trap).unwrap_err();
        assert!(error.to_string().contains("0xc0000000"), "{error}");
        assert_eq!((seen(&bus, AT), seen(&bus, AT + 0x1000)), (7, 1));
        bar.hide(&accelerator, &bus);
        assert_eq!((seen(&bus, AT), seen(&bus, AT + 0x1000)), (7, 0xff));
    }

    #[test]
    fn a_bar_that_moves_is_seen_at_its_new_place_only() {
        let bus = Arc::new(Bus::default());
        let accelerator = Soft::new(bus.clone()).unwrap();
        let mut bar = trapped_bar();
        let trap: Trap<'_> = &|offset| Arc::new(Answers(if offset == 0 { 1 } else { 2 }));
        for address in [AT, AT + 0x1000, AT + 0x1000] {
            bar.move_to(Some(address), &accelerator, &bus, trap)
                .unwrap();
        }
        let bytes = [0, 0x1000, 0x2000].map(|offset| seen(&bus, AT + offset));
        assert_eq!(bytes, [0xff, 1, 2]);
        bar.move_to(None, &accelerator, &bus, trap).unwrap();
        assert_eq!(seen(&bus, AT + 0x1000), 0xff);
    }
}
