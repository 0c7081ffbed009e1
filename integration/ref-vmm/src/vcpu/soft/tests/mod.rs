// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest program in the soft vCPU (and in KVM, where there is one), on a model of the VF that can be sabotaged.

mod arithmetic;
mod faults;
mod guest_runs;
mod kvm;
mod model;
mod sabotage;
mod states;
