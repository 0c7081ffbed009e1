// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A small VMM by example: how to put xe-vfio-device into a rust-vmm hypervisor.
