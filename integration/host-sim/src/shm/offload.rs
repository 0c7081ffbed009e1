// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where system calls are made that a program's seccomp filter may not know: on the calling thread, unless the program has
//! lent another one by [`lend`].

use std::sync::OnceLock;

/// Does a task on another thread and returns when it has been done.
pub type Lender = fn(&mut (dyn FnMut() + Send));

static LENDER: OnceLock<Lender> = OnceLock::new();

/// Gives everything that [`run`] is called with to `lender`, from now on and for good.
pub fn lend(lender: Lender) {
    // A second one would be as good as the first.
    let _ = LENDER.set(lender);
}

/// Whether calling threads may be under a filter.
pub fn is_lent() -> bool {
    LENDER.get().is_some()
}

/// Does `work` where its system calls may be made and answers its result.
pub fn run<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    let Some(lender) = LENDER.get() else {
        return work();
    };
    let (mut work, mut result) = (Some(work), None);
    lender(&mut || {
        if let Some(work) = work.take() {
            result = Some(work());
        }
    });
    result.expect("the lender has done the work")
}
