//! What becomes of those who wait for an append, and of operations that no partition serves.

use crate::ops::{AppendDetails, AppendResult, OpResult, PartitionOp, ReadResult};
use crate::partition::{AckTo, Outcome};
use crate::shares::ShareAcquired;
use flumen_base::ErrorCode;
use flumen_log::AppendInfo;

/// Tells whoever waits for an append that it is written.
pub(crate) fn ack(to: AckTo, info: &AppendInfo, out: &mut Vec<Outcome>) {
    match to {
        AckTo::Groups(token) => out.push(Outcome::GroupsDone(token)),
        AckTo::Txns(token) => out.push(Outcome::Txns(token, ErrorCode::None)),
        AckTo::ShareState(token) => {
            out.push(Outcome::ShareState(token, Ok(info.base_offset.0)));
        }
        AckTo::Marker(from, who) => {
            out.push(Outcome::Result(from, who.result(ErrorCode::None)));
        }
        AckTo::Op(from) => {
            let result = AppendResult {
                error: ErrorCode::None,
                base_offset: info.base_offset.0,
                log_append_time: info.log_append_time_ms,
                log_start: info.log_start_offset.0,
                details: None,
            };
            out.push(Outcome::Result(from, OpResult::Append(result)));
        }
    }
}

/// Tells whoever waits for an append that it failed.
pub(crate) fn refuse(to: AckTo, error: ErrorCode, log_start: i64, out: &mut Vec<Outcome>) {
    match to {
        AckTo::Groups(token) => out.push(Outcome::GroupsFailed(token, error)),
        AckTo::Txns(token) => out.push(Outcome::Txns(token, error)),
        AckTo::ShareState(token) => out.push(Outcome::ShareState(token, Err(error))),
        AckTo::Marker(from, who) => out.push(Outcome::Result(from, who.result(error))),
        AckTo::Op(from) => {
            let result = AppendResult {
                log_start,
                ..AppendResult::refused(error)
            };
            out.push(Outcome::Result(from, OpResult::Append(result)));
        }
    }
}

/// The answer to a batch that was refused. As in Kafka the text goes with errors of single records
/// only, and the log start offset with all that the log itself refuses, but for damage and size.
pub(crate) fn refused_batch(
    to: AckTo,
    error: flumen_log::ValidateError,
    log_start: i64,
) -> Outcome {
    match to {
        AckTo::Op(from) => {
            let plain = matches!(
                error.code,
                ErrorCode::CorruptMessage | ErrorCode::MessageTooLarge
            );
            let damaged = error.malformed && error.code == ErrorCode::CorruptMessage;
            let told = damaged || !error.record_errors.is_empty();
            let records = error.record_errors.into_iter();
            let details = AppendDetails {
                record_errors: records.map(|r| (r.batch_index, r.message)).collect(),
                message: told.then_some(error.message),
            };
            let result = AppendResult {
                details: told.then(|| Box::new(details)),
                log_start: if plain || error.malformed {
                    -1
                } else {
                    log_start
                },
                ..AppendResult::refused(error.code)
            };
            Outcome::Result(from, OpResult::Append(result))
        }
        AckTo::Groups(token) => Outcome::GroupsFailed(token, error.code),
        AckTo::Txns(token) => Outcome::Txns(token, error.code),
        AckTo::ShareState(token) => Outcome::ShareState(token, Err(error.code)),
        AckTo::Marker(from, who) => Outcome::Result(from, who.result(error.code)),
    }
}

/// What an operation answers when its partition can't serve it.
pub(crate) fn refused_op(op: &PartitionOp, error: ErrorCode) -> OpResult {
    match op {
        PartitionOp::Append(_) => OpResult::Append(AppendResult::refused(error)),
        PartitionOp::Read(_) => OpResult::Read(Box::new(ReadResult::refused(error))),
        PartitionOp::Watch(_) => OpResult::Wake(u64::MAX),
        PartitionOp::ListOffset(_) => OpResult::ListOffset(Err(error)),
        PartitionOp::EpochEnd { .. } => OpResult::EpochEnd(Err(error)),
        PartitionOp::DeleteRecords(_) => OpResult::DeleteRecords(Err(error)),
        PartitionOp::Size => OpResult::Size(Err(error)),
        PartitionOp::MoveTo(_) => OpResult::MoveTo(error),
        PartitionOp::Producers => OpResult::Producers(Err(error)),
        PartitionOp::Marker(_, who) => who.result(error),
        PartitionOp::ShareAcquire(_) => {
            OpResult::ShareAcquired(Box::new(ShareAcquired::refused(error)))
        }
        PartitionOp::ShareAcknowledge(_) => OpResult::ShareAcknowledged(error),
        PartitionOp::ShareRelease { .. } => OpResult::ShareReleased,
        PartitionOp::ShareWatch { .. } => OpResult::Wake(u64::MAX),
        // To acquire tells what is wrong.
        PartitionOp::ShareProbe { .. } => OpResult::ShareProbed(u64::MAX),
    }
}
