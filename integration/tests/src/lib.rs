// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! End-to-end tests: real processes, a simulated host, a guest that notices.
