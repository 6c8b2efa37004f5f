//! A JVM compiles what it runs often: it is loaded until its throughput no longer changes.

/// Slices that have to agree.
const AGREE: usize = 3;
/// By how much they may differ, as a part of their mean.
const DIFFER_MAX: f64 = 0.05;

/// Throughputs of consecutive slices of the same load.
#[derive(Debug, Default)]
pub struct Slices(Vec<f64>);

impl Slices {
    /// Adds the next.
    pub fn push(&mut self, throughput: f64) {
        self.0.push(throughput);
    }

    /// Whether the last three are within 5 % of each other.
    pub fn stable(&self) -> bool {
        let from = self.0.len().saturating_sub(AGREE);
        let last = self.0.get(from..).unwrap_or_default();
        if last.len() < AGREE {
            return false;
        }
        let mean = last.iter().sum::<f64>() / AGREE as f64;
        let (min, max) = last
            .iter()
            .fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
        max - min < DIFFER_MAX * mean
    }

    /// How it went, for the facts.
    pub fn text(&self, what: &str, seconds: f64) -> String {
        let verdict = match self.0.len() {
            0 | 1 => "one slice",
            _ if self.stable() => "stable",
            _ => "not stable, capped",
        };
        let all: Vec<String> = self.0.iter().map(|v| format!("{v:.0}")).collect();
        format!(
            "{what}: {seconds:.0} s, {verdict} ({} requests/s)",
            all.join(", ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_slices_within_a_twentieth_are_stable() {
        let mut slices = Slices::default();
        for (value, stable) in [
            (50.0, false),
            (100.0, false),
            (103.0, false), // the 50 still counts
            (102.0, true),
            (120.0, false),
        ] {
            slices.push(value);
            assert_eq!(slices.stable(), stable, "after {value}");
        }
        assert!(slices.text("64k", 15.0).contains("not stable"));
    }
}
