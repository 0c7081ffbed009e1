// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The two states with a data fd, and what is left of them without one.

use std::os::fd::{AsFd, BorrowedFd};

use super::{DataStream, DeviceState, MigrationDevice, Stopped, Stuck, TransitionError, Vf};
use crate::uapi::UapiError;

/// The VF's state can be read.
#[derive(Debug)]
pub struct Saving<F> {
    stream: F,
    progress: Progress,
}

/// The VF's state can be written.
#[derive(Debug)]
pub struct Loading<F> {
    stream: F,
    failed: Option<UapiError>,
}

/// The VF is in STOP_COPY or RESUMING and there is no data fd that works.
#[derive(Debug)]
pub struct StreamDead {
    state: DeviceState,
}

/// How far reading has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Open,
    Ended,
    Failed(UapiError),
}

impl<F> Saving<F> {
    pub(super) fn new(stream: F) -> Self {
        Self {
            stream,
            progress: Progress::Open,
        }
    }
}

impl<F> Loading<F> {
    pub(super) fn new(stream: F) -> Self {
        Self {
            stream,
            failed: None,
        }
    }
}

impl StreamDead {
    pub(super) fn new(state: DeviceState) -> Self {
        Self { state }
    }
}

impl<D: MigrationDevice> Vf<D, Saving<D::Stream>> {
    /// Reads the next bytes of the state; 0 once all of it was read.
    ///
    /// # Errors
    /// The stream is lost then, and each later read answers the same error. An EINTR counts as loss: the kernel may have
    /// dropped bytes.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, UapiError> {
        match self.state.progress {
            Progress::Open => {}
            Progress::Ended => return Ok(0),
            Progress::Failed(error) => return Err(error),
        }
        match self.state.stream.read(buffer) {
            Ok(0) if !buffer.is_empty() => {
                self.state.progress = Progress::Ended;
                Ok(0)
            }
            Ok(count) => Ok(count),
            Err(error) => {
                let error = error.before(DeviceState::StopCopy);
                self.state.progress = Progress::Failed(error);
                Err(error)
            }
        }
    }

    /// Reads what is left and drops it, so that STOP_COPY can be left with the GPU state intact. `on_bytes` is told each
    /// count.
    ///
    /// # Errors
    /// As [`Vf::read`].
    pub fn drain(
        &mut self,
        scratch: &mut [u8],
        on_bytes: &mut dyn FnMut(usize),
    ) -> Result<(), UapiError> {
        loop {
            match self.read(scratch)? {
                0 => return Ok(()),
                count => on_bytes(count),
            }
        }
    }

    /// Whether the state was read to its end.
    pub fn is_drained(&self) -> bool {
        self.state.progress == Progress::Ended
    }

    /// STOP_COPY -> STOP, with the data fd closed first. The VF keeps its state.
    ///
    /// # Errors
    /// [`Stuck`] with the session as it is when data is left to read. When a read has failed there is nothing to drain and
    /// the kernel is asked all the same; it answers EIO and stays in STOP_COPY unless its producers had finished.
    pub fn finish(self) -> Result<Vf<D, Stopped>, Stuck<D>> {
        match self.state.progress {
            Progress::Open => {
                return Err(Stuck {
                    error: TransitionError::NotDrained,
                    vf: self.into(),
                });
            }
            Progress::Ended => {}
            Progress::Failed(error) => {
                // A reset by somebody else kills the fd too, and a SET would then stop a VF that has lost everything.
                if self.device.state() != Ok(DeviceState::StopCopy) {
                    return Err(self.stuck(TransitionError::Stream(error)));
                }
            }
        }
        self.with(StreamDead::new(DeviceState::StopCopy)).stop()
    }
}

impl<D: MigrationDevice<Stream: AsFd>> Vf<D, Saving<D::Stream>> {
    /// The data fd, to be passed to another process. Two readers tear packets apart, so whoever reads here meanwhile does it to
    /// drop what is left. Once STOP_COPY is left the kernel answers ENODEV to both (`xe_vfio_pci_disable_file`), after a read under way has returned.
    pub fn data_fd(&self) -> BorrowedFd<'_> {
        self.state.stream.as_fd()
    }
}

impl<D: MigrationDevice> Vf<D, Loading<D::Stream>> {
    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// The load is lost then, and each later write answers the same error.
    pub fn write_all(&mut self, mut bytes: &[u8]) -> Result<(), UapiError> {
        if let Some(error) = self.state.failed {
            return Err(error);
        }
        while !bytes.is_empty() {
            match self.state.stream.write(bytes) {
                Ok(count) => bytes = &bytes[count.min(bytes.len())..],
                Err(error) => {
                    let error = error.before(DeviceState::Resuming);
                    self.state.failed = Some(error);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// RESUMING -> STOP, with the data fd closed first: the kernel waits until all of it is restored, up to 20 s per GT. Only
    /// its success says that the state has arrived.
    ///
    /// # Errors
    /// [`Stuck`]; ETIMEDOUT when the trailer is missing. What the VF holds then is good for nothing but a reset. After a
    /// failed write the kernel is not asked and the session stays as it is.
    pub fn finish(self) -> Result<Vf<D, Stopped>, Stuck<D>> {
        if self.state.failed.is_some() {
            return Err(Stuck {
                error: TransitionError::Incomplete,
                vf: self.into(),
            });
        }
        let vf = self.with(());
        vf.arc(DeviceState::Resuming, DeviceState::Stop, ())
            .map(Vf::stopped)
    }
}

impl<D: MigrationDevice> Vf<D, StreamDead> {
    /// STOP_COPY or RESUMING, whichever the VF is stuck in.
    pub fn dead_state(&self) -> DeviceState {
        self.state.state
    }

    /// Tries to leave for STOP. From STOP_COPY success means that the VF kept its state; from RESUMING what it holds is
    /// undefined, so reset it instead.
    ///
    /// # Errors
    /// [`Stuck`].
    pub fn stop(self) -> Result<Vf<D, Stopped>, Stuck<D>> {
        let before = self.state.state;
        let vf = self.with(());
        vf.arc(before, DeviceState::Stop, ()).map(Vf::stopped)
    }
}
