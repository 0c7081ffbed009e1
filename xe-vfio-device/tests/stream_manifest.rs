// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The manifest across versions, and what it refuses.

mod support;

use support::*;
use versionize::{VersionMap, Versionize, VersionizeResult};
use versionize_derive::Versionize;
use xe_vfio_device::stream::{Manifest, ManifestError, Pci};

#[test]
fn a_manifest_comes_back_as_it_went() {
    for manifest in [
        manifest(3),
        Manifest {
            pf: None,
            gts: None,
            vram_quota: None,
            sched_priority: None,
            ..manifest(0)
        },
    ] {
        let bytes = manifest.encode().expect("a good manifest");
        assert_eq!(Manifest::decode(&bytes, 1), Ok(manifest));
    }
}

#[test]
fn a_version_from_the_future_is_refused_by_its_number() {
    let bytes = manifest(3).encode().expect("a good manifest");
    let newest = Manifest::newest_version();
    for found in [0, newest + 1] {
        assert_eq!(
            Manifest::decode(&bytes, found),
            Err(ManifestError::Version { found, newest })
        );
    }
}

#[test]
fn leftover_and_missing_bytes_are_refused() {
    let bytes = manifest(3).encode().expect("a good manifest");
    assert_eq!(
        Manifest::decode(&[&bytes[..], &[0]].concat(), 1),
        Err(ManifestError::Trailing(1))
    );
    for end in 0..bytes.len() {
        assert!(matches!(
            Manifest::decode(&bytes[..end], 1),
            Err(ManifestError::Encoding(_))
        ));
    }
}

#[test]
fn values_no_host_has_are_refused_on_both_sides() {
    let long = "x".repeat(256);
    let texts = ["", "a\nb", &long].map(|text| Manifest {
        device_id: text.to_owned(),
        ..manifest(1)
    });
    for manifest in texts {
        assert!(matches!(
            manifest.encode(),
            Err(ManifestError::Text {
                field: "device id",
                ..
            })
        ));
    }
    let numbers = [
        Manifest {
            stop_copy_length: -5i64 as u64,
            ..manifest(1)
        },
        Manifest {
            ggtt_entries: Some(1 << 40),
            ..manifest(1)
        },
        Manifest {
            vram_quota: Some(u64::MAX),
            ..manifest(1)
        },
        Manifest {
            bars: [u64::MAX; 6],
            ..manifest(1)
        },
        Manifest {
            pci: Pci {
                class: u32::MAX,
                ..manifest(1).pci
            },
            ..manifest(1)
        },
    ];
    for manifest in numbers {
        assert!(
            matches!(manifest.encode(), Err(ManifestError::Number { .. })),
            "{manifest:?}"
        );
    }
}

/// The manifest as a second version could be: one field more, all others as they are.
#[derive(Debug, PartialEq, Versionize)]
struct SecondVersion {
    device_id: String,
    pci: Pci,
    pf: Option<Pci>,
    bars: [u64; 6],
    migration_flags: u64,
    stop_copy_length: u64,
    gts: Option<u16>,
    vram_quota: Option<u64>,
    ggtt_entries: Option<u64>,
    contexts: Option<u32>,
    doorbells: Option<u32>,
    exec_quantum_ms: Option<u32>,
    preempt_timeout_us: Option<u32>,
    sched_priority: Option<String>,
    guc_version: Option<String>,
    kernel_release: Option<String>,
    #[version(start = 2, default_fn = "no_numa_node")]
    numa_node: Option<u32>,
}

impl SecondVersion {
    fn no_numa_node(_version: u16) -> Option<u32> {
        None
    }

    fn versions() -> VersionMap {
        let mut versions = Manifest::versions();
        versions
            .new_version()
            .set_type_version(<Self as Versionize>::type_id(), 2);
        versions
    }
}

#[test]
fn a_second_version_reads_and_writes_the_first() {
    let first = manifest(3);
    let bytes = first.encode().expect("a good manifest");
    let versions = SecondVersion::versions();
    let mut read =
        SecondVersion::deserialize(&mut &bytes[..], &versions, 1).expect("version 1 is read");
    assert_eq!(
        (&read.device_id, read.vram_quota, read.numa_node),
        (&first.device_id, first.vram_quota, None)
    );

    read.numa_node = Some(1);
    let mut for_an_older_host = Vec::new();
    read.serialize(&mut for_an_older_host, &versions, 1)
        .expect("version 1 is written");
    assert_eq!(for_an_older_host, bytes);

    let mut newest = Vec::new();
    read.serialize(&mut newest, &versions, versions.latest_version())
        .expect("version 2 is written");
    assert_eq!(
        SecondVersion::deserialize(&mut &newest[..], &versions, 2).expect("version 2 is read"),
        read
    );
}
