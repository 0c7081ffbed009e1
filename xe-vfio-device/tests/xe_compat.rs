// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which differences between two hosts are told, how severe they are, and in which words.

mod support;

use support::*;
use xe_vfio_device::stream::{Manifest, Pci};
use xe_vfio_device::xe::ids::{INTEL, Platform};
use xe_vfio_device::xe::{Mismatch, Pair, Quota, Severity, compare};

/// The one mismatch of a destination that differs in one thing.
#[track_caller]
fn only(destination: &Manifest) -> Mismatch {
    let mut found = compare(&manifest(256), destination);
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

#[track_caller]
fn told(destination: &Manifest, severity: Severity, words: &[&str]) {
    let mismatch = only(destination);
    let text = mismatch.to_string();
    assert_eq!(mismatch.severity(), severity, "{text}");
    assert!(!text.contains("  "), "{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} in {text:?}");
    }
}

#[test]
fn equal_vfs_have_nothing_to_tell() {
    assert_eq!(compare(&manifest(256), &manifest(256)), []);
    let elsewhere = Manifest {
        device_id: "gpu1".to_owned(),
        stop_copy_length: 0,
        kernel_release: Some("7.3.0".to_owned()),
        ..manifest(256)
    };
    assert_eq!(
        compare(&manifest(256), &elsewhere),
        [],
        "names, estimates and kernels may differ"
    );
}

#[test]
fn another_gpu_is_refused() {
    let own = manifest(256);
    let with = |pci: Pci| Manifest {
        pci,
        ..manifest(256)
    };
    told(
        &with(Pci {
            device: 0xe20b,
            ..own.pci
        }),
        Severity::Refuse,
        &["8086:e211", "8086:e20b", "same GPU"],
    );
    told(
        &with(Pci {
            class: 0x02_0000,
            ..own.pci
        }),
        Severity::Refuse,
        &["038000", "020000"],
    );
    told(
        &with(Pci {
            revision: 3,
            ..own.pci
        }),
        Severity::Refuse,
        &["revision 0x02", "0x03"],
    );
    let pf = Manifest {
        pf: Some(Pci {
            revision: 3,
            ..own.pci
        }),
        ..manifest(256)
    };
    told(
        &pf,
        Severity::Refuse,
        &["PF", "revision 0x03", "kernel refuses"],
    );
    told(
        &Manifest {
            gts: Some(1),
            ..manifest(256)
        },
        Severity::Refuse,
        &["0b0011", "0b0001"],
    );
    told(
        &with(Pci {
            subsystem_device: 1,
            ..own.pci
        }),
        Severity::Warn,
        &["board 8086:1100", "8086:0001"],
    );
}

#[test]
fn quotas_that_the_guest_sees_have_to_be_equal() {
    let vram = |bytes| Manifest {
        vram_quota: bytes,
        ..manifest(256)
    };
    told(
        &vram(Some(512 << 10)),
        Severity::Refuse,
        &[
            "1 MiB at the source",
            "524288 bytes",
            "does not fit",
            "vram_quota",
        ],
    );
    told(
        &vram(Some(2 << 20)),
        Severity::Refuse,
        &["2 MiB", "kernel would take it", "BAR2", "vram_quota"],
    );
    told(&vram(None), Severity::Warn, &["1 MiB", "not shown"]);
    let ggtt = Manifest {
        ggtt_entries: Some(8),
        ..manifest(256)
    };
    told(
        &ggtt,
        Severity::Refuse,
        &["4 PTEs", "8 PTEs", "exactly the same"],
    );
    let source = Manifest {
        contexts: Some(64),
        doorbells: Some(8),
        ..manifest(256)
    };
    let destination = Manifest {
        contexts: Some(32),
        doorbells: None,
        ..manifest(256)
    };
    let values = Pair {
        source: 64,
        destination: 32,
    };
    assert_eq!(
        compare(&source, &destination),
        [Mismatch::Quota(Quota::Contexts, values)]
    );
}

#[test]
fn bars_have_to_be_equal_and_bar2_says_where_its_size_comes_from() {
    let with = |bar: usize, size| {
        let mut manifest = manifest(256);
        manifest.bars[bar] = size;
        manifest
    };
    told(
        &with(2, 512 << 20),
        Severity::Refuse,
        &["BAR2", "1024 MiB", "512 MiB", "sriov_numvfs"],
    );
    told(
        &with(0, 16 << 20),
        Severity::Refuse,
        &["BAR0", "8 MiB", "16 MiB", "same GPU"],
    );
    told(
        &with(4, 4096),
        Severity::Refuse,
        &["BAR4", "no memory", "4096 bytes"],
    );
}

#[test]
fn both_sides_have_to_be_able_to_migrate_in_the_same_way() {
    let flags = |migration_flags| Manifest {
        migration_flags,
        ..manifest(256)
    };
    told(
        &flags(0),
        Severity::Refuse,
        &["cannot migrate at the destination", "xe-vfio-pci"],
    );
    told(&flags(1), Severity::Refuse, &["RUNNING_P2P", "0x3", "0x1"]);
    let found = compare(&flags(2), &manifest(256));
    assert!(
        found[0]
            .to_string()
            .contains("cannot migrate at the source"),
        "{}",
        found[0]
    );
    assert_eq!(
        compare(&manifest(256), &flags(7)),
        [],
        "PRE_COPY on one side changes nothing"
    );
}

#[test]
fn firmware_may_differ_in_its_minor_version_and_scheduling_is_a_warning() {
    let guc = |version: &str| Manifest {
        guc_version: Some(version.to_owned()),
        ..manifest(256)
    };
    told(&guc("71.1.0"), Severity::Refuse, &["70.54.0", "71.1.0"]);
    told(&guc("70.60.1"), Severity::Warn, &["70.54.0", "70.60.1"]);
    assert_eq!(
        compare(
            &manifest(256),
            &Manifest {
                guc_version: None,
                ..manifest(256)
            }
        ),
        []
    );
    told(
        &Manifest {
            exec_quantum_ms: Some(5),
            ..manifest(256)
        },
        Severity::Warn,
        &["20", "5", "exec_quantum_ms"],
    );
    told(
        &Manifest {
            preempt_timeout_us: Some(5),
            ..manifest(256)
        },
        Severity::Warn,
        &["20000", "preempt_timeout_us"],
    );
    let priority = Manifest {
        sched_priority: Some("low".to_owned()),
        ..manifest(256)
    };
    told(
        &priority,
        Severity::Warn,
        &["normal", "low", "sched_priority"],
    );
}

#[test]
fn the_most_severe_comes_first() {
    let destination = Manifest {
        exec_quantum_ms: Some(5),
        migration_flags: 0,
        ..manifest(256)
    };
    let severities: Vec<_> = compare(&manifest(256), &destination)
        .iter()
        .map(Mismatch::severity)
        .collect();
    assert_eq!(severities, [Severity::Refuse, Severity::Warn]);
}

#[test]
fn the_id_table_knows_intels_devices_only() {
    for (device, platform) in [
        (0xb080, Platform::PantherLake),
        (0xb0b0, Platform::PantherLake),
        (0xfd81, Platform::WildcatLake),
        (0xe223, Platform::Battlemage),
    ] {
        assert_eq!(Platform::of(INTEL, device), Some(platform));
        assert_eq!(Platform::of(0x10de, device), None);
        assert_eq!(platform.has_vram(), platform == Platform::Battlemage);
    }
    assert_eq!(Platform::of(INTEL, 0x0bd5), None);
}
