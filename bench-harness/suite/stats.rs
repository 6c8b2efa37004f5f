//! Medians and spread over rounds, and when two sets of rounds differ by more than their noise.

use serde::{Deserialize, Serialize};

/// One metric of one system over its rounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Rounds.
    pub rounds: usize,
    /// The middle value; of an even number, the mean of the two.
    pub median: f64,
    /// Least.
    pub min: f64,
    /// Greatest.
    pub max: f64,
    /// First quartile.
    pub q1: f64,
    /// Third quartile.
    pub q3: f64,
}

impl Summary {
    /// Of the values that are numbers; `None` when there is none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = values.into_iter().filter(|v| v.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        Some(Self {
            rounds: sorted.len(),
            median: quantile(&sorted, 0.5)?,
            min: *sorted.first()?,
            max: *sorted.last()?,
            q1: quantile(&sorted, 0.25)?,
            q3: quantile(&sorted, 0.75)?,
        })
    }

    /// From least to greatest as a part of the median.
    pub fn spread(&self) -> f64 {
        (self.max - self.min) / self.median
    }

    /// Interquartile range as a part of the median.
    pub fn iqr(&self) -> f64 {
        (self.q3 - self.q1) / self.median
    }

    /// Whether some value of one could be a value of the other.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.min <= other.max && other.min <= self.max
    }
}

/// Linear between the two nearest of `sorted`.
fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let at = q * (sorted.len().checked_sub(1)? as f64);
    let low = sorted.get(at.floor() as usize)?;
    let high = sorted.get(at.ceil() as usize)?;
    Some(low + (high - low) * at.fract())
}

/// What two sets of rounds say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The ranges overlap: nothing was shown.
    WithinNoise,
    /// Every round of the first was better than every round of the second.
    Better,
    /// The other way round.
    Worse,
    /// One round each: no spread is known.
    OneRound,
}

impl Verdict {
    /// Of `a` against `b`.
    pub fn of(a: &Summary, b: &Summary, more_is_better: bool) -> Self {
        if a.rounds < 2 || b.rounds < 2 {
            Self::OneRound
        } else if a.overlaps(b) {
            Self::WithinNoise
        } else if (a.median > b.median) == more_is_better {
            Self::Better
        } else {
            Self::Worse
        }
    }

    /// In words.
    pub fn text(self) -> &'static str {
        match self {
            Self::WithinNoise => "within noise",
            Self::Better => "better",
            Self::Worse => "worse",
            Self::OneRound => "one round: unknown noise",
        }
    }
}

/// A number with about three significant digits.
pub fn short(value: f64) -> String {
    let size = value.abs();
    if !value.is_finite() {
        "-".to_owned()
    } else if size >= 1e6 {
        format!("{:.2}M", value / 1e6)
    } else if size >= 1e4 {
        format!("{:.1}k", value / 1e3)
    } else if size >= 100.0 {
        format!("{value:.0}")
    } else if size >= 10.0 {
        format!("{value:.1}")
    } else if size >= 1.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.3}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[f64]) -> Summary {
        Summary::of(values.iter().copied()).unwrap()
    }

    #[test]
    fn the_median_ignores_one_outlier() {
        assert_eq!(of(&[1.0, 900.0, 2.0]).median, 2.0);
        assert_eq!(of(&[1.0, 3.0]).median, 2.0);
        assert!(Summary::of([]).is_none());
        assert!(Summary::of([f64::NAN]).is_none());
    }

    #[test]
    fn spread_and_quartiles() {
        let s = of(&[90.0, 100.0, 95.0, 110.0, 105.0]);
        assert_eq!(
            (s.min, s.q1, s.median, s.q3, s.max),
            (90.0, 95.0, 100.0, 105.0, 110.0)
        );
        assert!((s.spread() - 0.2).abs() < 1e-9);
        assert!((s.iqr() - 0.1).abs() < 1e-9);
    }

    #[test]
    fn ranges_that_overlap_show_nothing() {
        let (slow, fast, between) = (of(&[1.0, 2.0]), of(&[3.0, 4.0]), of(&[1.9, 3.1]));
        assert_eq!(Verdict::of(&fast, &slow, true), Verdict::Better);
        assert_eq!(Verdict::of(&fast, &slow, false), Verdict::Worse);
        assert_eq!(Verdict::of(&fast, &between, true), Verdict::WithinNoise);
        assert_eq!(Verdict::of(&of(&[9.0]), &slow, true), Verdict::OneRound);
    }

    #[test]
    fn numbers_are_short() {
        let all = [1_234_567.0, 23_456.0, 123.4, 12.34, 1.234, 0.1234, f64::NAN];
        let text: Vec<String> = all.iter().map(|v| short(*v)).collect();
        assert_eq!(
            text,
            ["1.23M", "23.5k", "123", "12.3", "1.23", "0.123", "-"]
        );
    }
}
