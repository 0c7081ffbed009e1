// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `save`: RUNNING to STOP_COPY, the stream, and back.

use serde_json::json;
use xe_vfio_device::estimate::Route;
use xe_vfio_device::transfer::{Cancel, Deadlines, Endpoint, SaveReport};

use crate::cli::Save;
use crate::failure::{Cause, Failure};
use crate::now::{Doing, Now};
use crate::output::Output;
use crate::report::Moved;
use crate::vf::{Device, Opened, options};
use crate::watch::watched;
use crate::{forecast, hold, interrupt};

/// Saves a VF and, unless told otherwise, lets it run on.
///
/// # Errors
/// [`Failure`] says what became of the VF.
pub fn run(arguments: &Save, output: Output) -> Result<(), Failure> {
    interrupt::install().map_err(Failure::Signals)?;
    let ending = &arguments.ending;
    let opened = Opened::new(&arguments.device)?;
    let device = opened.device(
        &arguments.id,
        options(ending.device_timeout, ending.silence_timeout),
    );
    crate::diagnosis::Unusable::of_support(&opened.address, device.support())?;

    let sent = device.start().map_err(Cause::from).and_then(|()| {
        let cancel = device.begin_attempt(ending.attempt);
        watched("Saving", &device.progress(), &cancel, || {
            stop_and_send(&device, arguments, &cancel)
        })
    });
    let now = Now::settle(&device, Doing::Saving, ending.stay_stopped && sent.is_ok());
    let failed = |now, source| Failure::Transfer {
        address: opened.address.clone(),
        done: "saved",
        cancelled: interrupt::received(),
        now,
        source: Box::new(source),
    };
    let moved = match sent {
        Ok(report) => {
            let route = if arguments.hand_over {
                Route::HandOver
            } else {
                Route::from(&arguments.to)
            };
            let history = ending.history.as_deref();
            let last = device.last_moved().map(|(moved, _)| moved);
            forecast::remember(history, route, last, output);
            Moved::from(report)
        }
        Err(source) => return Err(failed(now, source)),
    };
    if !matches!(now, Now::Kept(_)) {
        let why = now.reset_reason();
        return Err(failed(now, Cause::WayBack(why)));
    }

    let mut value = moved.json();
    value["command"] = "save".into();
    value["ok"] = true.into();
    value["address"] = opened.address.as_str().into();
    value["to"] = json!(arguments.to.to_string());
    value["handed_over"] = arguments.hand_over.into();
    value["vf"] = now.json();
    let text = format!(
        "{} {} {}: {}\n{now}",
        opened.address,
        if arguments.hand_over {
            "handed over to"
        } else {
            "saved to"
        },
        arguments.to,
        moved.text()
    );
    output.result(&value, &text);
    if ending.hold {
        hold::hold(
            &opened.address,
            &now.state()
                .map(|state| state.to_string())
                .unwrap_or_default(),
        );
    }
    Ok(())
}

/// Connects while the VF runs, stops it and sends its state.
fn stop_and_send(device: &Device, save: &Save, cancel: &Cancel) -> Result<SaveReport, Cause> {
    let count = match &save.to {
        Endpoint::File(_) => 0,
        _ if save.hand_over => 1,
        _ => save.connections,
    };
    let mut connections = (0..count)
        .map(|_| save.to.connect(Deadlines::default().connect))
        .collect::<Result<Vec<_>, _>>()?;
    // One that waits for the stream's opening is let go at once.
    let registrations: Vec<_> = connections
        .iter()
        .filter_map(|connection| connection.closer().ok())
        .map(|closer| cancel.register(closer))
        .collect();
    device.compress(save.compression);
    device.quiesce()?;
    device.stop()?;
    // From here on the transfer ends its connections itself.
    drop(registrations);
    Ok(match connections.pop() {
        Some(connection) if save.hand_over => device.send_fd_over(connection)?,
        Some(connection) => {
            connections.push(connection);
            device.send_over_all(connections)?
        }
        None => device.send_to(&save.to)?,
    })
}
