// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! An fd number held free for the migration data fd.
//!
//! Where a process has no fd left, the Xe driver enters STOP_COPY all the same, answers EMFILE and offers no other way to the
//! data, so the number is taken while the guest still runs and an EMFILE costs nothing.

use std::fs::File;

use super::{Errno, UapiError};

/// An fd number that nobody else can take until this is dropped.
#[derive(Debug)]
pub struct ReservedFd {
    _file: File,
}

impl ReservedFd {
    /// Takes a number.
    ///
    /// # Errors
    /// EMFILE or ENFILE when there is none left.
    pub fn take() -> Result<Self, UapiError> {
        File::open("/dev/null")
            .map(|file| Self { _file: file })
            .map_err(|error| UapiError::new("open(/dev/null) to reserve an fd", Errno::of(&error)))
    }
}
