// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A reference VMM's guest memory as a file, which a test can keep and compare after the VMM has ended.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes compared at once.
const CHUNK: usize = 1 << 20;

/// The memfd of a VMM's guest; it stays as it was when the VMM ends.
pub struct GuestMemory(File);

impl GuestMemory {
    /// Opens it by the process that has it.
    ///
    /// # Errors
    /// When the process has none, or is another user's.
    pub fn of(pid: u32) -> io::Result<Self> {
        for entry in Path::new(&format!("/proc/{pid}/fd")).read_dir()? {
            let path = entry?.path();
            let is_it = |target: &Path| target.to_string_lossy().starts_with("/memfd:guest");
            if std::fs::read_link(&path).is_ok_and(|target| is_it(&target)) {
                return Ok(Self(File::open(path)?));
            }
        }
        Err(io::ErrorKind::NotFound.into())
    }

    /// Bytes at an offset in the file, which is the guest physical address below 3 GiB.
    ///
    /// # Errors
    /// The system's.
    pub fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.0.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    /// Offset of the first page between two offsets that is not the same in `other`.
    ///
    /// # Errors
    /// The system's.
    pub fn first_difference(
        &self,
        other: &Self,
        range: std::ops::Range<u64>,
    ) -> io::Result<Option<u64>> {
        for at in range.clone().step_by(CHUNK) {
            let length = CHUNK.min(usize::try_from(range.end - at).unwrap_or(CHUNK));
            let (here, there) = (self.read(at, length)?, other.read(at, length)?);
            if here != there {
                let pages = here.chunks(4096).zip(there.chunks(4096));
                let page = pages.take_while(|(a, b)| a == b).count() as u64;
                return Ok(Some(at + page * 4096));
            }
        }
        Ok(None)
    }
}
