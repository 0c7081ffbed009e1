// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Compressed frames between VFs in memory: over connections, split ones, files, and links that are slower than a codec.

use std::fs::{self, File};
use std::io::IoSlice;

use super::*;
use crate::stream::Totals;

/// A VF's state whose VRAM has `vram` bytes that a codec makes shorter.
fn text(vram: usize) -> Vec<u8> {
    let mut content = packets(vram);
    let end = content.len() - 24;
    let mut state = 1u32;
    for word in content[end - vram..end].chunks_mut(8) {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let picked = [b"batch bu", b"ring hea", b"fence wa", b"page tab"];
        word.copy_from_slice(&picked[(state >> 30) as usize][..word.len()]);
        word[0] = (state >> 16) as u8;
    }
    content
}

/// A VF's state that no codec makes shorter.
fn noise(vram: usize) -> Vec<u8> {
    let mut content = packets(vram);
    let end = content.len() - 24;
    let mut state = 1u64;
    for word in content[end - vram..end].chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let bytes = state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes();
        word.copy_from_slice(&bytes[..word.len()]);
    }
    content
}

fn context(compression: Compression) -> Context {
    let mut context = short();
    context.deadlines.network = Duration::from_secs(20);
    context.compression = compression;
    context
}

/// Moves a state; answers what both sides have counted.
#[track_caller]
fn moved(
    content: &[u8],
    here: impl Connection,
    there: impl Connection,
    context: &Context,
) -> (SaveReport, LoadReport) {
    let source = FakeVf::new(content.to_vec(), RING);
    let destination = FakeVf::new(packets(9), RING);
    let theirs = short();
    let (saved, loaded) = thread::scope(|scope| {
        let loaded = scope.spawn(|| receive(&destination, there, &theirs));
        let saved = save(stopped(&source), Peer::new(here), &manifest(), context);
        (saved, loaded.join().unwrap())
    });
    assert_kept(&saved);
    let (saved, loaded) = (saved.result.unwrap(), loaded.result.unwrap());
    assert_eq!(saved.totals, loaded.totals);
    assert!(destination.kernel().gpu == Gpu::Guest(content.to_vec()));
    source.assert_clean_use();
    destination.assert_clean_use();
    (saved, loaded)
}

#[track_caller]
fn assert_shrunk(totals: &Totals) {
    let all = totals.compressed();
    assert!(all.frames > 0 && all.after < all.before, "{totals:?}");
    assert!(
        totals.wire_bytes < totals.payload_bytes * 3 / 4,
        "{totals:?}"
    );
}

#[test]
fn each_codec_moves_a_state_over_a_connection() {
    with_one_and_two_threads(|| {
        for compression in [Compression::Lz4, Compression::Zstd] {
            let (here, there) = tcp();
            let (saved, loaded) = moved(&text(SIZE), here, there, &context(compression));
            assert_shrunk(&saved.totals);
            assert!(saved.stages.codec > Duration::ZERO);
            assert!(loaded.stages.codec > Duration::ZERO);
        }
    });
}

#[test]
fn noise_and_an_off_stream_are_not_compressed() {
    for (content, compression) in [
        (noise(SIZE), Compression::Zstd),
        (noise(SIZE), Compression::Lz4),
        (text(SIZE), Compression::Off),
    ] {
        let (here, there) = tcp();
        let (saved, loaded) = moved(&content, here, there, &context(compression));
        // The descriptor and what stands around VRAM may have shrunk with the frame that they are in.
        assert!(saved.totals.compressed().frames <= 1, "{:?}", saved.totals);
        assert!(compression != Compression::Off || loaded.stages.codec.is_zero());
    }
}

#[test]
fn split_streams_are_compressed_too() {
    let content = text(12 << 20);
    let source = FakeVf::new(content.clone(), RING);
    let destination = FakeVf::new(packets(9), RING);
    let context = context(Compression::Lz4);
    let pairs: Vec<_> = (0..4).map(|_| tcp()).collect();
    let boxed = |one: TcpStream| -> Box<dyn Connection> { Box::new(one) };
    let (here, there): (Vec<_>, Vec<_>) = pairs
        .into_iter()
        .map(|(here, there)| (boxed(here), boxed(there)))
        .unzip();
    let (saved, loaded) = thread::scope(|scope| {
        let loaded = scope.spawn(|| {
            let gather = Gather::new(context.attempt);
            let mut whole = None;
            for connection in there {
                let incoming = Incoming::accept(connection, &context.deadlines).unwrap();
                whole = gather.add(incoming, &context.deadlines).unwrap();
            }
            load(
                stopped(&destination),
                whole.unwrap(),
                expectation(),
                &context,
            )
        });
        let peers = Peers::new(here).unwrap();
        let saved = save(stopped(&source), peers, &manifest(), &context);
        (saved, loaded.join().unwrap())
    });
    let (saved, loaded) = (saved.result.unwrap(), loaded.result.unwrap());
    assert_shrunk(&saved.totals);
    assert_eq!(saved.totals, loaded.totals);
    assert!(destination.kernel().gpu == Gpu::Guest(content));
}

#[test]
fn a_file_is_compressed_indexed_and_read_ahead() {
    for compression in [Compression::Lz4, Compression::Zstd] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let content = text(8 << 20);
        let source = FakeVf::new(content.clone(), RING);
        let sink = FileSink::new(PendingFile::create(&path).unwrap());
        let saved = save(stopped(&source), sink, &manifest(), &context(compression));
        let totals = saved.result.unwrap().totals;
        assert_shrunk(&totals);
        assert_eq!(fs::metadata(&path).unwrap().len(), totals.wire_bytes);
        for threads in [Threads::One, Threads::Two, Threads::Auto] {
            let destination = FakeVf::new(packets(9), RING);
            let incoming = Incoming::open(File::open(&path).unwrap()).unwrap();
            let context = Context { threads, ..short() };
            let loaded = load(stopped(&destination), incoming, expectation(), &context);
            assert_eq!(loaded.result.unwrap().totals, totals);
            assert!(destination.kernel().gpu == Gpu::Guest(content.clone()));
        }
        thread::scope(|scope| {
            let file = File::open(&path).unwrap();
            let limits = crate::stream::Limits::default();
            let (_, mut frames) = FileFrames::open(scope, file, &limits, Threads::Auto).unwrap();
            let mut state = Vec::new();
            while frames
                .next(|pieces| pieces.append_to(&mut state))
                .unwrap()
                .is_some()
            {}
            assert!(state == content);
        });
    }
}

/// A connection that takes so many bytes a second, and alters a byte if it is told which.
struct Link {
    inner: TcpStream,
    rate: f64,
    free: Instant,
    written: usize,
    alter: Option<usize>,
}

/// Bytes that a call is held up for together.
const BURST: usize = 64 << 10;

impl Link {
    fn new(inner: TcpStream, rate: f64) -> Self {
        Self {
            inner,
            rate,
            free: Instant::now(),
            written: 0,
            alter: None,
        }
    }
}

impl Read for Link {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.inner.read(buffer)
    }
}

impl Write for Link {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut some = bytes[..bytes.len().min(BURST)].to_vec();
        if let Some(at) = self.alter.and_then(|at| at.checked_sub(self.written))
            && let Some(byte) = some.get_mut(at)
        {
            *byte ^= 0x10;
        }
        let now = Instant::now();
        // What it did not send while nobody asked it to is lost.
        self.free = self.free.max(now);
        thread::sleep(self.free - now);
        let count = self.inner.write(&some)?;
        self.written += count;
        self.free += Duration::from_secs_f64(count as f64 / self.rate);
        Ok(count)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> std::io::Result<usize> {
        let first = slices.iter().find(|slice| !slice.is_empty());
        first.map_or(Ok(0), |slice| self.write(slice))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

impl Connection for Link {
    fn closer(&self) -> std::io::Result<Closer> {
        self.inner.closer()
    }

    fn set_timeout(&self, timeout: Duration) -> std::io::Result<()> {
        Connection::set_timeout(&self.inner, timeout)
    }

    fn has_input(&self) -> bool {
        self.inner.has_input()
    }
}

/// Far less than any codec does on any machine that runs tests.
const SLOW: f64 = 25e6;

#[test]
fn a_slow_link_is_found_slow_and_compressed_for_with_one_thread_or_two() {
    for threads in [Threads::One, Threads::Two, Threads::Auto] {
        let (here, there) = tcp();
        let context = Context {
            threads,
            ..context(Compression::Auto)
        };
        let content = text(32 << 20);
        let (saved, _) = moved(&content, Link::new(here, SLOW), there, &context);
        let totals = saved.totals;
        assert!(totals.compressed().frames > totals.frames / 2, "{totals:?}");
        let without = Duration::from_secs_f64(content.len() as f64 / SLOW);
        assert!(saved.stream < without * 9 / 10, "{:?}", saved.stream);
    }
}

#[test]
fn noise_on_a_slow_link_is_sent_as_it_is() {
    let (here, there) = tcp();
    let link = Link::new(here, SLOW);
    let (saved, _) = moved(&noise(24 << 20), link, there, &context(Compression::Auto));
    assert!(saved.totals.compressed().frames <= 1, "{:?}", saved.totals);
}

#[test]
fn a_byte_that_changes_on_the_way_is_found_before_anything_is_decompressed() {
    let (here, there) = tcp();
    let mut link = Link::new(here, 1e9);
    link.alter = Some(700_000);
    let source = FakeVf::new(text(SIZE), RING);
    let destination = FakeVf::new(packets(9), RING);
    let theirs = short();
    let context = context(Compression::Lz4);
    let (saved, loaded) = thread::scope(|scope| {
        let loaded = scope.spawn(|| receive(&destination, there, &theirs));
        let saved = save(stopped(&source), Peer::new(link), &manifest(), &context);
        (saved, loaded.join().unwrap())
    });
    let error = chain(loaded.result.as_ref().unwrap_err());
    assert!(error.contains("checksum of the frame"), "{error}");
    assert_reset(&loaded, &destination);
    assert!(matches!(saved.result, Err(SaveError::Refused { .. })));
    assert_kept(&saved);
}

#[test]
fn a_cancelled_save_that_compresses_is_drained_and_the_vf_keeps_its_state() {
    for threads in [Threads::One, Threads::Two, Threads::Auto] {
        let (here, there) = tcp();
        let source = FakeVf::new(text(64 << 20), RING);
        let destination = FakeVf::new(packets(9), RING);
        let context = Context {
            threads,
            ..context(Compression::Auto)
        };
        let theirs = short();
        let (saved, loaded) = thread::scope(|scope| {
            let loaded = scope.spawn(|| receive(&destination, there, &theirs));
            let (cancel, progress) = (context.cancel.clone(), context.progress.clone());
            scope.spawn(move || {
                // By then the link is known, and frames are compressed.
                while progress.view().bytes < 24 << 20 {
                    thread::yield_now();
                }
                cancel.cancel();
            });
            let link = Peer::new(Link::new(here, 4.0 * SLOW));
            let saved = save(stopped(&source), link, &manifest(), &context);
            (saved, loaded.join().unwrap())
        });
        assert!(
            matches!(saved.result, Err(SaveError::Cancelled)),
            "{:?}",
            saved.result
        );
        assert_kept(&saved);
        assert_reset(&loaded, &destination);
        source.assert_clean_use();
    }
}
