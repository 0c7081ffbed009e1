// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The format's bytes as they are written today, compared with files that never change for a format version.
//!
//! `REGENERATE_GOLDEN=1 cargo test -p xe-vfio-device --test stream_golden` writes the files anew, for a new format version.
//! docs/stream-format.md explains `complete-v2.xevf` byte by byte.

mod support;

use std::path::PathBuf;
use std::{env, fs};

use support::*;
use xe_vfio_device::stream::{
    AttemptId, Limits, Manifest, Opening, Receipt, StreamError, VfOutcome, Writer,
};
#[cfg(feature = "compression")]
use xe_vfio_device::stream::{Codec, Flags};
use xe_vfio_device::xe::{Account, Expectation};

/// A VF without VRAM, and as little as a host may show of it.
fn golden_manifest() -> Manifest {
    Manifest {
        pf: None,
        gts: None,
        vram_quota: None,
        exec_quantum_ms: None,
        preempt_timeout_us: None,
        sched_priority: None,
        kernel_release: None,
        ..manifest(0)
    }
}

fn golden_state() -> Vec<u8> {
    [descriptor(), guc(MAIN), ggtt(), mmio(MAIN), trailer()].concat()
}

/// Compares with the file, which is written first when the switch is set.
#[track_caller]
fn golden(name: &str, bytes: &[u8]) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    if env::var_os("REGENERATE_GOLDEN").is_some() {
        fs::write(&path, bytes).expect("the golden file can be written");
    }
    let golden = fs::read(&path).expect("the golden file can be read");
    assert!(
        golden == bytes,
        "{name} differs from what is written today: this needs a new format version"
    );
    golden
}

#[test]
fn a_complete_stream_has_the_golden_bytes_and_reads_as_it_always_did() {
    let bytes = golden(
        "complete-v2.xevf",
        &stream(&golden_manifest(), &golden_state(), 160),
    );
    let (manifest, mut reader) =
        Opening::read(&bytes[..], &Limits::default()).expect("a good opening");
    assert_eq!(manifest, golden_manifest());
    let (mut buf, mut state) = (Vec::new(), Vec::new());
    while let Some(payload) = reader.next(&mut buf).expect("a good stream") {
        state.extend_from_slice(payload);
    }
    assert_eq!(state, golden_state());
    let kept = Expectation::of(&manifest).sent_by(&manifest);
    let account = parse(kept, &state, &[state.len()])
        .1
        .expect("a VF like this one takes it");
    let totals = reader.finish_file(&account).expect("a good stream");
    assert_eq!(
        (totals.frames, totals.payload_bytes),
        (2, state.len() as u64)
    );
}

#[test]
fn zeros_that_do_not_travel_have_the_golden_bytes() {
    let state = zero_vram().concat();
    let bytes = golden("sparse-v2.xevf", &stream(&manifest(4), &state, 9000));
    let (_, mut reader) = Opening::read(&bytes[..], &Limits::default()).expect("a good opening");
    let (mut buf, mut received) = (Vec::new(), Vec::new());
    while let Some(payload) = reader.next(&mut buf).expect("a good stream") {
        received.extend_from_slice(payload);
    }
    assert_eq!(received, state);
    let totals = reader.finish_file(&account(&state)).expect("a good stream");
    assert_eq!(totals.wire_bytes, bytes.len() as u64);
    assert!(totals.zero_bytes >= 2 * PAGE, "{totals:?}");
}

#[test]
fn a_file_with_an_index_has_the_golden_bytes() {
    let state = golden_state();
    let mut bytes = Vec::new();
    let mut writer = Writer::indexed(&mut bytes, &golden_manifest(), 1 << 20, AttemptId(7))
        .expect("a vector takes all");
    for payload in state.chunks(160) {
        writer.frame(payload).expect("a vector takes all");
    }
    writer.finish(&account(&state)).expect("a vector takes all");
    let bytes = golden("indexed-v2.xevf", &bytes);
    let (_, mut reader) = Opening::read(&bytes[..], &Limits::default()).expect("a good opening");
    assert!(reader.is_indexed());
    let (mut buf, mut received) = (Vec::new(), Vec::new());
    while let Some(payload) = reader.next(&mut buf).expect("a good stream") {
        received.extend_from_slice(payload);
    }
    assert_eq!(received, state);
    reader.finish_file(&account(&state)).expect("a good stream");
}

/// What a codec writes may change with its library, what it reads may not: these files are read, and written by the switch only.
#[cfg(feature = "compression")]
#[test]
fn compressed_streams_of_old_read_as_they_always_did() {
    let state = [zero_vram().concat(), packets(&[8, 8]).concat()].concat();
    for codec in Codec::ALL {
        let name = format!("{codec}-v2.xevf");
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("tests/golden")
            .join(&name);
        if env::var_os("REGENERATE_GOLDEN").is_some() {
            let mut bytes = Vec::new();
            let mut writer = Writer::with_flags(
                &mut bytes,
                &manifest(4),
                1 << 20,
                AttemptId(9),
                Flags::COMPRESSED,
            )
            .expect("a vector takes all");
            writer.compress(Some(codec));
            for payload in state.chunks(30_000) {
                writer.frame(payload).expect("a vector takes all");
            }
            let nothing = Account::default();
            writer.finish(&nothing).expect("a vector takes all");
            fs::write(&path, bytes).expect("the golden file can be written");
        }
        let golden = fs::read(&path).expect("the golden file can be read");
        let (_, mut reader) =
            Opening::read(&golden[..], &Limits::default()).expect("a good opening");
        let (mut buf, mut received) = (Vec::new(), Vec::new());
        while let Some(payload) = reader.next(&mut buf).expect("a good stream") {
            received.extend_from_slice(payload);
        }
        assert!(received == state, "{name}");
        let nothing = Account::default();
        let totals = reader.finish_file(&nothing).expect("a good stream");
        let (ours, others) = match codec {
            Codec::Lz4 => (totals.lz4, totals.zstd),
            Codec::Zstd => (totals.zstd, totals.lz4),
        };
        assert!(
            ours.frames >= 2 && ours.after < ours.before,
            "{name}: {ours:?}"
        );
        assert_eq!(others.frames, 0);
    }
}

#[test]
fn an_aborted_stream_has_the_golden_bytes() {
    let mut bytes = Vec::new();
    let writer = Writer::new(&mut bytes, &golden_manifest()).expect("a vector takes all");
    writer
        .abort("Cancelled by the administrator")
        .expect("a vector takes all");
    let bytes = golden("aborted-v2.xevf", &bytes);
    let mut reader = Opening::read(&bytes[..], &Limits::default())
        .expect("a good opening")
        .1;
    let error = reader.next(&mut Vec::new()).expect_err("an abort");
    assert!(
        matches!(error, StreamError::Aborted { received: 0, reason } if reason == "Cancelled by the administrator")
    );
    assert!(reader.finish(&Account::default()).is_err());
}

#[test]
fn receipts_have_the_golden_bytes() {
    let failed = Receipt::Failed {
        vf: VfOutcome::Reset,
        reason: "The stream ends before its trailer".to_owned(),
    };
    for (name, receipt) in [
        ("loaded-v1.receipt", Receipt::Loaded),
        ("failed-v1.receipt", failed),
    ] {
        let bytes = golden(name, &receipt.encode());
        assert_eq!(
            Receipt::read(&mut &bytes[..]).expect("a good receipt"),
            receipt
        );
    }
}

#[test]
fn the_example_in_the_documentation_is_the_golden_stream() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let text =
        fs::read_to_string(root.join("../docs/stream-format.md")).expect("the documentation");
    let golden = fs::read(root.join("tests/golden/complete-v2.xevf")).expect("the golden file");
    let mut compared = 0;
    for line in text.lines().filter_map(|line| line.strip_prefix("    ")) {
        let mut words = line.split_whitespace();
        let offset = words.next().filter(|word| word.len() == 3).and_then(hex);
        let Some(offset) = offset else { continue };
        let bytes = words.map_while(|word| hex(word).filter(|_| word.len() == 2));
        for (at, byte) in bytes.enumerate() {
            assert_eq!(
                usize::from(golden[offset + at]),
                byte,
                "line {line:?}, byte {at}"
            );
            compared += 1;
        }
    }
    assert!(compared > 190, "{compared} bytes were compared");
}

fn hex(word: &str) -> Option<usize> {
    usize::from_str_radix(word, 16).ok()
}
