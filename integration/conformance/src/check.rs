// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How a behaviour ends, and the comparisons that end it.

use std::fmt;
use std::panic::Location;

use crate::sys::{Answer, Errno};

/// Why a behaviour did not pass.
#[derive(Debug)]
pub enum Verdict {
    /// It differs: where in the suite, and how.
    Failed(String),
    /// It cannot be seen here: why.
    Skipped(String),
}

/// What a behaviour answers.
pub type Outcome<T = ()> = Result<T, Verdict>;

/// A failure with the line that noticed it.
#[track_caller]
pub fn failed<T>(text: impl fmt::Display) -> Outcome<T> {
    let here = Location::caller();
    Err(Verdict::Failed(format!(
        "{text} [{}:{}]",
        here.file(),
        here.line()
    )))
}

/// A skip.
pub fn skipped<T>(reason: impl fmt::Display) -> Outcome<T> {
    Err(Verdict::Skipped(reason.to_string()))
}

/// Two values are the same.
#[track_caller]
pub fn same<T: PartialEq + fmt::Debug + ?Sized>(what: &str, got: &T, want: &T) -> Outcome {
    if got == want {
        Ok(())
    } else {
        failed(format_args!("{what}: {got:?}, expected {want:?}"))
    }
}

/// Two streams are the same; only the first difference is told.
#[track_caller]
pub fn same_bytes(what: &str, got: &[u8], want: &[u8]) -> Outcome {
    if got.len() != want.len() {
        return failed(format_args!(
            "{what}: {} bytes, expected {}",
            got.len(),
            want.len()
        ));
    }
    match got.iter().zip(want).position(|(a, b)| a != b) {
        None => Ok(()),
        Some(at) => failed(format_args!(
            "{what}: byte {at} is {:#04x}, expected {:#04x}",
            got[at], want[at]
        )),
    }
}

/// It holds.
#[track_caller]
pub fn holds(what: &str, condition: bool) -> Outcome {
    if condition {
        Ok(())
    } else {
        failed(format_args!("does not hold: {what}"))
    }
}

/// A call fails with just this errno. Takes the answer, so that an fd that should not be there is closed.
#[expect(
    clippy::needless_pass_by_value,
    reason = "what it should not have answered is dropped here"
)]
#[track_caller]
pub fn refuses<T>(what: &str, answer: Answer<T>, errno: i32) -> Outcome {
    match answer {
        Err(got) if got == Errno(errno) => Ok(()),
        Err(got) => failed(format_args!("{what}: {got}, expected {}", Errno(errno))),
        Ok(_) => failed(format_args!("{what}: succeeds, expected {}", Errno(errno))),
    }
}

/// A call succeeds.
#[track_caller]
pub fn works<T>(what: &str, answer: Answer<T>) -> Outcome<T> {
    match answer {
        Ok(value) => Ok(value),
        Err(errno) => failed(format_args!("{what}: {errno}, expected success")),
    }
}
