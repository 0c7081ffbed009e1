// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What `probe` says of good VFs and of those that cannot migrate.

use std::path::Path;

use host_sim::host::HostConfig;

use crate::common::*;

#[test]
fn a_good_vf_is_told_with_its_sizes_quotas_and_state() {
    let host = TestHost::new();
    for more in [&[][..], &["--iommufd"]] {
        let run = host.run(&[&["probe", &host.path(1), "--json"], more].concat());
        run.succeeds();
        let value = run.json();
        assert_eq!(value["state"], "RUNNING");
        assert_eq!(value["driver"], "xe-vfio-pci");
        assert_eq!(value["platform"], "Battlemage");
        assert_eq!(
            (&value["vf_number"], &value["num_vfs"]),
            (&1.into(), &2.into())
        );
        let manifest = &value["manifest"];
        assert_eq!(manifest["pci"]["device"], 0xe211);
        assert_eq!(manifest["bars"][0], 8 * MIB);
        assert_eq!(manifest["bars"][2], VRAM.next_power_of_two());
        assert_eq!(manifest["migration_flags"], 3);
        assert_eq!(manifest["vram_quota"], VRAM);
        assert!(manifest["stop_copy_length"].as_u64() >= Some(VRAM));
    }
    let run = host.run(&["probe", &host.path(2)]);
    run.succeeds();
    let text = run.stdout();
    for part in [
        "VF 2 of 2",
        "STOP_COPY|P2P (0x3)",
        "12.00 MiB",
        "It can migrate, and is in RUNNING",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn sysfs_alone_is_read_without_opening_the_vf() {
    let host = TestHost::new();
    let before = host.resets(1);
    let run = host.run(&["probe", &host.path(1), "--no-open"]);
    run.succeeds();
    assert!(run.stdout().contains("migration flags     not known"));
    assert!(
        run.stdout().contains("It was not opened"),
        "{}",
        run.stdout()
    );
    assert_eq!(host.resets(1), before);
    host.run(&["probe", &host.path(1)]).succeeds();
    assert!(host.resets(1) > before, "opening resets");
}

#[test]
fn a_pf_is_refused_and_one_of_its_vfs_named() {
    let host = TestHost::new();
    let run = host.run(&["probe", &host.path(0)]);
    let text = run.fails(3);
    assert!(
        text.contains("is a PF with 2 VFs") && text.contains(&host.host.config().bdf(1)),
        "{text}"
    );
    let run = host.run(&["save", &host.path(0), "--to", &host.file("no"), "--json"]);
    run.fails(3);
    assert_eq!(run.json()["unusable"], "pf");
}

#[test]
fn what_is_no_vf_is_refused() {
    let host = TestHost::new();
    let text = host.run(&["probe", "/no/such/device"]).fails(3);
    assert!(text.contains("give the sysfs directory of a VF"), "{text}");
    let text = host.run(&["probe", "/tmp"]).fails(3);
    assert!(text.contains("is no PCI device"), "{text}");
}

/// A VF's directory that sysfs might show, without a device behind it.
fn pretended(dir: &Path, driver: Option<&str>, physfn: bool) -> String {
    let device = dir.join("0000:99:00.1");
    std::fs::create_dir(&device).unwrap();
    for (file, text) in [
        ("vendor", "0x8086"),
        ("device", "0xe211"),
        ("revision", "0x00"),
        ("subsystem_vendor", "0x8086"),
        ("subsystem_device", "0x1100"),
        ("class", "0x038000"),
    ] {
        std::fs::write(device.join(file), text).unwrap();
    }
    if physfn {
        std::os::unix::fs::symlink(dir, device.join("physfn")).unwrap();
    }
    if let Some(driver) = driver {
        let target = dir.join(driver);
        std::fs::create_dir(&target).unwrap();
        std::os::unix::fs::symlink(target, device.join("driver")).unwrap();
    }
    device.to_str().unwrap().to_owned()
}

#[test]
fn a_function_without_a_pf_or_with_another_driver_is_told_what_it_lacks() {
    let host = TestHost::new();
    for (driver, physfn, said) in [
        (None, false, "is no VF"),
        (None, true, "is bound to no driver"),
        (
            Some("xe"),
            true,
            "is bound to xe, and only xe-vfio-pci has migration",
        ),
        (Some("vfio-pci"), true, "is bound to vfio-pci"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = pretended(dir.path(), driver, physfn);
        let text = host.run(&["probe", &path]).fails(3);
        assert!(text.contains(said), "{said} in {text}");
    }
}

#[test]
fn a_vf_without_migration_is_told_so() {
    let host = TestHost::with(&HostConfig {
        migration: false,
        ..config()
    });
    let run = host.run(&["probe", &host.path(1), "--json"]);
    let text = run.fails(3);
    assert!(
        text.contains("has no migration support") && text.contains("ENOTTY"),
        "{text}"
    );
    assert_eq!(run.json()["unusable"], "no-migration");
    for arguments in [["save", "--to"], ["restore", "--from"]] {
        let [command, option] = arguments;
        let run = host.run(&[command, &host.path(1), option, &host.file("no")]);
        assert!(run.fails(3).contains("is in RUNNING"));
    }
    assert!(!Path::new(&host.file("no")).exists());
}

#[test]
fn a_vf_in_use_is_told_and_left_alone() {
    let host = TestHost::new();
    for way in [&[][..], &["--iommufd"]] {
        let file = host.file("state");
        let holder = host.start(&[&["save", &host.path(1), "--to", &file, "--hold"], way].concat());
        holder.hears("Holding");
        let before = host.resets(1);
        let run = host.run(&[&["probe", &host.path(1), "--json"], way].concat());
        let text = run.fails(3);
        assert!(text.contains("is in use: another process"), "{text}");
        assert_eq!(run.json()["unusable"], "in-use");
        assert_eq!(host.resets(1), before);
        holder.signal(libc::SIGTERM);
        holder.wait().succeeds();
    }
}

#[test]
fn two_vfs_and_a_file_are_compared_before_anything_moves() {
    let host = TestHost::new();
    let file = host.file("state");
    host.run(&["save", &host.path(1), "--to", &file]).succeeds();
    for other in [&file, &host.path(1)] {
        let run = host.run(&["probe", &host.path(2), "--against", other]);
        run.succeeds();
        assert!(run.stdout().contains("can move here"), "{}", run.stdout());
    }
    let smaller = TestHost::with(&HostConfig {
        vram: VRAM / 2,
        ..config()
    });
    let run = smaller.run(&["probe", &smaller.path(1), "--against", &file, "--json"]);
    let text = run.fails(1);
    assert!(
        text.contains("VRAM quota") && text.contains("vram_quota"),
        "{text}"
    );
    assert!(!run.json()["differences"].as_array().unwrap().is_empty());
}

#[test]
fn an_estimate_is_a_guess_until_transfers_were_remembered() {
    let host = TestHost::new();
    let history = host.file("history.json");
    let estimate = || {
        let run = host.run(&["probe", &host.path(1), "--json", "--history", &history]);
        run.succeeds();
        run.json()["estimate"]["file"].clone()
    };
    let number = |value: &serde_json::Value, name: &str| {
        value[name]
            .as_f64()
            .unwrap_or_else(|| panic!("no {name} in {value}"))
    };
    let before = estimate();
    assert_eq!(before["basis"], "a guess");
    assert!(number(&before, "low_ms") < number(&before, "likely_ms"));
    let state = host.file("state.xevf");
    let save = ["save", &host.path(1), "--to", &state, "--history", &history];
    let mut took = Vec::new();
    for _ in 0..3 {
        let run = host.run(&[&save[..], &["--json"]].concat());
        run.succeeds();
        let ms = &run.json()["ms"];
        took.push(
            ["enter", "stream", "confirm"]
                .map(|name| number(ms, name))
                .iter()
                .sum::<f64>(),
        );
    }
    let after = estimate();
    assert_eq!(after["basis"], "from 3 transfers");
    // Loaded machines scatter, so only that it is of them.
    took.sort_by(f64::total_cmp);
    let likely = number(&after, "state_ms");
    assert!(
        likely > took[0] / 3.0 && likely < took[2] * 3.0,
        "{likely} of {took:?}"
    );
    let run = host.run(&["probe", &host.path(1), "--history", &history]);
    assert!(
        run.stdout().contains("A guest would stand still for about"),
        "{}",
        run.stdout()
    );
}

#[test]
fn a_broken_history_is_told_and_not_believed() {
    let host = TestHost::new();
    let history = host.file("history.json");
    std::fs::write(&history, "{\"format\":").unwrap();
    let run = host.run(&["probe", &host.path(1), "--json", "--history", &history]);
    run.succeeds();
    assert!(run.stderr().contains("is not used"), "{}", run.stderr());
    assert_eq!(run.json()["estimate"]["tcp"]["basis"], "a guess");
}
