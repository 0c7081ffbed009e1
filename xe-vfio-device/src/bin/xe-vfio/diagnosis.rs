// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Why a PCI function cannot be used as a VF that migrates: what sysfs, the driver and the kernel say.

use std::error::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use vfio_ioctls::VfioError;
use xe_vfio_device::device::Support;
use xe_vfio_device::uapi::{Errno, MigrationFlags, UapiError};
use xe_vfio_device::xe::{self, Identity, ProbeError};

/// The driver whose VFs migrate.
pub const DRIVER: &str = "xe-vfio-pci";

/// A function that cannot be used, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// No PCI device.
    #[error(transparent)]
    NotPci(#[from] ProbeError),
    /// A PF that has VFs.
    #[error(
        "{address} is a PF with {vfs} VFs, and only VFs migrate: give one of them, such as {first}"
    )]
    Pf {
        /// The PF.
        address: String,
        /// VFs it has.
        vfs: u32,
        /// Directory of its first VF.
        first: PathBuf,
    },
    /// A PF without any.
    #[error("{address} is a PF without VFs: write their number to {path}/sriov_numvfs")]
    PfWithoutVfs {
        /// The PF.
        address: String,
        /// Its directory.
        path: PathBuf,
    },
    /// Neither PF nor VF.
    #[error("{address} is no VF (it has no physfn), and only VFs migrate")]
    NoVf {
        /// The function.
        address: String,
    },
    /// Nobody drives it.
    #[error(
        "{address} is bound to no driver: write {DRIVER} to its driver_override and {address} to /sys/bus/pci/drivers_probe"
    )]
    NoDriver {
        /// The VF.
        address: String,
    },
    /// Somebody else drives it.
    #[error(
        "{address} is bound to {driver}, and only {DRIVER} has migration: unbind it, write {DRIVER} to its driver_override and {address} to /sys/bus/pci/drivers_probe"
    )]
    OtherDriver {
        /// The VF.
        address: String,
        /// Its driver.
        driver: String,
    },
    /// Somebody has it open.
    #[error(
        "{address} is in use: another process, most likely a VMM, has it open; it was not touched"
    )]
    InUse {
        /// The VF.
        address: String,
        /// The call that failed.
        #[source]
        source: VfioError,
    },
    /// Not allowed.
    #[error(
        "{address} may not be opened by this user: run as root, or give the user its node in /dev/vfio"
    )]
    Denied {
        /// The VF.
        address: String,
        /// The call that failed.
        #[source]
        source: VfioError,
    },
    /// Anything else.
    #[error("{address} cannot be opened by {way}")]
    Open {
        /// The VF.
        address: String,
        /// Group and container, or iommufd.
        way: &'static str,
        /// The call that failed.
        #[source]
        source: VfioError,
    },
    /// The kernel has no migration for it.
    #[error(
        "{address} has no migration support: the kernel or the GuC firmware of its host is too old, or the platform has none; the VF is in RUNNING, as opening it left it"
    )]
    NoMigration {
        /// The VF.
        address: String,
        /// What the kernel answered to FEATURE_MIGRATION.
        #[source]
        source: UapiError,
    },
    /// States are missing.
    #[error(
        "{address} has {flags} only, and STOP_COPY and P2P are needed: update the kernel of its host; the VF is in RUNNING, as opening it left it"
    )]
    Incomplete {
        /// The VF.
        address: String,
        /// What it has.
        flags: MigrationFlags,
    },
}

impl Unusable {
    /// A word for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NotPci(_) => "not-pci",
            Self::Pf { .. } | Self::PfWithoutVfs { .. } => "pf",
            Self::NoVf { .. } => "no-vf",
            Self::NoDriver { .. } => "no-driver",
            Self::OtherDriver { .. } => "other-driver",
            Self::InUse { .. } => "in-use",
            Self::Denied { .. } => "denied",
            Self::Open { .. } => "open",
            Self::NoMigration { .. } => "no-migration",
            Self::Incomplete { .. } => "incomplete",
        }
    }

    /// What a failed open means.
    pub fn of_open(address: &str, way: &'static str, source: VfioError) -> Self {
        let address = address.to_owned();
        // Binding a cdev that another process has bound answers EINVAL (vfio_df_open in drivers/vfio/vfio_main.c), and this
        // command binds its own only once.
        let bind = matches!(source, VfioError::VfioDeviceBindIommufd(_));
        match errno(&source) {
            Some(libc::EINVAL) if bind => Self::InUse { address, source },
            Some(libc::EBUSY) => Self::InUse { address, source },
            Some(libc::EACCES | libc::EPERM) => Self::Denied { address, source },
            _ => Self::Open {
                address,
                way,
                source,
            },
        }
    }

    /// Whether an opened VF can migrate.
    ///
    /// # Errors
    /// The reason when it cannot.
    pub fn of_support(address: &str, support: Support) -> Result<MigrationFlags, Self> {
        let address = address.to_owned();
        match support {
            Support::Migratable(flags) => Ok(flags),
            Support::Refused(source) => Err(Self::NoMigration { address, source }),
            Support::Incomplete(flags) => Err(Self::Incomplete { address, flags }),
        }
    }
}

/// Whether sysfs speaks against a VF. Opens nothing.
///
/// # Errors
/// The reason.
pub fn usable(identity: &Identity) -> Result<(), Unusable> {
    let (path, address) = (&identity.path, identity.address.clone());
    if !path.join("physfn").exists() {
        let count = fs::read_to_string(path.join("sriov_numvfs")).ok();
        return Err(match count.map(|count| count.trim().parse().unwrap_or(0)) {
            None => Unusable::NoVf { address },
            Some(0) => Unusable::PfWithoutVfs {
                address,
                path: path.clone(),
            },
            Some(vfs) => {
                let first = path.join("virtfn0");
                let first = fs::canonicalize(&first).unwrap_or(first);
                Unusable::Pf {
                    address,
                    vfs,
                    first,
                }
            }
        });
    }
    match xe::driver(path) {
        None => Err(Unusable::NoDriver { address }),
        Some(driver) if driver != DRIVER => Err(Unusable::OtherDriver { address, driver }),
        Some(_) => Ok(()),
    }
}

/// What sysfs and, to root, debugfs say of a function.
///
/// # Errors
/// [`ProbeError`] when it is no PCI device.
pub fn identity(path: &Path) -> Result<Identity, ProbeError> {
    let mut identity = xe::probe(path)?;
    let pf = fs::canonicalize(identity.path.join("physfn"));
    if let Some(pf) = pf.ok().as_deref().and_then(Path::file_name) {
        xe::probe_debugfs(&mut identity, &Path::new("/sys/kernel/debug/dri").join(pf));
    }
    Ok(identity)
}

/// The errno at the bottom of an error.
fn errno(error: &(dyn Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Some(Errno::of(error).0);
        }
        if let Some(error) = error.downcast_ref::<vmm_sys_util::errno::Error>() {
            return Some(error.errno());
        }
        next = error.source();
    }
    None
}
