// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `demo`: a guest that works its VF is migrated live to a second process, and finds nothing lost.

mod options;
mod report;
mod scenario;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let options = options::Options::parse();
    // A run takes its time; that its report cannot be written is better known before.
    for path in options.json.iter().chain(&options.timeline) {
        if let Err(error) = std::fs::File::create(path) {
            eprintln!("{} could not be written: {error}", path.display());
            return ExitCode::FAILURE;
        }
    }
    let report = match demo::cleanup::on_signals().and_then(|()| scenario::run(&options)) {
        Ok(report) => report,
        Err(error) => {
            eprintln!("The demo failed: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    print!("{report}");
    if let Some(path) = &options.json
        && let Err(error) = report.write_json(path)
    {
        eprintln!("The report could not be written: {error:#}");
        return ExitCode::FAILURE;
    }
    if let Some(path) = &options.timeline
        && let Err(error) = std::fs::write(path, timeline::svg(&report.timeline, &report.title()))
    {
        eprintln!("{} could not be written: {error}", path.display());
        return ExitCode::FAILURE;
    }
    if report.lost == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
