//! The levels of `metadata.version`: their names, which of them changed Kafka's metadata, and the
//! one that a new cluster begins with.
//!
//! Flumen's metadata log has a format of its own, so that no level changes what it writes; the
//! level is kept for the tools that read, raise and lower it.

use super::features::first_features;
use flumen_base::Disk;
use flumen_settings::BrokerConfig;
use std::collections::BTreeMap;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// The feature that numbers the metadata's format.
pub const METADATA_VERSION_FEATURE: &str = "metadata.version";
/// The level of 4.3-IV0, which new clusters begin with.
pub const METADATA_VERSION: i16 = 30;
/// The lowest level that Kafka 4.3 knows, that of 3.3-IV3.
const METADATA_VERSION_MIN: i16 = 7;
/// Beside `meta.properties`, from formatting to the first start.
const BOOTSTRAP_FILE: &str = "bootstrap.properties";
const BOOTSTRAP_FILE_BYTES_MAX: u64 = 4096;

/// The releases from [`METADATA_VERSION_MIN`] on, and whether Kafka's metadata changed with them.
const RELEASES: &[(&str, bool)] = &[
    ("3.3-IV3", true),
    ("3.4-IV0", true),
    ("3.5-IV0", false),
    ("3.5-IV1", false),
    ("3.5-IV2", true),
    ("3.6-IV0", false),
    ("3.6-IV1", true),
    ("3.6-IV2", true),
    ("3.7-IV0", true),
    ("3.7-IV1", false),
    ("3.7-IV2", true),
    ("3.7-IV3", false),
    ("3.7-IV4", false),
    ("3.8-IV0", false),
    ("3.9-IV0", false),
    ("4.0-IV0", false),
    ("4.0-IV1", true),
    ("4.0-IV2", false),
    ("4.0-IV3", false),
    ("4.1-IV0", false),
    ("4.1-IV1", false),
    ("4.2-IV0", false),
    ("4.2-IV1", false),
    ("4.3-IV0", true),
    ("4.4-IV0", false),
];

/// The levels that may be finalized: those of releases, and with `unstable.feature.versions.enable`
/// that of the next one.
pub fn metadata_versions(broker: &BrokerConfig) -> RangeInclusive<i16> {
    let last = METADATA_VERSION_MIN - 1 + RELEASES.len() as i16;
    let unstable = broker.quorum.unstable_feature_versions;
    METADATA_VERSION_MIN..=if unstable { last } else { METADATA_VERSION }
}

/// The level of a release: `3.6-IV1`, or `3.6` for the last level of it.
pub fn metadata_version_of(release: &str) -> Option<i16> {
    let matches = |name: &str| {
        let (main, _) = name.split_once('-').unwrap_or((name, ""));
        name == release || main == release
    };
    let found = RELEASES.iter().rposition(|(name, _)| matches(name))?;
    i16::try_from(found).ok().map(|n| METADATA_VERSION_MIN + n)
}

/// Whether Kafka's metadata changed in the levels above `low` up to `high`: no way back then.
pub(super) fn metadata_changed(low: i16, high: i16) -> bool {
    let changed = |level: i16| {
        let index = usize::try_from(level - METADATA_VERSION_MIN).ok();
        index.and_then(|n| RELEASES.get(n)).is_none_or(|(_, c)| *c)
    };
    (low.saturating_add(1)..=high).any(changed)
}

/// Writes the levels of features that the cluster begins with, when a metadata directory is
/// formatted.
///
/// # Errors
/// If the disk fails.
pub fn write_bootstrap(
    disk: &dyn Disk,
    metadata_log_dir: &Path,
    features: &BTreeMap<String, i16>,
) -> io::Result<()> {
    let lines = features.iter();
    let text: String = lines
        .map(|(name, level)| format!("{name}={level}\n"))
        .collect();
    disk.write_atomic(&metadata_log_dir.join(BOOTSTRAP_FILE), text.as_bytes())
}

/// The levels that formatting wrote, or that go with [`METADATA_VERSION`] where it wrote none.
///
/// # Errors
/// The file, and why it can't be read.
pub(crate) fn read_bootstrap(
    disk: &dyn Disk,
    metadata_log_dir: &Path,
) -> Result<BTreeMap<String, i16>, (PathBuf, io::Error)> {
    let path = metadata_log_dir.join(BOOTSTRAP_FILE);
    if !disk.exists(&path) {
        return Ok(first_features(METADATA_VERSION, &BTreeMap::new()));
    }
    let read = || {
        let bytes = disk.read_all(&path, BOOTSTRAP_FILE_BYTES_MAX)?;
        let text = String::from_utf8_lossy(&bytes);
        let lines = text.lines().filter_map(|line| line.split_once('='));
        let levels = lines.filter_map(|(name, level)| {
            let level: i16 = level.trim().parse().ok()?;
            Some((name.to_owned(), level))
        });
        let levels: BTreeMap<String, i16> = levels.collect();
        match levels.get(METADATA_VERSION_FEATURE) {
            Some(level) => Ok(first_features(*level, &levels)),
            None => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "no metadata.version",
            )),
        }
    };
    read().map_err(|e| (path.clone(), e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_have_kafkas_levels() {
        for (release, level) in [
            ("3.3-IV3", 7),
            ("3.6-IV1", 13),
            ("3.6", 14),
            ("3.7-IV1", 16),
            ("3.9", 21),
            ("4.3", METADATA_VERSION),
            ("4.4-IV0", 31),
        ] {
            assert_eq!(metadata_version_of(release), Some(level), "{release}");
        }
        assert_eq!(metadata_version_of("3.2"), None);
        assert_eq!(metadata_version_of(""), None);
        let mut broker = BrokerConfig::default();
        assert_eq!(metadata_versions(&broker), 7..=30);
        broker.quorum.unstable_feature_versions = true;
        assert_eq!(metadata_versions(&broker), 7..=31);
    }

    #[test]
    fn the_way_back_ends_at_a_change() {
        assert!(!metadata_changed(30, 31));
        assert!(metadata_changed(29, 30));
        assert!(!metadata_changed(23, 29));
        assert!(metadata_changed(22, 23));
    }
}
