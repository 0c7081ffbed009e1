// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `demo`: a guest that works its VF is migrated live to a second process, and finds nothing lost.

mod options;
mod report;
mod scenario;

use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let options = options::Options::parse();
    let options = options.checked().unwrap_or_else(|error| error.exit());
    // A run takes its time; that its report cannot be written is better known before.
    let reports = [
        ("--json", &options.json),
        ("--timeline", &options.timeline),
        ("--history", &options.history),
    ];
    for (option, path) in reports {
        if let Some(path) = path
            && let Err(error) = can_be_written(path)
        {
            eprintln!(
                "{} cannot be written: {error}. Give {option} a file in a directory that exists and is yours to write to",
                path.display()
            );
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
        && let Err(error) = fs::write(path, timeline::svg(&report.timeline, &report.title()))
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

/// Fails where a file cannot be written; changes none, and leaves none that was not there.
fn can_be_written(path: &Path) -> io::Result<()> {
    let new = !path.exists();
    OpenOptions::new().append(true).create(true).open(path)?;
    if new { fs::remove_file(path) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_there_is_kept_and_one_that_is_not_is_not_made() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let (old, new) = (directory.path().join("old"), directory.path().join("new"));
        fs::write(&old, "picture").expect("write");
        can_be_written(&old).expect("writable");
        can_be_written(&new).expect("writable");
        assert_eq!(fs::read_to_string(&old).expect("read"), "picture");
        assert!(!new.exists());
        assert!(can_be_written(directory.path()).is_err());
        assert!(can_be_written(&directory.path().join("none/file")).is_err());
    }
}
