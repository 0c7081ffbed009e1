// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `xe-vfio`: drives the migration of an Xe VF with no VMM, for a lab and for anybody with two hosts.
//!
//! `probe` tells what a VF is, `save` and `restore` move its state through files and connections, `inspect` and `verify` look at
//! files. docs/xe-vfio.md is the reference.

mod cli;
mod diagnosis;
mod failure;
mod forecast;
mod hold;
mod inspect;
mod interrupt;
mod now;
mod output;
mod probe;
mod report;
mod restore;
mod save;
mod verify;
mod vf;
mod walk;
mod watch;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use crate::cli::{Cli, Command};
use crate::output::Output;

fn main() -> ExitCode {
    let Cli { command, json } = Cli::parse();
    let output = Output { json };
    if let Err(text) = command.check() {
        Cli::command()
            .error(ErrorKind::ArgumentConflict, text)
            .exit();
    }
    let (name, result) = match &command {
        Command::Probe(arguments) => ("probe", probe::run(arguments, output)),
        Command::Save(arguments) => ("save", save::run(arguments, output)),
        Command::Restore(arguments) => ("restore", restore::run(arguments, output)),
        Command::Inspect(arguments) => (
            "inspect",
            inspect::inspect(&arguments.file, arguments.index, output),
        ),
        Command::Verify(arguments) => ("verify", verify::verify(&arguments.file, output)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output.note(&failure.text());
            if json {
                let mut value = failure.json();
                value["command"] = name.into();
                output.result(&value, "");
            }
            ExitCode::from(failure.status())
        }
    }
}
