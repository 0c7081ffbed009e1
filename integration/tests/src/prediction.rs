// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Downtimes as predicted and as they were: one VM after the other moves to and fro between two hosts, and all of them share a history.
//!
//! So the first move of a VM is predicted from what others took, or from nothing, and its later ones from its own too.

use std::path::Path;

use serde_json::Value;

use crate::{Rig, Setup};

/// A VM and its way.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// How the VMMs talk.
    pub transport: Transport,
    /// VRAM of all VFs together, as `host-sim` takes it for each.
    pub vram_mib: u64,
    /// What is in it.
    pub content: &'static str,
    /// VFs.
    pub vfs: u16,
}

/// A kind of connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// On the loopback interface.
    Tcp,
    /// A socket in a directory.
    Unix,
    /// A socket in a directory that the data fds go through, and no state.
    HandOver,
}

impl Transport {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Unix => "unix",
            Self::HandOver => "hand-over",
        }
    }
}

/// One move.
#[derive(Debug, Clone)]
pub struct Move {
    /// Milliseconds predicted before it began.
    pub start_ms: f64,
    /// Milliseconds predicted before the pause.
    pub predicted_ms: f64,
    /// Whether it was within the interval.
    pub within: bool,
    /// Milliseconds that it was.
    pub actual_ms: f64,
    /// How it was known.
    pub basis: String,
}

impl Move {
    fn of(answer: &Value) -> Option<Self> {
        let prediction = &answer["prediction"];
        let number = |name: &str| prediction[name].as_f64();
        let actual_ms = number("actual_ms")?;
        Some(Self {
            start_ms: number("start_ms")?,
            predicted_ms: number("predicted_ms")?,
            within: (number("low_ms")?..=number("high_ms")?).contains(&actual_ms),
            actual_ms,
            basis: prediction["basis"].as_str()?.to_owned(),
        })
    }

    /// Predicted before the pause, to actual.
    pub fn ratio(&self) -> f64 {
        self.predicted_ms / self.actual_ms
    }
}

/// Moves a VM to and fro; the history is kept in `history`.
///
/// # Panics
/// When a host or a VMM does not come up, or the guest loses something.
pub fn moves(case: Case, count: usize, history: &Path) -> Vec<Move> {
    let each = case.vram_mib / u64::from(case.vfs);
    // Lives as long as the run.
    let vram: &'static str = Box::leak(format!("{each}M").into_boxed_str());
    let history: &'static str = Box::leak(history.display().to_string().into_boxed_str());
    let mut rig = Rig::new(&Setup {
        both_hosts: vec!["--populate"],
        vmm: vec!["--migration-history", history],
        local: case.transport == Transport::HandOver,
        memory: "256M",
        vfs: case.vfs,
        vram,
        ..Setup::default()
    });
    for vf in 1..=case.vfs {
        let vf = vf.to_string();
        let fill = ["--vf", &vf, case.content, "--from", "4M", "--seed", &vf];
        rig.source_host.command("fill", &fill).expect("fill");
    }
    let moved = (0..count)
        .map(|number| {
            let url = match case.transport {
                Transport::Tcp => rig.tcp_url(),
                Transport::Unix | Transport::HandOver => format!(
                    "unix:{}",
                    rig.files
                        .path()
                        .join(format!("{number}.migration"))
                        .display()
                ),
            };
            let (destination, answer) = rig.migrates_to(&format!("vmm{number}"), &url);
            rig.source = destination;
            std::mem::swap(&mut rig.source_host, &mut rig.destination_host);
            Move::of(&answer).unwrap_or_else(|| panic!("no prediction in {answer}"))
        })
        .collect();
    rig.source.remote(&["shutdown"]).expect("shutdown");
    rig.source.wait().expect("the last VMM ends");
    moved
}
