// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The VFs' streams of an attempt, each on one connection or several beside the main one.

use std::thread::Builder;
use std::time::Duration;

use xe_vfio_device::device::DeviceError;
use xe_vfio_device::transfer::{Cancel, Connection, EndpointError, Incoming, Listener, Peer};

use super::super::channel::Channel;
use super::super::prefix::Prefixed;
use super::super::protocol::Kind;
use super::super::report::ms;
use super::Destination;
use super::loads::Loads;
use crate::vm::Vf;

/// How long the acceptor waits before it looks whether it is still needed: the attempt ends so much later.
pub(super) const ACCEPT_SLICE: Duration = Duration::from_millis(10);

impl Destination {
    /// Takes the VFs' streams until `accepting` is cancelled.
    pub(super) fn accept_streams<'s, 'e>(
        &'s self,
        scope: &'s std::thread::Scope<'s, 'e>,
        listener: &Listener,
        accepting: &'s Cancel,
        loads: &'s Loads<'_>,
    ) {
        loop {
            match listener.accept(ACCEPT_SLICE, accepting) {
                Ok(connection) => {
                    let take = move || self.take_stream(connection, loads, accepting);
                    let thread = Builder::new().name("load".into());
                    if let Err(error) = thread.spawn_scoped(scope, take) {
                        tracing::warn!(%error, "a connection is dropped");
                    }
                }
                Err(EndpointError::Nobody { .. }) => {}
                Err(EndpointError::Cancelled) => return,
                Err(error) => {
                    tracing::error!(error = crate::describe(&error), "no more streams can come");
                    return;
                }
            }
        }
    }

    /// One connection beside the main one. What is still open when nothing is accepted any more is shut down: by then
    /// every VF is loaded, or the attempt has failed.
    fn take_stream(&self, connection: Box<dyn Connection>, loads: &Loads<'_>, accepting: &Cancel) {
        let deadlines = &self.options.deadlines;
        let _until_then = match connection.closer() {
            Ok(closer) => accepting.register(closer),
            Err(error) => {
                tracing::warn!(%error, "a connection that cannot be shut down is not taken");
                return;
            }
        };
        let prefixed = match Prefixed::read(connection, deadlines.network) {
            Ok(prefixed) => prefixed,
            Err(error) => {
                tracing::info!(%error, "a connection that said nothing");
                return;
            }
        };
        if prefixed.is_main() {
            if let Ok(other) = Channel::new(Box::new(prefixed), accepting, deadlines.network) {
                other.fail(Kind::Refused, "another migration to here is under way");
            }
            return;
        }
        let incoming = match Incoming::accept(prefixed, deadlines) {
            Ok(incoming) => incoming,
            Err(error) => {
                let error = crate::describe(&error);
                tracing::warn!(error, "a stream without a good opening");
                return;
            }
        };
        let Some(device) = loads.device(incoming.device_id()) else {
            incoming.refuse("no VF of that name is awaited", deadlines);
            return;
        };
        match loads.gather.add(incoming, deadlines) {
            Ok(Some(whole)) => load(device, whole, loads),
            // The thread of its last connection loads it.
            Ok(None) => {}
            Err(error) => {
                let id = device.device_id();
                tracing::warn!(id, %error, "a connection is refused");
            }
        }
    }
}

fn load(device: &Vf, stream: Incoming<Peer<Prefixed>>, loads: &Loads<'_>) {
    let id = device.device_id();
    let handed_over = stream.hands_over();
    let result = match device.load_from(stream) {
        Ok(report) => {
            tracing::info!(
                id,
                handed_over,
                bytes = report.totals.payload_bytes,
                stream_ms = ms(report.stream),
                confirm_ms = ms(report.confirm),
                "VF loaded"
            );
            Ok(())
        }
        // A stray stream, refused; the right one may still come.
        Err(e @ (DeviceError::OtherAttempt { .. } | DeviceError::Busy { .. })) => {
            tracing::warn!(id, error = crate::describe(&e), "stream refused");
            return;
        }
        Err(error) => Err(crate::describe(&error)),
    };
    loads.done(id, result);
}
