// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which attempt at a migration a stream belongs to.

use std::fmt;
use std::io;
use std::str::FromStr;

use thiserror::Error;

/// A number that a destination chooses for each attempt and tells the source on the main connection. A stream that bears
/// another one is left over from an earlier attempt, or comes from somebody else, and is refused. In a file it is the
/// number of the snapshot that the file is part of.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct AttemptId(pub u128);

impl AttemptId {
    /// No attempt: what a stream in a file bears when it is part of no snapshot.
    pub const NONE: Self = Self(0);

    /// A new attempt's id, from the kernel's random numbers.
    ///
    /// # Errors
    /// When the kernel gives none.
    pub fn random() -> io::Result<Self> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)?;
        // Zero means no attempt.
        Ok(Self(u128::from_le_bytes(bytes).max(1)))
    }
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no attempt's id.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is no id of an attempt: it has 32 hexadecimal digits")]
pub struct AttemptIdError(String);

impl FromStr for AttemptId {
    type Err = AttemptIdError;

    fn from_str(text: &str) -> Result<Self, AttemptIdError> {
        let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let value = digits
            .then(|| u128::from_str_radix(text, 16).ok())
            .flatten();
        value
            .map(Self)
            .ok_or_else(|| AttemptIdError(text.chars().take(64).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_goes_through_text() {
        let id = AttemptId::random().unwrap();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_ne!(id, AttemptId::NONE);
        assert!("12".parse::<AttemptId>().is_err());
        assert!(
            "+0000000000000000000000000000001"
                .parse::<AttemptId>()
                .is_err()
        );
    }
}
