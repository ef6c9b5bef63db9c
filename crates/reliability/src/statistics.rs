//! Figures out of many.

use std::time::Duration;

/// A count as a figure. Counts here are far below 2^32.
pub(crate) fn float(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

pub(crate) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Nearest rank, from above: of a hundred figures the 99th for 0.99. None at all are no number.
pub(crate) fn percentile(figures: &[f64], share: f64) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let enough = share * float(sorted.len());
    let rank = (0..sorted.len()).find(|rank| float(rank.saturating_add(1)) >= enough);
    rank.and_then(|rank| sorted.get(rank)).copied().unwrap_or(f64::NAN)
}

pub(crate) fn median(figures: &[f64]) -> f64 {
    percentile(figures, 0.5)
}

/// How much `y` grows with each unit of `x`: the line of least squares. Fewer than two points have none.
pub(crate) fn slope(points: &[(f64, f64)]) -> f64 {
    let count = float(points.len());
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (mean_x, mean_y) = (mean(|point| point.0), mean(|point| point.1));
    let up: f64 = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    let across: f64 = points.iter().map(|(x, _)| (x - mean_x) * (x - mean_x)).sum();
    up / across
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_figures() {
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!((percentile(&hundred, 0.99), median(&hundred)), (99.0, 50.0));
        assert_eq!((percentile(&hundred, 0.0), percentile(&hundred, 1.0)), (1.0, 100.0));
        assert!(percentile(&[], 0.5).is_nan());
    }

    #[test]
    fn a_slope_is_what_grows_with_each_unit() {
        assert!((slope(&[(0.0, 1.0), (1.0, 3.0), (2.0, 5.0)]) - 2.0).abs() < 1e-9);
        assert!(slope(&[(1.0, 1.0)]).is_nan());
    }
}
