// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A tree of component states, each kept as JSON text.

use std::collections::BTreeMap;

use anyhow::anyhow;
use serde::{Deserialize, Serialize};

use crate::MigratableError;

/// One component's state as JSON text.
#[derive(Clone, Default, Deserialize, Serialize)]
pub struct SnapshotData {
    state: String,
}

impl SnapshotData {
    /// Reads the state back.
    ///
    /// # Errors
    /// `Restore` when the text is not a `T`.
    pub fn to_state<'a, T>(&'a self) -> Result<T, MigratableError>
    where
        T: Deserialize<'a>,
    {
        serde_json::from_str(&self.state).map_err(|error| MigratableError::Restore(anyhow!(error)))
    }

    /// Writes a state down.
    ///
    /// # Errors
    /// `Snapshot` when `state` cannot be expressed in JSON.
    pub fn new_from_state<T>(state: &T) -> Result<Self, MigratableError>
    where
        T: Serialize,
    {
        serde_json::to_string(state)
            .map(|state| Self { state })
            .map_err(|error| MigratableError::Snapshot(anyhow!(error)))
    }
}

/// A component's state, those of its parts, or both.
#[derive(Clone, Default, Deserialize, Serialize)]
pub struct Snapshot {
    /// The parts by id.
    pub snapshots: BTreeMap<String, Snapshot>,
    /// The component's own state.
    pub snapshot_data: Option<SnapshotData>,
}

impl Snapshot {
    /// A snapshot without parts.
    pub fn from_data(data: SnapshotData) -> Self {
        Self {
            snapshots: BTreeMap::new(),
            snapshot_data: Some(data),
        }
    }

    /// A snapshot of `state` without parts.
    ///
    /// # Errors
    /// As [`SnapshotData::new_from_state`].
    pub fn new_from_state<T>(state: &T) -> Result<Self, MigratableError>
    where
        T: Serialize,
    {
        SnapshotData::new_from_state(state).map(Self::from_data)
    }

    /// Adds a part, or replaces the one of that id.
    pub fn add_snapshot(&mut self, id: String, snapshot: Snapshot) {
        self.snapshots.insert(id, snapshot);
    }

    /// Reads the component's own state.
    ///
    /// # Errors
    /// `Restore` when there is none or it is not a `T`.
    pub fn to_state<'a, T>(&'a self) -> Result<T, MigratableError>
    where
        T: Deserialize<'a>,
    {
        match &self.snapshot_data {
            Some(data) => data.to_state(),
            None => Err(MigratableError::Restore(anyhow!(
                "The snapshot has no state of its own"
            ))),
        }
    }
}

/// The part `id` of a snapshot that may not be there.
pub fn snapshot_from_id<'a>(snapshot: Option<&'a Snapshot>, id: &str) -> Option<&'a Snapshot> {
    snapshot?.snapshots.get(id)
}

/// The state of part `id`; `None` when the snapshot or the part is not there.
///
/// # Errors
/// As [`Snapshot::to_state`] of the part.
pub fn state_from_id<'a, T>(s: Option<&'a Snapshot>, id: &str) -> Result<Option<T>, MigratableError>
where
    T: Deserialize<'a>,
{
    snapshot_from_id(s, id).map(Snapshot::to_state).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_found_by_its_id_and_a_missing_one_is_no_error() {
        let mut whole = Snapshot::default();
        whole.add_snapshot(
            "vf0".to_owned(),
            Snapshot::new_from_state(&(1, "two")).unwrap(),
        );
        let part: Option<(u32, String)> = state_from_id(Some(&whole), "vf0").unwrap();
        assert_eq!(part, Some((1, "two".to_owned())));
        assert_eq!(state_from_id::<u32>(Some(&whole), "vf1").unwrap(), None);
        assert_eq!(state_from_id::<u32>(None, "vf0").unwrap(), None);
    }

    #[test]
    fn a_state_of_another_shape_is_refused() {
        let snapshot = Snapshot::new_from_state(&"text").unwrap();
        assert!(matches!(
            snapshot.to_state::<u32>(),
            Err(MigratableError::Restore(_))
        ));
        assert!(matches!(
            Snapshot::default().to_state::<u32>(),
            Err(MigratableError::Restore(_))
        ));
    }
}
