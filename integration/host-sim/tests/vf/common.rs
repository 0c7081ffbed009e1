// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Hosts for tests, and the ways through a save and a load.

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use guest::abi;
use host_sim::host::{Host, HostConfig};
use host_sim::vf::{SessionId, State, Transition, Vf};
use tempfile::TempDir;

pub const MIB: u64 = 1 << 20;

/// A host that goes with its directory.
pub struct TestHost {
    pub host: Host,
    pub dir: TempDir,
}

impl TestHost {
    #[track_caller]
    pub fn new(config: &HostConfig) -> Self {
        let shm = std::path::Path::new("/dev/shm");
        let dir = if shm.is_dir() {
            tempfile::tempdir_in(shm)
        } else {
            tempfile::tempdir()
        };
        let dir = dir.expect("a directory");
        let host = Host::create(&dir.path().join("host"), config).expect("a host");
        Self { host, dir }
    }

    /// VF `index`, opened by this process.
    #[track_caller]
    pub fn opened(&self, index: u16) -> Arc<Vf> {
        let vf = self.host.vf(index).expect("a VF");
        vf.device_opened(std::process::id()).expect("opened");
        vf
    }
}

/// A small VF with seven packets on its main GT, and no more waiting than needed.
pub fn small() -> HostConfig {
    HostConfig {
        vram: 8 * MIB,
        vram_chunk: 2 * MIB,
        gts: 2,
        ggtt: MIB,
        guc: 4096,
        flr_ms: 2,
        suspend_ms: 0,
        resume_ms: 0,
        restore_timeout_ms: 10,
        ..HostConfig::default()
    }
}

#[track_caller]
pub fn state(vf: &Vf) -> State {
    State::from_raw(vf.state().expect("GET")).expect("a state")
}

#[track_caller]
pub fn set(vf: &Vf, target: State) -> Transition {
    let answer = vf
        .set_state(target as u32)
        .unwrap_or_else(|e| panic!("SET {target}: {e}"));
    assert_eq!(state(vf), target);
    answer
}

#[track_caller]
pub fn begin_save(vf: &Vf) -> SessionId {
    match set(vf, State::StopCopy) {
        Transition::Save(id) => id,
        other => panic!("no data fd to read from but {other:?}"),
    }
}

#[track_caller]
pub fn begin_load(vf: &Vf) -> SessionId {
    match set(vf, State::Resuming) {
        Transition::Load(id) => id,
        other => panic!("no data fd to write to but {other:?}"),
    }
}

/// Everything that can be read, in reads of `piece` bytes.
#[track_caller]
pub fn read_all(vf: &Vf, id: SessionId, piece: usize) -> Vec<u8> {
    let mut stream = Vec::new();
    let mut buf = vec![0; piece];
    loop {
        let n = vf.data_read(id, &mut buf).expect("read");
        stream.extend_from_slice(&buf[..n]);
        if n < piece {
            return stream;
        }
    }
}

/// Writes `stream` in pieces of `piece` bytes.
#[track_caller]
pub fn write_all(vf: &Vf, id: SessionId, stream: &[u8], piece: usize) {
    for bytes in stream.chunks(piece) {
        assert_eq!(vf.data_write(id, bytes).expect("write"), bytes.len());
    }
}

/// The VF's saved state; it is in STOP afterwards.
#[track_caller]
pub fn save(vf: &Vf) -> Vec<u8> {
    let id = begin_save(vf);
    let stream = read_all(vf, id, 1 << 20);
    set(vf, State::Stop);
    stream
}

/// Brings the VF into `stream`'s state; it is in STOP afterwards.
#[track_caller]
pub fn load(vf: &Vf, stream: &[u8]) {
    let id = begin_load(vf);
    write_all(vf, id, stream, 1 << 20);
    set(vf, State::Stop);
}

/// Brings a VF that was just opened into `target`, with a stream that may be left from there.
#[track_caller]
pub fn bring_to(vf: &Vf, target: State, stream: &[u8]) -> Option<SessionId> {
    match target {
        State::StopCopy => {
            let id = begin_save(vf);
            read_all(vf, id, 1 << 20);
            Some(id)
        }
        State::Resuming => {
            let id = begin_load(vf);
            write_all(vf, id, stream, 1 << 20);
            Some(id)
        }
        other => {
            set(vf, other);
            None
        }
    }
}

pub fn read32(vf: &Vf, offset: u32) -> u32 {
    let mut bytes = [0; 4];
    vf.memory_file()
        .read_exact_at(&mut bytes, offset.into())
        .expect("BAR0 is there");
    u32::from_le_bytes(bytes)
}

pub fn write32(vf: &Vf, offset: u32, value: u32) {
    vf.memory_file()
        .write_all_at(&value.to_le_bytes(), offset.into())
        .expect("BAR0 is there");
}

/// VRAM from `offset` on.
pub fn vram(vf: &Vf, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    vf.memory_file()
        .read_exact_at(&mut bytes, u64::from(abi::VRAM_WINDOW) + offset)
        .expect("VRAM is there");
    bytes
}

pub fn write_vram(vf: &Vf, offset: u64, bytes: &[u8]) {
    vf.memory_file()
        .write_all_at(bytes, u64::from(abi::VRAM_WINDOW) + offset)
        .expect("VRAM is there");
}

pub fn write_pte(vf: &Vf, entry: u32, pte: u64) {
    vf.memory_file()
        .write_all_at(&pte.to_le_bytes(), u64::from(abi::GGTT + entry * 8))
        .expect("the GGTT is there");
}

/// Bytes without a pattern.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed | 1;
    std::iter::repeat_with(|| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x as u8
    })
    .take(len)
    .collect()
}

/// Gives every kind of state a content that depends on `seed`.
pub fn scribble(vf: &Vf, seed: u64) {
    write_vram(
        vf,
        0,
        &noise(seed, usize::try_from(vf.vram()).expect("small")),
    );
    let entries = vf.config().ggtt_entries();
    vf.memory_file()
        .write_all_at(&noise(seed + 1, entries as usize * 8), abi::GGTT.into())
        .expect("the GGTT is there");
    vf.memory_file()
        .write_all_at(&noise(seed + 2, 0x20), abi::reg::RING_BASE.into())
        .expect("registers are there");
    let scratch = 16 * usize::from(vf.config().gts);
    vf.memory_file()
        .write_all_at(&noise(seed + 3, scratch), abi::reg::SCRATCH.into())
        .expect("registers are there");
}
