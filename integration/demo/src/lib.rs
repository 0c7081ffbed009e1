// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The main job in one command: a guest with a VF is migrated live between two VMM processes and finds nothing lost.
