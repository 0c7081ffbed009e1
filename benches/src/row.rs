// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is compared: the rows of the table, in its order.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::host::Content;

const GIB: u64 = 1 << 30;

/// How state goes from one VF to another.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// TCP over loopback.
    Tcp,
    /// TCP over loopback, four connections for each VF.
    TcpSplit,
    /// TCP without the crate's pipeline: data fds and socket alone.
    Plain,
    /// A unix socket.
    Unix,
    /// The data fd through a unix socket, and no state.
    Handover,
    /// To a file on the disk.
    Save,
    /// From a file on the disk.
    Restore,
    /// The reference VMM with a guest, over TCP.
    Vmm,
    /// Cloud Hypervisor with the series in vmm-patches/, over TCP.
    CloudHypervisor,
    /// QEMU, over TCP.
    Qemu,
    /// Cloud Hypervisor without the series, over TCP.
    CloudHypervisorUnpatched,
}

/// What a row is beside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FloorKind {
    /// memcpy, TCP over loopback, memcpy.
    Tcp,
    /// memcpy, a unix socket, memcpy.
    Unix,
    /// `dd`.
    Disk,
}

impl Way {
    /// All of them, in the table's order.
    pub const ALL: [Self; 11] = [
        Self::Tcp,
        Self::TcpSplit,
        Self::Plain,
        Self::Unix,
        Self::Handover,
        Self::Save,
        Self::Restore,
        Self::Vmm,
        Self::CloudHypervisor,
        Self::Qemu,
        Self::CloudHypervisorUnpatched,
    ];

    /// Its name in tables and pictures.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::TcpSplit => "tcp x4",
            Self::Plain => "plain",
            Self::Unix => "unix",
            Self::Handover => "hand-over",
            Self::Save => "save",
            Self::Restore => "restore",
            Self::Vmm => "ref-vmm",
            Self::CloudHypervisor => "Cloud Hypervisor, patched",
            Self::Qemu => "QEMU",
            Self::CloudHypervisorUnpatched => "Cloud Hypervisor",
        }
    }

    /// Whether none of the crate is in it.
    #[must_use]
    pub fn is_foreign(self) -> bool {
        matches!(
            self,
            Self::Plain | Self::Qemu | Self::CloudHypervisorUnpatched
        )
    }

    /// Whether a whole VMM and its guest move: the time is the guest's downtime.
    #[must_use]
    pub fn is_vmm(self) -> bool {
        matches!(
            self,
            Self::Vmm | Self::CloudHypervisor | Self::Qemu | Self::CloudHypervisorUnpatched
        )
    }

    /// The floor that belongs to it.
    #[must_use]
    pub fn floor(self) -> FloorKind {
        match self {
            Self::Unix => FloorKind::Unix,
            Self::Save | Self::Restore => FloorKind::Disk,
            _ => FloorKind::Tcp,
        }
    }

    /// Sizes, contents and numbers of VFs that the full table has of it.
    fn usual(self) -> Vec<(u64, Content, u16)> {
        use Content::{Half, Random, Zero};
        let all = |sizes: &[u64], vfs| combinations(sizes, &[Random, Half, Zero], &[vfs]);
        let sizes = [GIB, 4 * GIB, 8 * GIB];
        match self {
            Self::Tcp => [all(&sizes, 1), all(&sizes, 4)].concat(),
            Self::Unix | Self::Handover => [all(&sizes, 1), all(&[GIB], 4)].concat(),
            Self::Save | Self::Restore => all(&sizes, 1),
            Self::Qemu => combinations(&[GIB], &[Random, Zero], &[1]),
            Self::TcpSplit
            | Self::Plain
            | Self::Vmm
            | Self::CloudHypervisor
            | Self::CloudHypervisorUnpatched => combinations(&[GIB], &[Random], &[1]),
        }
    }
}

/// Each size with each number of VFs with each content.
fn combinations(sizes: &[u64], contents: &[Content], vfs: &[u16]) -> Vec<(u64, Content, u16)> {
    let mut all = Vec::new();
    for &size in sizes {
        for &vfs in vfs {
            all.extend(contents.iter().map(|&content| (size, content, vfs)));
        }
    }
    all
}

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// How state goes.
    pub way: Way,
    /// Bytes of VRAM in all.
    pub size: u64,
    /// What is in it.
    pub content: Content,
    /// VFs that share it.
    pub vfs: u16,
}

impl Row {
    /// The size as tables have it.
    #[must_use]
    pub fn size_text(&self) -> String {
        if self.size >= GIB {
            format!("{} GiB", self.size >> 30)
        } else {
            format!("{} MiB", self.size >> 20)
        }
    }

    /// What filling VRAM takes before the first run, and the share of a row in making the host that it has in common with others.
    #[must_use]
    pub fn guess_preparation(&self) -> Duration {
        let gib = self.size as f64 / GIB as f64;
        Duration::from_secs_f64(if self.way.is_vmm() { 0.0 } else { 0.5 * gib })
    }

    /// What a run takes with its floor and everything around it, on a machine with nothing else to do.
    #[must_use]
    pub fn guess(&self) -> Duration {
        let gib = self.size as f64 / GIB as f64;
        Duration::from_secs_f64(match self.way {
            Way::Tcp | Way::TcpSplit | Way::Plain | Way::Unix | Way::Handover => 0.1 + 0.75 * gib,
            Way::Save | Way::Restore => 0.5 + 2.7 * gib,
            Way::Vmm | Way::CloudHypervisor | Way::Qemu => 5.0 + 5.0 * gib,
            Way::CloudHypervisorUnpatched => 8.0 + 20.0 * gib,
        })
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (way, size) = (self.way.name(), self.size_text());
        write!(f, "{way}, {size}, {}", self.content.name())?;
        if self.vfs > 1 {
            write!(f, ", {} VFs", self.vfs)?;
        }
        Ok(())
    }
}

/// Which rows are run.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Ways.
    pub ways: Vec<Way>,
    /// Bytes of VRAM in all; none for the usual ones.
    pub sizes: Vec<u64>,
    /// Contents; none for the usual ones.
    pub contents: Vec<Content>,
    /// Numbers of VFs; none for the usual ones.
    pub vfs: Vec<u16>,
}

impl Selection {
    /// The rows: of each way the usual ones, or when anything is said about sizes, contents or VFs all combinations of that, with 1 GiB,
    /// random and one VF for what is not said. Those that are of a size and number of VFs stand together, and among them those that have the same in
    /// VRAM; the disk comes behind the sockets, VMMs behind both, the larger sizes behind the smaller, and what takes longest last: larger sizes to and from
    /// the disk.
    #[must_use]
    pub fn rows(&self) -> Vec<Row> {
        let usual = self.sizes.is_empty() && self.contents.is_empty() && self.vfs.is_empty();
        let of = |way: Way| {
            if usual {
                way.usual()
            } else {
                self.combinations()
            }
        };
        let ways = Way::ALL.into_iter().filter(|way| self.ways.contains(way));
        let all = ways.flat_map(|way| {
            of(way).into_iter().map(move |(size, content, vfs)| Row {
                way,
                size,
                content,
                vfs,
            })
        });
        // A file and a VM have one VF here.
        let mut rows: Vec<Row> = all
            .filter(|row| row.vfs == 1 || row.way.floor() != FloorKind::Disk && !row.way.is_vmm())
            .collect();
        rows.sort_by_key(|row| {
            let disk = row.way.floor() == FloorKind::Disk;
            let slow = disk && row.size > GIB;
            let vmm = row.way.is_vmm();
            (slow, row.size, vmm, row.vfs, disk, row.content as u8)
        });
        rows
    }

    fn combinations(&self) -> Vec<(u64, Content, u16)> {
        fn or<T: Copy>(said: &[T], otherwise: T) -> Vec<T> {
            if said.is_empty() {
                vec![otherwise]
            } else {
                said.to_vec()
            }
        }
        let contents = or(&self.contents, Content::Random);
        combinations(&or(&self.sizes, GIB), &contents, &or(&self.vfs, 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_rows_are_the_table_and_a_size_asks_for_combinations() {
        let mut selection = Selection {
            ways: vec![Way::Restore, Way::Tcp],
            ..Selection::default()
        };
        let usual = selection.rows();
        assert_eq!(usual.len(), 27);
        let at = |index: usize| usual[index].to_string();
        assert_eq!(at(0), "tcp, 1 GiB, random");
        assert_eq!(at(3), "restore, 1 GiB, random");
        assert_eq!(at(6), "tcp, 1 GiB, random, 4 VFs");
        assert_eq!(at(20), "tcp, 8 GiB, zero, 4 VFs");
        assert_eq!(at(21), "restore, 4 GiB, random");
        assert_eq!(at(26), "restore, 8 GiB, zero");
        selection.sizes = vec![16 << 20, 32 << 20];
        selection.vfs = vec![1, 4];
        let asked: Vec<String> = selection.rows().iter().map(Row::to_string).collect();
        assert_eq!(
            asked,
            [
                "tcp, 16 MiB, random",
                "restore, 16 MiB, random",
                "tcp, 16 MiB, random, 4 VFs",
                "tcp, 32 MiB, random",
                "restore, 32 MiB, random",
                "tcp, 32 MiB, random, 4 VFs",
            ]
        );
    }
}
