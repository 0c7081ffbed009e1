// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The VF's engine, which can be made to go wrong.

use guest::abi::{
    ACC_RESET, BLOCK_WORDS, GGTT, GGTT_MAX_ENTRIES, ID_VALUE, OP_HASH_BLOCK, PTE_VALID,
    STATUS_ERROR, VRAM_WINDOW, VRAM_WINDOW_SIZE, accumulate, reg, status,
};
use guest::layout::{CONTEXT_SIZE, CONTEXTS, SLOTS, context, control};

use super::sabotage::Sabotage;
use super::{Memory, load, store};

/// The engine of the VF whose BAR0 is at `bar0` and whose context is number `index`.
pub struct Engine {
    bar0: u32,
    index: u32,
    accumulator: u32,
    completed: u32,
    stopped: bool,
    sabotage: Option<(u32, Sabotage)>,
}

enum Step {
    Idle,
    Done,
    /// Done, and the interrupt is lost.
    DoneInSilence,
}

impl Engine {
    /// After a reset that leaves `completed` jobs done, 0 in a real one.
    pub fn reset(memory: &Memory, bar0: u32, index: u32, completed: u32) -> Self {
        // All of BAR0 and the VRAM behind it; pages that are zero already need no new memory.
        let zeroes = vec![0; 1 << 20];
        for megabyte in 0..guest::abi::BAR0_SIZE >> 20 {
            super::board::write(memory, bar0 + (megabyte << 20), &zeroes);
        }
        store(memory, bar0 + reg::ID, ID_VALUE);
        store(memory, bar0 + reg::VERSION, 1);
        store(memory, bar0 + reg::VRAM_MIB, VRAM_WINDOW_SIZE >> 20);
        store(memory, bar0 + reg::GGTT_ENTRIES, GGTT_MAX_ENTRIES);
        store(memory, bar0 + reg::RING_HEAD, completed);
        Self {
            bar0,
            index,
            accumulator: ACC_RESET,
            completed,
            stopped: false,
            sabotage: None,
        }
    }

    /// Goes wrong at job `job`.
    pub fn sabotage(&mut self, job: u32, how: Sabotage) {
        self.sabotage = Some((job, how));
    }

    /// Does at most one job; `interrupt` is called when it signals vector 0. Answers whether there was one.
    pub fn step(&mut self, memory: &Memory, interrupt: impl FnOnce()) -> bool {
        let step = self.job(memory).unwrap_or_else(|reason| {
            self.stopped = true;
            store(memory, self.bar0 + reg::STATUS, STATUS_ERROR | reason);
            Step::Done
        });
        match step {
            Step::Idle => return false,
            Step::Done => interrupt(),
            Step::DoneInSilence => {}
        }
        true
    }

    fn job(&mut self, memory: &Memory) -> Result<Step, u32> {
        let base = self.bar0;
        let bar = |offset| load(memory, base + offset);
        if self.stopped || bar(reg::RING_ENABLE) != 1 || bar(reg::RING_TAIL) == self.completed {
            return Ok(Step::Idle);
        }
        let n = self.completed.wrapping_add(1);
        let entries = bar(reg::RING_ENTRIES);
        if !entries.is_power_of_two() || entries > guest::abi::RING_MAX_ENTRIES {
            return Err(status::RING_SETUP);
        }
        let slot = n.wrapping_sub(1) % entries;
        let due = self
            .sabotage
            .filter(|&(job, _)| job == n)
            .map(|(_, how)| how);
        self.before(memory, due, slot);

        let at = bar(reg::RING_BASE) + slot * guest::abi::DESCRIPTOR_SIZE;
        let mut descriptor = [0; 8];
        self.dma_read(memory, at, &mut descriptor)?;
        let [seq, op, src, dst, vram, prev, done, check] = descriptor;
        if op != OP_HASH_BLOCK || check != seq ^ op ^ src ^ dst ^ vram ^ prev ^ done {
            return Err(status::BAD_DESCRIPTOR);
        }
        if seq != n {
            return Err(status::OUT_OF_ORDER);
        }
        let times = if due == Some(Sabotage::RepeatedJob) {
            2
        } else {
            1
        };
        for _ in 0..times {
            if due != Some(Sabotage::SkippedJob) {
                self.work(memory, due, [seq, src, dst, vram, prev, done])?;
            }
        }
        self.after(memory, due, slot, vram)?;
        self.completed = n;
        let since = |how| matches!(self.sabotage, Some((job, known)) if n >= job && known == how);
        let ahead = if since(Sabotage::HeadAhead) { 1000 } else { 0 };
        store(memory, self.bar0 + reg::RING_HEAD, n.wrapping_add(ahead));
        Ok(if since(Sabotage::LostInterrupts) {
            Step::DoneInSilence
        } else {
            Step::Done
        })
    }

    fn work(
        &mut self,
        memory: &Memory,
        due: Option<Sabotage>,
        descriptor: [u32; 6],
    ) -> Result<(), u32> {
        let [seq, src, dst, vram, prev, done] = descriptor;
        let mut x = [0; BLOCK_WORDS as usize];
        self.dma_read(memory, src, &mut x)?;
        for (i, word) in (0u32..).zip(x) {
            self.accumulator = accumulate(self.accumulator, word);
            store(memory, self.vram(vram + 4 * i)?, self.accumulator);
        }
        let mut z = [0; BLOCK_WORDS as usize];
        for (i, word) in (0u32..).zip(&mut z) {
            *word = load(memory, self.vram(prev + 4 * i)?);
        }
        self.dma_write(memory, dst, &z)?;
        let mut sum = z.iter().fold(0u32, |sum, &word| sum.wrapping_add(word));
        let mut seq = seq;
        match due {
            Some(Sabotage::WrongSum) => sum ^= 4,
            Some(Sabotage::WrongOrder) => seq = seq.wrapping_add(1),
            _ => {}
        }
        let record = [seq, self.accumulator, sum, !seq];
        let whole = if due == Some(Sabotage::TornRecord) {
            3
        } else {
            4
        };
        self.dma_write(memory, done, &record[..whole])
    }

    fn before(&mut self, memory: &Memory, due: Option<Sabotage>, slot: u32) {
        let flip = |gpa| store(memory, gpa, load(memory, gpa) ^ 0x10);
        match due {
            Some(Sabotage::LostRingPage) => {
                self.lose(memory, context::RING + slot * guest::abi::DESCRIPTOR_SIZE);
            }
            Some(Sabotage::Accumulator) => self.accumulator ^= 1,
            Some(Sabotage::FlippedOldVram) => {
                flip(self.bar0 + VRAM_WINDOW + (slot + 1) % SLOTS * guest::abi::BLOCK_SIZE + 8);
            }
            Some(Sabotage::ClearedGgtt) => {
                (0..context::DMA_PAGES).for_each(|page| self.set_pte(memory, page, 0));
            }
            Some(Sabotage::SwappedGgtt) => {
                let pages = [destination(slot) / 0x1000, destination(slot + 64) / 0x1000];
                let [first, second] = pages.map(|page| load(memory, self.bar0 + GGTT + 8 * page));
                self.set_pte(memory, pages[0], second);
                self.set_pte(memory, pages[1], first);
            }
            _ => {}
        }
    }

    fn after(
        &self,
        memory: &Memory,
        due: Option<Sabotage>,
        slot: u32,
        vram: u32,
    ) -> Result<(), u32> {
        let flip = |gpa| store(memory, gpa, load(memory, gpa) ^ 0x10);
        let record = |slot| context::DONE + slot * context::DONE_STRIDE;
        match due {
            Some(Sabotage::LostDestinationPage) => {
                self.wait_for_the_guest(memory);
                self.lose(memory, destination(slot));
            }
            Some(Sabotage::LostRecordPage) => {
                self.wait_for_the_guest(memory);
                self.lose(memory, record(slot));
            }
            Some(Sabotage::LostOldDestinationPage(ago)) => {
                self.lose(memory, destination(slot - ago));
            }
            Some(Sabotage::LostOldRecordPage(ago)) => self.lose(memory, record(slot - ago)),
            Some(Sabotage::FlippedVram) => flip(self.vram(vram + 128)?),
            Some(Sabotage::Scratch) => {
                for register in 0..4 {
                    flip(self.bar0 + reg::SCRATCH + 4 * register);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Until the guest has verified all but the job in progress: pages are lost in a migration, while it stands still,
    /// and not between two of its checks. Only for a machine with one VF, since the engines share a thread.
    fn wait_for_the_guest(&self, memory: &Memory) {
        while load(
            memory,
            self.context() + context::CONTROL + control::VERIFIED,
        ) != self.completed
        {
            std::thread::yield_now();
        }
    }

    /// The page of the guest's context with this offset is as before its first use.
    fn lose(&self, memory: &Memory, offset: u32) {
        super::board::write(memory, self.context() + (offset & !0xfff), &[0; 0x1000]);
    }

    fn context(&self) -> u32 {
        CONTEXTS + self.index * CONTEXT_SIZE
    }

    fn set_pte(&self, memory: &Memory, page: u32, pte: u32) {
        store(memory, self.bar0 + GGTT + 8 * page, pte);
    }

    fn vram(&self, offset: u32) -> Result<u32, u32> {
        if offset < VRAM_WINDOW_SIZE {
            Ok(self.bar0 + VRAM_WINDOW + offset)
        } else {
            Err(status::VRAM_RANGE)
        }
    }

    /// The guest physical address behind a GGTT address.
    fn translate(&self, memory: &Memory, address: u32, words: usize) -> Result<u32, u32> {
        let (page, offset) = (address / 0x1000, address % 0x1000);
        if page >= GGTT_MAX_ENTRIES
            || !address.is_multiple_of(16)
            || offset as usize + 4 * words > 0x1000
        {
            return Err(status::GGTT_FAULT);
        }
        let pte = load(memory, self.bar0 + GGTT + 8 * page);
        if u64::from(pte) & PTE_VALID == 0 || load(memory, self.bar0 + GGTT + 8 * page + 4) != 0 {
            return Err(status::GGTT_FAULT);
        }
        Ok((pte & !0xfff) + offset)
    }

    fn dma_read(&self, memory: &Memory, address: u32, words: &mut [u32]) -> Result<(), u32> {
        let gpa = self.translate(memory, address, words.len())?;
        for (i, word) in (0u32..).zip(words) {
            *word = load(memory, gpa + 4 * i);
        }
        Ok(())
    }

    fn dma_write(&self, memory: &Memory, address: u32, words: &[u32]) -> Result<(), u32> {
        let gpa = self.translate(memory, address, words.len())?;
        for (i, &word) in (0u32..).zip(words) {
            store(memory, gpa + 4 * i, word);
        }
        Ok(())
    }
}

/// Offset in the context of a slot's destination block.
fn destination(slot: u32) -> u32 {
    context::DST + slot % SLOTS * guest::abi::BLOCK_SIZE
}
