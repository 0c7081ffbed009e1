// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is sent is what is known of the destination, though memory is something else at every look.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::{io, thread};

use super::{Fingerprints, GuestPages};
use crate::dirty::{DirtyError, GuestRange, Moment, PAGE_SIZE, Strategy as _};

const PAGES: u64 = 5;
const MEMORY: GuestRange = GuestRange {
    gpa: 0,
    length: PAGES * PAGE_SIZE,
};

/// Memory that is written by somebody at every byte and every look, until it is stilled.
#[derive(Clone, Default)]
struct Restless(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    number: u64,
    still: Option<Vec<u8>>,
}

impl GuestPages for Restless {
    fn read(&self, gpa: u64, to: &mut [u8]) -> anyhow::Result<()> {
        let state = &mut *self.0.lock().unwrap();
        if let Some(still) = &state.still {
            to.copy_from_slice(&still[gpa as usize..][..to.len()]);
            return Ok(());
        }
        for word in to.as_chunks_mut::<8>().0 {
            state.number += 1;
            *word = state.number.to_le_bytes();
        }
        Ok(())
    }
}

#[track_caller]
fn fingerprints(memory: &Restless) -> (Arc<Fingerprints>, super::Content) {
    let known = Fingerprints::new(memory.clone(), NonZeroUsize::MIN).unwrap();
    let mut vf = known.member();
    vf.start(&[MEMORY]).unwrap();
    (known, vf)
}

#[test]
fn what_left_is_what_is_known_however_memory_changes() {
    let memory = Restless::default();
    let (known, mut vf) = fingerprints(&memory);
    let mut destination = Vec::new();
    // A buffer that is no multiple of pages takes whole ones all the same.
    let mut buffer = vec![0; 2 * PAGE_SIZE as usize + 7];
    known
        .send(MEMORY, &mut buffer, |bytes| {
            destination.extend_from_slice(bytes);
            Ok(())
        })
        .unwrap();
    assert_eq!(destination.len() as u64, MEMORY.length);

    memory.0.lock().unwrap().still = Some(destination.clone());
    assert_eq!(known.rehearse().unwrap().0, []);
    destination[PAGE_SIZE as usize] ^= 1;
    memory.0.lock().unwrap().still = Some(destination);
    let second = GuestRange {
        gpa: PAGE_SIZE,
        length: PAGE_SIZE,
    };
    assert_eq!(vf.dirty(Moment::Still, &[MEMORY]).unwrap(), [second]);
}

#[test]
fn several_threads_send_parts_of_memory_and_all_of_it_is_known() {
    let memory = Restless::default();
    let (known, mut vf) = fingerprints(&memory);
    let destination = Mutex::new(vec![0; MEMORY.length as usize]);
    thread::scope(|scope| {
        for page in 0..PAGES {
            let (known, destination) = (&known, &destination);
            scope.spawn(move || {
                let gpa = page * PAGE_SIZE;
                let length = PAGE_SIZE;
                let mut buffer = vec![0; PAGE_SIZE as usize];
                let write = |bytes: &[u8]| {
                    let mut all = destination.lock().unwrap();
                    all[gpa as usize..][..bytes.len()].copy_from_slice(bytes);
                    Ok(())
                };
                known.send(GuestRange { gpa, length }, &mut buffer, write)
            });
        }
    });
    memory.0.lock().unwrap().still = Some(destination.into_inner().unwrap());
    assert_eq!(vf.dirty(Moment::Still, &[MEMORY]).unwrap(), []);
}

#[test]
fn a_connection_that_breaks_is_told_with_the_address() {
    let memory = Restless::default();
    let (known, _vf) = fingerprints(&memory);
    let mut buffer = vec![0; PAGE_SIZE as usize];
    let mut sent = 0;
    let error = known.send(MEMORY, &mut buffer, |_| {
        sent += 1;
        if sent < 3 {
            Ok(())
        } else {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    });
    assert!(matches!(error, Err(DirtyError::Send { gpa, .. }) if gpa == 2 * PAGE_SIZE));
}
