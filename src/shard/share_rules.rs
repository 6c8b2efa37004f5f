//! What is set for share groups (the GROUP config resource), and the broker's settings where
//! nothing is.

use crate::Shard;
use flumen_coordinator::share::ShareLimits;
use flumen_quorum::ResourceType;

/// What a share group's own settings say, beside its limits.
pub(super) struct ShareRules {
    pub(super) limits: ShareLimits,
    pub(super) committed_only: bool,
    pub(super) renews: bool,
    pub(super) reset: Reset,
}

/// Where a share partition begins that has no offset yet (`share.auto.offset.reset`).
pub(super) enum Reset {
    Latest,
    Earliest,
    /// The first record of the latest so many milliseconds.
    Within(i64),
}

impl Reset {
    fn parse(text: &str) -> Self {
        let text = text.trim().to_ascii_lowercase();
        match text.strip_prefix("by_duration:") {
            Some(duration) => match duration_ms(duration) {
                Some(ms) => Self::Within(ms),
                None => Self::Latest,
            },
            None if text == "earliest" => Self::Earliest,
            None => Self::Latest,
        }
    }
}

/// A duration as ISO 8601 writes it (`PnDTnHnMn.nS`, any case), in milliseconds.
fn duration_ms(text: &str) -> Option<i64> {
    let text = text.trim().to_ascii_lowercase();
    let (mut ms, mut in_time, mut number) = (0f64, false, String::new());
    for c in text.strip_prefix('p')?.chars() {
        let unit_ms = match c {
            't' if number.is_empty() => {
                in_time = true;
                continue;
            }
            '0'..='9' | '.' | '-' | '+' => {
                number.push(c);
                continue;
            }
            'd' if !in_time => 86_400_000.0,
            'h' if in_time => 3_600_000.0,
            'm' if in_time => 60_000.0,
            's' if in_time => 1000.0,
            _ => return None,
        };
        ms += number.parse::<f64>().ok()? * unit_ms;
        number.clear();
    }
    (number.is_empty() && (0.0..9e15).contains(&ms)).then_some(ms as i64)
}

impl Shard {
    /// What is set for a share group, and the broker's settings where nothing is.
    pub(super) fn share_rules(&self, group: &str) -> ShareRules {
        let own = self.image.config(ResourceType::Group, group);
        let text = |name: &str| own.and_then(|config| config.get(name));
        let int = |name: &str| text(name).and_then(|value| value.trim().parse::<i32>().ok());
        let settings = &self.broker.share;
        let locks = settings.partition_max_record_locks;
        let deliveries = settings.delivery_count_limit;
        let deliveries = deliveries.own(int("share.delivery.count.limit"));
        ShareRules {
            limits: ShareLimits {
                in_flight_max: locks.own(int("share.partition.max.record.locks")).into(),
                deliveries_max: u16::try_from(deliveries).unwrap_or(u16::MAX),
                lock_ms: self.share_lock_ms(group),
            },
            committed_only: text("share.isolation.level").is_some_and(|v| &**v == "read_committed"),
            renews: text("share.renew.acknowledge.enable").is_none_or(|v| &**v != "false"),
            reset: text("share.auto.offset.reset").map_or(Reset::Latest, |v| Reset::parse(v)),
        }
    }

    /// How long a member of a share group holds records, milliseconds.
    pub(crate) fn share_lock_ms(&self, group: &str) -> i64 {
        let own = self.image.config(ResourceType::Group, group);
        let own = own.and_then(|config| config.get("share.record.lock.duration.ms"));
        let own = own.and_then(|value| value.trim().parse::<i32>().ok());
        self.broker.share.record_lock_duration_ms.own(own).into()
    }
}

#[cfg(test)]
mod tests {
    use super::duration_ms;

    #[test]
    fn durations_are_read_as_java_reads_them() {
        for (text, ms) in [
            ("PT1H", 3_600_000),
            ("pt90s", 90_000),
            ("P1DT2H3M4.5S", 93_784_500),
            ("P2D", 172_800_000),
        ] {
            assert_eq!(duration_ms(text), Some(ms), "{text}");
        }
        for text in ["", "1H", "PT", "P1H", "PT-1S", "PT1", "P1X"] {
            assert!(duration_ms(text).is_none_or(|ms| ms == 0), "{text}");
        }
    }
}
