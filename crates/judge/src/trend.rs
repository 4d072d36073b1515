//! Whether a metric rises or falls: a straight line through its values, with the interval in which its slope lies.

use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF as _, StudentsT};

/// Fewest points from which a trend is told: with fewer the interval is so wide that it says nothing, or, when the points
/// happen to lie on a line, so narrow that it lies.
pub const POINTS_MIN: usize = 8;

/// Where a metric is going.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Its slope is above zero, all of the interval.
    Rising,
    /// Below.
    Falling,
    /// Zero is in the interval.
    Flat,
    /// Too few points, or all at one time.
    Unknown,
}

/// A line through values over time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trend {
    /// Where it goes.
    pub direction: Direction,
    /// How many points it rests on.
    pub points: usize,
    /// The mean of the values; nothing without any.
    pub mean: Option<f64>,
    /// The slope, in the metric's unit a second; nothing when the direction is unknown.
    pub slope: Option<Slope>,
}

/// A slope with the interval around it, each in the metric's unit a second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Slope {
    /// The likeliest.
    pub value: f64,
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

/// The trend of `(seconds, value)` points at a confidence such as 0.99. Points that are not finite are left out.
///
/// Ordinary least squares; the interval is `slope ± t * s / sqrt(Sxx)` with Student's `t` at `n - 2` degrees of freedom. It
/// takes the points as independent of each other; a metric that wanders, as memory does, looks like a trend more often.
pub fn trend(points: impl IntoIterator<Item = (f64, f64)>, confidence: f64) -> Trend {
    let points: Vec<_> = points
        .into_iter()
        .filter(|(at, value)| at.is_finite() && value.is_finite())
        .collect();
    let n = points.len();
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / n as f64;
    let mean_value = (n > 0).then(|| mean(|(_, value)| *value));
    let slope = (n >= POINTS_MIN)
        .then(|| slope(&points, mean(|(at, _)| *at), mean_value?, confidence))
        .flatten();
    let direction = match slope {
        None => Direction::Unknown,
        Some(slope) if slope.low > 0.0 => Direction::Rising,
        Some(slope) if slope.high < 0.0 => Direction::Falling,
        Some(_) => Direction::Flat,
    };
    Trend {
        direction,
        points: n,
        mean: mean_value,
        slope,
    }
}

/// The slope through points with these means; nothing when they are all at one time, or fewer than three.
fn slope(points: &[(f64, f64)], mean_at: f64, mean_value: f64, confidence: f64) -> Option<Slope> {
    let freedom = points.len().checked_sub(2).filter(|f| *f > 0)? as f64;
    // Distances from the means, so that times of 1e9 seconds cost no digits.
    let (mut along, mut across) = (0.0, 0.0);
    for (at, value) in points {
        along += (at - mean_at).powi(2);
        across += (at - mean_at) * (value - mean_value);
    }
    if along <= 0.0 {
        return None;
    }
    let value = across / along;
    let residual: f64 = points
        .iter()
        .map(|(at, y)| (y - mean_value - value * (at - mean_at)).powi(2))
        .sum();
    let error = (residual / freedom / along).sqrt();
    let student = StudentsT::new(0.0, 1.0, freedom).ok()?;
    let wide = student.inverse_cdf(f64::midpoint(1.0, confidence.clamp(0.0, 0.999_999))) * error;
    Some(Slope {
        value,
        low: value - wide,
        high: value + wide,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn close(got: f64, expected: f64, what: &str) {
        assert!(
            (got - expected).abs() <= 1e-9 * expected.abs().max(1e-6),
            "{what}: {got} against {expected}"
        );
    }

    /// From scipy 1.17.1:
    ///
    /// ```python
    /// t = np.array(ts) - ts[0]; r = stats.linregress(t, vs); q = stats.t.ppf((1 + conf) / 2, len(vs) - 2)
    /// print(r.slope, r.slope - q * r.stderr, r.slope + q * r.stderr)
    /// ```
    #[test]
    fn slopes_and_intervals_are_those_of_scipy() {
        let noisy = [5.0, 5.3, 4.8, 5.6, 5.9, 5.4, 6.1, 6.4, 5.8, 6.6];
        let flat = [
            100.0, 101.0, 99.0, 100.0, 102.0, 98.0, 100.0, 101.0, 99.0, 100.0, 101.0, 100.0,
        ];
        for (name, start, step, values, [value, low, high]) in [
            (
                "a line with noise",
                0.0,
                30.0,
                noisy.as_slice(),
                [
                    0.005_434_343_434_343_435,
                    0.001_359_024_745_903_310_8,
                    0.009_509_662_122_783_56,
                ],
            ),
            (
                "no slope, at a time as clocks have it",
                1.7e9,
                60.0,
                flat.as_slice(),
                [
                    5.827_505_827_505_827_5e-5,
                    -0.004_961_522_122_272_182,
                    0.005_078_072_238_822_299,
                ],
            ),
        ] {
            let points = (0..)
                .zip(values)
                .map(|(i, v)| (start + f64::from(i) * step, *v));
            let got = trend(points, 0.99).slope.unwrap();
            close(got.value, value, name);
            close(got.low, low, name);
            close(got.high, high, name);
        }
        let few = [(0.0, 1.0), (10.0, 3.0), (20.0, 2.0), (40.0, 5.0)];
        let got = slope(&few, 17.5, 2.75, 0.95).unwrap();
        close(got.low, -0.052_667_760_870_535_11, "four points");
        close(got.high, 0.229_810_618_013_392_25, "four points");
    }

    #[test]
    fn a_line_has_a_direction_and_too_little_has_none() {
        let line = |slope: f64, n: u32| (0..n).map(move |t| (f64::from(t), slope * f64::from(t)));
        assert_eq!(trend(line(2.0, 20), 0.99).direction, Direction::Rising);
        assert_eq!(trend(line(-2.0, 20), 0.99).direction, Direction::Falling);
        assert_eq!(trend(line(0.0, 20), 0.99).direction, Direction::Flat);
        assert_eq!(trend(line(2.0, 7), 0.99).direction, Direction::Unknown);
        assert_eq!(trend([], 0.99).mean, None);
        let same = std::iter::repeat_n((1.0, 1.0), 20);
        assert_eq!(trend(same, 0.99).direction, Direction::Unknown);
        let odd = line(2.0, 20).chain([(f64::NAN, 1.0), (3.0, f64::INFINITY)]);
        assert_eq!(trend(odd, 0.99).points, 20);
    }

    proptest! {
        #[test]
        fn the_interval_holds_the_slope_and_moves_with_the_values(
            values in prop::collection::vec(-100.0..100.0_f64, 8..60),
            tilt in -5.0..5.0_f64,
        ) {
            let points = |tilt: f64| {
                values.iter().enumerate().map(move |(t, v)| (t as f64, v + tilt * t as f64))
            };
            let plain = trend(points(0.0), 0.99).slope.unwrap();
            prop_assert!(plain.low <= plain.value && plain.value <= plain.high);
            let tilted = trend(points(tilt), 0.99).slope.unwrap();
            prop_assert!((tilted.value - plain.value - tilt).abs() < 1e-6);
            prop_assert!((tilted.high - tilted.low - plain.high + plain.low).abs() < 1e-6);
            let wider = trend(points(0.0), 0.999).slope.unwrap();
            prop_assert!(wider.low <= plain.low && plain.high <= wider.high);
        }
    }
}
