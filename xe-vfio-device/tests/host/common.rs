// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A small simulated host with two VFs, and a VMM's device on one of them.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use host_sim::boundary;
use host_sim::host::{Host, HostConfig};
use host_sim::vf::{Effect, FaultSpec, Op};
use tempfile::TempDir;
use vfio_ioctls::{VfioContainer, VfioDevice, VfioOps};
use xe_vfio_device::device::{Options, Passthrough, XeVfioDevice};
use xe_vfio_device::dirty::GuestRange;
use xe_vfio_device::state::{
    AnyVf, DeviceState, Outcome, Running, Stopped, Vf, recover_to_running,
};
use xe_vfio_device::transfer::Deadlines;
use xe_vfio_device::uapi::{InterruptSignal, KernelVf, VfioHandle};
use xe_vfio_device::xe::{Identity, ProbeError, probe};

pub const MIB: u64 = 1 << 20;
/// Bytes of VRAM: with chunks of 2 MiB, more packets than a ring holds.
pub const VRAM: u64 = 24 * MIB;

pub type Kernel = KernelVf<VfioHandle>;
pub type Device = XeVfioDevice<Passed>;

pub struct TestHost {
    pub host: Host,
    _dir: TempDir,
}

pub fn config() -> HostConfig {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    HostConfig {
        vram: VRAM,
        vram_chunk: 2 * MIB,
        ggtt: MIB,
        guc: 4096,
        flr_ms: 2,
        suspend_ms: 0,
        resume_ms: 0,
        restore_timeout_ms: 20,
        pin_us_per_gib: 0,
        domain: 0x1000 + n,
        group_base: 1000 + 10 * u32::from(n),
        cdev_base: 1000 + 10 * u32::from(n),
        ..HostConfig::default()
    }
}

impl TestHost {
    #[track_caller]
    pub fn new() -> Self {
        Self::with(&config())
    }

    #[track_caller]
    pub fn with(config: &HostConfig) -> Self {
        let shm = std::path::Path::new("/dev/shm");
        let dir = if shm.is_dir() {
            tempfile::tempdir_in(shm)
        } else {
            tempfile::tempdir()
        };
        let dir = dir.expect("a directory");
        let host = Host::create(&dir.path().join("host"), config).expect("a host");
        boundary::attach(host.dir()).expect("attached");
        Self { host, _dir: dir }
    }

    /// Makes the `nth` call of `op` on VF `index`, counted from now and from 1, fail with `errno`.
    #[track_caller]
    pub fn fail(&self, index: u16, op: Op, nth: u32, errno: i32) {
        self.fault(index, op, nth, Effect::Errno(host_sim::vf::Errno(errno)));
    }

    #[track_caller]
    pub fn fault(&self, index: u16, op: Op, nth: u32, effect: Effect) {
        let spec = FaultSpec {
            op,
            nth,
            count: 1,
            effect,
        };
        let vf = self.host.vf(index).expect("a VF");
        vf.faults().add(&spec).expect("room for a fault");
    }

    pub fn resets(&self, index: u16) -> u64 {
        self.host.vf(index).expect("a VF").status().resets
    }

    /// VF `index` opened by group and container, as a VMM's device of the name "vf0".
    #[track_caller]
    pub fn open(&self, index: u16) -> Passed {
        let sysfs = PathBuf::from(format!(
            "/sys/bus/pci/devices/{}",
            self.host.config().bdf(index)
        ));
        let ops: Arc<dyn VfioOps> = Arc::new(VfioContainer::new(None).expect("a container"));
        let vfio = VfioDevice::new(&sysfs, ops).expect("a device");
        Passed {
            vfio: Arc::new(vfio),
            sysfs,
        }
    }

    #[track_caller]
    pub fn device(&self, index: u16) -> Device {
        XeVfioDevice::new(self.open(index), options())
    }
}

/// A VMM's device.
pub struct Passed {
    pub vfio: Arc<VfioDevice>,
    sysfs: PathBuf,
}

impl Passed {
    pub fn kernel(&self) -> Kernel {
        KernelVf::new(VfioHandle::new(Arc::clone(&self.vfio)))
    }

    #[track_caller]
    pub fn running(&self) -> Vf<Kernel, Running> {
        match AnyVf::open(self.kernel()) {
            AnyVf::Running(vf) => vf,
            other => panic!("{other}"),
        }
    }

    #[track_caller]
    pub fn stopped(&self) -> Vf<Kernel, Stopped> {
        self.running().quiesce().unwrap().stop().unwrap()
    }

    /// Fills VRAM with bytes of its own.
    pub fn fill(&self, seed: u8) {
        for at in (0..VRAM).step_by(MIB as usize) {
            self.vfio.region_write(2, &page(seed, at), at);
        }
    }

    /// Whether VRAM holds what [`Passed::fill`] wrote.
    pub fn holds(&self, seed: u8) -> bool {
        (0..VRAM).step_by(MIB as usize).all(|at| {
            let mut bytes = vec![0; MIB as usize];
            self.vfio.region_read(2, &mut bytes, at);
            bytes == page(seed, at)
        })
    }

    /// Whether VRAM is as a reset leaves it.
    pub fn is_clean(&self) -> bool {
        (0..VRAM).step_by(MIB as usize).all(|at| {
            let mut bytes = vec![1; MIB as usize];
            self.vfio.region_read(2, &mut bytes, at);
            bytes.iter().all(|byte| *byte == 0)
        })
    }
}

fn page(seed: u8, at: u64) -> Vec<u8> {
    let mut value = u64::from(seed) << 32 | (at >> 20) | 1;
    (0..MIB)
        .map(|_| {
            value ^= value << 13;
            value ^= value >> 7;
            value ^= value << 17;
            value as u8
        })
        .collect()
}

impl Passthrough for Passed {
    type Device = Kernel;

    fn id(&self) -> String {
        "vf0".to_owned()
    }

    fn device(&self) -> Kernel {
        self.kernel()
    }

    fn identity(&self) -> Result<Identity, ProbeError> {
        probe(&self.sysfs)
    }

    fn save_pci_state(&self) -> anyhow::Result<serde_json::Value> {
        Ok(serde_json::json!({}))
    }

    fn restore_pci_state(&self, _: &serde_json::Value) -> anyhow::Result<()> {
        Ok(())
    }

    fn dma_ranges(&self) -> anyhow::Result<Vec<GuestRange>> {
        Ok(vec![])
    }
}

pub fn options() -> Options {
    let deadlines = Deadlines {
        connect: Duration::from_secs(10),
        device: Duration::from_millis(800),
        network: Duration::from_secs(10),
        receipt_margin: Duration::from_secs(1),
        linger: Duration::from_secs(2),
    };
    let interrupt = InterruptSignal::default_signal().expect("a signal");
    Options {
        deadlines,
        interrupt: Some(interrupt),
    }
}

#[track_caller]
pub fn recovered(vf: impl Into<AnyVf<Kernel>>) -> Outcome {
    let recovered = recover_to_running(vf.into(), &mut vec![0; 1 << 20], &mut |_| {});
    recovered.expect("a VF that can be reset").outcome
}

#[track_caller]
pub fn assert_running(device: &Passed) {
    let state = AnyVf::open(device.kernel()).state();
    assert_eq!(state, Some(DeviceState::Running));
}
