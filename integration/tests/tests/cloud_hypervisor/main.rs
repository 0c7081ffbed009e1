// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Cloud Hypervisor, as it was built from its own source and the patches in `vmm-patches/`, on simulated hosts.
//!
//! `CLOUD_HYPERVISOR=DIR cargo test -p e2e --test cloud_hypervisor`; each test is skipped, and says so, without the variable.
//! `unpatched` is the baseline and takes `CLOUD_HYPERVISOR_UNPATCHED=DIR`. The guest runs real KVM, seccomp filters are on.

mod capabilities;
mod dirty;
mod downtime;
mod failures;
mod figures;
mod hotplug;
mod refusals;
mod snapshots;
mod transports;
mod unpatched;
