// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the DMA log of a VF can do, as the capabilities of a device that has one (mlx5's `pg_track_*`).

use serde::{Deserialize, Serialize};

/// Most ranges that the kernel takes in one start: what fits into a page.
pub const MOST_RANGES: u32 = 256;
/// Most bytes that a simulated log covers.
pub const MOST_BYTES: u64 = 1 << 40;

/// Limits of a DMA log. `Default` is a log that takes whatever the kernel lets pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DmaLogConfig {
    /// Finest granularity in bytes, a power of two, at least 4 KiB.
    pub min_page: u64,
    /// Coarsest granularity in bytes, a power of two, at most 1 GiB.
    pub max_page: u64,
    /// Ranges that the device can watch, 1 to 256.
    pub ranges: u32,
    /// More ranges than that are refused with `E2BIG`. Else the nearest neighbours are joined, holes and all, as mlx5 does.
    pub refuse_ranges: bool,
    /// Bytes that the device can watch, at most 1 TiB; more are refused with `EOPNOTSUPP`, as mlx5 does.
    pub bytes: u64,
}

impl Default for DmaLogConfig {
    fn default() -> Self {
        Self {
            min_page: 4096,
            max_page: 2 << 20,
            ranges: MOST_RANGES,
            refuse_ranges: false,
            bytes: MOST_BYTES,
        }
    }
}
