// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A simulated host: a directory with a configuration and its VFs.
//!
//! | path | what |
//! |---|---|
//! | `DIR/config.json` | [`HostConfig`]; written last, so that its presence means a whole host |
//! | `DIR/vf<n>/memory` | what the guest sees of VF n |
//! | `DIR/vf<n>/control` | all of its other state |
//! | `DIR/vf<n>/dma-log` | the log of its DMA, when it has one |
//! | `DIR/vf<n>/storm` | what it has written where without a guest's asking |
//! | `DIR/open/` | one flocked file for each thing that a process has open |
//!
//! Two directories are two hosts. The directory belongs on tmpfs.

mod config;
mod log;
mod vf_set;

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use config::{ConfigError, GGTT_PAGE, HostConfig, MAX_VFS};
pub use log::DmaLogConfig;
pub(crate) use log::{MOST_BYTES as LOG_MOST_BYTES, MOST_RANGES as LOG_MOST_RANGES};
pub use vf_set::{UnknownVfSet, VfSet};

use crate::vf::Vf;

/// Why a host cannot be made, opened or removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration makes no host.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The directory is in the way.
    #[error("{} holds something already: choose another directory, or run `host-sim down` if it is a host", .0.display())]
    Occupied(PathBuf),
    /// There is no host.
    #[error("There is no host in {}: make one with `host-sim up`", .0.display())]
    NoHost(PathBuf),
    /// The host's configuration is damaged or of another version.
    #[error("{} is not the configuration of a host of this version", path.display())]
    Damaged {
        /// The configuration.
        path: PathBuf,
        /// What is wrong in it.
        #[source]
        source: serde_json::Error,
    },
    /// Somebody has a VF open.
    #[error("The host in {} is in use: {} of its fds are open, {} the first", dir.display(), open.len(), open[0].display())]
    InUse {
        /// The host.
        dir: PathBuf,
        /// The files in its `open` directory that are held; not empty.
        open: Vec<PathBuf>,
    },
    /// A file of the host cannot be used.
    #[error("Cannot {what} {}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

fn file_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::File {
        what,
        path: path.into(),
        source,
    }
}

/// A host that this process has mapped.
#[derive(Debug)]
pub struct Host {
    dir: PathBuf,
    config: Arc<HostConfig>,
    vfs: Vec<Arc<Vf>>,
}

impl Host {
    /// Makes a host in the directory `dir`, which is created or empty. On failure nothing of it is left.
    ///
    /// # Errors
    /// When `dir` holds something already, or the configuration or a file is refused.
    pub fn create(dir: &Path, config: &HostConfig) -> Result<Self, Error> {
        config.check()?;
        fs::create_dir_all(dir).map_err(file_error("make", dir))?;
        if fs::read_dir(dir)
            .map_err(file_error("list", dir))?
            .next()
            .is_some()
        {
            return Err(Error::Occupied(dir.into()));
        }
        Self::fill(dir, config).inspect_err(|_| {
            // The error tells why; what cannot be removed is found by the next attempt.
            let _ = fs::remove_dir_all(dir);
        })
    }

    fn fill(dir: &Path, config: &HostConfig) -> Result<Self, Error> {
        let dir = dir.canonicalize().map_err(file_error("find", dir))?;
        let config = Arc::new(config.clone());
        let open = dir.join("open");
        fs::create_dir(&open).map_err(file_error("make", &open))?;
        let make = |index| {
            let path = vf_dir(&dir, index);
            fs::create_dir(&path)
                .and_then(|()| Vf::create(&path, index, &config))
                .map_err(file_error("make", &path))
        };
        let vfs = (1..=config.vfs)
            .map(|index| make(index).map(Arc::new))
            .collect::<Result<_, _>>()?;
        let (path, draft) = (config_path(&dir), dir.join("config.json.new"));
        let text = serde_json::to_vec_pretty(&*config).map_err(|source| Error::Damaged {
            path: path.clone(),
            source,
        })?;
        fs::write(&draft, text)
            .and_then(|()| fs::rename(&draft, &path))
            .map_err(file_error("write", &path))?;
        let host = Self { dir, config, vfs };
        let sys = host.dir.join("sys");
        crate::boundary::sysfs::create(&host).map_err(file_error("make", &sys))?;
        Ok(host)
    }

    /// Opens the host in `dir`.
    ///
    /// # Errors
    /// When there is none, or it is of another version.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let path = config_path(dir);
        let text = match fs::read(&path) {
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Err(Error::NoHost(dir.into()));
            }
            text => text.map_err(file_error("read", &path))?,
        };
        let config: HostConfig =
            serde_json::from_slice(&text).map_err(|source| Error::Damaged { path, source })?;
        config.check()?;
        let dir = dir.canonicalize().map_err(file_error("find", dir))?;
        let config = Arc::new(config);
        let open = |index| {
            let path = vf_dir(&dir, index);
            Vf::open(&path, index, &config).map_err(file_error("open", &path))
        };
        let vfs = (1..=config.vfs)
            .map(|index| open(index).map(Arc::new))
            .collect::<Result<_, _>>()?;
        Ok(Self { dir, config, vfs })
    }

    /// The host's configuration.
    #[must_use]
    pub fn config(&self) -> &HostConfig {
        &self.config
    }

    /// The host's directory, absolute.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The directory with one flocked file for each thing that a process has open.
    #[must_use]
    pub fn open_dir(&self) -> PathBuf {
        self.dir.join("open")
    }

    /// VF number `index`, from 1.
    #[must_use]
    pub fn vf(&self, index: u16) -> Option<Arc<Vf>> {
        self.vfs.get(usize::from(index).checked_sub(1)?).cloned()
    }

    /// Every VF, in order.
    #[must_use]
    pub fn vfs(&self) -> &[Arc<Vf>] {
        &self.vfs
    }

    /// The files in [`Self::open_dir`] that some process holds.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn held(&self) -> Result<Vec<PathBuf>, Error> {
        let open = self.open_dir();
        let mut held = Vec::new();
        for entry in fs::read_dir(&open).map_err(file_error("list", &open))? {
            let path = entry.map_err(file_error("list", &open))?.path();
            // Not ready yet, and its maker is about to lock it.
            if path
                .file_name()
                .is_some_and(|name| name.as_encoded_bytes().starts_with(b"new-"))
            {
                continue;
            }
            // One that goes away meanwhile is not held.
            let Ok(file) = File::open(&path) else {
                continue;
            };
            // Shared, so that somebody else who looks meanwhile does not take this look for an owner.
            if matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)) {
                held.push(path);
            }
        }
        held.sort();
        Ok(held)
    }

    /// Removes the host and its directory.
    ///
    /// # Errors
    /// [`Error::InUse`] while anything of it is open, and then the host is as it was.
    pub fn remove(self) -> Result<(), Error> {
        let open = self.held()?;
        if !open.is_empty() {
            return Err(Error::InUse {
                dir: self.dir,
                open,
            });
        }
        // Without its configuration nobody opens it any more.
        let config = config_path(&self.dir);
        fs::remove_file(&config).map_err(file_error("remove", &config))?;
        fs::remove_dir_all(&self.dir).map_err(file_error("remove", &self.dir))
    }
}

fn config_path(dir: &Path) -> PathBuf {
    dir.join("config.json")
}

fn vf_dir(dir: &Path, index: u16) -> PathBuf {
    dir.join(format!("vf{index}"))
}
