// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use xe_vfio_device::transfer::{AttemptId, Compression, Endpoint};

const RESET: &str = "The kernel resets a VF when it is opened, and what the VF holds is gone when its last fd is closed: this \
                     command's end. --hold keeps it open.";

const EXIT: &str = "\
Exit status:
  0    done
  1    failed; the VF has kept its state, or is clean after a load, as the message says. A broken or mismatching file or VF
  2    the command line makes no sense
  3    the VF cannot be used: no VF, a PF, another driver, in use, no migration support
  4    the VF had to be reset and what it held is lost
  5    the VF had to be reset and could not be: it is of no use
  130  ended by SIGINT or SIGTERM; the VF has kept its state, or is clean after a load";

/// Drive the migration of an Intel Xe VF with no VMM.
#[derive(Debug, Parser)]
#[command(name = "xe-vfio", version, after_help = EXIT)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Print one JSON object instead of text
    #[arg(long, global = true)]
    pub json: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Tell what a VF is, whether it can migrate, and why not
    Probe(Probe),
    /// Save a VF's state to a file or a waiting `restore`
    #[command(after_long_help = RESET)]
    Save(Save),
    /// Load a state into a VF: listen for a `save`, or read a file
    #[command(after_long_help = RESET)]
    Restore(Restore),
    /// Show what is in a file
    Inspect(Inspect),
    /// Check every byte of a file
    Verify(OfFile),
}

impl Command {
    /// Whether the arguments go together.
    ///
    /// # Errors
    /// A sentence on what does not.
    pub fn check(&self) -> Result<(), String> {
        let handed_over_to = match self {
            Self::Save(save) if save.hand_over => Some(&save.to),
            Self::Restore(restore) if restore.hand_over => restore.then_save.as_ref(),
            _ => None,
        };
        match handed_over_to {
            None | Some(Endpoint::Unix(_)) => Ok(()),
            Some(other) => Err(format!(
                "--hand-over needs unix:PATH, and {other} is none: descriptors pass through unix sockets only"
            )),
        }
    }
}

/// The VF and the way to it.
#[derive(Debug, Args)]
pub struct Device {
    /// The VF's sysfs directory, such as /sys/bus/pci/devices/0000:03:00.1
    pub path: PathBuf,
    /// Open the VF by cdev and iommufd instead of group and container
    #[arg(long)]
    pub iommufd: bool,
}

/// Arguments of `probe`.
#[derive(Debug, Args)]
pub struct Probe {
    /// The VF.
    #[command(flatten)]
    pub device: Device,
    /// Read sysfs only: an unused VF is reset when it is opened
    #[arg(long)]
    pub no_open: bool,
    /// A state's file, or another VF's directory: whether its state could move to this VF
    #[arg(long, value_name = "FILE|PATH", conflicts_with = "no_open")]
    pub against: Option<PathBuf>,
    /// What earlier transfers took, for the estimate: a file of `save`, `restore` or a VMM
    #[arg(long, value_name = "FILE", conflicts_with = "no_open")]
    pub history: Option<PathBuf>,
}

/// What `save` and `restore` have in common.
#[derive(Debug, Args)]
pub struct Ending {
    /// Leave the VF in STOP instead of going to RUNNING
    #[arg(long)]
    pub stay_stopped: bool,
    /// Keep the VF open when all is done, until Enter, SIGINT or SIGTERM
    #[arg(long)]
    pub hold: bool,
    /// Id of the attempt, 32 hexadecimal digits, on a connection with a VMM; between two commands there is none (zero)
    #[arg(
        long,
        value_name = "ID",
        default_value = "00000000000000000000000000000000"
    )]
    pub attempt: AttemptId,
    /// Add what the transfer took to a file, for estimates of the next
    #[arg(long, value_name = "FILE")]
    pub history: Option<PathBuf>,
    /// Seconds that one read or write of the VF's state may take
    #[arg(long, value_name = "SECONDS", default_value = "20", value_parser = seconds)]
    pub device_timeout: Duration,
    /// Seconds that the peer may be silent
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub silence_timeout: Duration,
}

/// Arguments of `save`.
#[derive(Debug, Args)]
pub struct Save {
    /// The VF.
    #[command(flatten)]
    pub device: Device,
    /// A file, tcp:HOST:PORT or unix:PATH
    #[arg(long, value_name = "FILE|URL", value_parser = place)]
    pub to: Endpoint,
    /// Connections that the state is sent over
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=8))]
    pub connections: u8,
    /// off, lz4, zstd, or auto for what makes it faster: compress the state, for a receiver that can read that
    #[arg(long, value_name = "HOW", default_value = "off")]
    pub compression: Compression,
    /// The device's name in the stream
    #[arg(long, default_value = "vf0")]
    pub id: String,
    /// Pass the data fd to the `restore` that waits at unix:PATH on this host: it reads the state itself
    #[arg(long)]
    pub hand_over: bool,
    /// How it ends.
    #[command(flatten)]
    pub ending: Ending,
}

/// Arguments of `restore`.
#[derive(Debug, Args)]
pub struct Restore {
    /// The VF.
    #[command(flatten)]
    pub device: Device,
    /// A file, or tcp:HOST:PORT or unix:PATH to listen on
    #[arg(long, value_name = "FILE|URL", value_parser = place)]
    pub from: Endpoint,
    /// Save the loaded state from the same open VF before it runs
    #[arg(long, value_name = "FILE|URL", value_parser = place)]
    pub then_save: Option<Endpoint>,
    /// Pass the data fd to the `restore` that waits at --then-save's unix:PATH on this host
    #[arg(long, requires = "then_save")]
    pub hand_over: bool,
    /// off, lz4, zstd, or auto for what makes it faster: compress what --then-save saves
    #[arg(
        long,
        value_name = "HOW",
        default_value = "off",
        requires = "then_save"
    )]
    pub compression: Compression,
    /// Seconds to wait for a connection; for ever when not given
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub wait: Option<Duration>,
    /// How it ends.
    #[command(flatten)]
    pub ending: Ending,
}

/// Arguments of `inspect`.
#[derive(Debug, Args)]
pub struct Inspect {
    /// The file
    pub file: PathBuf,
    /// Show where each frame is in the file and in the state
    #[arg(long)]
    pub index: bool,
}

/// Arguments of `verify`.
#[derive(Debug, Args)]
pub struct OfFile {
    /// The file
    pub file: PathBuf,
}

/// A URL of the transfer, or else a file's path.
fn place(text: &str) -> Result<Endpoint, String> {
    let is_url = ["tcp:", "unix:", "file:"]
        .iter()
        .any(|scheme| text.starts_with(scheme));
    if is_url {
        text.parse().map_err(|error| format!("{error}"))
    } else if text.is_empty() {
        Err("A file has a name".to_owned())
    } else {
        Ok(Endpoint::File(text.into()))
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    // A year, so that no sum of times overflows.
    const MOST: f64 = 31_536_000.0;
    text.parse()
        .ok()
        .filter(|seconds: &f64| *seconds > 0.0 && *seconds <= MOST)
        .map(Duration::from_secs_f64)
        .ok_or_else(|| format!("{text:?} is not a number of seconds above 0 and up to {MOST}"))
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
    fn a_place_is_a_url_or_a_file() {
        assert_eq!(
            place("tcp:[::1]:9"),
            Ok(Endpoint::Tcp("[::1]:9".to_owned()))
        );
        assert_eq!(place("unix:/run/a"), Ok(Endpoint::Unix("/run/a".into())));
        assert_eq!(place("file:/a"), Ok(Endpoint::File("/a".into())));
        assert_eq!(place("./tcp:a"), Ok(Endpoint::File("./tcp:a".into())));
        assert!(place("tcp:nowhere").is_err() && place("").is_err());
    }

    #[test]
    fn a_data_fd_goes_to_a_unix_socket_only() {
        for (line, good) in [
            ("save /a --to unix:/b --hand-over", true),
            ("save /a --to tcp:b:1 --hand-over", false),
            ("save /a --to /b --hand-over", false),
            ("save /a --to tcp:b:1", true),
            ("restore /a --from /b --then-save unix:/c --hand-over", true),
            (
                "restore /a --from unix:/b --then-save /c --hand-over",
                false,
            ),
        ] {
            let words = std::iter::once("xe-vfio").chain(line.split(' '));
            let cli = Cli::try_parse_from(words).unwrap();
            assert_eq!(cli.command.check().is_ok(), good, "{line}");
        }
        let alone = ["xe-vfio", "restore", "/a", "--from", "/b", "--hand-over"];
        assert!(Cli::try_parse_from(alone).is_err());
    }

    #[test]
    fn seconds_are_positive_and_finite() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for text in ["0", "-1", "inf", "NaN", "1e300", "x"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
