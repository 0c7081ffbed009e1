// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The picture: all of the migration, the downtime once more and larger, and a table of what each bar took.

use std::fmt::Write;

use crate::axis::Axis;
use crate::style::{SHEET, class};
use crate::text::{escape, rate, size, time, width};
use crate::{Bar, Span, Timeline};

const WIDTH: f64 = 1120.0;
const MARGIN: f64 = 24.0;
/// Room for the lanes' names.
const NAMES: f64 = 150.0;
const ROW: f64 = 30.0;
const BAR: f64 = 20.0;
const FONT: f64 = 12.0;
const SMALL: f64 = 11.0;
const LINE: f64 = 17.0;

/// A picture of `timeline` for a browser or a document, under `title`.
#[must_use]
pub fn svg(timeline: &Timeline, title: &str) -> String {
    let mut drawing = Drawing {
        text: String::new(),
        y: MARGIN,
    };
    let bars: Vec<&Bar> = timeline.bars.iter().filter(|b| b.span.is_sound()).collect();
    let lanes = timeline.lanes();
    let downtime = timeline.downtime.filter(Span::is_sound);

    drawing.heading(title);
    drawing.subtitle(timeline, downtime);
    let end = bars
        .iter()
        .map(|bar| bar.span.end())
        .chain(downtime.map(|span| span.end()))
        .fold(0.0, f64::max);
    let whole = Span {
        at_ms: 0.0,
        ms: end,
    };
    drawing.panel("The migration", &lanes, &bars, whole, timeline, downtime);
    if let Some(downtime) = downtime
        && downtime.ms > 0.0
    {
        let room = downtime.ms * 0.04;
        let near = Span {
            at_ms: downtime.at_ms - room,
            ms: downtime.ms + 2.0 * room,
        };
        drawing.panel(
            "While the guest stands still",
            &lanes,
            &bars,
            near,
            timeline,
            Some(downtime),
        );
    }
    drawing.table(&lanes, &bars);

    let height = drawing.y + MARGIN;
    format!(
        "<!-- SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause -->\n<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH:.0} {height:.0}\" width=\"{WIDTH:.0}\" \
         height=\"{height:.0}\" role=\"img\">\n<title>{}</title>\n<style>{SHEET}</style>\n\
         <rect class=\"paper\" width=\"100%\" height=\"100%\"/>\n{}</svg>\n",
        escape(title),
        drawing.text
    )
}

/// Where a text stands to its point.
#[derive(Clone, Copy)]
enum Anchor {
    Start,
    Middle,
    End,
}

/// What was drawn, from top to bottom.
struct Drawing {
    text: String,
    y: f64,
}

impl Drawing {
    fn line(&mut self, element: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        _ = self.text.write_fmt(element);
        self.text.push('\n');
    }

    fn say(&mut self, (x, y): (f64, f64), size: f64, class: &str, anchor: Anchor, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        self.line(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{size:.0}\" class=\"{class}\" text-anchor=\"{anchor}\">{}</text>",
            escape(text)
        ));
    }

    fn heading(&mut self, title: &str) {
        self.y += 18.0;
        self.say((MARGIN, self.y), 18.0, "head", Anchor::Start, title);
    }

    /// The downtime, and what was thought of it before.
    fn subtitle(&mut self, timeline: &Timeline, downtime: Option<Span>) {
        let Some(downtime) = downtime else { return };
        let mut text = format!("The guest stood still for {}", time(downtime.ms));
        if let Some(predicted) = timeline.predicted {
            let [likely, low, high] = [predicted.likely_ms, predicted.low_ms, predicted.high_ms];
            let of = 100.0 * likely / downtime.ms.max(1e-3);
            _ = write!(
                text,
                "; predicted before it was stopped: {} ({} to {}), {of:.0}% of what it was",
                time(likely),
                time(low),
                time(high)
            );
        }
        self.y += 22.0;
        self.say((MARGIN, self.y), 13.0, "loud", Anchor::Start, &text);
    }

    /// All lanes within `span`.
    fn panel(
        &mut self,
        name: &str,
        lanes: &[&str],
        bars: &[&Bar],
        span: Span,
        timeline: &Timeline,
        downtime: Option<Span>,
    ) {
        let axis = Axis::new(span, MARGIN + NAMES, WIDTH - NAMES - 2.0 * MARGIN);
        self.y += 30.0;
        self.say((MARGIN, self.y), 13.0, "head", Anchor::Start, name);
        self.y += 24.0;
        let top = self.y;
        let bottom = top + ROW * lanes.len() as f64;
        self.grid(&axis, top, bottom);
        for (index, lane) in lanes.iter().enumerate() {
            let y = top + ROW * index as f64;
            if index % 2 == 0 {
                self.line(format_args!(
                    "<rect class=\"row\" x=\"{MARGIN:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{ROW:.1}\" fill-opacity=\".6\"/>",
                    WIDTH - 2.0 * MARGIN
                ));
            }
            let baseline = y + ROW / 2.0 + 4.0;
            self.say((MARGIN + 6.0, baseline), FONT, "", Anchor::Start, lane);
        }
        if let Some(downtime) = downtime {
            self.marks(&axis, downtime, timeline, top, bottom);
        }
        for (index, lane) in lanes.iter().enumerate() {
            let y = top + ROW * index as f64 + (ROW - BAR) / 2.0;
            for bar in bars.iter().filter(|bar| bar.lane == *lane) {
                self.bar(&axis, bar, y);
            }
        }
        self.y = bottom;
    }

    fn grid(&mut self, axis: &Axis, top: f64, bottom: f64) {
        for at in axis.ticks() {
            let x = axis.x(at);
            self.line(format_args!(
                "<line class=\"grid\" x1=\"{x:.1}\" y1=\"{top:.1}\" x2=\"{x:.1}\" y2=\"{bottom:.1}\"/>"
            ));
            let label = round(at);
            // A name at the very edge would leave the picture.
            if x + width(&label, SMALL) / 2.0 <= WIDTH - MARGIN / 2.0 {
                self.say((x, top - 5.0), SMALL, "dim", Anchor::Middle, &label);
            }
        }
    }

    /// The downtime, and where it was predicted to end.
    fn marks(&mut self, axis: &Axis, downtime: Span, timeline: &Timeline, top: f64, bottom: f64) {
        let (from, to) = (axis.x(downtime.at_ms), axis.x(downtime.end()));
        self.line(format_args!(
            "<rect class=\"down\" x=\"{from:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\"/>",
            to - from,
            bottom - top
        ));
        for x in [from, to] {
            self.line(format_args!(
                "<line class=\"edge\" x1=\"{x:.1}\" y1=\"{top:.1}\" x2=\"{x:.1}\" y2=\"{bottom:.1}\"/>"
            ));
        }
        let Some(predicted) = timeline.predicted else {
            return;
        };
        let at = |ms: f64| axis.x(downtime.at_ms + ms);
        let y = bottom + 9.0;
        let (low, high) = (at(predicted.low_ms), at(predicted.high_ms));
        let likely = at(predicted.likely_ms);
        self.line(format_args!(
            "<line class=\"guess\" x1=\"{low:.1}\" y1=\"{y:.1}\" x2=\"{high:.1}\" y2=\"{y:.1}\"/>"
        ));
        let before = (low - 6.0, y + 4.0);
        self.say(before, SMALL, "dim", Anchor::End, "predicted end");
        self.line(format_args!(
            "<circle class=\"tip\" cx=\"{likely:.1}\" cy=\"{y:.1}\" r=\"3.5\"><title>predicted end of the downtime: {}</title></circle>",
            escape(&time(predicted.likely_ms))
        ));
    }

    fn bar(&mut self, axis: &Axis, bar: &Bar, y: f64) {
        let Some((x, wide)) = axis.place(&bar.span) else {
            return;
        };
        self.line(format_args!(
            "<rect class=\"{}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{wide:.1}\" height=\"{BAR:.1}\" rx=\"2\"><title>{}</title></rect>",
            class(&bar.name),
            escape(&format!("{}: {}", bar.lane, described(bar)))
        ));
        // The longest text that has room.
        let texts = [
            described(bar),
            format!("{} {}", bar.name, time(bar.span.ms)),
            bar.name.clone(),
        ];
        if let Some(text) = texts.iter().find(|text| width(text, SMALL) + 8.0 <= wide) {
            let middle = (x + wide / 2.0, y + BAR / 2.0 + 4.0);
            self.say(middle, SMALL, "on", Anchor::Middle, text);
        }
    }

    /// What is too short for its name in the picture is read here.
    fn table(&mut self, lanes: &[&str], bars: &[&Bar]) {
        const COLUMNS: [(f64, &str, Anchor); 6] = [
            (30.0, "who", Anchor::Start),
            (180.0, "what", Anchor::Start),
            (480.0, "begins", Anchor::End),
            (600.0, "takes", Anchor::End),
            (720.0, "bytes", Anchor::End),
            (840.0, "rate", Anchor::End),
        ];
        self.y += 44.0;
        for (x, head, anchor) in COLUMNS {
            self.say((x, self.y), SMALL, "dim", anchor, head);
        }
        for lane in lanes {
            for bar in bars.iter().filter(|bar| bar.lane == *lane) {
                self.y += LINE;
                let bytes = bar.bytes.map(size);
                let rate = bar.bytes.and_then(|bytes| rate(bytes, bar.span.ms));
                let cells = [
                    bar.lane.clone(),
                    bar.name.clone(),
                    format!("{:.1} ms", bar.span.at_ms),
                    time(bar.span.ms),
                    bytes.unwrap_or_default(),
                    rate.unwrap_or_default(),
                ];
                let (x, y) = (COLUMNS[1].0 - 14.0, self.y - 8.0);
                self.line(format_args!(
                    "<rect class=\"{}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"8\" height=\"8\" rx=\"1\"/>",
                    class(&bar.name)
                ));
                for ((x, _, anchor), cell) in COLUMNS.into_iter().zip(&cells) {
                    if !cell.is_empty() {
                        self.say((x, self.y), SMALL, "", anchor, cell);
                    }
                }
            }
        }
    }
}

fn described(bar: &Bar) -> String {
    let mut text = format!("{} {}", bar.name, time(bar.span.ms));
    if let Some(bytes) = bar.bytes {
        _ = write!(text, ", {}", size(bytes));
        if let Some(rate) = rate(bytes, bar.span.ms) {
            _ = write!(text, ", {rate}");
        }
    }
    text
}

/// A time on an axis, where the step is round.
fn round(ms: f64) -> String {
    let (value, unit) = if ms.abs() >= 1e3 {
        (ms / 1e3, "s")
    } else {
        (ms, "ms")
    };
    let text = format!("{value:.3}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("{text} {unit}")
}
