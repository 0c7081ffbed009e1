// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What Cloud Hypervisor's event monitor has written: JSON objects one after the other, the last perhaps not yet whole.

use std::time::Duration;

use serde_json::Value;

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Time since the start of the process.
    pub at: Duration,
    /// Part of the VMM that speaks.
    pub source: String,
    /// What has happened.
    pub name: String,
    /// More about it; null or an object of strings.
    pub properties: Value,
}

impl Event {
    fn from_json(value: &Value) -> Option<Self> {
        let time = &value["timestamp"];
        Some(Self {
            at: Duration::new(
                time["secs"].as_u64()?,
                u32::try_from(time["nanos"].as_u64()?).ok()?,
            ),
            source: value["source"].as_str()?.to_owned(),
            name: value["event"].as_str()?.to_owned(),
            properties: value["properties"].clone(),
        })
    }
}

/// All events of a process so far, in order.
#[derive(Clone, Debug, Default)]
pub struct Events(pub Vec<Event>);

impl Events {
    /// Reads what can be read.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
        Self(
            values
                .map_while(Result::ok)
                .filter_map(|value| Event::from_json(&value))
                .collect(),
        )
    }

    /// Whether there was an event called `name`.
    #[must_use]
    pub fn have(&self, name: &str) -> bool {
        self.first(name).is_some()
    }

    /// The first event called `name`.
    #[must_use]
    pub fn first(&self, name: &str) -> Option<&Event> {
        self.0.iter().find(|event| event.name == name)
    }

    /// The names, in order.
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        self.0.iter().map(|event| event.name.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_that_is_not_yet_whole_is_left_for_later() {
        let whole = r#"{"timestamp":{"secs":1,"nanos":5},"source":"vm","event":"paused","properties":null}"#;
        let events = Events::parse(&format!("{whole}\n\n{}", &whole[..40]));
        assert_eq!(events.names(), ["paused"]);
        assert_eq!(
            events.first("paused").expect("it is there").at,
            Duration::new(1, 5)
        );
    }
}
