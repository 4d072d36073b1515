//! Operating characteristics as a picture: SVG, drawn by hand, for three panels need no library.

use crate::{Characteristics, Middle};
use std::fmt::Write as _;

const WIDTH: f64 = 1000.0;
const ROW_HEIGHT: f64 = 34.0;
const TOP: f64 = 104.0;
const BOTTOM: f64 = 46.0;
/// Left and right edges of the panels: how it ends, the delay, the harmed calls.
const ENDS: (f64, f64) = (226.0, 466.0);
const DELAY: (f64, f64) = (506.0, 716.0);
const HARMED: (f64, f64) = (770.0, 936.0);

const INK: &str = "#1f2933";
const FAINT: &str = "#8a94a0";
const GRID: &str = "#e4e7eb";
const ROLLED_BACK: &str = "#c2410c";
const INCONCLUSIVE: &str = "#cbd2d9";
const PROMOTED: &str = "#2f855a";
const DOT: &str = "#1d4ed8";
const REACH: &str = "#93b4f5";

/// Ticks of the delay: seconds and what they are called.
const TIMES: [(f64, &str); 10] = [
    (1.0, "1 s"),
    (10.0, "10 s"),
    (60.0, "1 min"),
    (600.0, "10 min"),
    (3600.0, "1 h"),
    (6.0 * 3600.0, "6 h"),
    (86_400.0, "1 d"),
    (3.0 * 86_400.0, "3 d"),
    (10.0 * 86_400.0, "10 d"),
    (30.0 * 86_400.0, "30 d"),
];

/// A logarithmic axis.
struct Axis {
    left: f64,
    right: f64,
    low: f64,
    high: f64,
}

impl Axis {
    fn x(&self, value: f64) -> f64 {
        let part = (value.max(self.low) / self.low).ln() / (self.high / self.low).ln();
        self.left + part.clamp(0.0, 1.0) * (self.right - self.left)
    }
}

/// Draws how rollouts of each degradation end, how long it takes to take the candidate back, and how many calls are harmed.
pub fn chart(all: &[Characteristics]) -> String {
    let bottom = TOP + ROW_HEIGHT * all.len() as f64;
    let height = bottom + BOTTOM;
    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" font-family="Inter, 'Helvetica Neue', Arial, sans-serif" font-size="13" fill="{INK}">
<rect width="100%" height="100%" fill="#ffffff"/>
"##
    );
    heads(&mut svg, all);
    let delay = axis(DELAY, all, |one| one.seconds, &TIMES.map(|(at, _)| at));
    let tens: Vec<f64> = (0..10).map(|power| 10_f64.powi(power)).collect();
    let harmed = axis(HARMED, all, |one| one.harmed_calls, &tens);
    for (at, name) in TIMES {
        tick(&mut svg, &delay, at, name, bottom);
    }
    for at in tens {
        tick(&mut svg, &harmed, at, &short(at), bottom);
    }
    for (row, one) in all.iter().enumerate() {
        let y = TOP + ROW_HEIGHT * (row as f64 + 0.5);
        if row > 0 {
            line(
                &mut svg,
                (24.0, WIDTH - 24.0),
                y - ROW_HEIGHT / 2.0,
                GRID,
                1.0,
            );
        }
        text(&mut svg, 24.0, y + 4.5, "start", INK, &one.what.to_string());
        ends(&mut svg, one, y);
        middle(&mut svg, &delay, one.seconds, y, &duration);
        middle(&mut svg, &harmed, one.harmed_calls, y, &short);
    }
    svg.push_str("</svg>\n");
    svg
}

fn heads(svg: &mut String, all: &[Characteristics]) {
    let runs = all
        .iter()
        .map(|one| one.rolled_back.runs)
        .max()
        .unwrap_or(0);
    bold(svg, 24.0, 32.0, 17, "What becomes of a candidate");
    text(
        svg,
        WIDTH - 24.0,
        32.0,
        "end",
        FAINT,
        &format!("{runs} simulated rollouts a row"),
    );
    bold(svg, 24.0, 72.0, 13, "What is wrong with it");
    bold(svg, ENDS.0, 72.0, 13, "How it ends");
    bold(svg, DELAY.0, 72.0, 13, "Time until it is taken back");
    bold(svg, HARMED.0, 72.0, 13, "Calls harmed until then");
    let mut x = ENDS.0;
    for (colour, name) in [
        (ROLLED_BACK, "taken back"),
        (INCONCLUSIVE, "undecided"),
        (PROMOTED, "promoted"),
    ] {
        let _ = writeln!(
            svg,
            r#"<rect x="{x}" y="82" width="9" height="9" rx="2" fill="{colour}"/>"#
        );
        small(svg, x + 13.0, 91.0, "start", name);
        x += 84.0;
    }
    for left in [DELAY.0, HARMED.0] {
        let _ = writeln!(
            svg,
            r#"<circle cx="{}" cy="87" r="4.5" fill="{DOT}"/>"#,
            left + 4.5
        );
        small(svg, left + 14.0, 91.0, "start", "half of them");
        line(svg, (left + 94.0, left + 112.0), 87.0, REACH, 5.0);
        small(svg, left + 118.0, 91.0, "start", "nine of ten");
    }
}

/// From the tick below the least value to the tick above the largest.
fn axis(
    (left, right): (f64, f64),
    all: &[Characteristics],
    of: impl Fn(&Characteristics) -> Option<Middle>,
    ticks: &[f64],
) -> Axis {
    let values: Vec<_> = all
        .iter()
        .filter_map(of)
        .flat_map(|m| [m.median, m.p90])
        .collect();
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(0.0, f64::max);
    let below = ticks.iter().copied().rfind(|tick| *tick <= least);
    let low = below.or(ticks.first().copied()).unwrap_or(1.0);
    let above = ticks
        .iter()
        .copied()
        .find(|tick| *tick >= most && *tick > low);
    Axis {
        left,
        right,
        low,
        high: above.unwrap_or(most.max(low * 10.0)),
    }
}

fn tick(svg: &mut String, axis: &Axis, at: f64, name: &str, bottom: f64) {
    if at < axis.low || at > axis.high {
        return;
    }
    let x = axis.x(at);
    let _ = writeln!(
        svg,
        r#"<line x1="{x:.1}" x2="{x:.1}" y1="{TOP}" y2="{bottom}" stroke="{GRID}"/>"#
    );
    small(svg, x, bottom + 18.0, "middle", name);
}

/// How the rollouts end, as a bar.
fn ends(svg: &mut String, one: &Characteristics, y: f64) {
    let mut x = ENDS.0;
    let width = ENDS.1 - ENDS.0;
    for (chance, colour, ink) in [
        (one.rolled_back, ROLLED_BACK, "#ffffff"),
        (one.inconclusive, INCONCLUSIVE, INK),
        (one.promoted, PROMOTED, "#ffffff"),
    ] {
        let part = chance.rate() * width;
        if part > 0.0 {
            let _ = writeln!(
                svg,
                r#"<rect x="{x:.1}" y="{:.1}" width="{part:.1}" height="18" fill="{colour}"/>"#,
                y - 9.0
            );
        }
        if part > 36.0 {
            let percent = format!("{:.0} %", chance.rate() * 100.0);
            text(svg, x + part / 2.0, y + 4.5, "middle", ink, &percent);
        }
        x += part;
    }
}

/// A median as a dot, with its reach to nine of ten.
fn middle(
    svg: &mut String,
    axis: &Axis,
    value: Option<Middle>,
    y: f64,
    shown: &dyn Fn(f64) -> String,
) {
    let Some(value) = value else {
        text(svg, axis.left + 8.0, y + 4.5, "start", FAINT, "\u{2013}");
        return;
    };
    let (median, p90) = (axis.x(value.median), axis.x(value.p90));
    line(svg, (median, p90), y, REACH, 5.0);
    let _ = writeln!(
        svg,
        r#"<circle cx="{median:.1}" cy="{y:.1}" r="4.5" fill="{DOT}"/>"#
    );
    // On the right, unless it would stand in the next panel.
    let name = shown(value.median);
    let reach = median.max(p90);
    if reach < axis.right - 16.0 {
        text(svg, reach + 12.0, y + 4.5, "start", INK, &name);
    } else {
        text(svg, median - 12.0, y + 4.5, "end", INK, &name);
    }
}

fn line(svg: &mut String, (from, to): (f64, f64), y: f64, colour: &str, width: f64) {
    let _ = writeln!(
        svg,
        r#"<line x1="{from:.1}" x2="{to:.1}" y1="{y:.1}" y2="{y:.1}" stroke="{colour}" stroke-width="{width}" stroke-linecap="round"/>"#
    );
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, colour: &str, what: &str) {
    let _ = writeln!(
        svg,
        r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" fill="{colour}">{what}</text>"#
    );
}

fn bold(svg: &mut String, x: f64, y: f64, size: u32, what: &str) {
    let _ = writeln!(
        svg,
        r#"<text x="{x:.1}" y="{y:.1}" font-weight="600" font-size="{size}">{what}</text>"#
    );
}

fn small(svg: &mut String, x: f64, y: f64, anchor: &str, what: &str) {
    let _ = writeln!(
        svg,
        r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" font-size="11" fill="{FAINT}">{what}</text>"#
    );
}

/// `90 s`, `12 min`, `1.5 h`.
fn duration(seconds: f64) -> String {
    if seconds < 100.0 {
        format!("{seconds:.0} s")
    } else if seconds < 6000.0 {
        format!("{:.0} min", seconds / 60.0)
    } else if seconds < 100.0 * 3600.0 {
        format!("{:.1} h", seconds / 3600.0)
    } else {
        format!("{:.1} d", seconds / 86_400.0)
    }
}

/// `850`, `12k`, `3M`.
fn short(count: f64) -> String {
    if count < 1e4 {
        format!("{count:.0}")
    } else if count < 1e6 {
        format!("{:.0}k", count / 1e3)
    } else {
        format!("{:.0}M", count / 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Degradation, figures::Chance};

    #[test]
    fn every_row_is_drawn_within_the_picture() {
        let chance = |hits| Chance { hits, runs: 100 };
        let middle = |median, p90| Some(Middle { median, p90 });
        let all = [
            Characteristics {
                what: Degradation::None,
                rolled_back: chance(0),
                promoted: chance(99),
                inconclusive: chance(1),
                seconds: None,
                candidate_calls: None,
                harmed_calls: None,
            },
            Characteristics {
                what: Degradation::Errors(0.05),
                rolled_back: chance(100),
                promoted: chance(0),
                inconclusive: chance(0),
                seconds: middle(240.0, 900.0),
                candidate_calls: middle(300.0, 900.0),
                harmed_calls: middle(15.0, 25_000.0),
            },
        ];
        let svg = chart(&all);
        assert!(svg.contains("errors of 5 %") && svg.contains("4 min") && svg.contains("99 %"));
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        for part in svg.split(r#" x=""#).skip(1) {
            let x: f64 = part.split('"').next().unwrap().parse().unwrap();
            assert!((0.0..=WIDTH).contains(&x), "{x}");
        }
        assert!(chart(&[]).ends_with("</svg>\n"));
    }
}
