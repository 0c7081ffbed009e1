// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a simulated host is made of: its VFs, their sizes and their times.

use guest::abi;
use serde::{Deserialize, Serialize};

use super::{DmaLogConfig, VfSet, log};

const MIB: u64 = 1 << 20;
/// Bytes of GGTT space behind one PTE.
pub const GGTT_PAGE: u64 = 4096;
/// Most VFs that an Intel GPU of this family offers.
pub const MAX_VFS: u16 = 63;

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("Cannot make a host with {field} = {value}: {why}")]
pub struct ConfigError {
    /// Name of the offending field.
    pub field: &'static str,
    /// Its value.
    pub value: u64,
    /// What would be accepted.
    pub why: &'static str,
}

/// The configuration of a host; every VF of it is alike. `Default` is a small Battlemage with two VFs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HostConfig {
    /// Number of VFs, 1 to 63.
    pub vfs: u16,
    /// VRAM quota of a VF in bytes, a multiple of 1 MiB, at least 4 MiB.
    pub vram: u64,
    /// GTs: 1, or 2 with a media GT.
    pub gts: u8,
    /// GGTT quota of a VF in bytes of GGTT space, a multiple of 4 KiB, at most 1.5 GiB.
    pub ggtt: u64,
    /// Bytes of GuC state per GT, a multiple of 4, at least 64.
    pub guc: u64,
    /// PCI device id of PF and VFs.
    pub device_id: u16,
    /// PCI revision.
    pub revision: u8,
    /// PCI domain.
    pub domain: u16,
    /// PCI bus of the PF; it is device 0, function 0 there.
    pub bus: u8,
    /// IOMMU group of the first VF.
    pub group_base: u32,
    /// Number n of `/dev/vfio/devices/vfio<n>` of the first VF.
    pub cdev_base: u32,
    /// Duration of a function level reset in milliseconds.
    pub flr_ms: u32,
    /// Duration of RUNNING -> RUNNING_P2P in milliseconds.
    pub suspend_ms: u32,
    /// Duration of RUNNING_P2P -> RUNNING in milliseconds.
    pub resume_ms: u32,
    /// How long RESUMING -> STOP waits for a trailer before ETIMEDOUT, in milliseconds (20 s per GT in the driver).
    pub restore_timeout_ms: u32,
    /// Cost of pinning guest memory for DMA, in microseconds per GiB.
    pub pin_us_per_gib: u32,
    /// Largest VRAM packet in bytes (512 MiB in the driver).
    pub vram_chunk: u64,
    /// Bytes per second that a VF's data fd moves; `None` for as fast as memory.
    pub device_rate: Option<u64>,
    /// Whether VRAM has memory from the start and keeps it over resets, as real VRAM does: a save and a load then pay for no pages and go at
    /// the speed of a memcpy.
    pub populate: bool,
    /// Whether FEATURE_MIGRATION is offered.
    pub migration: bool,
    /// VFs that offer DMA_LOGGING_*; no Xe VF does.
    pub dma_logging: VfSet,
    /// What their log can do.
    pub dma_log: DmaLogConfig,
    /// VFs whose IOMMU has dirty bits (IOMMU_HW_CAP_DIRTY_TRACKING).
    pub iommu_dirty_tracking: VfSet,
    /// Bytes behind a leaf of the IOMMU's page tables where a mapping is large enough: a write makes all of it dirty. A power of two from
    /// 4 KiB to 1 GiB.
    pub iommu_leaf: u64,
    /// Whether a half-written or half-read packet stays with the VF over reset and close and is gone on with by the next
    /// restore, as in the Xe PF, where only entering STOP_COPY forgets it.
    pub keep_half_packets: bool,
}

impl Default for HostConfig {
    fn default() -> Self {
        Self {
            vfs: 2,
            vram: 1024 * MIB,
            gts: 2,
            ggtt: 512 * MIB,
            guc: 64 << 10,
            device_id: 0xe211,
            revision: 0,
            domain: 0,
            bus: 3,
            group_base: 20,
            cdev_base: 0,
            flr_ms: 100,
            suspend_ms: 2,
            resume_ms: 1,
            restore_timeout_ms: 200,
            pin_us_per_gib: 60_000,
            vram_chunk: 512 * MIB,
            device_rate: None,
            populate: false,
            migration: true,
            dma_logging: VfSet::None,
            dma_log: DmaLogConfig::default(),
            iommu_dirty_tracking: VfSet::None,
            iommu_leaf: GGTT_PAGE,
            keep_half_packets: true,
        }
    }
}

impl HostConfig {
    /// Whether a host can be made of this.
    ///
    /// # Errors
    /// The first field that is out of its range.
    pub fn check(&self) -> Result<(), ConfigError> {
        let most_ggtt = u64::from(abi::GGTT_MAX_ENTRIES) * GGTT_PAGE;
        let rules = [
            (
                "vfs",
                u64::from(self.vfs),
                (1..=MAX_VFS).contains(&self.vfs),
                "1 to 63 VFs",
            ),
            (
                "vram",
                self.vram,
                self.vram.is_multiple_of(MIB) && (4 * MIB..=1 << 40).contains(&self.vram),
                "a multiple of 1 MiB from 4 MiB to 1 TiB",
            ),
            (
                "gts",
                u64::from(self.gts),
                matches!(self.gts, 1 | 2),
                "1 or 2 GTs",
            ),
            (
                "ggtt",
                self.ggtt,
                self.ggtt.is_multiple_of(GGTT_PAGE) && (GGTT_PAGE..=most_ggtt).contains(&self.ggtt),
                "a multiple of 4 KiB, at most 1.5 GiB",
            ),
            (
                "guc",
                self.guc,
                self.guc.is_multiple_of(4) && (64..=64 * MIB).contains(&self.guc),
                "a multiple of 4 bytes from 64 bytes to 64 MiB",
            ),
            (
                "vram_chunk",
                self.vram_chunk,
                self.vram_chunk.is_multiple_of(4096)
                    && (4096..=512 * MIB).contains(&self.vram_chunk),
                "a multiple of 4 KiB, at most 512 MiB",
            ),
            (
                "device_rate",
                self.device_rate.unwrap_or(1),
                self.device_rate != Some(0),
                "at least 1 byte per second, or none for no limit",
            ),
            (
                "iommu_leaf",
                self.iommu_leaf,
                is_page(self.iommu_leaf),
                "a power of two from 4 KiB to 1 GiB",
            ),
            (
                "dma_log.min_page",
                self.dma_log.min_page,
                is_page(self.dma_log.min_page),
                "a power of two from 4 KiB to 1 GiB",
            ),
            (
                "dma_log.max_page",
                self.dma_log.max_page,
                is_page(self.dma_log.max_page) && self.dma_log.max_page >= self.dma_log.min_page,
                "a power of two from min_page to 1 GiB",
            ),
            (
                "dma_log.ranges",
                self.dma_log.ranges.into(),
                (1..=log::MOST_RANGES).contains(&self.dma_log.ranges),
                "1 to 256 ranges",
            ),
            (
                "dma_log.bytes",
                self.dma_log.bytes,
                (GGTT_PAGE..=log::MOST_BYTES).contains(&self.dma_log.bytes),
                "at least 4 KiB, at most 1 TiB",
            ),
        ];
        match rules.into_iter().find(|(_, _, holds, _)| !holds) {
            Some((field, value, _, why)) => Err(ConfigError { field, value, why }),
            None => Ok(()),
        }
    }

    /// PTEs in a VF's GGTT quota.
    #[must_use]
    pub fn ggtt_entries(&self) -> u32 {
        u32::try_from(self.ggtt / GGTT_PAGE).unwrap_or(abi::GGTT_MAX_ENTRIES)
    }

    /// Size of BAR2 in bytes: the VRAM quota rounded up to a power of two.
    #[must_use]
    pub fn bar2_size(&self) -> u64 {
        self.vram.next_power_of_two()
    }

    /// Address of function `n` of the GPU, 0 being the PF: `0000:03:00.1`.
    #[must_use]
    pub fn bdf(&self, n: u16) -> String {
        format!(
            "{:04x}:{:02x}:{:02x}.{}",
            self.domain,
            self.bus,
            (n / 8) & 0x1f,
            n % 8
        )
    }
}

/// Whether a device can track pages of this size.
fn is_page(bytes: u64) -> bool {
    bytes.is_power_of_two() && (4096..=1 << 30).contains(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_a_host_that_can_be_made() {
        assert_eq!(HostConfig::default().check(), Ok(()));
    }

    #[test]
    fn a_field_out_of_range_is_named() {
        let bad = |change: fn(&mut HostConfig)| {
            let mut config = HostConfig::default();
            change(&mut config);
            config.check().expect_err("refused").field
        };
        assert_eq!(bad(|c| c.vfs = 0), "vfs");
        assert_eq!(bad(|c| c.vfs = 64), "vfs");
        assert_eq!(bad(|c| c.vram = 3 * MIB), "vram");
        assert_eq!(bad(|c| c.vram = 5 * MIB + 4096), "vram");
        assert_eq!(bad(|c| c.gts = 3), "gts");
        assert_eq!(bad(|c| c.ggtt = 0x6_0001 * GGTT_PAGE), "ggtt");
        assert_eq!(bad(|c| c.guc = 63), "guc");
        assert_eq!(bad(|c| c.vram_chunk = 0), "vram_chunk");
        assert_eq!(bad(|c| c.device_rate = Some(0)), "device_rate");
        assert_eq!(bad(|c| c.dma_log.min_page = 2048), "dma_log.min_page");
        assert_eq!(bad(|c| c.dma_log.max_page = 4097), "dma_log.max_page");
        assert_eq!(bad(|c| c.iommu_leaf = 6 << 10), "iommu_leaf");
        assert_eq!(bad(|c| c.dma_log.ranges = 257), "dma_log.ranges");
        assert_eq!(bad(|c| c.dma_log.bytes = 0), "dma_log.bytes");
    }

    #[test]
    fn virtual_functions_follow_the_physical_one_and_go_on_in_the_next_device() {
        let config = HostConfig {
            domain: 0,
            bus: 3,
            ..HostConfig::default()
        };
        assert_eq!(config.bdf(0), "0000:03:00.0");
        assert_eq!(config.bdf(7), "0000:03:00.7");
        assert_eq!(config.bdf(8), "0000:03:01.0");
        assert_eq!(config.bdf(63), "0000:03:07.7");
    }
}
