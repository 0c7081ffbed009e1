// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Files of device state.
//!
//! They hold what the guest had on its GPU, so nobody but the owner may read them. A file has its name only once it is whole
//! and on the disk: a crash in between leaves at most a file that ends in `.partial`.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::direct::Direct;

/// The file of a device's state: `path` itself, or `<device_id>.xevf` in it when it is a directory.
///
/// # Errors
/// `InvalidInput` for a device id that cannot be part of a file name.
pub fn stream_path(path: &Path, device_id: &str) -> io::Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    if device_id.is_empty() || device_id.contains(['/', '\0']) {
        let text = format!(
            "device id {device_id:?} cannot be a file name: give a file instead of a directory"
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    Ok(path.join(format!("{device_id}.xevf")))
}

/// A file being written; dropped before [`PendingFile::commit`] it is removed.
pub struct PendingFile {
    file: File,
    direct: Option<Direct>,
    partial: PathBuf,
    path: PathBuf,
    committed: bool,
}

impl PendingFile {
    /// Begins a file that will be called `path`. A file of that name is replaced on commit and not touched before.
    ///
    /// # Errors
    /// Those of creating a file beside it.
    pub fn create(path: &Path) -> io::Result<Self> {
        let mut pending = Self::create_cached(path)?;
        pending.direct = Direct::begin(&pending.file);
        Ok(pending)
    }

    /// As [`PendingFile::create`], written through the page cache and so found there afterwards.
    ///
    /// # Errors
    /// As [`PendingFile::create`].
    pub fn create_cached(path: &Path) -> io::Result<Self> {
        let Some(name) = path.file_name() else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{} is no file", path.display()),
            ));
        };
        let mut partial_name = name.to_owned();
        partial_name.push(format!(".{}.partial", std::process::id()));
        let partial = path.with_file_name(partial_name);
        let file = match Self::create_new(&partial) {
            // Left by a process of this id that was killed: nobody else writes it.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_file(&partial)?;
                Self::create_new(&partial)?
            }
            result => result?,
        };
        Ok(Self {
            file,
            direct: None,
            partial,
            path: path.to_owned(),
            committed: false,
        })
    }

    fn create_new(partial: &Path) -> io::Result<File> {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(partial)
    }

    /// Makes the file last and gives it its name.
    ///
    /// # Errors
    /// When it cannot be made to last; the partial file is removed then.
    pub fn commit(mut self) -> io::Result<()> {
        if let Some(mut direct) = self.direct.take() {
            direct.end(&self.file)?;
        }
        self.file.sync_all()?;
        fs::rename(&self.partial, &self.path)?;
        self.committed = true;
        let directory = self
            .path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl Write for PendingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.direct {
            Some(direct) => direct.write(&self.file, bytes).map(|()| bytes.len()),
            None => self.file.write(bytes),
        }
    }

    fn write_vectored(&mut self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        match &mut self.direct {
            Some(direct) => {
                for slice in bytes {
                    direct.write(&self.file, slice)?;
                }
                Ok(bytes.iter().map(|slice| slice.len()).sum())
            }
            None => self.file.write_vectored(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl fmt::Debug for PendingFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingFile")
            .field("path", &self.path)
            .field("direct", &self.direct.is_some())
            .finish_non_exhaustive()
    }
}

impl Drop for PendingFile {
    fn drop(&mut self) {
        if !self.committed {
            // Nothing can be done about a file that will not go.
            _ = fs::remove_file(&self.partial);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn a_file_appears_when_it_is_whole_and_only_for_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = stream_path(dir.path(), "vf0").unwrap();
        let mut file = PendingFile::create(&path).unwrap();
        file.write_all(b"state").unwrap();
        assert!(!path.exists());
        file.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"state");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(names(dir.path()), ["vf0.xevf"]);
    }

    #[test]
    fn a_file_that_is_given_up_leaves_the_old_one_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        fs::write(&path, b"old").unwrap();
        let mut file = PendingFile::create(&path).unwrap();
        file.write_all(b"new").unwrap();
        drop(file);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(dir.path()), ["state"]);
    }

    #[test]
    fn a_device_id_cannot_lead_out_of_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        assert!(stream_path(dir.path(), "../vf0").is_err());
        assert_eq!(
            stream_path(&dir.path().join("file"), "../vf0").unwrap(),
            dir.path().join("file")
        );
    }
}
