// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `guest OUT.elf` writes the guest image, for any VMM that boots a PVH kernel.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(path), None) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: guest OUT.elf");
        return ExitCode::from(2);
    };
    match std::fs::write(&path, guest::image()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("guest: {}: {error}", path.display());
            ExitCode::FAILURE
        }
    }
}
