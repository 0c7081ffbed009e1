// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A VM on disk: a directory with `config.json`, `state.json`, `memory` and, for each VF, `<id>.xevf`.
//!
//! What is on a GPU never goes through JSON: the crate writes it as a stream, by the same `Transportable::send` that a
//! migration could use. `config.json` is written last, so that a directory without one is no snapshot.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use vm_migration::{MigratableError, Transportable};
use xe_vfio_device::device::{DeviceError, Options};
use xe_vfio_device::transfer::{Endpoint, EndpointError};

use crate::accel::{Choice, Kind};
use crate::config::{DeviceConfig, HostConfig, is_id};
use crate::memory::{self, GuestRam};
use crate::vm::{self, Vm, VmState};

/// Version of the directory's layout.
const VERSION: u32 = 1;
/// Bytes of memory copied at once.
const CHUNK: usize = 1 << 20;
/// Most bytes of a JSON file that is read.
const MAX_JSON: u64 = 16 << 20;

/// Why a VM was not kept or not brought back.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL.
    #[error("{0:?} is not a file:///DIRECTORY URL")]
    Url(String),
    /// The URL's form.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// A file.
    #[error("{path} could not be {doing}")]
    Io {
        /// Which one.
        path: PathBuf,
        /// "written" or "read".
        doing: &'static str,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// JSON that is none, or not this one.
    #[error("{path} is not what this VMM writes")]
    Json {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// A value that makes no sense.
    #[error("{path}: {what}")]
    Value {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The VM.
    #[error(transparent)]
    Vm(#[from] vm::Error),
    /// Guest memory.
    #[error(transparent)]
    Memory(#[from] memory::Error),
    /// A VF.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A VF, through the traits.
    #[error("The GPU state of VF {id} could not be {doing}")]
    Migratable {
        /// Its name.
        id: String,
        /// "written" or "read".
        doing: &'static str,
        /// Why.
        #[source]
        source: MigratableError,
    },
}

/// `config.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedConfig {
    version: u32,
    memory: u64,
    accel: Kind,
    devices: Vec<DeviceConfig>,
}

/// The directory that a `file:` URL names.
///
/// # Errors
/// [`Error::Url`] or [`Error::Endpoint`].
pub fn directory(url: &str) -> Result<PathBuf, Error> {
    match url.parse()? {
        Endpoint::File(path) => Ok(path),
        _ => Err(Error::Url(url.to_owned())),
    }
}

/// Keeps a paused VM in a directory, which is created. The VM stays paused and can be resumed.
///
/// # Errors
/// [`Error`]; the VM stays paused, and the error says when a VF has lost its state.
pub fn save(vm: &mut Vm, directory: &Path) -> Result<(), Error> {
    let url = format!("file://{}", directory.display());
    fs::create_dir_all(directory).map_err(|source| Error::Io {
        path: directory.into(),
        doing: "created",
        source,
    })?;
    let config_path = directory.join("config.json");
    // An older snapshot ends here, not half-way through being overwritten.
    let _ = fs::remove_file(&config_path);
    let state = vm.save()?;
    write_json(&directory.join("state.json"), &state)?;
    save_memory(vm.ram(), &directory.join("memory"))?;
    for device in vm.devices() {
        let id = device.device_id();
        device.begin_attempt(xe_vfio_device::transfer::AttemptId::NONE);
        let snapshot = state.devices().get(id).cloned().unwrap_or_default();
        device
            .send(&snapshot, &url)
            .map_err(|source| Error::Migratable {
                id: id.to_owned(),
                doing: "written",
                source,
            })?;
    }
    let devices = vm
        .devices()
        .iter()
        .map(|d| d.passthrough().vf())
        .map(|vf| DeviceConfig {
            id: vf.id().into(),
            path: vf.path().into(),
        })
        .collect();
    let config = SavedConfig {
        version: VERSION,
        memory: vm.ram().size(),
        accel: vm.accel().0,
        devices,
    };
    write_json(&config_path, &config)
}

/// Brings a VM back, paused. `devices` may name other VFs for the saved ids; an id that is not named keeps its path.
///
/// # Errors
/// [`Error`]; the VFs are reset and closed.
pub fn restore(
    directory: &Path,
    devices: &[DeviceConfig],
    host: &HostConfig,
    options: Options,
) -> Result<Vm, Error> {
    let config_path = directory.join("config.json");
    let config: SavedConfig = read_json(&config_path)?;
    check(&config, &config_path)?;
    let value = |what: String| Error::Value {
        path: config_path.clone(),
        what,
    };
    if let Choice::Only(here) = host.accel
        && here != config.accel
    {
        return Err(value(format!(
            "the VM ran on {}, not on {here}",
            config.accel
        )));
    }
    if let Some(other) = devices
        .iter()
        .find(|d| !config.devices.iter().any(|c| c.id == d.id))
    {
        return Err(value(format!("the VM has no VF {}", other.id)));
    }
    let devices: Vec<_> = config
        .devices
        .iter()
        .map(|saved| {
            devices
                .iter()
                .find(|d| d.id == saved.id)
                .unwrap_or(saved)
                .clone()
        })
        .collect();
    let state: VmState = read_json(&directory.join("state.json"))?;
    let vm = Vm::new(
        config.memory,
        &devices,
        Choice::Only(config.accel),
        host,
        options,
    )?;
    match load(&vm, &state, directory) {
        Ok(()) => Ok(vm),
        Err(error) => {
            let report = vm.with_group(|group| group.reset());
            tracing::info!(%report, "VFs reset after a failed restore");
            Err(error)
        }
    }
}

fn load(vm: &Vm, state: &VmState, directory: &Path) -> Result<(), Error> {
    load_memory(vm.ram(), &directory.join("memory"))?;
    let url = format!("file://{}", directory.display());
    for device in vm.devices() {
        device.prepare_load()?;
        device.begin_attempt(xe_vfio_device::transfer::AttemptId::NONE);
        let id = device.device_id();
        device.recv(&url).map_err(|source| Error::Migratable {
            id: id.to_owned(),
            doing: "read",
            source,
        })?;
    }
    Ok(vm.restore(state)?)
}

fn check(config: &SavedConfig, path: &Path) -> Result<(), Error> {
    let value = |what: String| {
        Err(Error::Value {
            path: path.into(),
            what,
        })
    };
    if config.version != VERSION {
        return value(format!(
            "version {}, this VMM knows {VERSION}",
            config.version
        ));
    }
    if let Some(bad) = config.devices.iter().find(|d| !is_id(&d.id)) {
        return value(format!("{:?} is no id of a device", bad.id));
    }
    crate::config::check_devices(&config.devices).or_else(value)
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    let text = serde_json::to_vec_pretty(value).map_err(|source| Error::Json {
        path: path.into(),
        source,
    })?;
    fs::write(path, text).map_err(|source| Error::Io {
        path: path.into(),
        doing: "written",
        source,
    })
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let failed = |source| Error::Io {
        path: path.into(),
        doing: "read",
        source,
    };
    let size = fs::metadata(path).map_err(failed)?.len();
    if size > MAX_JSON {
        return Err(Error::Value {
            path: path.into(),
            what: format!("{size} bytes are too many"),
        });
    }
    let bytes = fs::read(path).map_err(failed)?;
    serde_json::from_slice(&bytes).map_err(|source| Error::Json {
        path: path.into(),
        source,
    })
}

/// Writes what holds something; the rest of the file is a hole.
fn save_memory(ram: &GuestRam, path: &Path) -> Result<(), Error> {
    let failed = |source| Error::Io {
        path: path.into(),
        doing: "written",
        source,
    };
    let file = File::create(path).map_err(failed)?;
    file.set_len(ram.size()).map_err(failed)?;
    let mut buffer = vec![0; CHUNK];
    let mut at = 0;
    while let Some(touched) = ram.next_touched(at)? {
        at = touched.start;
        while at < touched.end {
            #[allow(clippy::cast_possible_truncation)] // at most CHUNK
            let chunk = &mut buffer[..(touched.end - at).min(CHUNK as u64) as usize];
            ram.read(at, chunk)?;
            if !memory::is_zero(chunk) {
                file.write_all_at(chunk, at).map_err(failed)?;
            }
            at += chunk.len() as u64;
        }
    }
    file.sync_all().map_err(failed)
}

fn load_memory(ram: &GuestRam, path: &Path) -> Result<(), Error> {
    let failed = |source| Error::Io {
        path: path.into(),
        doing: "read",
        source,
    };
    let file = File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    if size != ram.size() {
        let what = format!("{size:#x} bytes, the VM has {:#x}", ram.size());
        return Err(Error::Value {
            path: path.into(),
            what,
        });
    }
    let mut buffer = vec![0; CHUNK];
    for at in (0..size).step_by(CHUNK) {
        #[allow(clippy::cast_possible_truncation)] // at most CHUNK
        let chunk = &mut buffer[..(size - at).min(CHUNK as u64) as usize];
        file.read_exact_at(chunk, at).map_err(failed)?;
        if !memory::is_zero(chunk) {
            ram.write(at, chunk)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serial::Target;

    fn host() -> HostConfig {
        HostConfig {
            serial: Target::Null,
            accel: Choice::Only(Kind::Soft),
            iommufd: false,
        }
    }

    fn saved() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let mut vm = Vm::new(
            32 << 20,
            &[],
            Choice::Only(Kind::Soft),
            &host(),
            Options::default(),
        )
        .unwrap();
        vm.boot(None).unwrap();
        vm.ram().write(0x180_0000, b"kept").unwrap();
        save(&mut vm, directory.path()).unwrap();
        directory
    }

    #[test]
    fn a_vm_without_vfs_comes_back_from_disk() {
        let directory = saved();
        let vm = restore(directory.path(), &[], &host(), Options::default()).unwrap();
        let mut text = [0; 4];
        vm.ram().read(0x180_0000, &mut text).unwrap();
        assert_eq!(&text, b"kept");
    }

    #[test]
    fn a_damaged_snapshot_is_refused_by_the_name_of_the_file() {
        #[track_caller]
        fn refused(damage: impl Fn(&Path), file: &str) {
            let directory = saved();
            damage(directory.path());
            let error = restore(directory.path(), &[], &host(), Options::default())
                .err()
                .unwrap();
            assert!(error.to_string().contains(file), "{error}");
        }
        refused(
            |d| fs::remove_file(d.join("config.json")).unwrap(),
            "config.json",
        );
        refused(
            |d| fs::write(d.join("state.json"), "{}").unwrap(),
            "state.json",
        );
        refused(|d| fs::write(d.join("memory"), "short").unwrap(), "memory");
    }

    #[test]
    fn another_accelerator_is_refused() {
        let directory = saved();
        let host = HostConfig {
            accel: Choice::Only(Kind::Kvm),
            ..host()
        };
        let error = restore(directory.path(), &[], &host, Options::default())
            .err()
            .unwrap();
        assert!(error.to_string().contains("soft"), "{error}");
    }

    #[test]
    fn only_a_file_url_names_a_directory() {
        assert_eq!(directory("file:///a/b").unwrap(), PathBuf::from("/a/b"));
        assert!(matches!(directory("tcp:127.0.0.1:1"), Err(Error::Url(_))));
    }
}
