// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Benchmarks of the parts: packet parser and stream framing.
