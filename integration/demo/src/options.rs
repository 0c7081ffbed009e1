// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The demo's command line.

use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, ValueEnum};

/// Migrate a working VM with a VF between two VMM processes and check that nothing is lost.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Options {
    /// VRAM of each simulated VF (64M, 1G, 4G ...)
    #[arg(long, default_value = "1G", value_parser = size)]
    pub vram: u64,
    /// Guest memory
    #[arg(long, default_value = "256M", value_parser = size)]
    pub memory: u64,
    /// What VRAM holds beyond the guest's own working set
    #[arg(long, value_enum, default_value_t = Fill::Random)]
    pub fill: Fill,
    /// How the two VMMs talk
    #[arg(long, value_enum, default_value_t = Transport::Tcp)]
    pub transport: Transport,
    /// Connections of each VF's state; not with the transport `local`, where none of it goes over a connection
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=8))]
    pub connections: u8,
    /// off, auto, lz4 or zstd: how the VFs' state is compressed
    #[arg(long, default_value = "auto", value_parser = ["off", "auto", "lz4", "zstd"])]
    pub compression: String,
    /// VFs of the VM
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=8))]
    pub vfs: u16,
    /// What runs the vCPU
    #[arg(long, value_enum, default_value_t = Accel::Auto)]
    pub accel: Accel,
    /// Use the VFs through iommufd instead of group and container
    #[arg(long)]
    pub iommufd: bool,
    /// sysfs directory of a real VF for the source, in place of a simulated one (once per VF)
    #[arg(
        long,
        value_name = "PATH",
        requires = "destination_device",
        conflicts_with_all = ["vram", "vfs", "fill"]
    )]
    pub source_device: Vec<PathBuf>,
    /// sysfs directory of a real VF for the destination (once per VF)
    #[arg(long, value_name = "PATH", requires = "source_device")]
    pub destination_device: Vec<PathBuf>,
    /// Draw the migration as a picture
    #[arg(long, value_name = "FILE.svg")]
    pub timeline: Option<PathBuf>,
    /// Tell the downtime from what earlier runs took, and add this one's to the file
    #[arg(long, value_name = "FILE")]
    pub history: Option<PathBuf>,
    /// Write everything that is printed as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

impl Options {
    /// What the command line says, once it makes sense.
    ///
    /// # Errors
    /// With the reason, for people.
    pub fn checked(self) -> Result<Self, clap::Error> {
        let refused = |why: &str| Err(Self::command().error(ErrorKind::ArgumentConflict, why));
        if matches!(self.transport, Transport::Local) && self.connections > 1 {
            return refused(
                "--connections is for --transport tcp and unix: with local the destination reads the VF's state itself, and none of it goes over a connection",
            );
        }
        if self.source_device.len() != self.destination_device.len() {
            return refused(
                "--source-device and --destination-device have to be given equally often, one pair for each VF",
            );
        }
        Ok(self)
    }

    /// VFs of the VM, simulated or real.
    pub fn vf_count(&self) -> u16 {
        match u16::try_from(self.source_device.len()) {
            Ok(0) | Err(_) => self.vfs,
            Ok(count) => count,
        }
    }
}

/// Content of VRAM.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Fill {
    /// Incompressible.
    Random,
    /// Blocks of zeros and of random bytes by turns.
    Half,
    /// Nothing but zeros.
    Zero,
}

/// Connection between the VMMs.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Transport {
    /// TCP on the loopback interface.
    Tcp,
    /// A unix socket.
    Unix,
    /// A unix socket of one machine with two cards: the VFs' data fds are handed over.
    Local,
}

/// What runs the vCPU.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Accel {
    /// KVM; an error without a usable /dev/kvm.
    Kvm,
    /// The software vCPU.
    Soft,
    /// KVM where it is usable.
    Auto,
}

/// The name of a value as the command lines take it.
pub fn name(value: &impl ValueEnum) -> String {
    value
        .to_possible_value()
        .map(|value| value.get_name().to_owned())
        .unwrap_or_default()
}

/// A size in bytes with an optional binary suffix: 4096, 64K, 512M, 4G.
fn size(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], 10),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 20),
        Some(b'G' | b'g') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(1 << shift))
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| format!("`{text}` is not a size such as 64M or 4G"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_suffixes() {
        assert_eq!(size("64M"), Ok(64 << 20));
        assert_eq!(size("4g"), Ok(4 << 30));
        assert_eq!(size("4096"), Ok(4096));
        assert!(
            size("").is_err()
                && size("0").is_err()
                && size("4T").is_err()
                && size("99999999999G").is_err()
        );
    }

    #[track_caller]
    fn checked(arguments: &[&str]) -> Result<Options, String> {
        let all = [&["demo"], arguments].concat();
        let options = Options::try_parse_from(all).and_then(Options::checked);
        options.map_err(|error| error.to_string())
    }

    #[test]
    fn what_would_mean_nothing_is_refused() {
        let error = checked(&["--transport", "local", "--connections", "4"]).unwrap_err();
        assert!(error.contains("--transport tcp and unix"), "{error}");
        assert!(checked(&["--transport", "unix", "--connections", "4"]).is_ok());
        let devices = ["--source-device", "/a", "--destination-device", "/b"];
        assert_eq!(checked(&devices).unwrap().vf_count(), 1);
        for more in [["--vram", "1G"], ["--vfs", "2"], ["--source-device", "/c"]] {
            assert!(checked(&[&devices[..], &more].concat()).is_err());
        }
    }

    #[test]
    fn real_devices_come_in_pairs() {
        assert!(Options::try_parse_from(["demo", "--source-device", "/a"]).is_err());
        assert!(
            Options::try_parse_from([
                "demo",
                "--source-device",
                "/a",
                "--destination-device",
                "/b"
            ])
            .is_ok()
        );
    }
}
