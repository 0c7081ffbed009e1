// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Who knows which pages a VF has written: the device's log, the IOMMU's dirty bits, type1's answer to everything.

// Unsafe: raw system calls and mappings, as a VMM has them.
#![allow(unsafe_code)]

mod command;
#[allow(dead_code, reason = "shared with the tests of the boundary")]
#[path = "../boundary/common.rs"]
mod common;
#[allow(dead_code, reason = "shared with the tests of the boundary")]
#[path = "../boundary/guest_driver.rs"]
mod guest_driver;
mod iommufd;
mod logging;
#[path = "../boundary/requests.rs"]
mod requests;
mod storm;
mod type1;
