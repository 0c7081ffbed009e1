// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The device and the group on VFs in memory.

mod tracking;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::*;
use crate::dirty::GuestRange;
use crate::state::fake::{Call, FakeVf, Gpu, packets};
use crate::state::{DeviceState, Outcome};
use crate::transfer::{Endpoint, Incoming, SaveError};
use crate::uapi::Errno;
use crate::xe::{Identity, PciIds, ProbeError, Profile};

mod leave;

const RING: usize = 512;

struct Vmm {
    id: String,
    vf: FakeVf,
    restored: Mutex<Option<serde_json::Value>>,
    panics: AtomicBool,
}

impl Passthrough for Arc<Vmm> {
    type Device = FakeVf;

    fn id(&self) -> String {
        self.id.clone()
    }

    fn device(&self) -> FakeVf {
        self.vf.clone()
    }

    fn identity(&self) -> Result<Identity, ProbeError> {
        let pci = PciIds {
            vendor: 0x8086,
            device: 0xe211,
            revision: 0,
            subsystem_vendor: 0,
            subsystem_device: 0,
            class: 0x03_8000,
        };
        Ok(Identity {
            path: "/nowhere".into(),
            address: "0000:03:00.1".to_owned(),
            pci,
            pf: None,
            vf_number: Some(1),
            total_vfs: None,
            num_vfs: None,
            gts: Some(1),
            bars: [0; 6],
            profile: Profile::default(),
        })
    }

    fn save_pci_state(&self) -> anyhow::Result<serde_json::Value> {
        assert!(!self.panics.load(Ordering::SeqCst), "asked to panic");
        Ok(serde_json::json!({ "command": 6 }))
    }

    fn restore_pci_state(&self, state: &serde_json::Value) -> anyhow::Result<()> {
        *self.restored.lock().unwrap() = Some(state.clone());
        Ok(())
    }

    fn dma_ranges(&self) -> anyhow::Result<Vec<GuestRange>> {
        Ok(vec![GuestRange {
            gpa: 0,
            length: 1 << 20,
        }])
    }
}

type Device = XeVfioDevice<Arc<Vmm>>;

fn device_of(id: &str, vf: FakeVf) -> (Device, Arc<Vmm>) {
    let vmm = Arc::new(Vmm {
        id: id.to_owned(),
        vf,
        restored: Mutex::default(),
        panics: AtomicBool::new(false),
    });
    (XeVfioDevice::new(Arc::clone(&vmm), Options::default()), vmm)
}

fn device(vram: usize) -> (Device, Arc<Vmm>) {
    device_of("vf0", FakeVf::new(packets(vram), RING))
}

#[track_caller]
fn paused(vram: usize) -> (Device, Arc<Vmm>) {
    let (device, vmm) = device(vram);
    device.start().unwrap();
    device.quiesce().unwrap();
    device.stop().unwrap();
    (device, vmm)
}

/// Sends from one device to another over a socket pair.
fn moved(
    source: &Device,
    destination: &Device,
) -> (Result<(), DeviceError>, Result<(), DeviceError>) {
    let (here, there) = std::os::unix::net::UnixStream::pair().unwrap();
    thread::scope(|scope| {
        let loaded = scope.spawn(|| {
            let incoming = Incoming::accept(there, &Deadlines::default()).unwrap();
            destination.load_from(incoming).map(drop)
        });
        (source.send_over(here).map(drop), loaded.join().unwrap())
    })
}

#[test]
fn a_guest_moves_from_one_device_to_another() {
    let (source, source_vmm) = paused(102_400);
    let (destination, destination_vmm) = device(7);
    destination.check(&source.manifest().unwrap()).unwrap();
    destination.prepare_load().unwrap();
    assert_eq!(destination.info().state, Some(DeviceState::Stop));
    let (sent, loaded) = moved(&source, &destination);
    sent.unwrap();
    loaded.unwrap();
    source.handed_over();
    assert!(matches!(source.run(), Err(DeviceError::HandedOver { .. })));
    assert!(matches!(
        source.unstop(),
        Err(DeviceError::HandedOver { .. })
    ));
    assert!(matches!(
        source.give_back(),
        Err(DeviceError::HandedOver { .. })
    ));
    DeviceGroup::new(&[&destination]).start().unwrap();
    assert_eq!(
        destination_vmm.vf.kernel().gpu,
        Gpu::Guest(packets(102_400))
    );
    assert_eq!(destination.info().state, Some(DeviceState::Running));
    assert_eq!(source_vmm.vf.kernel().state, DeviceState::Stop);
    source_vmm.vf.assert_clean_use();
    destination_vmm.vf.assert_clean_use();
}

#[test]
fn a_stream_for_another_device_touches_nothing() {
    let (source, _) = paused(4096);
    let (destination, vmm) = device_of("vf1", FakeVf::new(packets(7), RING));
    let (sent, loaded) = moved(&source, &destination);
    assert!(
        matches!(loaded, Err(DeviceError::OtherDevice { .. })),
        "{loaded:?}"
    );
    let Err(DeviceError::Save { source: error, .. }) = sent else {
        panic!("{sent:?}")
    };
    assert!(
        matches!(&*error, SaveError::Refused { reason, .. } if reason.contains("vf1")),
        "{error:?}"
    );
    assert!(vmm.vf.kernel().log.is_empty());
    assert_eq!(source.give_back().unwrap(), Outcome::GpuStateKept);
}

#[test]
fn a_stream_of_another_attempt_touches_nothing() {
    let (source, _) = paused(4096);
    let (destination, vmm) = device(7);
    destination.begin_attempt(AttemptId(2));
    for attempt in [AttemptId::NONE, AttemptId(1)] {
        source.begin_attempt(attempt);
        let (sent, loaded) = moved(&source, &destination);
        assert!(matches!(loaded, Err(DeviceError::OtherAttempt { found, .. }) if found == attempt));
        assert!(sent.is_err());
    }
    assert!(vmm.vf.kernel().log.is_empty());
    source.begin_attempt(AttemptId(2));
    let (sent, loaded) = moved(&source, &destination);
    sent.unwrap();
    loaded.unwrap();
}

#[test]
fn a_failed_send_leaves_the_guest_its_gpu() {
    let (source, vmm) = paused(102_400);
    let (destination, destination_vmm) = device_of(
        "vf0",
        FakeVf::new(packets(7), RING).with_fault(Call::Write, 50, libc::ENOMEM),
    );
    let (sent, loaded) = moved(&source, &destination);
    assert!(
        loaded
            .unwrap_err()
            .to_string()
            .contains("was reset because a load was not finished")
    );
    assert!(
        sent.unwrap_err()
            .to_string()
            .contains("in STOP with the state it had")
    );
    assert_eq!(source.give_back().unwrap(), Outcome::GpuStateKept);
    assert_eq!(vmm.vf.kernel().gpu, Gpu::Guest(packets(102_400)));
    assert_eq!(destination_vmm.vf.kernel().gpu, Gpu::Clean);
}

#[test]
fn a_reset_is_told_until_it_is_acknowledged() {
    let (source, _) = device_of(
        "vf0",
        FakeVf::new(packets(102_400), RING).with_fault(Call::Read, 0, libc::EIO),
    );
    source.quiesce().unwrap();
    source.stop().unwrap();
    let (destination, _) = device(7);
    let (sent, _) = moved(&source, &destination);
    assert!(
        sent.unwrap_err()
            .to_string()
            .contains("its GPU state is lost")
    );
    assert!(matches!(source.give_back(), Ok(Outcome::Reset { .. })));
    assert!(matches!(source.start(), Err(DeviceError::StateLost { .. })));
    assert!(source.info().reset.is_some());
    source.acknowledge_reset();
    source.start().unwrap();
}

#[test]
fn a_vf_that_cannot_migrate_runs_and_is_refused_with_the_reason() {
    let vf = FakeVf::new(packets(9), RING);
    vf.kernel().flags = 0;
    let (device, vmm) = device_of("vf0", vf);
    let error = device.start().unwrap_err();
    assert!(
        matches!(&error, DeviceError::Unsupported { source, .. } if source.errno == Errno(libc::ENOTTY))
    );
    device.quiesce().unwrap();
    assert!(vmm.vf.kernel().log.is_empty());
    let vf = FakeVf::new(packets(9), RING);
    vf.kernel().flags = 1;
    assert!(matches!(
        device_of("vf0", vf).0.start(),
        Err(DeviceError::Incomplete { .. })
    ));
}

#[test]
fn status_and_cancel_never_wait_for_a_stream() {
    let (source, vmm) = paused(200_704);
    vmm.vf.kernel().read_most = 1 << 10;
    vmm.vf.kernel().delay = Duration::from_millis(2);
    let (destination, _) = device(7);
    let (here, there) = std::os::unix::net::UnixStream::pair().unwrap();
    thread::scope(|scope| {
        let sent = scope.spawn(|| source.send_over(here).map(drop));
        scope.spawn(|| {
            destination
                .load_from(Incoming::accept(there, &Deadlines::default()).unwrap())
                .map(drop)
        });
        while source.info().progress.bytes == 0 {
            thread::yield_now();
        }
        assert_eq!(source.info().busy, Some("saving"));
        assert!(matches!(source.run(), Err(DeviceError::Busy { .. })));
        source.take_snapshot().unwrap();
        source.cancel_handle().cancel();
        let Err(DeviceError::Save { source: error, .. }) = sent.join().unwrap() else {
            panic!("sent")
        };
        assert!(matches!(*error, SaveError::Cancelled));
    });
    assert_eq!(source.give_back().unwrap(), Outcome::GpuStateKept);
    assert_eq!(vmm.vf.kernel().gpu, Gpu::Guest(packets(200_704)));
}

#[test]
fn after_a_panic_the_state_is_read_back() {
    let (device, _) = paused(9);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        device.with::<()>("panicking", |_| panic!("in the middle"))
    }));
    assert!(panicked.is_err());
    assert_eq!(device.info().state, None);
    device.unstop().unwrap();
    device.run().unwrap();
    assert_eq!(device.info().state, Some(DeviceState::Running));
}

#[test]
fn a_snapshot_holds_the_manifest_and_the_pci_state_and_nothing_of_the_gpu() {
    let (source, _) = paused(102_400);
    let text = serde_json::to_string(&source.take_snapshot().unwrap()).unwrap();
    assert!(text.len() < 2000, "{} bytes", text.len());
    let (destination, vmm) = device(7);
    destination
        .restore_snapshot(&serde_json::from_str(&text).unwrap())
        .unwrap();
    assert_eq!(
        *vmm.restored.lock().unwrap(),
        Some(serde_json::json!({ "command": 6 }))
    );
    let (other, _) = device_of("vf1", FakeVf::new(packets(9), RING));
    let refused = other.restore_snapshot(&serde_json::from_str(&text).unwrap());
    assert!(matches!(refused, Err(DeviceError::Snapshot { source, .. })
        if matches!(*source, SnapshotError::OtherDevice { .. })));
    for (from, to) in [
        ("\"version\":1", "\"version\":2"),
        ("xe-vfio-device", "other"),
        ("\"manifest\":\"", "\"manifest\":\"x"),
    ] {
        let bad: VfSnapshot = serde_json::from_str(&text.replacen(from, to, 1)).unwrap();
        assert!(
            matches!(
                destination.restore_snapshot(&bad),
                Err(DeviceError::Snapshot { .. })
            ),
            "{to}"
        );
    }
}

#[test]
fn a_running_vf_has_no_snapshot_and_sends_nothing() {
    let (device, vmm) = device(9);
    assert!(matches!(
        device.take_snapshot(),
        Err(DeviceError::WrongState { .. })
    ));
    let (here, _there) = std::os::unix::net::UnixStream::pair().unwrap();
    assert!(matches!(
        device.send_over(here),
        Err(DeviceError::WrongState { .. })
    ));
    assert!(vmm.vf.kernel().log.is_empty());
}

#[test]
fn a_state_goes_to_a_directory_and_back() {
    let dir = tempfile::tempdir().unwrap();
    let (source, _) = paused(8192);
    let endpoint = Endpoint::File(dir.path().to_owned());
    source.send_to(&endpoint).unwrap();
    assert!(dir.path().join("vf0.xevf").exists());
    let (destination, vmm) = device(7);
    let (manifest, _) = destination.receive_at(&endpoint).unwrap();
    assert_eq!(manifest.device_id, "vf0");
    assert_eq!(vmm.vf.kernel().gpu, Gpu::Guest(packets(8192)));
    assert_eq!(source.give_back().unwrap(), Outcome::GpuStateKept);
}

/// Devices whose states are logged in one row.
fn three(fault: Option<(usize, Call)>) -> Vec<(Device, Arc<Vmm>)> {
    (0..3)
        .map(|index| {
            let vf = FakeVf::new(packets(9), RING);
            let vf = match fault {
                Some((at, call)) if at == index => vf.with_fault(call, 0, libc::ETIMEDOUT),
                _ => vf,
            };
            device_of(&format!("vf{index}"), vf)
        })
        .collect()
}

/// Notes the order of steps across devices.
struct Noting<'a>(&'a Device, &'a Mutex<Vec<String>>);

impl Noting<'_> {
    fn note<T>(&self, step: &str, result: T) -> T {
        self.1
            .lock()
            .unwrap()
            .push(format!("{} {step}", self.0.device_id()));
        result
    }
}

impl GroupMember for Noting<'_> {
    fn member_id(&self) -> &str {
        self.0.device_id()
    }

    fn quiesce(&self) -> Result<(), DeviceError> {
        self.note("quiesce", self.0.quiesce())
    }

    fn stop(&self) -> Result<(), DeviceError> {
        self.note("stop", self.0.stop())
    }

    fn unstop(&self) -> Result<(), DeviceError> {
        self.note("unstop", self.0.unstop())
    }

    fn run(&self) -> Result<(), DeviceError> {
        self.note("run", self.0.run())
    }

    fn give_back(&self) -> Result<Outcome, DeviceError> {
        self.note("give back", self.0.give_back())
    }

    fn reset(&self) -> Result<(), DeviceError> {
        self.note("reset", self.0.reset())
    }
}

#[test]
fn all_vfs_stand_still_before_any_stops_and_none_runs_before_all_can() {
    let devices = three(None);
    let notes = Mutex::default();
    let noting: Vec<_> = devices
        .iter()
        .map(|(device, _)| Noting(device, &notes))
        .collect();
    let members: Vec<&dyn GroupMember> = noting
        .iter()
        .map(|member| member as &dyn GroupMember)
        .collect();
    let group = DeviceGroup::new(&members);
    group.pause().unwrap();
    group.start().unwrap();
    let expected: Vec<_> = ["quiesce", "stop", "unstop", "run"]
        .iter()
        .flat_map(|step| (0..3).map(move |index| format!("vf{index} {step}")))
        .collect();
    assert_eq!(*notes.lock().unwrap(), expected);
}

#[test]
fn a_group_that_cannot_pause_runs_on_as_a_whole() {
    let arcs = [
        Call::Arc(DeviceState::Running, DeviceState::RunningP2p),
        Call::Arc(DeviceState::RunningP2p, DeviceState::Stop),
    ];
    for at in 0..3 {
        for call in arcs {
            let devices = three(Some((at, call)));
            let members: Vec<&dyn GroupMember> =
                devices.iter().map(|(device, _)| device as _).collect();
            let error = DeviceGroup::new(&members).pause().unwrap_err();
            assert!(error.report.all_kept(), "{error}");
            assert!(error.source.to_string().contains(&format!("vf{at}")));
            for (device, vmm) in &devices {
                assert_eq!(device.info().state, Some(DeviceState::Running));
                assert_eq!(vmm.vf.kernel().resets, 0);
                vmm.vf.assert_clean_use();
            }
        }
    }
}

#[test]
fn a_destination_that_cannot_start_all_resets_all() {
    for at in 0..3 {
        let devices = three(Some((
            at,
            Call::Arc(DeviceState::RunningP2p, DeviceState::Running),
        )));
        let members: Vec<&dyn GroupMember> =
            devices.iter().map(|(device, _)| device as _).collect();
        let group = DeviceGroup::new(&members);
        group.pause().unwrap();
        let error = group.start().unwrap_err();
        assert!(!error.report.all_kept());
        for (_, vmm) in &devices {
            assert_eq!(vmm.vf.kernel().gpu, Gpu::Clean);
        }
    }
}

#[test]
fn a_member_that_will_not_run_is_reset_and_named() {
    let devices = three(None);
    let members: Vec<&dyn GroupMember> = devices.iter().map(|(device, _)| device as _).collect();
    let group = DeviceGroup::new(&members);
    group.pause().unwrap();
    let arc = Call::Arc(DeviceState::RunningP2p, DeviceState::Running);
    for nth in 0..2 {
        let fault = crate::state::fake::Fault {
            call: arc,
            nth,
            errno: libc::EIO,
            done: false,
        };
        devices[1].1.vf.kernel().faults.push(fault);
    }
    let report = group.give_back();
    assert!(!report.all_kept());
    let text = report.to_string();
    assert!(
        text.contains("vf1 was reset") && text.contains("vf0 has its GPU state"),
        "{text}"
    );
}

#[cfg(feature = "cloud-hypervisor")]
mod traits {
    use vm_migration::{Migratable, MigratableError, Pausable, Snapshottable, Transportable};

    use super::*;

    #[test]
    fn pause_and_resume_go_by_way_of_p2p_and_may_be_repeated() {
        let (mut device, vmm) = device(9);
        device.pause().unwrap();
        device.pause().unwrap();
        device.resume().unwrap();
        device.resume().unwrap();
        use DeviceState::{Running, RunningP2p, Stop};
        assert_eq!(vmm.vf.kernel().log, [RunningP2p, Stop, RunningP2p, Running]);
    }

    #[test]
    fn a_pause_that_fails_half_way_leaves_the_vf_running() {
        let vf = FakeVf::new(packets(9), RING);
        let stop = Call::Arc(DeviceState::RunningP2p, DeviceState::Stop);
        let (mut device, _) = device_of("vf0", vf.with_fault(stop, 0, libc::EIO));
        assert!(matches!(device.pause(), Err(MigratableError::Pause(_))));
        assert_eq!(device.info().state, Some(DeviceState::Running));
    }

    #[test]
    fn a_vm_migrates_through_the_traits() {
        let (mut source, _) = device(49_152);
        let (mut destination, vmm) = device(7);
        source.start_migration().unwrap();
        source.start_dirty_log().unwrap();
        assert!(source.dirty_log().unwrap().is_empty());
        source.pause().unwrap();
        assert_eq!(source.dirty_log().unwrap().effective_size(), 1 << 20);
        assert!(source.dirty_log().unwrap().is_empty());
        let snapshot = source.snapshot().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let url = format!("unix:{}", dir.path().join("socket").display());
        thread::scope(|scope| {
            let received = scope.spawn(|| destination.recv(&url));
            while !dir.path().join("socket").exists() {
                thread::yield_now();
            }
            source.send(&snapshot, &url).unwrap();
            received.join().unwrap().unwrap();
        });
        destination.restore(&snapshot).unwrap();
        source.stop_dirty_log().unwrap();
        source.complete_migration().unwrap();
        assert!(matches!(source.resume(), Err(MigratableError::Resume(_))));
        destination.resume().unwrap();
        assert_eq!(vmm.vf.kernel().gpu, Gpu::Guest(packets(49_152)));
    }

    #[test]
    fn a_vf_that_cannot_migrate_ends_the_migration_before_it_begins() {
        let vf = FakeVf::new(packets(9), RING);
        vf.kernel().flags = 0;
        let (mut device, _) = device_of("vf0", vf);
        let Err(MigratableError::StartMigration(error)) = device.start_migration() else {
            panic!("started")
        };
        assert!(format!("{error:#}").contains("ENOTTY"), "{error:#}");
    }

    #[test]
    fn a_bad_url_is_told_and_moves_nothing() {
        let (mut device, vmm) = device(9);
        device.pause().unwrap();
        let snapshot = device.snapshot().unwrap();
        assert!(matches!(
            device.send(&snapshot, "http://host/"),
            Err(MigratableError::MigrateSend(_))
        ));
        assert_eq!(vmm.vf.kernel().state, DeviceState::Stop);
    }
}
