//! `flumen log verify`.

use super::line::{Line, Printer, Shown};
use super::{Outcome, VerifyArgs};
use crate::cli::report;
use flumen_log::inspect::{Finding, Severity, Summary, VerifyOptions, verify};
use flumen_quorum::Checked;
use flumen_runtime::FsDisk;
use std::path::Path;

/// Looks at each path and says what it finds.
pub(super) fn run(args: &VerifyArgs) -> anyhow::Result<Outcome> {
    let mut printer = Printer::new(args.json);
    let mut outcome = Outcome::default();
    for path in &args.paths {
        let deep = !args.shallow;
        let mut printed = Ok(());
        let mut told = |finding: &Finding| {
            if printed.is_ok() && !(args.quiet && finding.severity == Severity::Note) {
                printed = tell(&mut printer, finding);
            }
        };
        let looked = verify(&FsDisk, path, VerifyOptions { deep }, &mut told);
        let looked = looked.map(|mut summary| {
            metadata(path, &mut summary, &mut told);
            summary
        });
        printed?;
        match looked {
            Ok(summary) => {
                outcome.defects |= summary.defects > 0;
                outcome.unreadable |= summary.unreadable > 0;
                sum(&mut printer, path, &summary)?;
            }
            Err(error) => {
                outcome.unreadable = true;
                printer.flush()?;
                report(&anyhow::Error::new(error).context(path.display().to_string()));
            }
        }
    }
    printer.flush()?;
    Ok(outcome)
}

/// Flumen's metadata log, which is not in Kafka's format.
fn metadata(path: &Path, summary: &mut Summary, told: &mut dyn FnMut(&Finding)) {
    let inside = path.join("__cluster_metadata-0");
    let dir = if inside.is_dir() { &inside } else { path };
    let so = "the broker does not start with this metadata";
    let (severity, what, meaning) = match flumen_quorum::check(&FsDisk, dir) {
        Checked::Absent | Checked::Whole => return,
        Checked::Torn(what) => {
            summary.notes += 1;
            let so = "the end of a write that was never acknowledged: it is cut at the next start";
            (Severity::Note, what, so)
        }
        Checked::Damaged(what) => {
            summary.defects += 1;
            (Severity::Defect, what, so)
        }
        Checked::Unreadable(what) => {
            summary.unreadable += 1;
            (Severity::Unreadable, what, so)
        }
    };
    told(&Finding {
        severity,
        file: dir.to_owned(),
        position: None,
        what,
        meaning: meaning.to_owned(),
    });
}

fn name_of(severity: Severity) -> &'static str {
    match severity {
        Severity::Note => "note",
        Severity::Defect => "defect",
        Severity::Unreadable => "unreadable",
    }
}

fn tell(printer: &mut Printer, finding: &Finding) -> anyhow::Result<()> {
    let file = finding.file.display().to_string();
    if printer.is_json() {
        let position = finding.position.map_or(Shown::Absent, Shown::from);
        let line = Line::new(name_of(finding.severity))
            .with("file", file)
            .with("position", position)
            .with("what", finding.what.as_str())
            .with("meaning", finding.meaning.as_str());
        return printer.line("", &line);
    }
    let place = match finding.position {
        Some(at) => format!("{file} at byte {at}"),
        None => file,
    };
    let kind = name_of(finding.severity);
    printer.heading(&format!("{kind}: {place}: {}", finding.what))?;
    if finding.meaning.is_empty() {
        return Ok(());
    }
    printer.heading(&format!("    {}", finding.meaning))
}

fn sum(printer: &mut Printer, path: &Path, summary: &Summary) -> anyhow::Result<()> {
    let line = Line::new("summary")
        .with("path", path.display().to_string())
        .with("files", summary.files)
        .with("segments", summary.segments)
        .with("batches", summary.batches)
        .with("records", summary.records)
        .with("bytes", summary.bytes)
        .with("defects", summary.defects)
        .with("notes", summary.notes)
        .with("unreadable", summary.unreadable);
    printer.line("", &line)
}
