// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The engine: takes jobs from the ring in guest memory, as docs/vf-model.md says.

use std::sync::atomic::Ordering;

use guest::abi::{self, BLOCK_SIZE, BLOCK_WORDS, DESCRIPTOR_SIZE, RECORD_SIZE, reg, status};

use super::control::{EngineState, TORN};
use super::{Dma, Errno, Step, Vf};
use crate::host::GGTT_PAGE;
use crate::shm::Guard;

/// The DMA page in a PTE.
const PTE_PAGE: u64 = 0x0000_ffff_ffff_f000;
/// What descriptors, blocks and records are aligned to.
const ALIGNMENT: u32 = 32;

/// Why a job stops the ring: a reason of `abi::status`.
struct Bad(u32);

impl From<Errno> for Bad {
    fn from(_: Errno) -> Self {
        Self(status::DMA_FAULT)
    }
}

type Words = [u32; BLOCK_WORDS as usize];

impl Vf {
    /// Does at most one job of the ring.
    ///
    /// `dma` and `irq` (the MSI-X vector to signal) are called while a suspend or reset waits for this job: they must not block and
    /// not call into this VF.
    pub fn engine_step(&self, dma: &dyn Dma, irq: &dyn Fn(u16)) -> Step {
        // Most calls find nothing; they take no lock.
        if !self.ring_may_have_work() {
            return if self.may_work() {
                Step::Idle
            } else {
                Step::Halted
            };
        }
        let mut engine = self.lock_engine();
        if !self.may_work() {
            return Step::Halted;
        }
        if self.control.live.irq_pending.swap(0, Ordering::AcqRel) != 0 {
            irq(0);
            return Step::Worked;
        }
        if !self.ring_may_have_work() {
            return Step::Idle;
        }
        let (answer, done) = match self.job(&mut engine, dma) {
            Ok(()) => (Step::Worked, engine.completed),
            Err(Bad(reason)) => {
                self.memory
                    .store32(reg::STATUS.into(), abi::STATUS_ERROR + reason);
                irq(0);
                return Step::Halted;
            }
        };
        self.memory.store32(reg::RING_HEAD.into(), done);
        irq(0);
        answer
    }

    /// Whether [`Self::engine_step`] would find something to do; a few loads, for polling.
    #[must_use]
    pub fn ring_may_have_work(&self) -> bool {
        let register = |r: u32| self.memory.load32(r.into());
        self.control.live.gate.load(Ordering::Acquire) != 0
            && (self.control.live.irq_pending.load(Ordering::Acquire) != 0
                || (register(reg::RING_TAIL) != register(reg::RING_HEAD)
                    && register(reg::RING_ENABLE) == 1
                    && register(reg::STATUS) == 0))
    }

    /// Whether the VF is in RUNNING, not waiting for a reset, and its ring has not stopped.
    fn may_work(&self) -> bool {
        let live = &self.control.live;
        live.gate.load(Ordering::Acquire) != 0
            && (live.irq_pending.load(Ordering::Acquire) != 0
                || self.memory.load32(reg::STATUS.into()) == 0)
    }

    /// Whether the VF is in RUNNING and not waiting for a reset.
    pub(super) fn is_running(&self) -> bool {
        self.control.live.gate.load(Ordering::Acquire) != 0
    }

    /// Whether somebody waits for the engine to rest.
    pub(super) fn engine_is_wanted(&self) -> bool {
        self.control.live.wanted.load(Ordering::Acquire) != 0
    }

    /// The engine's lock for whoever stops or starts it: an engine with work without end lets go of it.
    pub(super) fn quiesce_engine(&self) -> Guard<'_, EngineState> {
        self.control.live.wanted.fetch_add(1, Ordering::AcqRel);
        let engine = self.lock_engine();
        self.control.live.wanted.fetch_sub(1, Ordering::AcqRel);
        engine
    }

    pub(super) fn lock_engine(&self) -> Guard<'_, EngineState> {
        let engine = self.control.engine.lock();
        if engine.holder_died() {
            // A job was torn.
            self.set_gate(false);
            self.control.live.wedged.store(TORN, Ordering::Release);
        }
        engine
    }

    /// The next job, but for RING_HEAD and the interrupt.
    fn job(&self, engine: &mut EngineState, dma: &dyn Dma) -> Result<(), Bad> {
        let register = |r: u32| self.memory.load32(r.into());
        let (head, tail, entries) = (
            register(reg::RING_HEAD),
            register(reg::RING_TAIL),
            register(reg::RING_ENTRIES),
        );
        let base = register(reg::RING_BASE);
        let sound = entries.is_power_of_two()
            && entries <= abi::RING_MAX_ENTRIES
            && tail.wrapping_sub(head) <= entries
            && base.is_multiple_of(ALIGNMENT);
        if !sound {
            return Err(Bad(status::RING_SETUP));
        }
        let number = head.wrapping_add(1);
        let slot = base
            .checked_add((head % entries) * DESCRIPTOR_SIZE)
            .ok_or(Bad(status::RING_SETUP))?;
        let [seq, op, src, dst, vram, prev, done, check] =
            words(dma, self.translate(slot, DESCRIPTOR_SIZE)?)?;
        if check != seq ^ op ^ src ^ dst ^ vram ^ prev ^ done || op != abi::OP_HASH_BLOCK {
            return Err(Bad(status::BAD_DESCRIPTOR));
        }
        // The counter that no guest can write has to agree with the register that it can.
        if seq != number || engine.completed != head {
            return Err(Bad(status::OUT_OF_ORDER));
        }
        let src = self.translate(src, BLOCK_SIZE)?;
        let dst = self.translate(dst, BLOCK_SIZE)?;
        let done = self.translate(done, RECORD_SIZE)?;
        let vram = self.vram_block(vram)?;
        let prev = self.vram_block(prev)?;

        let x: Words = words(dma, src)?;
        let mut accumulator = engine.accumulator;
        for (word, at) in x.into_iter().zip((vram..).step_by(4)) {
            accumulator = abi::accumulate(accumulator, word);
            self.memory.store32(at, accumulator);
        }
        let z: Words = std::array::from_fn(|i| self.memory.load32(prev + 4 * i as u64));
        self.write_words(dma, dst, &z)?;
        let sum = z.iter().fold(0u32, |sum, word| sum.wrapping_add(*word));
        self.write_words(dma, done, &[seq, accumulator, sum, !seq])?;
        engine.accumulator = accumulator;
        engine.completed = number;
        Ok(())
    }

    /// The DMA address of `len` bytes at a GGTT address.
    fn translate(&self, address: u32, len: u32) -> Result<u64, Bad> {
        let page = GGTT_PAGE as u32;
        let (entry, within) = (address / page, address % page);
        if !address.is_multiple_of(ALIGNMENT)
            || within + len > page
            || entry >= self.config.ggtt_entries()
        {
            return Err(Bad(status::GGTT_FAULT));
        }
        let pte = self
            .memory
            .load64(u64::from(abi::GGTT) + u64::from(entry) * 8);
        if pte & abi::PTE_VALID == 0 {
            return Err(Bad(status::GGTT_FAULT));
        }
        Ok((pte & PTE_PAGE) | u64::from(within))
    }

    /// Where in the VF's memory a block of VRAM is.
    fn vram_block(&self, offset: u32) -> Result<u64, Bad> {
        let crosses = offset % GGTT_PAGE as u32 + BLOCK_SIZE > GGTT_PAGE as u32;
        let end = u64::from(offset) + u64::from(BLOCK_SIZE);
        if !offset.is_multiple_of(ALIGNMENT) || crosses || end > self.config.vram {
            return Err(Bad(status::VRAM_RANGE));
        }
        Ok(u64::from(abi::VRAM_WINDOW) + u64::from(offset))
    }

    fn write_words<const N: usize>(
        &self,
        dma: &dyn Dma,
        iova: u64,
        words: &[u32; N],
    ) -> Result<(), Bad> {
        self.dma_write(dma, iova, words.map(u32::to_le_bytes).as_flattened())?;
        Ok(())
    }
}

fn words<const N: usize>(dma: &dyn Dma, iova: u64) -> Result<[u32; N], Bad> {
    let mut bytes = [[0; 4]; N];
    dma.read(iova, bytes.as_flattened_mut())?;
    Ok(bytes.map(u32::from_le_bytes))
}
