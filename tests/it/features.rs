//! What a broker has finalized, and how a scenario says loudly that it did not run.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use kafka_protocol::messages::ApiVersionsRequest;
use kafka_protocol::protocol::StrBytes;

use crate::{Broker, rounds};

/// The finalized features with their levels.
///
/// # Errors
/// The broker does not answer.
pub fn finalized(broker: &Broker) -> Result<BTreeMap<String, i16>> {
    let request = ApiVersionsRequest::default()
        .with_client_software_name(StrBytes::from_static_str("flumen-it"))
        .with_client_software_version(StrBytes::from_static_str("1"));
    let answer = broker.raw()?.call(&request, 3)?;
    ensure!(
        answer.error_code == 0,
        "ApiVersions: error {}",
        answer.error_code
    );
    let features = answer.finalized_features.iter();
    Ok(features
        .map(|f| (f.name.to_string(), f.max_version_level))
        .collect())
}

/// Whether the broker does not have a feature that the scenario stands on. Then it says so as
/// [`not_run`] does, and the scenario ends.
///
/// # Errors
/// It has not, and rounds are asked for.
pub fn lacks(broker: &Broker, feature: &str) -> Result<bool> {
    if finalized(broker)?.get(feature).is_some_and(|l| *l > 0) {
        return Ok(false);
    }
    not_run(&format!("the broker has not finalized {feature}"))?;
    Ok(true)
}

/// Says loudly why a scenario did not run. Where rounds are asked for (`--full`) that is a failure.
///
/// # Errors
/// Rounds are asked for.
#[allow(clippy::print_stdout)] // belongs to the output of the test
pub fn not_run(why: &str) -> Result<()> {
    ensure!(rounds() == 1, "cannot run: {why}");
    println!("NOT RUN: {why}");
    Ok(())
}
