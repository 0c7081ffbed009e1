// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A simulated host: a directory with a configuration and its VFs.

mod config;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use config::{ConfigError, GGTT_PAGE, HostConfig, MAX_VFS};

use crate::vf::Vf;

/// Why a host cannot be made, opened or removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration makes no host.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file of the host cannot be used.
    #[error("Cannot {what} {}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}

/// A host that this process has mapped.
#[derive(Debug)]
pub struct Host {
    dir: PathBuf,
    config: HostConfig,
    vfs: Vec<Arc<Vf>>,
}

impl Host {
    /// Makes a host in the directory `dir`, which is created.
    ///
    /// # Errors
    /// When `dir` holds a host already, or the configuration or a file is refused.
    pub fn create(dir: &Path, config: &HostConfig) -> Result<Self, Error> {
        let _ = dir;
        config.check()?;
        Err(Error::File {
            what: "make",
            path: dir.into(),
            source: std::io::ErrorKind::Unsupported.into(),
        })
    }

    /// Opens the host in `dir`.
    ///
    /// # Errors
    /// When there is none, or it is of another version.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        Err(Error::File {
            what: "open",
            path: dir.into(),
            source: std::io::ErrorKind::Unsupported.into(),
        })
    }

    /// The host's configuration.
    #[must_use]
    pub fn config(&self) -> &HostConfig {
        &self.config
    }

    /// The host's directory; `open/` in it holds one flocked file for each thing that is open.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
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
}
