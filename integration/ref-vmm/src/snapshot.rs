// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A VM on disk: a directory with `config.json`, `state.json`, `memory` and, for each VF, `<id>.xevf`.
//!
//! What is on a GPU never goes through JSON: the crate writes it as a stream, by the same `Transportable::send` that a
//! migration could use. `config.json` is written last, so that a directory without one is no snapshot, and a directory
//! with one is never written to again.
//!
//! The parts belong together: each bears the snapshot's random id (a stream in its preamble, as the attempt's id), and
//! `config.json` has length and digest of `state.json` and `memory`. All of that is checked before anything runs.

mod files;

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use vm_migration::{MigratableError, Transportable};
use xe_vfio_device::device::{DeviceError, Options};
use xe_vfio_device::transfer::{AttemptId, Compression, Endpoint};

use self::files::Digest;
use crate::accel::{Choice, Kind};
use crate::config::{DeviceConfig, HostConfig, is_id};
use crate::memory;
use crate::vm::{self, Vm, VmState};

/// Version of the directory's layout.
const VERSION: u32 = 2;

/// Why a VM was not kept or not brought back.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL.
    #[error("{0:?} names no directory for a snapshot: use file:///DIRECTORY with the whole path")]
    Url(String),
    /// A snapshot that would be lost.
    #[error("{0} holds a snapshot, which is kept: take this one into another directory")]
    Taken(PathBuf),
    /// No random numbers.
    #[error("No id for the snapshot")]
    Id(#[source] io::Error),
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

impl Error {
    fn io<'a>(path: &'a Path, doing: &'static str) -> impl Fn(io::Error) -> Self + 'a {
        move |source| Self::Io {
            path: path.into(),
            doing,
            source,
        }
    }

    fn value(path: &Path, what: String) -> Self {
        let path = path.into();
        Self::Value { path, what }
    }
}

/// `config.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedConfig {
    version: u32,
    /// 32 hexadecimal digits, also in `state.json` and in each stream.
    id: String,
    memory: u64,
    accel: Kind,
    devices: Vec<DeviceConfig>,
    memory_file: Digest,
    state_file: Digest,
}

/// `state.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedState<S> {
    id: String,
    vm: S,
}

/// The directory that a `file:` URL names.
///
/// # Errors
/// [`Error::Url`].
pub fn directory(url: &str) -> Result<PathBuf, Error> {
    match url.parse() {
        Ok(Endpoint::File(path)) if path.is_absolute() => Ok(path),
        _ => Err(Error::Url(url.to_owned())),
    }
}

/// Keeps a paused VM in a directory, which is created and holds no other snapshot. The VM stays paused and can be resumed.
///
/// # Errors
/// [`Error`]; the VM stays paused, and the error says when a VF has lost its state.
pub fn save(vm: &mut Vm, directory: &Path) -> Result<(), Error> {
    let url = format!("file://{}", directory.display());
    let config_path = directory.join("config.json");
    if config_path.symlink_metadata().is_ok() {
        return Err(Error::Taken(directory.into()));
    }
    files::create_directory(directory)?;
    let id = AttemptId::random().map_err(Error::Id)?;
    let state = SavedState {
        id: id.to_string(),
        vm: vm.save()?,
    };
    let state_file = files::write_json(&directory.join("state.json"), &state)?;
    let memory_file = files::save_memory(vm.ram(), &directory.join("memory"))?;
    for device in vm.devices() {
        let name = device.device_id();
        device.begin_attempt(id);
        let snapshot = state.vm.devices().get(name).cloned().unwrap_or_default();
        // A migration that failed may have left it on, and a snapshot is read by any build.
        device.compress(Compression::Off);
        let sent = device.send(&snapshot, &url);
        device.begin_attempt(AttemptId::NONE);
        sent.map_err(|source| Error::Migratable {
            id: name.to_owned(),
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
        id: state.id,
        memory: vm.ram().size(),
        accel: vm.accel().0,
        devices,
        memory_file,
        state_file,
    };
    files::write_last(&config_path, &config)
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
    let config: SavedConfig = files::read_json(&config_path, None)?;
    let id = check(&config, &config_path)?;
    let value = |what| Error::value(&config_path, what);
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
    crate::config::check_devices(&devices).map_err(value)?;
    let state_path = directory.join("state.json");
    let state: SavedState<VmState> = files::read_json(&state_path, Some(&config.state_file))?;
    if state.id != config.id {
        let what = format!("it is of snapshot {}, not of {}", state.id, config.id);
        return Err(Error::value(&state_path, what));
    }
    let vm = Vm::new(
        config.memory,
        &devices,
        Choice::Only(config.accel),
        host,
        options,
    )?;
    match load(&vm, &state.vm, &config.memory_file, id, directory) {
        Ok(()) => Ok(vm),
        Err(error) => {
            let report = vm.with_group(|group| group.reset());
            tracing::info!(%report, "VFs reset after a failed restore");
            Err(error)
        }
    }
}

fn load(
    vm: &Vm,
    state: &VmState,
    memory: &Digest,
    snapshot: AttemptId,
    directory: &Path,
) -> Result<(), Error> {
    files::load_memory(vm.ram(), &directory.join("memory"), memory)?;
    let url = format!("file://{}", directory.display());
    for device in vm.devices() {
        device.prepare_load()?;
        let id = device.device_id();
        device.begin_attempt(snapshot);
        let received = device.recv(&url);
        device.begin_attempt(AttemptId::NONE);
        received.map_err(|source| Error::Migratable {
            id: id.to_owned(),
            doing: "read",
            source,
        })?;
    }
    Ok(vm.restore(state)?)
}

/// What `config.json` says by itself; answers the snapshot's id.
fn check(config: &SavedConfig, path: &Path) -> Result<AttemptId, Error> {
    let value = |what| Error::value(path, what);
    if config.version != VERSION {
        let version = config.version;
        return Err(value(format!(
            "version {version}, this VMM knows {VERSION}"
        )));
    }
    if let Some(bad) = config.devices.iter().find(|d| !is_id(&d.id)) {
        return Err(value(format!("{:?} is no id of a device", bad.id)));
    }
    match config.id.parse() {
        Ok(id) if id != AttemptId::NONE => Ok(id),
        _ => Err(value(format!("{:?} is no id of a snapshot", config.id))),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::serial::Target;

    fn host() -> HostConfig {
        HostConfig {
            serial: Target::Null,
            accel: Choice::Only(Kind::Soft),
            iommufd: false,
            dma_block: None,
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
        refused(
            |d| {
                let file = File::options().write(true).open(d.join("memory")).unwrap();
                file.write_all_at(&[b'k' ^ 1], 0x180_0000).unwrap();
            },
            "memory",
        );
        for part in ["memory", "state.json"] {
            refused(
                |d| {
                    let other = saved();
                    let one_byte_apart = File::options()
                        .write(true)
                        .open(other.path().join("memory"))
                        .unwrap();
                    one_byte_apart.write_all_at(b"x", 0x180_0000).unwrap();
                    fs::copy(other.path().join(part), d.join(part)).unwrap();
                },
                part,
            );
        }
    }

    #[test]
    fn a_directory_that_holds_a_snapshot_is_not_written_to() {
        let directory = saved();
        let names = ["config.json", "state.json", "memory"];
        let read = || names.map(|name| fs::read(directory.path().join(name)).unwrap());
        let before = read();
        let mut vm = restore(directory.path(), &[], &host(), Options::default()).unwrap();
        let error = save(&mut vm, directory.path()).unwrap_err();
        assert!(matches!(error, Error::Taken(_)), "{error}");
        assert!(before == read(), "the old snapshot was touched");
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
        for url in [
            "tcp:127.0.0.1:1",
            "/a/b",
            "file://a/b",
            "file:a",
            "file:",
            "",
        ] {
            let error = directory(url).unwrap_err().to_string();
            assert!(
                error.contains("file:///") && !error.contains("tcp:H"),
                "{error}"
            );
        }
    }
}
