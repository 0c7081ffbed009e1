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
        let gib = |contents: &[Content], vfs| {
            let of = |&content| (GIB, content, vfs);
            contents.iter().map(of).collect::<Vec<_>>()
        };
        let large = [(4 * GIB, Random, 1), (8 * GIB, Random, 1)];
        match self {
            Self::Tcp => [
                gib(&[Random, Half, Zero], 1),
                gib(&[Random, Half, Zero], 4),
                large.to_vec(),
            ]
            .concat(),
            Self::Unix | Self::Handover => [gib(&[Random, Half, Zero], 1), large.to_vec()].concat(),
            Self::Qemu => gib(&[Random, Zero], 1),
            Self::TcpSplit
            | Self::Plain
            | Self::Save
            | Self::Restore
            | Self::Vmm
            | Self::CloudHypervisor
            | Self::CloudHypervisorUnpatched => gib(&[Random], 1),
        }
    }
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

    /// What a run takes with its floor and everything around it, on a machine with nothing else to do.
    #[must_use]
    pub fn guess(&self) -> Duration {
        let gib = self.size as f64 / GIB as f64;
        Duration::from_secs_f64(match self.way {
            Way::Tcp | Way::TcpSplit | Way::Plain | Way::Unix | Way::Handover => 0.2 + 1.6 * gib,
            Way::Save | Way::Restore => 1.0 + 8.0 * gib,
            Way::Vmm | Way::CloudHypervisor | Way::Qemu => 6.0 + 6.0 * gib,
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
    /// random and one VF for what is not said. Those that are of a size and number of VFs stand together, VMMs behind them, and the largest last.
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
        rows.sort_by_key(|row| (row.size, row.way.is_vmm(), row.vfs));
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
        let mut all = Vec::new();
        for size in or(&self.sizes, GIB) {
            for vfs in or(&self.vfs, 1) {
                for content in or(&self.contents, Content::Random) {
                    all.push((size, content, vfs));
                }
            }
        }
        all
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
        assert_eq!(usual.len(), 9);
        assert_eq!(usual[3].to_string(), "restore, 1 GiB, random");
        assert_eq!(usual[8].to_string(), "tcp, 8 GiB, random");
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
