// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `host-sim up`: every setting of a host as an option.

// Asking for the file system of a path has no safe wrapper here.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use host_sim::host::{DmaLogConfig, Host, HostConfig, VfSet};

use super::{Error, report, size};

/// Arguments of `host-sim up`; what is left out is as [`HostConfig::default`] has it.
#[derive(Debug, clap::Args)]
pub struct Up {
    /// Directory for the host, new or empty; best on tmpfs, such as /dev/shm/host
    dir: PathBuf,
    /// Number of VFs
    #[arg(long)]
    vfs: Option<u16>,
    /// VRAM quota of each VF, such as 1G
    #[arg(long, value_parser = size::parse)]
    vram: Option<u64>,
    /// GTs: 1, or 2 with a media GT
    #[arg(long)]
    gts: Option<u8>,
    /// GGTT quota of each VF in bytes of GGTT space, such as 512M
    #[arg(long, value_parser = size::parse)]
    ggtt: Option<u64>,
    /// GuC state per GT, such as 64K
    #[arg(long, value_parser = size::parse)]
    guc: Option<u64>,
    /// PCI device id, hexadecimal
    #[arg(long, value_parser = size::parse_hex)]
    device_id: Option<u16>,
    /// PCI revision
    #[arg(long)]
    revision: Option<u8>,
    /// PCI domain
    #[arg(long)]
    domain: Option<u16>,
    /// PCI bus of the PF
    #[arg(long)]
    bus: Option<u8>,
    /// IOMMU group of the first VF
    #[arg(long)]
    group_base: Option<u32>,
    /// Number of the first VF's /dev/vfio/devices/vfio<n>
    #[arg(long)]
    cdev_base: Option<u32>,
    /// Duration of a function level reset
    #[arg(long)]
    flr_ms: Option<u32>,
    /// Duration of RUNNING -> RUNNING_P2P
    #[arg(long)]
    suspend_ms: Option<u32>,
    /// Duration of RUNNING_P2P -> RUNNING
    #[arg(long)]
    resume_ms: Option<u32>,
    /// How long RESUMING -> STOP waits for a missing trailer
    #[arg(long)]
    restore_timeout_ms: Option<u32>,
    /// Cost of pinning guest memory for DMA
    #[arg(long)]
    pin_us_per_gib: Option<u32>,
    /// Largest VRAM packet, such as 512M
    #[arg(long, value_parser = size::parse)]
    vram_chunk: Option<u64>,
    /// Most bytes per second through a data fd, such as 2G
    #[arg(long, value_parser = size::parse)]
    device_rate: Option<u64>,
    /// Give VRAM its memory now and keep it, so that a load does not pay for pages
    #[arg(long)]
    populate: bool,
    /// The platform does not support migration: FEATURE_MIGRATION answers ENOTTY
    #[arg(long)]
    no_migration: bool,
    /// Offer DMA_LOGGING_*: on all VFs, or on those of --dma-logging=1,3
    #[arg(long, require_equals = true, num_args = 0..=1, default_missing_value = "all", value_name = "VFS")]
    dma_logging: Option<VfSet>,
    /// Finest granularity of the DMA log, such as 4K
    #[arg(long, value_parser = size::parse)]
    dma_log_min_page: Option<u64>,
    /// Coarsest granularity of the DMA log, such as 2M
    #[arg(long, value_parser = size::parse)]
    dma_log_max_page: Option<u64>,
    /// Ranges that the DMA log watches; more are joined
    #[arg(long)]
    dma_log_ranges: Option<u32>,
    /// Refuse more ranges than --dma-log-ranges with E2BIG
    #[arg(long)]
    dma_log_refuse_ranges: bool,
    /// Bytes that the DMA log watches; more are refused with EOPNOTSUPP
    #[arg(long, value_parser = size::parse)]
    dma_log_bytes: Option<u64>,
    /// Dirty tracking by the IOMMU: for all VFs, or for those of --iommu-dirty-tracking=1,3
    #[arg(long, require_equals = true, num_args = 0..=1, default_missing_value = "all", value_name = "VFS")]
    iommu_dirty_tracking: Option<VfSet>,
    /// Bytes that the IOMMU finds dirty at once where a mapping is large enough, such as 2M
    #[arg(long, value_parser = size::parse)]
    iommu_leaf: Option<u64>,
    /// Begin every restore at a packet, whatever was written before; the Xe PF goes on with a half-written one
    #[arg(long)]
    forget_half_packets: bool,
    /// Print the host as JSON
    #[arg(long)]
    json: bool,
}

impl Up {
    fn config(&self) -> HostConfig {
        let base = HostConfig::default();
        HostConfig {
            vfs: self.vfs.unwrap_or(base.vfs),
            vram: self.vram.unwrap_or(base.vram),
            gts: self.gts.unwrap_or(base.gts),
            ggtt: self.ggtt.unwrap_or(base.ggtt),
            guc: self.guc.unwrap_or(base.guc),
            device_id: self.device_id.unwrap_or(base.device_id),
            revision: self.revision.unwrap_or(base.revision),
            domain: self.domain.unwrap_or(base.domain),
            bus: self.bus.unwrap_or(base.bus),
            group_base: self.group_base.unwrap_or(base.group_base),
            cdev_base: self.cdev_base.unwrap_or(base.cdev_base),
            flr_ms: self.flr_ms.unwrap_or(base.flr_ms),
            suspend_ms: self.suspend_ms.unwrap_or(base.suspend_ms),
            resume_ms: self.resume_ms.unwrap_or(base.resume_ms),
            restore_timeout_ms: self.restore_timeout_ms.unwrap_or(base.restore_timeout_ms),
            pin_us_per_gib: self.pin_us_per_gib.unwrap_or(base.pin_us_per_gib),
            vram_chunk: self.vram_chunk.unwrap_or(base.vram_chunk),
            device_rate: self.device_rate.or(base.device_rate),
            populate: self.populate,
            migration: !self.no_migration,
            dma_logging: self.dma_logging.clone().unwrap_or_default(),
            dma_log: DmaLogConfig {
                min_page: self.dma_log_min_page.unwrap_or(base.dma_log.min_page),
                max_page: self.dma_log_max_page.unwrap_or(base.dma_log.max_page),
                ranges: self.dma_log_ranges.unwrap_or(base.dma_log.ranges),
                refuse_ranges: self.dma_log_refuse_ranges,
                bytes: self.dma_log_bytes.unwrap_or(base.dma_log.bytes),
            },
            iommu_dirty_tracking: self.iommu_dirty_tracking.clone().unwrap_or_default(),
            iommu_leaf: self.iommu_leaf.unwrap_or(base.iommu_leaf),
            keep_half_packets: !self.forget_half_packets,
        }
    }

    /// Makes the host and prints it.
    pub fn run(&self) -> Result<(), Error> {
        let host = Host::create(&self.dir, &self.config())?;
        if !is_tmpfs(host.dir()) {
            eprintln!(
                "note: {} is not on tmpfs: VRAM will be written to a disk; /dev/shm is a better place",
                host.dir().display()
            );
        }
        report::status(&host, self.json)
    }
}

/// Whether `path` is in memory; an answer that cannot be had is taken for yes, since only a note hangs on it.
fn is_tmpfs(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else {
        return true;
    };
    let mut stats = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: `path` ends with a NUL, `stats` has room for the answer.
    if unsafe { libc::statfs(path.as_ptr(), stats.as_mut_ptr()) } != 0 {
        return true;
    }
    // SAFETY: the call succeeded and has filled it.
    let stats = unsafe { stats.assume_init() };
    stats.f_type == libc::TMPFS_MAGIC
}
