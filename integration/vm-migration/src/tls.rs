// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Placeholder for the original's TLS module: an error that names no cause and cannot be made here.

use thiserror::Error;

/// A connection could not be encrypted.
#[derive(Debug, Error)]
#[error("TLS is not part of this build")]
#[non_exhaustive]
pub struct TlsError {}
