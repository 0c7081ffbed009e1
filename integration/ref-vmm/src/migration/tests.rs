// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Both roles over loopback, with a guest that has no VF.
