// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The shared object in programs that know nothing of it.

use std::path::PathBuf;
use std::process::Command;

use crate::common::*;

/// The shared object beside this test, when Cargo has built it.
fn library() -> Option<PathBuf> {
    let test = std::env::current_exe().expect("a path");
    let deps = test.parent().expect("a directory");
    [deps.join("libhost_sim.so"), deps.join("../libhost_sim.so")]
        .into_iter()
        .find(|p| p.exists())
}

/// What `program` prints on the hosts `dirs`; `None` when it or the library is not there.
fn on_host(test: &str, host: &TestHost, program: &str, arguments: &[&str]) -> Option<String> {
    let Some(library) = library() else {
        eprintln!("skipped: {test}: libhost_sim.so is not built");
        return None;
    };
    let output = Command::new(program)
        .args(arguments)
        .env("LD_PRELOAD", library)
        .env("HOST_SIM", host.host.dir())
        .output();
    let Ok(output) = output else {
        eprintln!("skipped: {test}: no {program} on this machine");
        return None;
    };
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}: {errors}");
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn ls_lists_a_vf() {
    let host = TestHost::unattached(&config());
    let dir = format!("/sys/bus/pci/devices/{}/", host.bdf(1));
    let Some(text) = on_host("ls_lists_a_vf", &host, "ls", &[&dir]) else {
        return;
    };
    for name in ["config", "iommu_group", "physfn", "vendor", "vfio-dev"] {
        assert!(text.lines().any(|l| l == name), "{name} in {text}");
    }
}

#[test]
fn cat_reads_an_attribute() {
    let host = TestHost::unattached(&config());
    let path = format!("/sys/bus/pci/devices/{}/device", host.bdf(2));
    let Some(text) = on_host("cat_reads_an_attribute", &host, "cat", &[&path]) else {
        return;
    };
    assert_eq!(text, "0xe211\n");
}

#[test]
fn a_python_program_opens_a_device_and_reads_its_state() {
    let host = TestHost::unattached(&config());
    let program = format!(
        r#"
import fcntl, os, stat, struct
node = "{}"
fd = os.open(node, os.O_RDWR)
assert stat.S_ISCHR(os.fstat(fd).st_mode)
iommufd = os.open("/dev/iommu", os.O_RDWR)
fcntl.ioctl(fd, 0x3b76, struct.pack("IIiI", 16, 0, iommufd, 0))
feature = bytearray(struct.pack("IIIi", 16, 0x10002, 0, 0))
fcntl.ioctl(fd, 0x3b75, feature)
print(struct.unpack("IIIi", feature)[2:], os.pread(fd, 4, 7 << 40).hex())
"#,
        host.cdev(1)
    );
    let Some(text) = on_host("python", &host, "python3", &["-c", &program]) else {
        return;
    };
    assert_eq!(text, "(2, -1) 868011e2\n");
}

#[test]
fn a_host_that_is_not_there_ends_the_program() {
    let Some(library) = library() else {
        eprintln!(
            "skipped: a_host_that_is_not_there_ends_the_program: libhost_sim.so is not built"
        );
        return;
    };
    let output = Command::new("true")
        .env("LD_PRELOAD", library)
        .env("HOST_SIM", "/no/such/host")
        .output()
        .expect("true");
    assert_eq!(output.status.code(), Some(127));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/no/such/host"));
}
