// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest program that works a VF and checks every result, as a PVH ELF for KVM, the soft vCPU and Cloud Hypervisor.

pub mod abi;
