// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Hosts that several tests of one process can have at a time, and raw system calls.

use std::cell::RefCell;
use std::ffi::{CString, c_int};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use host_sim::boundary;
use host_sim::host::{Host, HostConfig};
use iommufd_ioctls::IommuFd;
use tempfile::TempDir;
use vfio_ioctls::{VfioContainer, VfioDevice, VfioIommufd, VfioOps};

pub const MIB: u64 = 1 << 20;

/// One test at a time: a child that one of them forks inherits what the others have open, and so keeps it open.
static TURN: Mutex<()> = Mutex::new(());

thread_local! {
    static MY_TURN: RefCell<(usize, Option<MutexGuard<'static, ()>>)> = const { RefCell::new((0, None)) };
}

/// The turn of this thread's test, as long as one of these lives.
struct Turn;

impl Turn {
    fn take() -> Self {
        MY_TURN.with_borrow_mut(|(count, guard)| {
            if *count == 0 {
                *guard = Some(TURN.lock().unwrap_or_else(PoisonError::into_inner));
            }
            *count += 1;
        });
        Self
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        MY_TURN.with_borrow_mut(|(count, guard)| {
            *count -= 1;
            if *count == 0 {
                *guard = None;
            }
        });
    }
}

/// An attached host of this test's own. To be made before anything is opened, and so dropped after it.
pub struct TestHost {
    pub host: Host,
    _dir: TempDir,
    // The last to go: whoever comes next must not open anything in a directory that is being removed.
    _turn: Turn,
}

/// A small host; each has numbers of its own.
pub fn config() -> HostConfig {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    HostConfig {
        vram: 8 * MIB,
        vram_chunk: 2 * MIB,
        ggtt: MIB,
        guc: 4096,
        flr_ms: 2,
        suspend_ms: 0,
        resume_ms: 0,
        restore_timeout_ms: 10,
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
        let made = Self::unattached(config);
        boundary::attach(made.host.dir()).expect("attached");
        made
    }

    #[track_caller]
    pub fn unattached(config: &HostConfig) -> Self {
        let turn = Turn::take();
        let shm = std::path::Path::new("/dev/shm");
        let dir = if shm.is_dir() {
            tempfile::tempdir_in(shm)
        } else {
            tempfile::tempdir()
        };
        let dir = dir.expect("a directory");
        let host = Host::create(&dir.path().join("host"), config).expect("a host");
        Self {
            host,
            _turn: turn,
            _dir: dir,
        }
    }

    /// sysfs directory of VF `index`.
    pub fn sysfs(&self, index: u16) -> PathBuf {
        PathBuf::from(format!("/sys/bus/pci/devices/{}", self.bdf(index)))
    }

    pub fn bdf(&self, index: u16) -> String {
        self.host.config().bdf(index)
    }

    pub fn group(&self, index: u16) -> String {
        format!(
            "/dev/vfio/{}",
            self.host.vf(index).expect("a VF").group_id()
        )
    }

    pub fn cdev(&self, index: u16) -> String {
        format!(
            "/dev/vfio/devices/vfio{}",
            self.host.vf(index).expect("a VF").cdev_index()
        )
    }

    /// VF `index` by group and container.
    #[track_caller]
    pub fn by_group(&self, index: u16) -> Device {
        let ops: Arc<dyn VfioOps> = Arc::new(VfioContainer::new(None).expect("a container"));
        Device::new(self, index, ops)
    }

    /// VF `index` by cdev and iommufd.
    #[track_caller]
    pub fn by_cdev(&self, index: u16) -> Device {
        let iommufd = Arc::new(IommuFd::new().expect("an iommufd"));
        let ops: Arc<dyn VfioOps> =
            Arc::new(VfioIommufd::new(iommufd, None, None).expect("an IOAS"));
        Device::new(self, index, ops)
    }

    /// VF `index` by cdev, in an IOAS of an iommufd.
    #[track_caller]
    pub fn by_cdev_in(&self, index: u16, iommufd: &Arc<IommuFd>, ioas: u32) -> Device {
        let ops = VfioIommufd::new(Arc::clone(iommufd), Some(ioas), None).expect("an IOAS");
        Device::new(self, index, Arc::new(ops))
    }
}

/// A device, closed before its container or iommufd.
pub struct Device {
    pub vfio: VfioDevice,
    pub ops: Arc<dyn VfioOps>,
}

impl Device {
    #[track_caller]
    fn new(host: &TestHost, index: u16, ops: Arc<dyn VfioOps>) -> Self {
        let vfio = VfioDevice::new(&host.sysfs(index), Arc::clone(&ops)).expect("a device");
        Self { vfio, ops }
    }
}

/// errno of a failed call, 0 when it did not fail.
pub fn errno(answer: i64) -> i32 {
    if answer < 0 {
        std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
    } else {
        0
    }
}

pub fn ioctl<T>(fd: c_int, number: u32, arg: &mut T) -> Result<c_int, i32> {
    // SAFETY: `arg` is as large as the request's structure says.
    let answer = unsafe { libc::ioctl(fd, u64::from(number), std::ptr::from_mut(arg)) };
    if answer < 0 {
        Err(errno(-1))
    } else {
        Ok(answer)
    }
}

/// As [`ioctl`], with a number for an argument.
pub fn ioctl_value(fd: c_int, number: u32, arg: usize) -> Result<c_int, i32> {
    // SAFETY: the requests used with this take no pointer.
    let answer = unsafe { libc::ioctl(fd, u64::from(number), arg) };
    if answer < 0 {
        Err(errno(-1))
    } else {
        Ok(answer)
    }
}

pub fn open(path: &str, flags: c_int) -> Result<c_int, i32> {
    let path = CString::new(path).expect("a path");
    // SAFETY: a path and flags.
    let fd = unsafe { libc::open(path.as_ptr(), flags) };
    if fd < 0 { Err(errno(-1)) } else { Ok(fd) }
}

pub fn close(fd: c_int) {
    // SAFETY: the tests close only what they opened.
    assert_eq!(unsafe { libc::close(fd) }, 0);
}

/// VFIO_DEVICE_FEATURE with an 8-byte payload.
pub fn feature(fd: c_int, flags: u32, argsz: u32, payload: u64) -> Result<u64, i32> {
    #[repr(C)]
    struct Feature(u32, u32, u64);
    let mut arg = Feature(argsz, flags, payload);
    ioctl(fd, 0x3b75, &mut arg).map(|_| arg.2)
}

pub const GET: u32 = 1 << 16;
pub const SET: u32 = 1 << 17;
pub const PROBE: u32 = 1 << 18;
pub const STOP: u32 = 1;
pub const RUNNING: u32 = 2;
pub const STOP_COPY: u32 = 3;
pub const RESUMING: u32 = 4;

pub fn state(fd: c_int) -> u32 {
    feature(fd, GET | 2, 16, 0).expect("GET") as u32
}

/// SET of the device state; the data fd, or -1.
pub fn set_state(fd: c_int, target: u32) -> Result<c_int, i32> {
    feature(fd, SET | 2, 16, u64::from(target)).map(|answer| (answer >> 32) as c_int)
}

/// Everything that a data fd gives.
pub fn drain(fd: c_int) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buf = vec![0; 1 << 20];
    loop {
        // SAFETY: the buffer is as long as said.
        match unsafe { libc::read(fd, buf.as_mut_ptr().cast(), buf.len()) } {
            0 => return all,
            n if n > 0 => all.extend_from_slice(&buf[..n as usize]),
            _ => panic!("read: {}", std::io::Error::last_os_error()),
        }
    }
}

/// Runs `body` in a forked child and answers its pid. The child's result is its exit status.
pub fn fork(body: impl FnOnce() -> i32) -> libc::pid_t {
    // SAFETY: the child runs `body` and leaves without unwinding into the test harness.
    match unsafe { libc::fork() } {
        0 => {
            let status =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).unwrap_or(101);
            // SAFETY: ends this child only.
            unsafe { libc::_exit(status) }
        }
        pid => {
            assert!(pid > 0, "fork");
            pid
        }
    }
}

/// Waits for a child; its exit status, or 128 and the signal that ended it.
pub fn wait(pid: libc::pid_t) -> i32 {
    let mut status = 0;
    // SAFETY: waits for a child of this test.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    if libc::WIFEXITED(status) {
        libc::WEXITSTATUS(status)
    } else {
        128 + libc::WTERMSIG(status)
    }
}
