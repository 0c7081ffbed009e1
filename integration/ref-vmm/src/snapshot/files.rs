// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The files of a snapshot: written for their owner only, on the disk before they count, read against a digest.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use super::Error;
use crate::memory::{self, GuestRam};

/// Bytes of memory copied at once.
const CHUNK: usize = 1 << 20;
/// Most bytes of a JSON file that is read.
const MAX_JSON: u64 = 16 << 20;

/// What a file of the snapshot has to hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Digest {
    bytes: u64,
    /// 32 hexadecimal digits.
    xxh3_128: String,
}

impl Digest {
    fn new(bytes: u64, digest: u128) -> Self {
        let xxh3_128 = format!("{digest:032x}");
        Self { bytes, xxh3_128 }
    }

    fn check(&self, path: &Path, found: &Self) -> Result<(), Error> {
        if self == found {
            return Ok(());
        }
        let what = format!(
            "{} bytes with the digest {}, the snapshot was written with {} bytes and {}: it was altered, or is of another snapshot",
            found.bytes, found.xxh3_128, self.bytes, self.xxh3_128
        );
        Err(Error::value(path, what))
    }
}

/// Creates the directory for its owner only, where there is none.
pub(super) fn create_directory(path: &Path) -> Result<(), Error> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(path).map_err(Error::io(path, "created"))
}

/// Writes a file that does not count yet, onto the disk.
pub(super) fn write_json(path: &Path, value: &impl Serialize) -> Result<Digest, Error> {
    let text = serde_json::to_vec_pretty(value).map_err(|source| Error::Json {
        path: path.into(),
        source,
    })?;
    let mut file = create(path)?;
    let write = file.write_all(&text).and_then(|()| file.sync_all());
    write.map_err(Error::io(path, "written"))?;
    Ok(Digest::new(text.len() as u64, xxh3_128(&text)))
}

/// Writes a file that makes the others count: it has its name once all of it is on the disk, and they are.
pub(super) fn write_last(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    let partial = path.with_extension("partial");
    write_json(&partial, value)?;
    let directory = path.parent().unwrap_or(Path::new("/"));
    let sync = || File::open(directory)?.sync_all();
    let named = sync()
        .and_then(|()| fs::rename(&partial, path))
        .and_then(|()| sync());
    named.map_err(Error::io(path, "written"))
}

pub(super) fn read_json<T: serde::de::DeserializeOwned>(
    path: &Path,
    digest: Option<&Digest>,
) -> Result<T, Error> {
    let failed = Error::io(path, "read");
    let size = fs::metadata(path).map_err(&failed)?.len();
    if size > MAX_JSON {
        return Err(Error::value(path, format!("{size} bytes are too many")));
    }
    let bytes = fs::read(path).map_err(&failed)?;
    if let Some(digest) = digest {
        digest.check(path, &Digest::new(bytes.len() as u64, xxh3_128(&bytes)))?;
    }
    serde_json::from_slice(&bytes).map_err(|source| Error::Json {
        path: path.into(),
        source,
    })
}

/// Writes what holds something, all pieces of RAM one after the other; the rest of the file is a hole.
pub(super) fn save_memory(ram: &GuestRam, path: &Path) -> Result<Digest, Error> {
    let failed = Error::io(path, "written");
    let file = create(path)?;
    file.set_len(ram.size()).map_err(&failed)?;
    let (mut buffer, zeros) = (vec![0; CHUNK], vec![0; CHUNK]);
    let mut digest = Xxh3::new();
    for region in ram.layout().regions() {
        let (mut at, end) = (region.gpa, region.end());
        while at < end {
            let touched = ram.next_touched(at..end)?.unwrap_or(end..end);
            for chunk in chunks(at, touched.start) {
                digest.update(&zeros[..chunk.1]);
            }
            for (gpa, length) in chunks(touched.start, touched.end) {
                let chunk = &mut buffer[..length];
                ram.read_there(gpa, chunk)?;
                if !memory::is_zero(chunk) {
                    let offset = region.offset_of(gpa);
                    file.write_all_at(chunk, offset).map_err(&failed)?;
                }
                digest.update(chunk);
            }
            at = touched.end;
        }
    }
    file.sync_all().map_err(&failed)?;
    Ok(Digest::new(ram.size(), digest.digest128()))
}

/// Reads memory; what was altered is in `ram` when this fails, and must not run.
pub(super) fn load_memory(ram: &GuestRam, path: &Path, digest: &Digest) -> Result<(), Error> {
    let failed = Error::io(path, "read");
    let file = File::open(path).map_err(&failed)?;
    let size = file.metadata().map_err(&failed)?.len();
    if size != ram.size() {
        let what = format!("{size:#x} bytes, the VM has {:#x}", ram.size());
        return Err(Error::value(path, what));
    }
    let mut buffer = vec![0; CHUNK];
    let mut found = Xxh3::new();
    for region in ram.layout().regions() {
        for (gpa, length) in chunks(region.gpa, region.end()) {
            let chunk = &mut buffer[..length];
            let offset = region.offset_of(gpa);
            file.read_exact_at(chunk, offset).map_err(&failed)?;
            found.update(chunk);
            if !memory::is_zero(chunk) {
                ram.write(gpa, chunk)?;
            }
        }
    }
    digest.check(path, &Digest::new(size, found.digest128()))
}

/// Addresses and lengths of at most [`CHUNK`] from `start` to `end`.
fn chunks(start: u64, end: u64) -> impl Iterator<Item = (u64, usize)> {
    (start..end).step_by(CHUNK).map(move |at| {
        let left = usize::try_from(end - at).unwrap_or(CHUNK);
        (at, left.min(CHUNK))
    })
}

fn create(path: &Path) -> Result<File, Error> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let created: io::Result<File> = options.open(path);
    created.map_err(Error::io(path, "created"))
}
