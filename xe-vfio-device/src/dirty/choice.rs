// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which strategy a VF gets: what the user names, else the first that the host offers.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// A strategy by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The device logs its DMA: DMA_LOGGING_*.
    Device,
    /// The IOMMU has dirty bits: IOMMU_HWPT_GET_DIRTY_BITMAP.
    Iommu,
    /// Fingerprints of what was sent, compared while the VF makes no DMA.
    Content,
    /// Everything that is mapped, once the VF stands still.
    All,
}

impl Kind {
    /// In the order of preference.
    pub const ORDER: [Self; 4] = [Self::Device, Self::Iommu, Self::Content, Self::All];

    /// Its name on the command line and in logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Iommu => "iommu",
            Self::Content => "content",
            Self::All => "all",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the user asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Wish {
    /// The first that there is.
    #[default]
    Auto,
    /// This one, whatever is preferred; an error when the host has it not.
    Only(Kind),
}

/// A name that no strategy has.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is none of device, iommu, content, all, auto")]
pub struct UnknownKind(String);

impl FromStr for Wish {
    type Err = UnknownKind;

    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        Kind::ORDER
            .into_iter()
            .find(|kind| kind.name() == text)
            .map(Self::Only)
            .ok_or_else(|| UnknownKind(text.to_owned()))
    }
}

/// What probing has found, a reason for each that cannot be had. `all` always can.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Whether the device logs.
    pub device: Result<(), String>,
    /// Whether its IOMMU does.
    pub iommu: Result<(), String>,
    /// Whether the VMM can read and fingerprint its memory.
    pub content: Result<(), String>,
}

impl Offer {
    fn of(&self, kind: Kind) -> Result<(), &str> {
        let offered = match kind {
            Kind::Device => &self.device,
            Kind::Iommu => &self.iommu,
            Kind::Content => &self.content,
            Kind::All => &Ok(()),
        };
        match offered {
            Ok(()) => Ok(()),
            Err(why) => Err(why),
        }
    }
}

/// What was chosen, and why, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The strategy.
    pub kind: Kind,
    /// Why it is this one.
    pub reason: String,
}

/// Chooses.
///
/// # Errors
/// Why the one that was named cannot be had, for people.
pub fn choose(wish: Wish, offer: &Offer) -> Result<Choice, String> {
    match wish {
        Wish::Only(kind) => match offer.of(kind) {
            Ok(()) => Ok(Choice {
                kind,
                reason: "it was asked for by name".to_owned(),
            }),
            Err(why) => Err(format!(
                "The dirty strategy {kind} was asked for and cannot be had: {why}"
            )),
        },
        Wish::Auto => {
            let mut missing = Vec::new();
            for kind in Kind::ORDER {
                match offer.of(kind) {
                    Ok(()) => {
                        let reason = if missing.is_empty() {
                            "it is the first choice".to_owned()
                        } else {
                            missing.join("; ")
                        };
                        return Ok(Choice { kind, reason });
                    }
                    Err(why) => missing.push(format!("no {kind}: {why}")),
                }
            }
            unreachable!("`all` can always be had")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(device: bool, iommu: bool, content: bool) -> Offer {
        let or = |has: bool, why: &str| if has { Ok(()) } else { Err(why.to_owned()) };
        Offer {
            device: or(device, "ENOTTY"),
            iommu: or(iommu, "no iommufd"),
            content: or(content, "no memory"),
        }
    }

    #[test]
    fn the_first_that_there_is_is_taken_in_the_order_device_iommu_content_all() {
        for bits in 0..8u8 {
            let has = [bits & 1 != 0, bits & 2 != 0, bits & 4 != 0];
            let choice = choose(Wish::Auto, &offer(has[0], has[1], has[2])).unwrap();
            let first = has.iter().position(|has| *has).unwrap_or(3);
            assert_eq!(choice.kind, Kind::ORDER[first], "{has:?}");
        }
        let choice = choose(Wish::Auto, &offer(false, false, true)).unwrap();
        assert_eq!(choice.reason, "no device: ENOTTY; no iommu: no iommufd");
    }

    #[test]
    fn a_name_goes_before_the_order_and_is_never_replaced() {
        let all = offer(true, true, true);
        for kind in Kind::ORDER {
            assert_eq!(choose(Wish::Only(kind), &all).unwrap().kind, kind);
        }
        let error = choose(Wish::Only(Kind::Iommu), &offer(true, false, true)).unwrap_err();
        assert!(
            error.contains("iommu") && error.contains("no iommufd"),
            "{error}"
        );
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for kind in Kind::ORDER {
            assert_eq!(kind.to_string().parse(), Ok(Wish::Only(kind)));
        }
        assert_eq!("auto".parse(), Ok(Wish::Auto));
        assert!(
            "none"
                .parse::<Wish>()
                .unwrap_err()
                .to_string()
                .contains("content")
        );
    }
}
