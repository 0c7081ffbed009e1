// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Features of a stream that its reader has to know, as bits of the preamble.

/// Bits that a writer sets; a reader refuses those that it does not know.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flags(u16);

impl Flags {
    /// A stream of frames of state.
    pub const NONE: Self = Self(0);
    /// The state does not travel: the data fd comes instead, beside a frame that announces it.
    pub const HAND_OVER: Self = Self(1);
    /// The frames come over several connections.
    pub const SPLIT: Self = Self(1 << 1);
    /// An index of the frames stands before the end record.
    pub const INDEXED: Self = Self(1 << 2);
    /// Frames may be compressed.
    pub const COMPRESSED: Self = Self(1 << 3);
    /// Those that this build knows.
    const KNOWN: u16 = Self::HAND_OVER.0 | Self::SPLIT.0 | Self::INDEXED.0 | Self::COMPRESSED.0;

    /// The flags of a preamble.
    ///
    /// # Errors
    /// The bits that this build does not know.
    pub fn from_bits(bits: u16) -> Result<Self, u16> {
        match bits & !Self::KNOWN {
            0 => Ok(Self(bits)),
            unknown => Err(unknown),
        }
    }

    /// The bits.
    pub fn bits(self) -> u16 {
        self.0
    }

    /// These and those.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` are set.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_bits_are_refused_and_named() {
        assert_eq!(Flags::from_bits(0), Ok(Flags::NONE));
        assert_eq!(Flags::from_bits(1), Ok(Flags::HAND_OVER));
        assert_eq!(Flags::from_bits(4), Ok(Flags::INDEXED));
        assert_eq!(
            Flags::from_bits(10),
            Ok(Flags::SPLIT.with(Flags::COMPRESSED))
        );
        assert_eq!(Flags::from_bits(0x8003), Err(0x8000));
        assert_eq!(Flags::from_bits(16), Err(16));
    }
}
