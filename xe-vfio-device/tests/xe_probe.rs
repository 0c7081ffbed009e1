// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Probing a VF in a sysfs tree, complete or not.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use xe_vfio_device::stream::Manifest;
use xe_vfio_device::xe::ids::Platform;
use xe_vfio_device::xe::{Expectation, PciIds, ProbeError, Profile, probe, probe_debugfs};

struct Sysfs(TempDir);

impl Sysfs {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn dir(&self, path: &str) -> PathBuf {
        let dir = self.0.path().join(path);
        fs::create_dir_all(&dir).expect("a directory");
        dir
    }

    fn file(&self, path: &str, text: &str) {
        let file = self.0.path().join(path);
        fs::create_dir_all(file.parent().expect("a parent")).expect("a directory");
        fs::write(file, format!("{text}\n")).expect("a file");
    }

    fn function(&self, address: &str, class: &str) -> PathBuf {
        for (file, text) in [
            ("vendor", "0x8086"),
            ("device", "0xe211"),
            ("revision", "0x02"),
            ("subsystem_vendor", "0x8086"),
            ("subsystem_device", "0x1100"),
            ("class", class),
        ] {
            self.file(&format!("{address}/{file}"), text);
        }
        self.dir(address)
    }

    /// A PF with two VFs, as sysfs shows them; answers the second VF.
    fn host(&self) -> PathBuf {
        let pf = self.function("0000:03:00.0", "0x030000");
        for (number, address) in ["0000:03:00.1", "0000:03:00.2"].into_iter().enumerate() {
            let vf = self.function(address, "0x038000");
            symlink(Path::new("..").join("0000:03:00.0"), vf.join("physfn")).expect("a link");
            symlink(
                Path::new("..").join(address),
                pf.join(format!("virtfn{number}")),
            )
            .expect("a link");
        }
        self.file("0000:03:00.0/sriov_totalvfs", "12");
        self.file("0000:03:00.0/sriov_numvfs", "2");
        self.dir("0000:03:00.0/tile0/gt0");
        self.dir("0000:03:00.0/tile0/gt1");
        let profile = "0000:03:00.0/sriov_admin/vf2/profile";
        for (file, text) in [
            ("vram_quota", "1073741824"),
            ("exec_quantum_ms", "20"),
            ("preempt_timeout_us", "20000"),
            ("sched_priority", "low [normal]"),
        ] {
            self.file(&format!("{profile}/{file}"), text);
        }
        let none = "0x0000000000000000 0x0000000000000000 0x0000000000000000";
        let lines = [
            "0x0000000080000000 0x00000000807fffff 0x0000000000040200",
            none,
            "0x0000004000000000 0x000000403fffffff 0x000000000014220c",
            none,
            none,
            none,
            "0x0000000000000001 0x00000000000000ff 0x0000000000000200",
        ];
        self.file("0000:03:00.2/resource", &lines.join("\n"));
        self.0.path().join("0000:03:00.2")
    }
}

#[test]
fn a_vf_is_known_by_its_ids_its_pf_its_number_and_its_profile() {
    let sysfs = Sysfs::new();
    let identity = probe(&sysfs.host()).expect("a VF");
    let ids = PciIds {
        vendor: 0x8086,
        device: 0xe211,
        revision: 2,
        subsystem_vendor: 0x8086,
        subsystem_device: 0x1100,
        class: 0x03_8000,
    };
    assert_eq!(identity.pci, ids);
    assert_eq!(
        identity.pf,
        Some(PciIds {
            class: 0x03_0000,
            ..ids
        })
    );
    assert_eq!(identity.address, "0000:03:00.2");
    assert_eq!(
        (identity.vf_number, identity.total_vfs, identity.num_vfs),
        (Some(2), Some(12), Some(2))
    );
    assert_eq!(identity.gts, Some(0b11));
    assert_eq!(identity.bars, [8 << 20, 0, 1 << 30, 0, 0, 0]);
    assert_eq!(identity.profile.vram_quota, Some(1 << 30));
    assert_eq!(
        (
            identity.profile.exec_quantum_ms,
            identity.profile.preempt_timeout_us
        ),
        (Some(20), Some(20_000))
    );
    assert_eq!(identity.profile.sched_priority.as_deref(), Some("normal"));
    assert_eq!(
        Platform::of(ids.vendor, ids.device),
        Some(Platform::Battlemage)
    );
}

#[test]
fn any_path_that_leads_to_the_device_will_do() {
    let sysfs = Sysfs::new();
    let vf = sysfs.host();
    let link = sysfs.0.path().join("iommu_group_device");
    symlink(&vf, &link).expect("a link");
    assert_eq!(probe(&link).expect("a VF"), probe(&vf).expect("a VF"));
    assert_eq!(
        probe(&vf.join("../0000:03:00.0/virtfn1")).expect("a VF"),
        probe(&vf).expect("a VF")
    );
}

#[test]
fn what_a_host_does_not_show_is_left_out() {
    let sysfs = Sysfs::new();
    let alone = probe(&sysfs.function("0000:00:02.1", "0x030000")).expect("a function");
    assert_eq!(
        (alone.pf, alone.vf_number, alone.total_vfs, alone.gts),
        (None, None, None, None)
    );
    assert_eq!((alone.bars, alone.profile), ([0; 6], Profile::default()));

    let vf = sysfs.host();
    fs::remove_dir_all(sysfs.0.path().join("0000:03:00.0/sriov_admin")).expect("it was there");
    fs::remove_file(sysfs.0.path().join("0000:03:00.0/sriov_numvfs")).expect("it was there");
    sysfs.file("0000:03:00.0/sriov_totalvfs", "many");
    let identity = probe(&vf).expect("a VF");
    assert_eq!(
        (identity.total_vfs, identity.num_vfs, identity.vf_number),
        (None, None, Some(2))
    );
    assert_eq!(identity.profile, Profile::default());
}

#[test]
fn debugfs_fills_in_what_sysfs_leaves_out() {
    let sysfs = Sysfs::new();
    let mut identity = probe(&sysfs.host()).expect("a VF");
    for (file, text) in [
        ("ggtt", "16777216"),
        ("lmem", "5"),
        ("contexts", "1024"),
        ("doorbells", "24"),
    ] {
        sysfs.file(&format!("debug/gt0/vf2/{file}_quota"), text);
    }
    probe_debugfs(&mut identity, &sysfs.dir("debug"));
    let profile = &identity.profile;
    assert_eq!(
        (profile.ggtt_entries, profile.contexts, profile.doorbells),
        (Some(4096), Some(1024), Some(24))
    );
    assert_eq!(profile.vram_quota, Some(1 << 30), "sysfs goes first");
    probe_debugfs(&mut identity, Path::new("/nowhere"));
    assert_eq!(identity.profile.ggtt_entries, Some(4096));
}

#[test]
fn a_path_that_is_no_pci_device_is_a_clear_error() {
    let sysfs = Sysfs::new();
    let error = probe(&sysfs.0.path().join("0000:99:00.0")).expect_err("nothing there");
    assert!(matches!(error, ProbeError::Path { .. }));
    assert!(error.to_string().contains("0000:99:00.0"), "{error}");

    let error = probe(&sysfs.dir("net/eth0")).expect_err("no PCI device");
    assert!(
        matches!(error, ProbeError::NotPci { file: "vendor", .. }),
        "{error:?}"
    );

    let vf = sysfs.host();
    sysfs.file("0000:03:00.2/revision", "0x100");
    let error = probe(&vf).expect_err("no revision");
    assert!(
        matches!(
            error,
            ProbeError::NotANumber {
                file: "revision",
                bits: 8,
                ..
            }
        ),
        "{error:?}"
    );
}

#[test]
fn a_destination_expects_what_its_probe_found() {
    let sysfs = Sysfs::new();
    let identity = probe(&sysfs.host()).expect("a VF");
    let manifest = Manifest::new("vf0", &identity);
    manifest.encode().expect("what a probe finds can be sent");
    let expectation = Expectation::of(&manifest).sent_by(&manifest);
    assert_eq!(
        (expectation.device, expectation.revision),
        (Some(0xe211), Some(2))
    );
    assert_eq!(
        (expectation.vram_quota, expectation.vram_bytes),
        (Some(1 << 30), Some(1 << 30))
    );
    assert_eq!(expectation.gts, Some([0, 1].into()));
}
