// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a comparison of guest memory costs a thread, with memcpy of the same bytes as the floor:
//! `cargo bench -p benches --bench fingerprints`.
//!
//! 256 MiB, which no cache holds: a page is copied once out of memory and fingerprinted from the copy, as a VMM does it. The last line is the
//! reference VMM's RAM, a memfd of which it looks for what was touched.

use std::hint::black_box;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ref_vmm::memory::GuestRam;
use ref_vmm::migration::pages::Pages;
use xe_vfio_device::dirty::{Fingerprints, GuestPages, GuestRange, Key, Strategy};

const MEMORY: usize = 256 << 20;
const PAGE: usize = 4096;

struct Ram(Vec<u8>);

impl GuestPages for Ram {
    fn read(&self, gpa: u64, to: &mut [u8]) -> anyhow::Result<()> {
        let at = usize::try_from(gpa)?;
        to.copy_from_slice(&self.0[at..at + to.len()]);
        Ok(())
    }
}

fn ram() -> Vec<u8> {
    (0..MEMORY / 8)
        .flat_map(|word| {
            (word as u64)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .to_ne_bytes()
        })
        .collect()
}

fn comparison(c: &mut Criterion) {
    let memory = ram();
    let mut group = c.benchmark_group("256 MiB of guest memory");
    group
        .throughput(Throughput::Bytes(MEMORY as u64))
        .sample_size(20)
        .measurement_time(Duration::from_secs(4));
    let mut copy = vec![1; MEMORY];
    group.bench_function("memcpy", |b| {
        b.iter(|| black_box(&mut copy).copy_from_slice(black_box(&memory)));
    });
    drop(copy);
    let key = Key::random().expect("a key");
    group.bench_function("fingerprints in place", |b| {
        b.iter(|| {
            let pages = black_box(&memory).as_chunks::<PAGE>().0.iter();
            pages.fold(0, |all, page| all ^ key.fingerprint(page))
        });
    });
    let all = GuestRange {
        gpa: 0,
        length: MEMORY as u64,
    };
    let fingerprints = Fingerprints::new(Ram(memory.clone()), NonZeroUsize::MIN).expect("a key");
    let mut member = fingerprints.member();
    member.start(&[all]).expect("a log");
    group.bench_function("sent", |b| {
        b.iter(|| fingerprints.sent(0, black_box(&memory)));
    });
    group.bench_function("compared, one thread", |b| {
        b.iter(|| fingerprints.rehearse().expect("memory").1.dirty);
    });
    let ram = Arc::new(GuestRam::new(MEMORY as u64).expect("RAM"));
    ram.write(0, &memory).expect("RAM");
    let fingerprints = Fingerprints::new(Pages(ram), NonZeroUsize::MIN).expect("a key");
    let mut member = fingerprints.member();
    member.start(&[all]).expect("a log");
    fingerprints.sent(0, &memory);
    group.bench_function("compared by ref-vmm, one thread", |b| {
        b.iter(|| fingerprints.rehearse().expect("memory").1.dirty);
    });
    group.finish();
}

criterion_group!(benches, comparison);
criterion_main!(benches);
