// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Ratios as a picture: SVG without scripts or fonts of its own, for light and dark pages.
//!
//! The axis is logarithmic with the floor at 1. A bar goes from the floor to the median, a line over it from the least run to the most, and a
//! notch is where the goal is.

use std::fmt::Write;

/// Whose a bar is, which gives it its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The crate's.
    Ours,
    /// Somebody else's.
    Other,
}

/// One line of a chart.
#[derive(Debug, Clone)]
pub struct Bar {
    /// Bars with the same heading that follow each other stand under it.
    pub heading: String,
    /// What it is.
    pub label: String,
    /// Whose it is.
    pub owner: Owner,
    /// Median ratio.
    pub median: f64,
    /// Least and most.
    pub range: (f64, f64),
    /// Where it ought to be at most.
    pub goal: Option<f64>,
}

const WIDTH: f64 = 820.0;
const LEFT: f64 = 210.0;
const RIGHT: f64 = 130.0;
const TOP: f64 = 74.0;
const LINE: f64 = 22.0;
const HEADING: f64 = 30.0;

const STYLE: &str = "\
text { font: 13px system-ui, sans-serif; fill: #24292f } \
.title { font-size: 15px; font-weight: 600 } \
.heading { font-weight: 600 } \
.small { font-size: 11px; fill: #57606a } \
.grid { stroke: #d0d7de } \
.floor { stroke: #24292f; stroke-width: 1.5 } \
.ours { fill: #0969da } \
.other { fill: #8c959f } \
.range { fill: none; stroke: #24292f; stroke-width: 1.5 } \
.goal { fill: #cf222e } \
@media (prefers-color-scheme: dark) { \
text { fill: #e6edf3 } \
.small { fill: #9198a1 } \
.grid { stroke: #3d444d } \
.floor, .range { stroke: #e6edf3 } \
.ours { fill: #4493f8 } \
.other { fill: #656c76 } \
.goal { fill: #ff7b72 } \
}";

/// The axis: ratios between two round numbers.
struct Axis {
    low: f64,
    high: f64,
}

/// 1, 2 and 5 times the powers of ten, as far as any ratio goes.
fn round_numbers() -> impl Iterator<Item = f64> {
    (-3..=3).flat_map(|power| [1.0, 2.0, 5.0].map(|step| step * 10f64.powi(power)))
}

impl Axis {
    fn of(bars: &[Bar]) -> Self {
        let values = bars.iter().flat_map(|bar| {
            let goal = bar.goal.unwrap_or(1.0);
            [bar.median, bar.range.0, bar.range.1, goal]
        });
        let finite = values.filter(|value| value.is_finite() && *value > 0.0);
        let (least, most) = finite.fold((1.0f64, 1.0f64), |(least, most), value| {
            (least.min(value), most.max(value))
        });
        let low = round_numbers().take_while(|number| *number <= least);
        let high = round_numbers().find(|number| *number >= most * 1.02);
        Self {
            low: low.last().unwrap_or(least).min(0.5),
            high: high.unwrap_or(most).max(2.0),
        }
    }

    fn at(&self, ratio: f64) -> f64 {
        let part = (ratio.clamp(self.low, self.high) / self.low).ln() / (self.high / self.low).ln();
        LEFT + part * (WIDTH - LEFT - RIGHT)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        round_numbers().filter(|number| (self.low..=self.high).contains(number))
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// Draws the bars under a title.
#[must_use]
pub fn svg(title: &str, bars: &[Bar]) -> String {
    let axis = Axis::of(bars);
    let mut body = String::new();
    let (mut y, mut heading) = (TOP, None);
    for bar in bars {
        if heading != Some(&bar.heading) {
            heading = Some(&bar.heading);
            y += HEADING;
            put(&mut body, "heading", "start", (12.0, y - 8.0), &bar.heading);
        }
        draw(&mut body, &axis, bar, y);
        y += LINE;
    }
    let mut grid = String::new();
    for tick in axis.ticks() {
        let (x, class) = (axis.at(tick), if tick == 1.0 { "floor" } else { "grid" });
        // Writing to a string cannot fail.
        _ = writeln!(
            grid,
            r#"<line class="{class}" x1="{x:.1}" x2="{x:.1}" y1="{TOP}" y2="{y:.1}"/>"#
        );
        let name = if tick == 1.0 {
            "floor".to_owned()
        } else {
            format!("{tick}")
        };
        put(&mut grid, "small", "middle", (x, TOP - 6.0), &name);
    }
    let mut head = String::new();
    put(&mut head, "title", "start", (12.0, 24.0), title);
    let legend = "bar: median · line: least to most · notch: goal · logarithmic";
    put(&mut head, "small", "start", (12.0, 44.0), legend);
    let (height, title) = (y + 14.0, escaped(title));
    format!(
        "<!-- SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause -->\n<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         role=\"img\" aria-label=\"{title}\">\n<title>{title}</title>\n<style>{STYLE}</style>\n{head}{grid}{body}</svg>\n"
    )
}

fn put(to: &mut String, class: &str, anchor: &str, (x, y): (f64, f64), text: &str) {
    let text = escaped(text);
    _ = writeln!(
        to,
        r#"<text class="{class}" text-anchor="{anchor}" x="{x:.1}" y="{y:.1}">{text}</text>"#
    );
}

fn draw(to: &mut String, axis: &Axis, bar: &Bar, y: f64) {
    let (floor, median) = (axis.at(1.0), axis.at(bar.median));
    let (left, width) = (floor.min(median), (floor - median).abs().max(1.0));
    let class = match bar.owner {
        Owner::Ours => "ours",
        Owner::Other => "other",
    };
    let middle = y + LINE / 2.0;
    put(to, "label", "end", (LEFT - 10.0, middle + 4.0), &bar.label);
    _ = writeln!(
        to,
        r#"<rect class="{class}" x="{left:.1}" y="{:.1}" width="{width:.1}" height="13"/>"#,
        middle - 6.5
    );
    let (least, most) = (axis.at(bar.range.0), axis.at(bar.range.1));
    _ = writeln!(
        to,
        r#"<path class="range" d="M{least:.1} {middle:.1}H{most:.1}M{least:.1} {:.1}v6M{most:.1} {:.1}v6"/>"#,
        middle - 3.0,
        middle - 3.0
    );
    if let Some(goal) = bar.goal {
        let x = axis.at(goal);
        _ = writeln!(
            to,
            r#"<path class="goal" d="M{x:.1} {:.1}l-4 -6h8zM{:.1} {:.1}h1.6v17h-1.6z"/>"#,
            middle - 7.0,
            x - 0.8,
            middle - 8.5
        );
    }
    let value = format!("{:.2} ({:.2}–{:.2})", bar.median, bar.range.0, bar.range.1);
    put(to, "small", "end", (WIDTH - 10.0, middle + 4.0), &value);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(median: f64) -> Bar {
        Bar {
            heading: "1 GiB".to_owned(),
            label: "a < b".to_owned(),
            owner: Owner::Ours,
            median,
            range: (median * 0.9, median * 1.1),
            goal: Some(1.1),
        }
    }

    fn numbers(text: &str, attribute: &str) -> Vec<f64> {
        let key = format!(" {attribute}=\"");
        text.split(&key)
            .skip(1)
            .filter_map(|part| part.split('"').next()?.parse().ok())
            .collect()
    }

    #[test]
    fn faster_than_the_floor_is_left_of_it_and_slower_right() {
        let text = svg("t", &[bar(0.25), bar(4.0)]);
        let rects: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("<rect"))
            .collect();
        let floor = text
            .lines()
            .find(|line| line.contains("\"floor\""))
            .unwrap();
        let floor = numbers(floor, "x1")[0];
        let ends = |rect: &str| {
            let left = numbers(rect, "x")[0];
            (left, left + numbers(rect, "width")[0])
        };
        let (fast, slow) = (ends(rects[0]), ends(rects[1]));
        assert!((fast.1 - floor).abs() < 0.2 && (slow.0 - floor).abs() < 0.2);
        // As far as it is slow: the scale is logarithmic.
        assert!(((fast.1 - fast.0) - (slow.1 - slow.0)).abs() < 0.3);
    }

    #[test]
    fn everything_is_within_the_picture() {
        let text = svg("a & b", &[bar(0.003), bar(45.0), bar(f64::NAN)]);
        for attribute in ["x", "x1", "x2"] {
            let inside = |x: &f64| (0.0..=WIDTH).contains(x);
            assert!(numbers(&text, attribute).iter().all(inside), "{text}");
        }
        assert!(text.contains("a &amp; b") && text.contains("a &lt; b"));
        assert_eq!(text.matches("1 GiB").count(), 1);
    }
}
