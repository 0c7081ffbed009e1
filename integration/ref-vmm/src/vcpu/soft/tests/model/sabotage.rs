// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What can go wrong in a VF, or to what it wrote.

/// One thing gone wrong, at one job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// The page with the job's destination block reads zero again.
    LostDestinationPage,
    /// The page with the job's completion record reads zero again.
    LostRecordPage,
    /// The same for the page that job's results went to so many jobs earlier: long verified.
    LostOldDestinationPage(u32),
    /// As above, the record.
    LostOldRecordPage(u32),
    /// The page with the ring's descriptor reads zero again, before the VF fetches it.
    LostRingPage,
    /// The job is done twice.
    RepeatedJob,
    /// The job is left out.
    SkippedJob,
    /// The last word of the record is not written.
    TornRecord,
    /// A bit of what the job wrote to VRAM flips.
    FlippedVram,
    /// A bit flips in the oldest block in VRAM, which this job copies.
    FlippedOldVram,
    /// The record is that of the next job.
    WrongOrder,
    /// From this job on `RING_HEAD` is ahead of the doorbell.
    HeadAhead,
    /// A bit of the accumulator is lost before the job.
    Accumulator,
    /// The sum in the record is wrong.
    WrongSum,
    /// A scratch register changes.
    Scratch,
    /// The GGTT is cleared.
    ClearedGgtt,
    /// Two pages of the GGTT change places, after which one job's destination is another's.
    SwappedGgtt,
    /// From this job on no interrupt arrives.
    LostInterrupts,
}
