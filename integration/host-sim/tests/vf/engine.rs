// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The engine against an oracle: jobs, their faults, suspension and what a migration carries over.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use guest::abi::{self, reg, status};
use host_sim::vf::{Dma, Errno, State, Step, Vf};

use crate::common::*;

const RING: u32 = 0x0000;
const SRC: u32 = 0x1000;
const DST: u32 = 0x2000;
const DONE: u32 = 0x3000;
/// Guest memory: the four pages above, from this DMA address on.
const IOVA: u64 = 0x12_3450_0000;

/// Guest memory behind an IOMMU, and the interrupts that came.
struct Guest {
    pages: RefCell<Vec<u8>>,
    irqs: RefCell<Vec<u16>>,
}

impl Guest {
    fn new() -> Self {
        Self {
            pages: RefCell::new(vec![0; 0x4000]),
            irqs: RefCell::default(),
        }
    }

    fn step(&self, vf: &Vf) -> Step {
        vf.engine_step(self, &|vector| self.irqs.borrow_mut().push(vector))
    }

    fn words(&self, at: u32, count: usize) -> Vec<u32> {
        let bytes = &self.pages.borrow()[at as usize..at as usize + count * 4];
        bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|w| u32::from_le_bytes(*w))
            .collect()
    }

    fn put(&self, at: u32, words: &[u32]) {
        for (word, at) in words.iter().zip((at as usize..).step_by(4)) {
            self.pages.borrow_mut()[at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
    }

    /// Puts a job into its slot.
    fn describe(&self, job: Job) {
        let mut words = [
            job.seq, job.op, job.src, job.dst, job.vram, job.prev, job.done, 0,
        ];
        words[7] = words.iter().fold(job.spoil, |check, word| check ^ word);
        self.put(RING + (job.seq.wrapping_sub(1) % 16) * 32, &words);
    }
}

impl Dma for Guest {
    fn read(&self, iova: u64, buf: &mut [u8]) -> Result<(), Errno> {
        let at = usize::try_from(iova.checked_sub(IOVA).ok_or(Errno::EFAULT)?).expect("small");
        buf.copy_from_slice(
            self.pages
                .borrow()
                .get(at..at + buf.len())
                .ok_or(Errno::EFAULT)?,
        );
        Ok(())
    }

    fn write(&self, iova: u64, buf: &[u8]) -> Result<(), Errno> {
        let at = usize::try_from(iova.checked_sub(IOVA).ok_or(Errno::EFAULT)?).expect("small");
        self.pages
            .borrow_mut()
            .get_mut(at..at + buf.len())
            .ok_or(Errno::EFAULT)?
            .copy_from_slice(buf);
        Ok(())
    }
}

#[derive(Clone, Copy)]
struct Job {
    seq: u32,
    op: u32,
    src: u32,
    dst: u32,
    vram: u32,
    prev: u32,
    done: u32,
    spoil: u32,
}

fn job(seq: u32) -> Job {
    let slot = (seq - 1) % 16;
    Job {
        seq,
        op: abi::OP_HASH_BLOCK,
        src: SRC + slot * 256,
        dst: DST + slot * 256,
        vram: (seq % 8) * 256,
        prev: ((seq + 7) % 8) * 256,
        done: DONE + slot * 32,
        spoil: 0,
    }
}

/// A VF with its ring set up on `guest`.
fn set_up(host: &TestHost, index: u16) -> std::sync::Arc<Vf> {
    let vf = host.opened(index);
    for entry in 0..4 {
        write_pte(
            &vf,
            entry,
            (IOVA + u64::from(entry) * 4096) | abi::PTE_VALID,
        );
    }
    write32(&vf, reg::RING_BASE, RING);
    write32(&vf, reg::RING_ENTRIES, 16);
    write32(&vf, reg::RING_ENABLE, 1);
    vf
}

/// What the engine has to compute.
struct Oracle {
    accumulator: u32,
    vram: Vec<[u32; 64]>,
}

impl Oracle {
    fn new() -> Self {
        Self {
            accumulator: abi::ACC_RESET,
            vram: vec![[0; 64]; 8],
        }
    }

    #[track_caller]
    fn runs(&mut self, guest: &Guest, vf: &Vf, seq: u32) {
        let job = job(seq);
        let x: Vec<u32> = (0..64)
            .map(|i| seq.wrapping_mul(0x0101_0101) ^ (i * 77))
            .collect();
        guest.put(job.src, &x);
        guest.describe(job);
        write32(vf, reg::RING_TAIL, seq);
        assert!(vf.ring_may_have_work());
        assert_eq!(guest.step(vf), Step::Worked);
        for (y, x) in self.vram[(seq % 8) as usize].iter_mut().zip(&x) {
            self.accumulator = (self.accumulator.rotate_left(5) ^ x).wrapping_mul(0x0100_0193);
            *y = self.accumulator;
        }
        let z = self.vram[((seq + 7) % 8) as usize];
        assert_eq!(guest.words(job.dst, 64), z, "job {seq}");
        let sum = z.iter().fold(0u32, |s, w| s.wrapping_add(*w));
        assert_eq!(
            guest.words(job.done, 4),
            [seq, self.accumulator, sum, !seq],
            "job {seq}"
        );
        assert_eq!(read32(vf, reg::RING_HEAD), seq);
        assert_eq!(guest.irqs.take(), [0]);
        write32(vf, reg::IRQ_ACK, seq);
    }
}

#[test]
fn jobs_are_done_in_order_and_each_is_told_by_an_interrupt() {
    let host = TestHost::new(&small());
    let (guest, vf) = (Guest::new(), set_up(&host, 1));
    let mut oracle = Oracle::new();
    assert_eq!(guest.step(&vf), Step::Idle);
    for seq in 1..=50 {
        oracle.runs(&guest, &vf, seq);
    }
    assert_eq!(guest.step(&vf), Step::Idle);
    assert!(!vf.ring_may_have_work());
}

#[test]
fn a_block_read_back_from_where_the_job_wrote_it_is_the_new_one() {
    let host = TestHost::new(&small());
    let (guest, vf) = (Guest::new(), set_up(&host, 1));
    guest.describe(Job {
        prev: job(1).vram,
        ..job(1)
    });
    write32(&vf, reg::RING_TAIL, 1);
    assert_eq!(guest.step(&vf), Step::Worked);
    assert_eq!(guest.words(DST, 1), [abi::accumulate(abi::ACC_RESET, 0)]);
}

#[test]
fn the_engine_goes_on_at_the_destination_where_it_stopped_at_the_source() {
    let (source, destination) = (TestHost::new(&small()), TestHost::new(&small()));
    let (guest, from) = (Guest::new(), set_up(&source, 1));
    let mut oracle = Oracle::new();
    for seq in 1..=20 {
        oracle.runs(&guest, &from, seq);
    }
    let to = destination.opened(2);
    load(&to, &save(&from));
    set(&to, State::Running);
    for seq in 21..=40 {
        oracle.runs(&guest, &to, seq);
    }
}

#[test]
fn a_cancelled_save_gives_the_engine_back_as_it_was() {
    let host = TestHost::new(&small());
    let (guest, vf) = (Guest::new(), set_up(&host, 1));
    let mut oracle = Oracle::new();
    oracle.runs(&guest, &vf, 1);
    save(&vf);
    set(&vf, State::Running);
    oracle.runs(&guest, &vf, 2);
}

#[test]
fn an_interrupt_that_may_be_lost_is_made_up_for_on_entering_running() {
    let host = TestHost::new(&small());
    let (guest, vf) = (Guest::new(), set_up(&host, 1));
    guest.describe(job(1));
    write32(&vf, reg::RING_TAIL, 1);
    assert_eq!(guest.step(&vf), Step::Worked);
    guest.irqs.take();
    set(&vf, State::RunningP2p);
    assert_eq!(guest.step(&vf), Step::Halted);
    set(&vf, State::Running);
    assert!(vf.ring_may_have_work());
    assert_eq!(guest.step(&vf), Step::Worked);
    assert_eq!(guest.irqs.take(), [0]);
    assert_eq!(guest.step(&vf), Step::Idle, "once");

    write32(&vf, reg::IRQ_ACK, 1);
    set(&vf, State::RunningP2p);
    set(&vf, State::Running);
    assert_eq!(guest.step(&vf), Step::Idle, "nothing was lost");
    assert!(guest.irqs.take().is_empty());
}

#[test]
fn nothing_is_done_outside_running_or_with_the_ring_disabled() {
    let host = TestHost::new(&small());
    let (guest, vf) = (Guest::new(), set_up(&host, 1));
    guest.describe(job(1));
    for outside in [State::RunningP2p, State::Stop] {
        set(&vf, outside);
        write32(&vf, reg::RING_TAIL, 1);
        assert_eq!(guest.step(&vf), Step::Halted, "in {outside}");
        assert_eq!(read32(&vf, reg::RING_HEAD), 0);
    }
    write32(&vf, reg::RING_ENABLE, 0);
    set(&vf, State::Running);
    assert_eq!(guest.step(&vf), Step::Idle);
    write32(&vf, reg::RING_ENABLE, 1);
    assert_eq!(
        guest.step(&vf),
        Step::Worked,
        "what was submitted meanwhile"
    );
}

#[test]
fn a_closed_device_does_nothing() {
    let host = TestHost::new(&small());
    let (guest, vf) = (Guest::new(), set_up(&host, 1));
    guest.describe(job(1));
    write32(&vf, reg::RING_TAIL, 1);
    vf.device_closed();
    assert_eq!(guest.step(&vf), Step::Halted);
}

/// Runs `bad` as job 1 after `change` and expects the ring to stop with `reason` until a reset.
#[track_caller]
fn stops_the_ring(reason: u32, bad: Job, change: impl Fn(&Vf)) {
    let host = TestHost::new(&small());
    let (guest, vf) = (Guest::new(), set_up(&host, 1));
    guest.describe(bad);
    if bad.seq != 1 {
        // In the slot of job 1 all the same.
        let words = guest.words(RING + (bad.seq - 1) % 16 * 32, 8);
        guest.put(RING, &words);
    }
    write32(&vf, reg::RING_TAIL, 1);
    change(&vf);
    assert_eq!(guest.step(&vf), Step::Halted);
    assert_eq!(read32(&vf, reg::STATUS), abi::STATUS_ERROR + reason);
    assert_eq!(guest.irqs.take(), [0]);
    assert_eq!(guest.step(&vf), Step::Halted);
    assert!(guest.irqs.take().is_empty(), "told once");

    vf.reset().expect("reset");
    assert_eq!(read32(&vf, reg::STATUS), 0);
    drop(vf);
    let vf = set_up(&host, 1);
    Oracle::new().runs(&Guest::new(), &vf, 1);
}

#[test]
fn a_bad_descriptor_stops_the_ring() {
    stops_the_ring(status::BAD_DESCRIPTOR, Job { spoil: 1, ..job(1) }, |_| {});
    stops_the_ring(status::BAD_DESCRIPTOR, Job { op: 2, ..job(1) }, |_| {});
}

#[test]
fn a_job_out_of_order_stops_the_ring() {
    stops_the_ring(status::OUT_OF_ORDER, job(2), |_| {});
    // The guest moves RING_HEAD itself: a job is skipped that the engine's own counter misses.
    stops_the_ring(status::OUT_OF_ORDER, job(17), |vf| {
        write32(vf, reg::RING_HEAD, 16);
        write32(vf, reg::RING_TAIL, 17);
    });
}

#[test]
fn a_ggtt_address_that_does_not_translate_stops_the_ring() {
    stops_the_ring(
        status::GGTT_FAULT,
        Job {
            src: 0x4000,
            ..job(1)
        },
        |_| {},
    );
    stops_the_ring(
        status::GGTT_FAULT,
        Job {
            dst: DST + 8,
            ..job(1)
        },
        |_| {},
    );
    stops_the_ring(
        status::GGTT_FAULT,
        Job {
            src: SRC + 0xf20,
            ..job(1)
        },
        |_| {},
    );
    stops_the_ring(
        status::GGTT_FAULT,
        Job {
            done: 256 * 4096,
            ..job(1)
        },
        |_| {},
    );
    stops_the_ring(status::GGTT_FAULT, job(1), |vf| write_pte(vf, 0, IOVA));
}

#[test]
fn dma_without_a_mapping_stops_the_ring() {
    stops_the_ring(status::DMA_FAULT, job(1), |vf| {
        write_pte(vf, 1, 0x7000 | abi::PTE_VALID);
    });
    stops_the_ring(status::DMA_FAULT, job(1), |vf| {
        write_pte(vf, 3, (IOVA + 0x4000) | abi::PTE_VALID);
    });
}

#[test]
fn a_block_outside_the_quota_stops_the_ring() {
    stops_the_ring(
        status::VRAM_RANGE,
        Job {
            vram: 8 << 20,
            ..job(1)
        },
        |_| {},
    );
    stops_the_ring(
        status::VRAM_RANGE,
        Job {
            prev: u32::MAX - 31,
            ..job(1)
        },
        |_| {},
    );
    stops_the_ring(status::VRAM_RANGE, Job { vram: 4, ..job(1) }, |_| {});
}

#[test]
fn ring_registers_that_make_no_sense_stop_the_ring() {
    for entries in [0, 3, 2048] {
        stops_the_ring(status::RING_SETUP, job(1), |vf| {
            write32(vf, reg::RING_ENTRIES, entries);
        });
    }
    stops_the_ring(status::RING_SETUP, job(1), |vf| {
        write32(vf, reg::RING_TAIL, 17);
    });
    stops_the_ring(status::RING_SETUP, job(1), |vf| {
        write32(vf, reg::RING_BASE, 8);
    });
}

/// DMA of a guest that runs on another thread.
struct Endless {
    writes: AtomicU32,
}

impl Dma for Endless {
    fn read(&self, iova: u64, buf: &mut [u8]) -> Result<(), Errno> {
        buf.fill(0);
        if iova < IOVA + 0x1000 {
            let slot = u32::try_from((iova - IOVA) / 32).expect("small");
            let head = self.writes.load(Ordering::Relaxed) / 2;
            let job = job(head + 1);
            assert_eq!(slot, head % 16, "the next descriptor is asked for");
            let mut words = [
                job.seq, job.op, job.src, job.dst, job.vram, job.prev, job.done, 0,
            ];
            words[7] = words.iter().fold(0, |check, word| check ^ word);
            buf.copy_from_slice(words.map(u32::to_le_bytes).as_flattened());
        }
        Ok(())
    }

    fn write(&self, _: u64, _: &[u8]) -> Result<(), Errno> {
        self.writes.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

#[test]
fn a_suspend_waits_for_the_job_in_progress_and_none_begins_after_it() {
    let host = TestHost::new(&small());
    let vf = set_up(&host, 1);
    let dma = Endless {
        writes: AtomicU32::new(0),
    };
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let head = read32(&vf, reg::RING_HEAD);
                write32(&vf, reg::RING_TAIL, head + 1);
                vf.engine_step(&dma, &|_| {});
            }
        });
        for _ in 0..200 {
            set(&vf, State::RunningP2p);
            let writes = dma.writes.load(Ordering::SeqCst);
            assert_eq!(writes % 2, 0, "a job was torn");
            assert_eq!(read32(&vf, reg::RING_HEAD), writes / 2);
            std::thread::sleep(std::time::Duration::from_micros(200));
            assert_eq!(
                dma.writes.load(Ordering::SeqCst),
                writes,
                "DMA in RUNNING_P2P"
            );
            set(&vf, State::Running);
            std::thread::sleep(std::time::Duration::from_micros(200));
        }
        over.store(true, Ordering::Relaxed);
    });
    assert_eq!(read32(&vf, reg::STATUS), 0);
    assert!(dma.writes.into_inner() > 0, "the engine never ran");
}
