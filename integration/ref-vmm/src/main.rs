// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `ref-vmm` runs a VM, `ref-vmm remote` asks one that runs. The log goes to standard error, by `RUST_LOG`.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use clap::Parser;
use ref_vmm::api::{Request, Response, client, server};
use ref_vmm::cli::{Cli, Command, Remote, Run};
use ref_vmm::events::Events;
use ref_vmm::migration::forecast::Forecaster;
use ref_vmm::snapshot;
use ref_vmm::vm::Vm;
use ref_vmm::vmm::Vmm;
use serde_json::{Value, json};
use tracing_subscriber::EnvFilter;
use xe_vfio_device::device::Options;
use xe_vfio_device::uapi::InterruptSignal;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Some(Command::Remote {
            api_socket,
            request,
        }) => {
            let picture = match &request {
                Remote::SendMigration { timeline, .. } => timeline.clone(),
                _ => None,
            };
            remote(&api_socket, &request.into(), picture.as_deref())
        }
        None => run(&cli.run),
    };
    result.unwrap_or_else(|error| {
        eprintln!("{error:#}");
        ExitCode::FAILURE
    })
}

fn remote(socket: &Path, request: &Request, picture: Option<&Path>) -> Result<ExitCode> {
    match client::ask(socket, request)? {
        Response::Done { ok: Value::Null } => Ok(ExitCode::SUCCESS),
        Response::Done { ok } => {
            println!("{ok:#}");
            if let Some(path) = picture {
                let timeline = serde_json::from_value(ok["timeline"].clone())?;
                std::fs::write(path, timeline::svg(&timeline, "Migration of a VM"))
                    .with_context(|| format!("{} cannot be written", path.display()))?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Response::Failed { error, state } => {
            eprintln!("{error}\nThe VM is {state}.");
            Ok(ExitCode::FAILURE)
        }
    }
}

fn run(run: &Run) -> Result<ExitCode> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    let config = run.vm().map_err(|e| anyhow!(e))?;
    let events =
        Events::new(run.event_file.as_deref()).context("The event file cannot be created")?;
    let interrupt = InterruptSignal::default_signal().context("No signal for stuck devices")?;
    let limits = run.limits();
    let mut options = Options {
        interrupt: Some(interrupt),
        ..Options::default()
    };
    options.deadlines.network = limits.silence;
    options.deadlines.device = run.device_timeout;
    let vmm = Arc::new(Vmm::new(
        config.host.clone(),
        config.devices.clone(),
        limits,
        options,
        events.clone(),
        Forecaster::new(run.migration_history.clone()),
    ));
    let socket = run
        .api_socket
        .as_deref()
        .context("--api-socket is missing")?;
    let in_the_way = || format!("The API socket {} cannot be had", socket.display());

    if let Some(url) = &run.receive_migration {
        let listener = vmm.listen(url).map_err(|e| anyhow!(e))?;
        let (receiver, once) = (vmm.clone(), run.receive_once);
        std::thread::Builder::new()
            .name("receive".into())
            .spawn(move || {
                if let Err(error) = receiver.receive_until_here(&listener, once) {
                    tracing::error!(error, "no VM was received");
                    receiver.exit(1);
                }
            })?;
    } else {
        let vm = match &run.restore {
            Some(restore) => {
                let directory = snapshot::directory(&restore.source_url)?;
                snapshot::restore(&directory, &config.devices, &config.host, options)?
            }
            None => {
                let host = &config.host;
                let vm = Vm::new(config.memory, &config.devices, host.accel, host, options)?;
                vm.boot(config.kernel.as_deref())?;
                vm
            }
        };
        tell(&vm, &events);
        if run.restore.as_ref().is_none_or(|restore| restore.resume) {
            vm.resume()?;
        }
        vmm.adopt(Box::new(vm));
    }
    let _server = server::start(socket, &vmm).with_context(in_the_way)?;
    Ok(ExitCode::from(vmm.wait_for_exit()))
}

fn tell(vm: &Vm, events: &Events) {
    let (accel, fallback) = vm.accel();
    if let Some(reason) = fallback {
        eprintln!("KVM cannot be used, the software vCPU takes over: {reason}");
    }
    let ids: Vec<_> = vm.devices().iter().map(|d| d.device_id()).collect();
    events.report(
        "started",
        &json!({"accel": accel, "accel_reason": fallback, "devices": ids}),
    );
}
