// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Memory that is unmapped, given up, gone or new while a log is on.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};

use anyhow::Context as _;

use super::key::PAGE;
use super::{Content, Fingerprints, GuestPages};
use crate::dirty::{DirtyError, GuestRange, Moment, PAGE_SIZE, Strategy};

/// Pages by number, each with the byte that it is full of.
type Memory = Arc<Mutex<BTreeMap<u64, u8>>>;

struct Pages(Memory);

impl GuestPages for Pages {
    fn read(&self, gpa: u64, to: &mut [u8]) -> anyhow::Result<()> {
        let memory = self.0.lock().unwrap();
        for (number, page) in (gpa / PAGE_SIZE..).zip(to.chunks_mut(PAGE)) {
            page.fill(*memory.get(&number).context("no memory")?);
        }
        Ok(())
    }
}

fn range(first: u64, pages: u64) -> GuestRange {
    GuestRange {
        gpa: first * PAGE_SIZE,
        length: pages * PAGE_SIZE,
    }
}

/// Eight pages whose log is on, all of them sent as they are.
fn sent() -> (Memory, Content) {
    let memory: Memory = Arc::new(Mutex::new((0..8).map(|page| (page, 7)).collect()));
    let fingerprints = Fingerprints::new(Pages(memory.clone()), NonZeroUsize::MIN).unwrap();
    let mut vf = fingerprints.member();
    vf.start(&[range(0, 8)]).unwrap();
    fingerprints.sent(0, &[7; 8 * PAGE]);
    (memory, vf)
}

#[test]
fn what_was_written_before_an_unmap_is_found_after_it() {
    let (memory, mut vf) = sent();
    memory.lock().unwrap().insert(5, 8);
    let mapped = [range(0, 4)];
    assert_eq!(vf.dirty(Moment::Running, &mapped).unwrap(), []);
    assert_eq!(vf.dirty(Moment::Still, &mapped).unwrap(), [range(5, 1)]);
}

#[test]
fn memory_that_was_given_up_is_found_as_the_zeros_that_it_reads() {
    let (memory, mut vf) = sent();
    memory.lock().unwrap().insert(2, 0);
    assert_eq!(
        vf.dirty(Moment::Still, &[range(0, 2), range(3, 5)])
            .unwrap(),
        [range(2, 1)]
    );
}

#[test]
fn memory_that_is_gone_ends_the_log_with_its_address() {
    let (memory, mut vf) = sent();
    memory.lock().unwrap().retain(|page, _| *page < 6);
    let error = vf.dirty(Moment::Still, &[range(0, 6)]).unwrap_err();
    assert!(matches!(error, DirtyError::Read { gpa, .. } if gpa / PAGE_SIZE < 8));
}

#[test]
fn memory_that_was_plugged_in_after_the_start_is_refused_by_its_address() {
    let (_, mut vf) = sent();
    let error = vf.dirty(Moment::Running, &[range(0, 9)]).unwrap_err();
    assert!(error.to_string().contains("0x8000"), "{error}");
}
