// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `restore`: a stream into a VF, from a file or from whoever connects; and perhaps out of it again.

use std::fs::File;
use std::time::Duration;

use serde_json::json;
use xe_vfio_device::estimate::Route;
use xe_vfio_device::transfer::{
    AttemptId, Cancel, Deadlines, Endpoint, Gather, Incoming, Progress, Source,
};

use crate::cli::Restore;
use crate::diagnosis::Unusable;
use crate::failure::{Cause, Failure};
use crate::now::{Doing, Now};
use crate::output::Output;
use crate::report::Moved;
use crate::vf::{Device, Opened, options};
use crate::watch::watched;
use crate::{forecast, hold, interrupt};

/// Longest wait for a connection when none is given: a year.
const FOR_EVER: Duration = Duration::from_secs(31_536_000);

/// Loads a state into a VF and, unless told otherwise, lets it run.
///
/// # Errors
/// [`Failure`] says what became of the VF.
pub fn run(arguments: &Restore, output: Output) -> Result<(), Failure> {
    interrupt::install().map_err(Failure::Signals)?;
    let opened = Opened::new(&arguments.device)?;
    // The stream names the device, and PATH says which VF that is here.
    let any = opened.device("any", options(FOR_EVER, FOR_EVER));
    Unusable::of_support(&opened.address, any.support())?;
    drop(any);
    let untouched = |source| failed(&opened, Now::Untouched, source);
    if let Endpoint::File(path) = &arguments.from {
        let file = File::open(path).map_err(|source| Cause::File {
            path: path.clone(),
            source,
        });
        let incoming = file.and_then(|file| Incoming::open(file).map_err(Cause::Opening));
        return restore(&opened, incoming.map_err(untouched)?, arguments, output);
    }
    let incoming = accept(arguments, output).map_err(untouched)?;
    restore(&opened, incoming, arguments, output)
}

/// Waits for a connection, or for all of a split stream's, and reads the opening.
fn accept(arguments: &Restore, output: Output) -> Result<Incoming<impl Source + use<>>, Cause> {
    let listener = arguments.from.listen()?;
    output.note(&format!("Listening on {}", listener.endpoint()));
    let cancel = Cancel::new();
    let deadlines = Deadlines {
        network: arguments.ending.silence_timeout,
        ..Deadlines::default()
    };
    watched("Waiting", &Progress::default(), &cancel, || {
        // The first opening says how many connections there are; they wait together, and end together on cancel.
        let gather = Gather::new(arguments.ending.attempt);
        let mut registrations = Vec::new();
        loop {
            let connection = listener.accept(arguments.wait.unwrap_or(FOR_EVER), &cancel)?;
            let closer = connection.closer().ok();
            registrations.extend(closer.map(|closer| cancel.register(closer)));
            let incoming = Incoming::accept(connection, &deadlines).map_err(Cause::Opening)?;
            match gather.add(incoming, &deadlines) {
                Ok(Some(whole)) => return Ok(whole),
                Ok(None) => {}
                Err(error) => output.note(&format!("A connection is refused: {error}")),
            }
        }
    })
}

fn restore<S: Source>(
    opened: &Opened,
    incoming: Incoming<S>,
    arguments: &Restore,
    output: Output,
) -> Result<(), Failure> {
    let ending = &arguments.ending;
    let device = opened.device(
        incoming.device_id(),
        options(ending.device_timeout, ending.silence_timeout),
    );
    // A refusal comes from the load, which tells the sender.
    for difference in device.check(incoming.manifest()).unwrap_or_default() {
        output.note(&format!("Note: {difference}"));
    }
    let handed_over = incoming.hands_over();
    // A file has the id of the snapshot that it is a part of, if any; the whole snapshot is a VMM's to judge.
    let cancel = device.begin_attempt(if S::ENDS_WITH_STREAM {
        incoming.attempt()
    } else {
        ending.attempt
    });
    let loaded = watched("Loading", &device.progress(), &cancel, || {
        device.load_from(incoming)
    });
    let report = loaded.map_err(|error| {
        let now = Now::settle(&device, Doing::Loading { done: false }, false);
        failed(opened, now, error.into())
    })?;
    let (history, route) = (ending.history.as_deref(), Route::from(&arguments.from));
    let loaded = device.last_moved().map(|(moved, _)| moved);
    device.compress(arguments.compression);
    let saved = match &arguments.then_save {
        None => Ok(None),
        Some(to) => save_again(&device, to, arguments.hand_over).map(Some),
    };
    let stay = ending.stay_stopped && saved.is_ok();
    let now = Now::settle(&device, Doing::Loading { done: true }, stay);
    forecast::remember(history, route, loaded, output);
    let saved = match saved {
        Ok(saved) => saved,
        Err(source) => {
            let address = opened.address.clone();
            let cancelled = interrupt::received();
            let done = "saved again after it was restored";
            return Err(Failure::Transfer {
                address,
                done,
                cancelled,
                now,
                source: Box::new(source),
            });
        }
    };
    if !matches!(now, Now::Loaded(_)) {
        let why = now.reset_reason();
        return Err(failed(opened, now, Cause::WayBack(why)));
    }
    let moved = (Moved::from(report), handed_over);
    tell(opened, arguments, moved, saved.as_ref(), &now, output);
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

/// The VF is in STOP, where the load left it, so what is saved is what came.
fn save_again(device: &Device, to: &Endpoint, hand_over: bool) -> Result<Moved, Cause> {
    let cancel = device.begin_attempt(AttemptId::NONE);
    let sent = watched("Saving", &device.progress(), &cancel, || {
        if hand_over {
            device.send_fd_to(to)
        } else {
            device.send_to(to)
        }
    });
    Ok(sent?.into())
}

fn tell(
    opened: &Opened,
    arguments: &Restore,
    (moved, handed_over): (Moved, bool),
    saved: Option<&Moved>,
    now: &Now,
    output: Output,
) {
    let mut value = moved.json();
    value["command"] = "restore".into();
    value["ok"] = true.into();
    value["address"] = opened.address.as_str().into();
    value["from"] = json!(arguments.from.to_string());
    value["handed_over"] = handed_over.into();
    value["vf"] = now.json();
    let mut text = format!(
        "{} restored from {}{}: {}",
        opened.address,
        arguments.from,
        if handed_over {
            ", which handed its data fd over"
        } else {
            ""
        },
        moved.text()
    );
    if let (Some(saved), Some(to)) = (saved, &arguments.then_save) {
        value["then_save"] = saved.json();
        value["then_save"]["to"] = json!(to.to_string());
        value["then_save"]["handed_over"] = arguments.hand_over.into();
        text.push_str(&format!("\nand saved to {to}: {}", saved.text()));
    }
    output.result(&value, &format!("{text}\n{now}"));
}

fn failed(opened: &Opened, now: Now, source: Cause) -> Failure {
    Failure::Transfer {
        address: opened.address.clone(),
        done: "restored",
        cancelled: interrupt::received(),
        now,
        source: Box::new(source),
    }
}
