// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Saves to files and loads from them: past the page cache and through it, by one thread and by several.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::*;
use crate::stream::Flags;
use crate::stream::frame::{PREAMBLE_SIZE, Preamble};

fn saved_to(file: PendingFile, content: Vec<u8>) -> SaveReport {
    let source = FakeVf::new(content, RING);
    let saved = save(stopped(&source), FileSink::new(file), &manifest(), &short());
    assert_kept(&saved);
    saved.result.unwrap()
}

fn loaded_from(path: &Path) -> (LoadReport, Gpu) {
    let destination = FakeVf::new(packets(9), RING);
    let incoming = Incoming::open(File::open(path).unwrap()).unwrap();
    let loaded = load(stopped(&destination), incoming, expectation(), &short());
    destination.assert_clean_use();
    let gpu = destination.kernel().gpu.clone();
    (loaded.result.unwrap(), gpu)
}

/// State with a stretch of zeros in its VRAM.
fn half_zero() -> Vec<u8> {
    let mut content = packets(SIZE);
    let end = content.len() - 24;
    content[end - (2 << 20)..end - 5000].fill(0);
    content
}

#[test]
fn a_file_written_past_the_page_cache_has_the_same_bytes() {
    with_one_and_two_threads(|| {
        let dir = tempfile::tempdir().unwrap();
        let (past, through) = (dir.path().join("past"), dir.path().join("through"));
        for content in [packets(4096), packets(SIZE), half_zero()] {
            let direct = saved_to(PendingFile::create(&past).unwrap(), content.clone());
            let cached = PendingFile::create_cached(&through).unwrap();
            assert_eq!(direct.totals, saved_to(cached, content.clone()).totals);
            let bytes = fs::read(&past).unwrap();
            assert_eq!(bytes.len() as u64, direct.totals.wire_bytes);
            assert!(bytes == fs::read(&through).unwrap());
            for path in [&past, &through] {
                let (report, gpu) = loaded_from(path);
                assert_eq!(report.totals, direct.totals);
                assert!(gpu == Gpu::Guest(content.clone()));
            }
        }
    });
}

#[test]
fn a_file_is_indexed_and_a_connection_is_not() {
    let bytes = stream_bytes();
    let preamble = Preamble::decode(bytes.first_chunk::<PREAMBLE_SIZE>().unwrap()).unwrap();
    assert_eq!(preamble.flags, Flags::INDEXED);
    let source = FakeVf::new(packets(4096), RING);
    let (here, there) = UnixStream::pair().unwrap();
    let context = short();
    thread::scope(|scope| {
        scope.spawn(|| save(stopped(&source), Peer::new(here), &manifest(), &context));
        let incoming = Incoming::accept(there, &context.deadlines).unwrap();
        assert!(!incoming.reader.is_indexed());
        incoming.refuse("enough", &context.deadlines);
    });
}

#[test]
fn zeros_take_no_room_in_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let mut content = packets(16 << 20);
    let (head, end) = (content.len() - 24 - (16 << 20), content.len() - 24);
    content[head..end].fill(0);
    let totals = saved_to(PendingFile::create(&path).unwrap(), content.clone()).totals;
    assert!(totals.zero_bytes > (16 << 20) - 8192, "{totals:?}");
    let file = fs::metadata(&path).unwrap();
    assert_eq!(file.len(), totals.wire_bytes);
    assert!(file.blocks() * 512 < 64 << 10, "{} blocks", file.blocks());
    assert!(loaded_from(&path).1 == Gpu::Guest(content));
}

#[test]
fn a_cancelled_load_from_a_file_leaves_the_vf_clean() {
    with_one_and_two_threads(|| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        saved_to(PendingFile::create(&path).unwrap(), packets(16 << 20));
        let destination = FakeVf::new(packets(9), RING);
        // Time for the cancel to come long before the last frame.
        destination.kernel().delay = Duration::from_millis(1);
        let context = short();
        let (cancel, progress) = (context.cancel.clone(), context.progress.clone());
        let loaded = thread::scope(|scope| {
            scope.spawn(move || {
                while progress.view().bytes == 0 {
                    thread::yield_now();
                }
                cancel.cancel();
            });
            let incoming = Incoming::open(File::open(&path).unwrap()).unwrap();
            load(stopped(&destination), incoming, expectation(), &context)
        });
        assert!(
            matches!(loaded.result, Err(LoadError::Cancelled)),
            "{:?}",
            loaded.result
        );
        assert_reset(&loaded, &destination);
    });
}
