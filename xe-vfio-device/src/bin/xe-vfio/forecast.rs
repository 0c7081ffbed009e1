// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How long a VF's state would take, and what it took, kept in a file that the user names.

use std::path::Path;

use serde_json::{Map, Value, json};
use xe_vfio_device::estimate::{
    Estimate, Estimator, Finished, History, HistoryError, Hosts, Lane, Machine, Moved, Route, Work,
};
use xe_vfio_device::stream::Manifest;

use crate::output::Output;

/// The ways that `probe` tells of.
const ROUTES: [Route; 3] = [Route::Tcp, Route::Unix, Route::File];

/// An estimate for each way.
pub struct Forecast(Vec<(Route, Estimate)>);

impl Forecast {
    /// Of a VF whose kernel has told how much state it has; measures this machine for some milliseconds.
    pub fn new(manifest: &Manifest, history: Option<&Path>, output: Output) -> Self {
        let (known, broken) = history.map_or_else(Default::default, History::open);
        note(broken.as_ref(), output);
        let estimator = Estimator::new(Machine::measure(), known);
        let lane = Lane {
            device: manifest.device_id.clone(),
            state_bytes: manifest.stop_copy_length,
            zeros: None,
        };
        let estimate = |route| {
            let work = Work::new(route, Hosts::Unknown, vec![lane.clone()]);
            (route, estimator.estimate(&work))
        };
        Self(ROUTES.into_iter().map(estimate).collect())
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let ways: Map<_, _> = self
            .0
            .iter()
            .map(|(route, estimate)| {
                let ms = |time: std::time::Duration| time.as_secs_f64() * 1e3;
                let costs = &estimate.costs;
                let value = json!({
                    "likely_ms": ms(estimate.likely),
                    "low_ms": ms(estimate.low),
                    "high_ms": ms(estimate.high),
                    "state_ms": ms(estimate.parts.state),
                    "else_ms": ms(estimate.parts.around),
                    "zeros": estimate.zeros,
                    "basis": estimate.basis.to_string(),
                    "bound": estimate.bound.to_string(),
                    "bytes_per_second": {
                        "read": costs.read.cost.rate(),
                        "frames": costs.frames.cost.rate(),
                        "link": costs.link.cost.rate(),
                        "write": costs.write.cost.rate(),
                    },
                });
                (route.name().to_owned(), value)
            })
            .collect();
        ways.into()
    }

    /// For people.
    pub fn text(&self) -> String {
        let lines = self.0.iter().map(|(route, estimate)| {
            let way = match route {
                Route::File => "to a file".to_owned(),
                route => format!("over {route}"),
            };
            format!("  {way:20}{estimate}")
        });
        let lines: Vec<_> = lines.collect();
        format!("A guest would stand still for about:\n{}", lines.join("\n"))
    }
}

/// Adds a transfer to the history, if there is one.
pub fn remember(history: Option<&Path>, route: Route, moved: Option<Moved>, output: Output) {
    let (Some(path), Some(moved)) = (history, moved) else {
        return;
    };
    let cores = xe_vfio_device::uapi::usable_cores();
    match History::append(path, Finished::alone(route, cores, moved)) {
        Ok((_, broken)) => note(broken.as_ref(), output),
        Err(error) => note(Some(&error), output),
    }
}

fn note(error: Option<&HistoryError>, output: Output) {
    if let Some(error) = error {
        let cause = std::error::Error::source(error);
        let cause = cause.map_or_else(String::new, |cause| format!(": {cause}"));
        output.note(&format!("Note: {error}{cause}"));
    }
}
