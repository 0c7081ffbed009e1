// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Certificates for one test: an authority, a server and a client, made by the `openssl` command, named as Cloud Hypervisor
//! looks for them in `tls_dir`.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Whether there is an `openssl` command.
#[must_use]
pub fn is_available() -> bool {
    openssl(Path::new("/"), &["version"]).is_ok()
}

/// Fills `directory`, which serves both ends of a connection to 127.0.0.1.
///
/// # Errors
/// When openssl fails, with what it said.
pub fn create(directory: &Path) -> Result<()> {
    let key = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
    ];
    let run = |arguments: &[&str]| openssl(directory, &[&["req"], &key[..], arguments].concat());
    run(&[
        "-x509",
        "-subj",
        "/CN=Test authority",
        "-days",
        "2",
        "-keyout",
        "ca-key.pem",
        "-out",
        "ca-cert.pem",
    ])?;
    for end in ["server", "client"] {
        let (key, certificate) = (format!("{end}-key.pem"), format!("{end}-cert.pem"));
        run(&[
            "-x509",
            "-CA",
            "ca-cert.pem",
            "-CAkey",
            "ca-key.pem",
            "-subj",
            &format!("/CN={end}"),
            "-addext",
            "subjectAltName=DNS:localhost,IP:127.0.0.1",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
            "-days",
            "2",
            "-keyout",
            &key,
            "-out",
            &certificate,
        ])?;
    }
    Ok(())
}

fn openssl(directory: &Path, arguments: &[&str]) -> Result<()> {
    let output = Command::new("openssl")
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::null())
        .output()
        .context("Cannot run openssl")?;
    if !output.status.success() {
        bail!(
            "openssl {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}
