// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The command line, in Cloud Hypervisor's manner.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use xe_vfio_device::dirty::{Pause, Wish};
use xe_vfio_device::transfer::Compression;

use crate::accel::Choice;
use crate::api::Request;
use crate::config::{
    DeviceConfig, HostConfig, VmConfig, check_devices, parse_memory, parse_seconds,
};
use crate::memory::PAGE_SIZE;
use crate::migration::Limits;
use crate::serial::Target;

/// A small VMM whose guests move with their Xe VFs.
#[derive(Debug, Parser)]
#[command(
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
pub struct Cli {
    /// Asking a running VMM.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Running a VM.
    #[command(flatten)]
    pub run: Run,
}

/// What to do instead of running a VM.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Asks a running VMM.
    Remote {
        /// Its socket.
        #[arg(long)]
        api_socket: PathBuf,
        /// What it is to do.
        #[command(subcommand)]
        request: Remote,
    },
}

/// Commands for a running VMM.
#[derive(Debug, Clone, Subcommand)]
pub enum Remote {
    /// Whether it is there.
    Ping,
    /// What its VM is and does.
    Info,
    /// Stops VFs and vCPU.
    Pause,
    /// Lets them run.
    Resume {
        /// Although the guest may run at a destination: look there first.
        #[arg(long)]
        force: bool,
    },
    /// Keeps the paused VM on disk.
    Snapshot {
        /// file:///DIRECTORY
        url: String,
    },
    /// Moves the VM to a VMM that waits for it; ends this one.
    SendMigration {
        /// tcp:HOST:PORT or unix:PATH
        url: String,
        /// Seconds until the source gives up and its guest runs on.
        #[arg(long, value_parser = parse_seconds)]
        timeout: Option<Duration>,
        /// As --dirty, for this migration alone.
        #[arg(long)]
        dirty: Option<String>,
        /// To a VMM on this host: it gets the VFs' data fds through the unix socket and reads their state itself.
        #[arg(long)]
        local: bool,
        /// Draws what happened when it has gone well.
        #[arg(long, value_name = "FILE.svg")]
        timeline: Option<PathBuf>,
    },
    /// Gives up a migration; its guest runs on at the source.
    CancelMigration,
    /// Waits for one VM.
    ReceiveMigration {
        /// tcp:HOST:PORT or unix:PATH
        url: String,
    },
    /// Takes memory out of the VFs' reach, at any time.
    DmaUnmap {
        /// First guest physical address, such as 32M
        #[arg(value_parser = parse_memory)]
        gpa: u64,
        /// Bytes, such as 16M: whole blocks of --dma-block
        #[arg(value_parser = parse_memory)]
        length: u64,
        /// Gives it back to the host too: it reads as zeros
        #[arg(long)]
        discard: bool,
    },
    /// Gives memory to the VFs, at any time.
    DmaMap {
        /// First guest physical address, such as 32M
        #[arg(value_parser = parse_memory)]
        gpa: u64,
        /// Bytes, such as 16M
        #[arg(value_parser = parse_memory)]
        length: u64,
    },
    /// Ends the VMM and its VM.
    Shutdown,
}

impl From<Remote> for Request {
    fn from(command: Remote) -> Self {
        match command {
            Remote::Ping => Self::Ping {},
            Remote::Info => Self::Info {},
            Remote::Pause => Self::Pause {},
            Remote::Resume { force } => Self::Resume { force },
            Remote::Snapshot { url } => Self::Snapshot { url },
            Remote::SendMigration {
                url,
                timeout,
                dirty,
                local,
                ..
            } => Self::SendMigration {
                url,
                timeout: timeout.map(|time| time.as_secs_f64()),
                dirty,
                local,
            },
            Remote::CancelMigration => Self::CancelMigration {},
            Remote::ReceiveMigration { url } => Self::ReceiveMigration { url },
            Remote::DmaUnmap {
                gpa,
                length,
                discard,
            } => Self::DmaUnmap {
                gpa,
                length,
                discard,
            },
            Remote::DmaMap { gpa, length } => Self::DmaMap { gpa, length },
            Remote::Shutdown => Self::Shutdown {},
        }
    }
}

/// What runs, and where it comes from.
#[derive(Debug, Args)]
pub struct Run {
    /// Socket on which the VMM is asked.
    #[arg(long, required = true)]
    pub api_socket: Option<PathBuf>,
    /// size=256M; a guest that arrives or is restored brings its own.
    #[arg(long, default_value = "size=256M", value_parser = parse_memory)]
    pub memory: u64,
    /// ELF with a PVH entry; the built-in guest when absent.
    #[arg(long)]
    pub kernel: Option<PathBuf>,
    /// path=/sys/bus/pci/devices/...,id=vf0; repeat for more.
    #[arg(long)]
    pub device: Vec<DeviceConfig>,
    /// file=PATH, tty or null.
    #[arg(long, default_value = "null")]
    pub serial: Target,
    /// kvm, soft, or auto: kvm when it works.
    #[arg(long, default_value = "auto")]
    pub accel: Choice,
    /// VFs by cdev and iommufd instead of group and container.
    #[arg(long)]
    pub iommufd: bool,
    /// Maps RAM for DMA in blocks of this size, which can be taken from the VFs one by one.
    #[arg(long, value_parser = parse_block)]
    pub dma_block: Option<u64>,
    /// Events as lines of JSON.
    #[arg(long)]
    pub event_file: Option<PathBuf>,
    /// Waits for a VM at tcp:HOST:PORT or unix:PATH instead of booting one.
    #[arg(long, conflicts_with = "restore")]
    pub receive_migration: Option<String>,
    /// Ends with status 1 after a failed attempt instead of waiting for the next.
    #[arg(long, requires = "receive_migration")]
    pub receive_once: bool,
    /// source_url=file:///DIRECTORY[,resume=off] brings a VM back from disk.
    #[arg(long)]
    pub restore: Option<Restore>,
    /// Seconds from the beginning of a migration to go.
    #[arg(long, default_value = "300", value_parser = parse_seconds)]
    pub migration_timeout: Duration,
    /// Memory that is dirty at most when the guest is stopped, unless it has been gone over often enough.
    #[arg(long, default_value = "4M", value_parser = parse_memory)]
    pub dirty_limit: u64,
    /// Milliseconds of downtime that precopy aims at; memory is sent again until what is left and the VFs' state fit.
    #[arg(long, value_name = "MS")]
    pub downtime_ms: Option<u32>,
    /// A goal that cannot be met ends the migration with the guest running.
    #[arg(long, requires = "downtime_ms")]
    pub downtime_strict: bool,
    /// File for what migrations took, from which the next one's downtime is told; made when there is none.
    #[arg(long, value_name = "FILE")]
    pub migration_history: Option<PathBuf>,
    /// device, iommu, content, all, or auto for the first of them that there is: how memory that VFs write is found.
    #[arg(long, default_value = "auto")]
    pub dirty: Wish,
    /// Seconds that the GPUs may stand still while the guest runs, before its driver would call them hung; 0 for not at all.
    #[arg(long, default_value = "1", value_parser = parse_pause)]
    pub gpu_pause: Pause,
    /// Connections that each VF's state is sent over, for a link on which one is slower than the VF.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=8))]
    pub connections: u8,
    /// off, auto, lz4 or zstd: how the VFs' state is compressed for a link that is slower than a codec; auto finds out, and leaves a fast one alone.
    #[arg(long, default_value = "auto")]
    pub compression: Compression,
    /// Seconds that a peer may be silent.
    #[arg(long, default_value = "30", value_parser = parse_seconds)]
    pub silence_timeout: Duration,
    /// Seconds that a VF may take for one read or write of its state
    #[arg(long, value_parser = parse_seconds, default_value = "20")]
    pub device_timeout: Duration,
    /// Seconds after loading in which a destination may run the guest.
    #[arg(long, default_value = "30", value_parser = parse_seconds)]
    pub lease: Duration,
    /// Seconds that the source waits for the answer to go.
    #[arg(long, default_value = "30", value_parser = parse_seconds)]
    pub answer_timeout: Duration,
}

impl Run {
    /// The VM to boot.
    ///
    /// # Errors
    /// A sentence on devices that cannot be together.
    pub fn vm(&self) -> Result<VmConfig, String> {
        check_devices(&self.device)?;
        Ok(VmConfig {
            memory: self.memory,
            devices: self.device.clone(),
            kernel: self.kernel.clone(),
            host: HostConfig {
                serial: self.serial.clone(),
                accel: self.accel,
                iommufd: self.iommufd,
                dma_block: self.dma_block,
            },
        })
    }

    /// The deadlines.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits {
            total: self.migration_timeout,
            silence: self.silence_timeout,
            lease: self.lease,
            answer: self.answer_timeout,
            few_bytes: self.dirty_limit,
            downtime: self.downtime_ms.map(|ms| Duration::from_millis(ms.into())),
            downtime_strict: self.downtime_strict,
            dirty: self.dirty,
            gpu_pause: self.gpu_pause,
            connections: self.connections,
            compression: self.compression,
            ..Limits::default()
        }
    }
}

fn parse_pause(text: &str) -> Result<Pause, String> {
    let limit = match text {
        "0" => Duration::ZERO,
        _ => parse_seconds(text)?,
    };
    Ok(Pause { limit })
}

fn parse_block(text: &str) -> Result<u64, String> {
    let size = parse_memory(text)?;
    if size == 0 || !size.is_multiple_of(PAGE_SIZE) {
        return Err(format!("{text:?} is no size of whole pages of 4 KiB"));
    }
    Ok(size)
}

/// Where a VM is brought back from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restore {
    /// `file:///DIRECTORY`.
    pub source_url: String,
    /// Whether it runs afterwards.
    pub resume: bool,
}

impl FromStr for Restore {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (mut source_url, mut resume) = (None, true);
        for part in text.split(',') {
            match part.split_once('=') {
                Some(("source_url", url)) => source_url = Some(url.to_owned()),
                Some(("resume", "on" | "true")) => resume = true,
                Some(("resume", "off" | "false")) => resume = false,
                _ => {
                    return Err(format!(
                        "{part:?} is neither source_url=... nor resume=on|off"
                    ));
                }
            }
        }
        let source_url = source_url.ok_or("source_url=file:///DIRECTORY is missing")?;
        Ok(Self { source_url, resume })
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_vm_is_described_in_cloud_hypervisors_manner() {
        let line = "ref-vmm --api-socket /tmp/s --memory size=64M --device path=/sys/a,id=vf0 \
                    --device path=/sys/b,id=vf1 --serial tty --accel soft --iommufd";
        let cli = Cli::try_parse_from(line.split_whitespace()).unwrap();
        let vm = cli.run.vm().unwrap();
        assert_eq!(
            (vm.memory, vm.devices.len(), vm.host.iommufd),
            (64 << 20, 2, true)
        );
    }

    #[test]
    fn a_request_goes_to_the_vmm_it_names() {
        let line = "ref-vmm remote --api-socket /tmp/s resume --force";
        let cli = Cli::try_parse_from(line.split_whitespace()).unwrap();
        let Some(Command::Remote { request, .. }) = cli.command else {
            panic!("{cli:?}")
        };
        assert_eq!(Request::from(request), Request::Resume { force: true });
    }

    #[test]
    fn a_vmm_without_a_socket_is_refused() {
        assert!(Cli::try_parse_from(["ref-vmm"]).is_err());
        assert!("resume=on".parse::<Restore>().is_err());
        assert!(
            !"source_url=file:///a,resume=off"
                .parse::<Restore>()
                .unwrap()
                .resume
        );
    }
}
