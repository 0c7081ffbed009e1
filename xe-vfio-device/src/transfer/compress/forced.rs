// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Compression that was asked for, link or no link. Content that does not shrink is left alone, and tried again now and then.

use crate::stream::{Codec, Tried};

/// So many frames in vain, and only one of [`PROBE`] is tried.
const PATIENCE: u32 = 8;
const PROBE: u32 = 8;

pub(super) struct Forced {
    codec: Codec,
    /// Frames in a row that did not shrink, those not tried included.
    vain: u32,
}

impl Forced {
    pub(super) fn new(codec: Codec) -> Self {
        Self { codec, vain: 0 }
    }

    /// How the next frame is to be made.
    pub(super) fn next(&mut self) -> Option<Codec> {
        let tries = self.vain < PATIENCE || self.vain.is_multiple_of(PROBE);
        if !tries {
            self.vain = self.vain.wrapping_add(1).max(PATIENCE);
        }
        tries.then_some(self.codec)
    }

    pub(super) fn tried(&mut self, tried: &Tried) {
        match tried {
            Tried { after: Some(_), .. } => self.vain = 0,
            // Nothing to try it with.
            Tried { before: 0, .. } => {}
            Tried { .. } => self.vain = self.vain.wrapping_add(1).max(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_that_does_not_shrink_is_tried_less_and_shrinks_again_at_once() {
        let mut forced = Forced::new(Codec::Zstd);
        let vain = Tried {
            before: 1 << 20,
            after: None,
        };
        let tries = (0..808).filter(|_| {
            let tried = forced.next().is_some();
            if tried {
                forced.tried(&vain);
            }
            tried
        });
        assert_eq!(tries.count(), 8 + 100);
        while forced.next().is_none() {}
        forced.tried(&Tried {
            before: 1 << 20,
            after: Some(1 << 19),
        });
        assert!((0..8).all(|_| forced.next().is_some()));
    }
}
