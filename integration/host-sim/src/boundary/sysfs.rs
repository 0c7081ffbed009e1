// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The part of `/sys` and `/dev` that tells of a host's devices: real files, directories and links below the host's directory.
//!
//! Links are relative and stay below `sys/`, so they lead to the same places under both names of the tree. The files in
//! `dev/` only stand for the device nodes; what is opened is made by the boundary.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::config_space::{self, bar0_address, bar2_address};
use crate::host::{Host, HostConfig};

/// Character device major of `/dev/vfio/devices/vfioN`.
pub const CDEV_MAJOR: u32 = 511;
/// Character device major of `/dev/vfio/<group>`.
pub const GROUP_MAJOR: u32 = 243;
/// Major of the misc devices `/dev/vfio/vfio` (minor 196) and `/dev/iommu` (minor 125).
pub const MISC_MAJOR: u32 = 10;
/// Minor of `/dev/vfio/vfio`.
pub const CONTAINER_MINOR: u32 = 196;
/// Minor of `/dev/iommu`.
pub const IOMMU_MINOR: u32 = 125;

/// Directory of function `n` of the GPU (0 is the PF) below `sys/`.
fn device_dir(config: &HostConfig, n: u16) -> String {
    let domain = config.domain;
    format!(
        "devices/pci{domain:04x}:00/{domain:04x}:00:01.0/{}",
        config.bdf(n)
    )
}

/// Makes a relative link at `root/at` to `root/to`.
fn link(root: &Path, at: &str, to: &str) -> io::Result<()> {
    let mut target = PathBuf::new();
    for _ in 1..at.split('/').count() {
        target.push("..");
    }
    target.push(to);
    let at = root.join(at);
    if let Some(parent) = at.parent() {
        fs::create_dir_all(parent)?;
    }
    symlink(target, at)
}

fn file(root: &Path, at: &str, content: impl AsRef<[u8]>) -> io::Result<()> {
    let at = root.join(at);
    if let Some(parent) = at.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(at, content)
}

fn resource(bars: &[(usize, u64, u64, u64)]) -> String {
    (0..17)
        .map(|i| {
            let (start, end, flags) = bars
                .iter()
                .find(|b| b.0 == i)
                .map_or((0, 0, 0), |&(_, start, size, flags)| {
                    (start, start + size - 1, flags)
                });
            format!("0x{start:016x} 0x{end:016x} 0x{flags:016x}\n")
        })
        .collect()
}

/// What PF and VFs have in common.
fn function(
    root: &Path,
    config: &HostConfig,
    n: u16,
    driver: &str,
    bars: &[(usize, u64, u64, u64)],
) -> io::Result<()> {
    let dir = device_dir(config, n);
    let bdf = config.bdf(n);
    let id = config.device_id;
    for (name, content) in [
        ("vendor", "0x8086\n".to_owned()),
        ("device", format!("0x{id:04x}\n")),
        ("class", "0x038000\n".to_owned()),
        ("revision", format!("0x{:02x}\n", config.revision)),
        ("subsystem_vendor", "0x8086\n".to_owned()),
        ("subsystem_device", "0x1100\n".to_owned()),
        ("resource", resource(bars)),
        ("irq", "0\n".to_owned()),
        ("numa_node", "-1\n".to_owned()),
        ("enable", "1\n".to_owned()),
        ("driver_override", "(null)\n".to_owned()),
        ("reset_method", "flr\n".to_owned()),
        (
            "modalias",
            format!("pci:v00008086d{id:08X}sv00008086sd00001100bc03sc80i00\n"),
        ),
        (
            "uevent",
            format!(
                "DRIVER={driver}\nPCI_CLASS=38000\nPCI_ID=8086:{id:04X}\nPCI_SUBSYS_ID=8086:1100\nPCI_SLOT_NAME={bdf}\n"
            ),
        ),
    ] {
        file(root, &format!("{dir}/{name}"), content)?;
    }
    file(
        root,
        &format!("{dir}/config"),
        config_space::initial(config, n),
    )?;
    file(root, &format!("bus/pci/drivers/{driver}/module"), "")?;
    link(
        root,
        &format!("{dir}/driver"),
        &format!("bus/pci/drivers/{driver}"),
    )?;
    link(root, &format!("{dir}/subsystem"), "bus/pci")?;
    link(root, &format!("bus/pci/devices/{bdf}"), &dir)?;
    link(root, &format!("bus/pci/drivers/{driver}/{bdf}"), &dir)
}

fn physical_function(root: &Path, config: &HostConfig) -> io::Result<()> {
    let dir = device_dir(config, 0);
    function(root, config, 0, "xe", &[])?;
    file(
        root,
        &format!("{dir}/sriov_totalvfs"),
        format!("{}\n", crate::host::MAX_VFS),
    )?;
    file(
        root,
        &format!("{dir}/sriov_numvfs"),
        format!("{}\n", config.vfs),
    )?;
    file(
        root,
        &format!("{dir}/sriov_vf_device"),
        format!("{:x}\n", config.device_id),
    )?;
    for n in 1..=config.vfs {
        link(
            root,
            &format!("{dir}/virtfn{}", n - 1),
            &device_dir(config, n),
        )?;
        let profile = format!("{dir}/sriov_admin/vf{n}/profile");
        file(root, &format!("{profile}/exec_quantum_ms"), "20\n")?;
        file(root, &format!("{profile}/preempt_timeout_us"), "1280000\n")?;
        file(
            root,
            &format!("{profile}/sched_priority"),
            "[low] normal high\n",
        )?;
        file(
            root,
            &format!("{profile}/vram_quota"),
            format!("{}\n", config.vram),
        )?;
    }
    Ok(())
}

/// Makes `sys/` and `dev/` in the directory of a new host.
///
/// # Errors
/// When a file or link cannot be made.
pub fn create(host: &Host) -> io::Result<()> {
    let config = host.config();
    let root = &host.dir().join("sys");
    physical_function(root, config)?;
    let dev = &host.dir().join("dev");
    file(dev, "iommu", "")?;
    file(dev, "vfio/vfio", "")?;
    for vf in host.vfs() {
        let n = vf.index();
        let (group, cdev) = (vf.group_id(), vf.cdev_index());
        let dir = device_dir(config, n);
        let bars = [
            (0, bar0_address(n), vf.bar0_size(), 0x0004_0200),
            (
                2,
                bar2_address(n, vf.bar2_size()),
                vf.bar2_size(),
                0x0014_220c,
            ),
        ];
        function(root, config, n, "xe-vfio-pci", &bars)?;
        link(root, &format!("{dir}/physfn"), &device_dir(config, 0))?;
        link(
            root,
            &format!("{dir}/iommu_group"),
            &format!("kernel/iommu_groups/{group}"),
        )?;
        let bdf = config.bdf(n);
        link(
            root,
            &format!("kernel/iommu_groups/{group}/devices/{bdf}"),
            &dir,
        )?;
        file(
            root,
            &format!("kernel/iommu_groups/{group}/type"),
            "DMA-FQ\n",
        )?;
        file(
            root,
            &format!("kernel/iommu_groups/{group}/reserved_regions"),
            "0x00000000fee00000 0x00000000feefffff msi\n",
        )?;
        let node = format!("{dir}/vfio-dev/vfio{cdev}");
        file(
            root,
            &format!("{node}/dev"),
            format!("{CDEV_MAJOR}:{cdev}\n"),
        )?;
        file(
            root,
            &format!("{node}/uevent"),
            format!("MAJOR={CDEV_MAJOR}\nMINOR={cdev}\nDEVNAME=vfio/devices/vfio{cdev}\n"),
        )?;
        link(root, &format!("{node}/device"), &dir)?;
        link(root, &format!("class/vfio-dev/vfio{cdev}"), &node)?;
        link(root, &format!("dev/char/{CDEV_MAJOR}:{cdev}"), &node)?;
        file(dev, &format!("vfio/{group}"), "")?;
        file(dev, &format!("vfio/devices/vfio{cdev}"), "")?;
    }
    Ok(())
}
