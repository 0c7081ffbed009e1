// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The system call boundary, driven as VMMs drive a kernel: by vfio-ioctls, by raw ioctls, from several processes.

// Unsafe: raw system calls, forks and mappings, as a VMM has them.
#![allow(unsafe_code)]

#[allow(dead_code, reason = "shared with the tests of dirty pages")]
mod common;
mod data_fd;
mod device;
mod dma;
#[allow(dead_code, reason = "shared with the tests of dirty pages")]
mod guest_driver;
mod identity;
mod iommufd;
mod kvm;
mod open;
mod preload;
mod processes;
mod requests;
