// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which paths are ours.
//!
//! Everything else passes untouched, so a host's devices appear beside what the machine has. A directory that both have
//! (`/sys/bus/pci/devices`, `/dev/vfio`) is the machine's when it has it, and ours when not.

// Unsafe: reads the caller's path.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char};
use std::io;
use std::sync::{Arc, OnceLock};

use super::hosts::{self, Attached, LIMIT};
use super::lock::c_path;
use super::sys;

/// A device node.
#[derive(Clone, Debug)]
pub enum Node {
    /// `/dev/vfio/vfio`.
    Container,
    /// `/dev/iommu`.
    Iommufd,
    /// `/dev/vfio/<group>` of a VF.
    Group(Arc<Attached>, u16),
    /// `/dev/vfio/devices/vfio<n>` of a VF.
    Cdev(Arc<Attached>, u16),
}

impl Node {
    /// Its device number.
    pub fn number(&self) -> (u32, u32) {
        use super::sysfs::{CDEV_MAJOR, CONTAINER_MINOR, GROUP_MAJOR, IOMMU_MINOR, MISC_MAJOR};
        let of = |host: &Attached, vf: u16, number: fn(&crate::vf::Vf) -> u32| {
            host.vf(vf).map_or(0, |v| number(&v.vf))
        };
        match self {
            Self::Container => (MISC_MAJOR, CONTAINER_MINOR),
            Self::Iommufd => (MISC_MAJOR, IOMMU_MINOR),
            Self::Group(host, vf) => (GROUP_MAJOR, of(host, *vf, crate::vf::Vf::group_id)),
            Self::Cdev(host, vf) => (CDEV_MAJOR, of(host, *vf, crate::vf::Vf::cdev_index)),
        }
    }
}

/// Where a path leads.
#[derive(Debug)]
pub enum Place {
    /// Not ours.
    Elsewhere,
    /// A file of a host's tree, under this name.
    File(CString),
    /// A device node.
    Node(Node),
}

/// Roots of a host's trees: (as the program names it, where it is).
type Roots = Vec<(Vec<u8>, Vec<u8>)>;

static ROOTS: [OnceLock<Roots>; LIMIT] = [const { OnceLock::new() }; LIMIT];

/// Directories that the machine and a host may both have.
const SHARED: [&str; 14] = [
    "dev/vfio",
    "dev/vfio/devices",
    "sys/bus",
    "sys/bus/pci",
    "sys/bus/pci/devices",
    "sys/bus/pci/drivers",
    "sys/class",
    "sys/class/vfio-dev",
    "sys/dev",
    "sys/dev/char",
    "sys/devices",
    "sys/kernel",
    "sys/kernel/iommu_groups",
    "sys",
];

/// Learns the paths of a host.
pub fn add(host: &Arc<Attached>) -> io::Result<()> {
    let mut roots = Roots::new();
    let base = host.dir.as_path();
    let mut shared: Vec<String> = SHARED.map(str::to_owned).to_vec();
    let domain = host.host.config().domain;
    shared.push(format!("sys/devices/pci{domain:04x}:00"));
    shared.push(format!(
        "sys/devices/pci{domain:04x}:00/{domain:04x}:00:01.0"
    ));
    for directory in &shared {
        let absolute = format!("/{directory}");
        if directory.starts_with("sys/") {
            for entry in std::fs::read_dir(base.join(directory))? {
                let entry = entry?;
                let name = entry.file_name();
                let name = format!("{absolute}/{}", name.to_string_lossy());
                if !shared.contains(&name[1..].to_owned()) && !name.ends_with("/drivers/xe") {
                    roots.push((name.into_bytes(), c_path(&entry.path()).into_bytes()));
                }
            }
        }
        if directory != "sys" && !sys::exists(&CString::new(absolute.clone())?) {
            roots.push((
                absolute.into_bytes(),
                c_path(&base.join(directory)).into_bytes(),
            ));
        }
    }
    // The longest name first, so that the first hit is the closest.
    roots.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
    if let Some(slot) = ROOTS.iter().find(|s| s.get().is_none()) {
        let _ = slot.set(roots);
    }
    Ok(())
}

/// `path` without doubled or trailing slashes and `.` components.
fn normalise(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    for part in path
        .split(|&b| b == b'/')
        .filter(|p| !p.is_empty() && *p != b".")
    {
        out.push(b'/');
        out.extend_from_slice(part);
    }
    out
}

/// Looks at the path of a system call.
pub fn place(path: *const c_char) -> Place {
    if path.is_null() || !hosts::any() {
        return Place::Elsewhere;
    }
    // SAFETY: the caller of the system call passed a string.
    let path = unsafe { CStr::from_ptr(path) }.to_bytes();
    if !(path.starts_with(b"/dev")
        || path.starts_with(b"/sys")
        || path.starts_with(b"//")
        || path.starts_with(b"/./"))
    {
        return Place::Elsewhere;
    }
    of_bytes(&normalise(path))
}

fn of_bytes(path: &[u8]) -> Place {
    if let Some(node) = node(path) {
        return Place::Node(node);
    }
    for (name, target) in ROOTS.iter().map_while(OnceLock::get).flatten() {
        let Some(rest) = path.strip_prefix(name.as_slice()) else {
            continue;
        };
        if rest.is_empty() || rest[0] == b'/' {
            let whole = [target.as_slice(), rest].concat();
            return CString::new(whole).map_or(Place::Elsewhere, Place::File);
        }
    }
    Place::Elsewhere
}

fn node(path: &[u8]) -> Option<Node> {
    if path == b"/dev/iommu" {
        return Some(Node::Iommufd);
    }
    let name = std::str::from_utf8(path.strip_prefix(b"/dev/vfio/")?).ok()?;
    if name == "vfio" {
        return Some(Node::Container);
    }
    let find = |wanted: &dyn Fn(&crate::vf::Vf) -> bool| {
        hosts::all().find_map(|h| {
            Some((
                Arc::clone(h),
                h.vfs.iter().find(|v| wanted(&v.vf))?.vf.index(),
            ))
        })
    };
    if let Some(cdev) = name.strip_prefix("devices/vfio") {
        let cdev: u32 = cdev.parse().ok()?;
        return find(&|vf| vf.cdev_index() == cdev).map(|(h, vf)| Node::Cdev(h, vf));
    }
    let group: u32 = name.parse().ok()?;
    find(&|vf| vf.group_id() == group).map(|(h, vf)| Node::Group(h, vf))
}

/// The program's name for a file of a host's tree.
pub fn visible(path: &[u8]) -> Option<Vec<u8>> {
    use std::os::unix::ffi::OsStrExt;
    hosts::all().find_map(|h| {
        let rest = path.strip_prefix(h.dir.as_os_str().as_bytes())?;
        (rest.starts_with(b"/sys/") || rest.starts_with(b"/dev/")).then(|| rest.to_vec())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_compared_without_what_does_not_matter() {
        assert_eq!(
            normalise(b"//sys/./bus//pci/devices/"),
            b"/sys/bus/pci/devices"
        );
        assert_eq!(
            normalise(b"/dev/vfio/../vfio/vfio"),
            b"/dev/vfio/../vfio/vfio"
        );
    }
}
