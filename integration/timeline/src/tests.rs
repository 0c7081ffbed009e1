// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Pictures as a reader of XML sees them.

use super::*;

fn span(at_ms: f64, ms: f64) -> Span {
    Span { at_ms, ms }
}

fn migration() -> Timeline {
    let mut timeline = Timeline {
        downtime: Some(span(120.0, 840.0)),
        predicted: Some(Predicted {
            likely_ms: 800.0,
            low_ms: 700.0,
            high_ms: 1100.0,
        }),
        ..Timeline::default()
    };
    timeline.note("guest", "runs at the source", span(0.0, 120.0), None);
    timeline.note("guest", "stands still", span(120.0, 840.0), None);
    timeline.note("source", "precopy", span(10.0, 100.0), Some(64 << 20));
    timeline.note("vf0 source", "enter", span(121.0, 0.2), None);
    timeline.note("vf0 source", "stream", span(121.2, 800.0), Some(1 << 30));
    timeline.note("destination", "resume", span(950.0, 4.0), None);
    timeline
}

fn read(text: &str) -> roxmltree::Document<'_> {
    roxmltree::Document::parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn texts(document: &roxmltree::Document<'_>) -> Vec<String> {
    let nodes = document.descendants().filter(|n| n.has_tag_name("text"));
    nodes.map(|n| n.text().unwrap_or("").to_owned()).collect()
}

fn number(node: &roxmltree::Node<'_, '_>, name: &str) -> f64 {
    let text = node.attribute(name).unwrap_or_else(|| panic!("no {name}"));
    text.parse().unwrap_or_else(|_| panic!("{name} is {text}"))
}

#[test]
fn a_picture_names_every_bar_with_its_time_bytes_and_rate() {
    let picture = svg(&migration(), "One VF");
    let document = read(&picture);
    let texts = texts(&document);
    for expected in [
        "One VF",
        "stream",
        "vf0 source",
        "800 ms",
        "1.0 GiB",
        "1.2 GiB/s",
        "enter",
        "0.20 ms",
        "resume",
        "64.0 MiB",
    ] {
        assert!(
            texts.iter().any(|text| text == expected),
            "{expected} in {texts:?}"
        );
    }
    assert!(
        texts
            .iter()
            .any(|text| text.contains("stood still for 840 ms") && text.contains("95%"))
    );
}

#[test]
fn a_bar_is_where_its_time_is() {
    let picture = svg(&migration(), "t");
    let document = read(&picture);
    let bars: Vec<_> = document
        .descendants()
        .filter(|node| {
            let told = node.children().find(|c| c.has_tag_name("title"));
            node.has_tag_name("rect")
                && told.is_some_and(|t| t.text().is_some_and(|t| t.starts_with("guest: ")))
        })
        .collect();
    // Two bars in each of two panels, where what lies outside of the second has no width but is at its edge.
    let (runs, still) = (&bars[0], &bars[1]);
    let end = number(runs, "x") + number(runs, "width");
    assert!((end - number(still, "x")).abs() < 0.2);
    let ratio = number(still, "width") / number(runs, "width");
    assert!((ratio - 7.0).abs() < 0.1, "{ratio}");
    for node in document
        .descendants()
        .filter(|node| node.attribute("x").is_some())
    {
        let right = number(&node, "x")
            + node
                .attribute("width")
                .map_or(0.0, |w| w.parse().unwrap_or(0.0));
        assert!((0.0..=1121.0).contains(&right), "{node:?}");
    }
}

#[test]
fn names_are_escaped_and_what_xml_cannot_say_is_replaced() {
    let mut timeline = migration();
    let nasty = "a<b>&\"'</text>\u{0}\u{1b}]]>";
    timeline.note(nasty, nasty, span(0.0, 500.0), None);
    let picture = svg(&timeline, nasty);
    let document = read(&picture);
    let shown = "a<b>&\"'</text>\u{fffd}\u{fffd}]]>";
    assert!(texts(&document).iter().any(|text| text == shown));
    assert!(!document.descendants().any(|node| node.has_tag_name("b")));
}

#[test]
fn odd_times_make_no_broken_picture() {
    let mut timeline = Timeline::default();
    read(&svg(&timeline, ""));
    for odd in [f64::NAN, f64::INFINITY, -1.0, 0.0, 1e12] {
        timeline.note("l", "odd", span(odd, 1.0), Some(u64::MAX));
        timeline.note("l", "odd", span(1.0, odd), Some(0));
        timeline.downtime = Some(span(odd, odd));
        let picture = svg(&timeline, "odd");
        read(&picture);
        assert!(
            !picture.contains("NaN") && !picture.contains("inf"),
            "{odd}: {picture}"
        );
    }
}

#[test]
fn the_same_timeline_is_the_same_text_and_fetches_nothing() {
    let picture = svg(&migration(), "t");
    assert_eq!(picture, svg(&migration(), "t"));
    let there = picture.replace("http://www.w3.org/2000/svg", "");
    for word in ["http", "url(", "@import", "<script", "<image"] {
        assert!(!there.contains(word), "{word}");
    }
    assert!(picture.contains("prefers-color-scheme:dark"));
}

#[test]
fn a_timeline_travels_as_json() {
    let text = serde_json::to_string(&migration()).unwrap();
    assert_eq!(
        serde_json::from_str::<Timeline>(&text).unwrap(),
        migration()
    );
}

#[test]
fn ticks_are_round_and_few() {
    for length in [0.5, 3.0, 17.0, 960.0, 12_345.0, 3.6e6] {
        let ticks = axis::Axis::new(span(0.0, length), 0.0, 900.0).ticks();
        assert!((4..=12).contains(&ticks.len()), "{length}: {ticks:?}");
        assert_eq!(ticks[0], 0.0);
    }
}
