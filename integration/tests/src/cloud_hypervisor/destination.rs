// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A VMM that waits for a VM.

use std::ops::{Deref, DerefMut};

use anyhow::{Context, Result, bail};

use super::process::{LONG, Remote};
use super::{Binaries, CloudHypervisor};

/// A VMM with a `receive-migration` under way.
pub struct Destination {
    vmm: CloudHypervisor,
    receive: Receive,
}

enum Receive {
    /// Its answer is taken.
    Plain(Option<Remote>),
    /// Cloud Hypervisor's HTTP server answers nothing to a request that came with open files.
    WithFiles { _remote: Remote },
}

impl Destination {
    /// Lets `vmm` wait with the options `receive` of `receive-migration`, and waits until it listens.
    ///
    /// # Errors
    /// When it refuses.
    pub fn new(vmm: CloudHypervisor, receive: &str) -> Result<Self> {
        let remote = vmm.begin_remote(&["receive-migration", receive])?;
        Self::listening(vmm, Receive::Plain(Some(remote)))
    }

    /// The same with open files of the VMM's host, as unpatched Cloud Hypervisor needs them.
    ///
    /// # Errors
    /// When it refuses.
    pub fn with_files(vmm: CloudHypervisor, receive: &str, paths: &[&str]) -> Result<Self> {
        let _remote = vmm.begin_remote_with_files(paths, &["receive-migration", receive])?;
        Self::listening(vmm, Receive::WithFiles { _remote })
    }

    fn listening(mut vmm: CloudHypervisor, receive: Receive) -> Result<Self> {
        vmm.wait_for(&["migration-receive-ready"])?;
        Ok(Self { vmm, receive })
    }

    /// What `receive-migration` answers in the end.
    ///
    /// # Errors
    /// When the VM has not been received, with the reason; when there is no end.
    pub fn answer(&mut self) -> Result<()> {
        match &mut self.receive {
            Receive::Plain(remote) => {
                let remote = remote.take().context("The answer has been taken")?;
                remote.wait(LONG).map(drop)
            }
            Receive::WithFiles { .. } => {
                let ends = ["migration-receive-finished", "migration-receive-failed"];
                match self.vmm.wait_for(&ends)?.as_str() {
                    "migration-receive-finished" => Ok(()),
                    _ => bail!("{}", self.vmm.complaints()),
                }
            }
        }
    }

    /// The VMM, which has its VM.
    #[must_use]
    pub fn into_vmm(self) -> CloudHypervisor {
        self.vmm
    }
}

impl Deref for Destination {
    type Target = CloudHypervisor;

    fn deref(&self) -> &CloudHypervisor {
        &self.vmm
    }
}

impl DerefMut for Destination {
    fn deref_mut(&mut self) -> &mut CloudHypervisor {
        &mut self.vmm
    }
}

/// Starts an empty VMM.
///
/// # Errors
/// When it does not come up.
pub(super) fn empty_vmm(
    binaries: &Binaries,
    name: &str,
    directory: &std::path::Path,
    environment: &[(String, String)],
) -> Result<CloudHypervisor> {
    CloudHypervisor::start(binaries, name, directory, environment, &[])
}
