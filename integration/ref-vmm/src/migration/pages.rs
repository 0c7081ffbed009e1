// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! RAM as the crate fingerprints it: straight from its mapping, and only what was touched.

use std::sync::Arc;

use xe_vfio_device::dirty::{GuestPages, GuestRange};

use crate::memory::GuestRam;

/// A VM's RAM.
pub struct Pages(pub Arc<GuestRam>);

impl GuestPages for Pages {
    fn read(&self, gpa: u64, to: &mut [u8]) -> anyhow::Result<()> {
        Ok(self.0.read_there(gpa, to)?)
    }

    fn touched(&self, range: GuestRange) -> anyhow::Result<Option<GuestRange>> {
        let touched = self.0.next_touched(range.gpa..range.gpa + range.length)?;
        Ok(touched.map(|touched| GuestRange {
            gpa: touched.start,
            length: touched.end - touched.start,
        }))
    }
}
