// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The system call boundary, driven as VMMs drive a kernel: by vfio-ioctls, by raw ioctls, from several processes.

// Unsafe: raw system calls, forks and mappings, as a VMM has them.
#![allow(unsafe_code)]

mod common;
mod data_fd;
mod device;
mod dma;
mod guest_driver;
mod identity;
mod iommufd;
mod kvm;
mod logging;
mod open;
mod preload;
mod processes;
