// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which VFs of a host have something.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::MAX_VFS;

/// A choice of VFs. As text: `none`, `all`, or numbers such as `1,3`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VfSet {
    /// No VF.
    #[default]
    None,
    /// Every VF.
    All,
    /// These, numbered from 1.
    Only(Vec<u16>),
}

impl VfSet {
    /// Whether VF `index` is one of them.
    #[must_use]
    pub fn contains(&self, index: u16) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Only(list) => list.contains(&index),
        }
    }
}

/// Why a text is no choice of VFs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no choice of VFs: write all, none, or numbers from 1 to 63 such as 1,3")]
pub struct UnknownVfSet(String);

impl FromStr for VfSet {
    type Err = UnknownVfSet;

    fn from_str(text: &str) -> Result<Self, UnknownVfSet> {
        match text {
            "none" => return Ok(Self::None),
            "all" => return Ok(Self::All),
            _ => {}
        }
        text.split(',')
            .map(|n| n.parse().ok().filter(|n| (1..=MAX_VFS).contains(n)))
            .collect::<Option<_>>()
            .map(Self::Only)
            .ok_or_else(|| UnknownVfSet(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_of_vfs_is_read_from_text() {
        assert_eq!("all".parse(), Ok(VfSet::All));
        assert_eq!("none".parse(), Ok(VfSet::None));
        assert_eq!("1,3".parse(), Ok(VfSet::Only(vec![1, 3])));
        for bad in ["", "0", "64", "1,,2", "some"] {
            assert!(bad.parse::<VfSet>().is_err(), "{bad}");
        }
        assert!(VfSet::Only(vec![2]).contains(2) && !VfSet::Only(vec![2]).contains(1));
    }
}
