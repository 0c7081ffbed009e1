// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Stand-in for Cloud Hypervisor's vm-migration crate: the same public surface, for a workspace that builds from the registry.
