//! A device whose reads fail while records go from it into answers.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use flumen_it::cut_disk::{CutDisk, missing, new_image};
use flumen_it::loop_disk::not_run;
use flumen_it::{Broker, Kind, Options, Shape, raw, wait};

use super::disk::leaders;

scenarios!(an_unreadable_device_takes_its_directory_offline);

const TOPIC: &str = "unreadable";
const STORAGE_ERROR: &str = "error 56";

/// Sizes of records: what is copied, and what is spliced. Of two log directories one is on a device
/// that begins to fail: the answer under way ends, that directory goes offline, the other serves,
/// and with the device the records are back.
fn an_unreadable_device_takes_its_directory_offline(shape: Shape) -> Result<()> {
    if Kind::chosen() == Kind::Kafka || not_run("a device that fails", missing())? {
        return Ok(());
    }
    for size in [5_000, 900_000] {
        let dir = tempfile::Builder::new()
            .prefix("flumen-it-unreadable-")
            .tempdir()?;
        let mut disk = CutDisk::mount(new_image("ext4", dir.path())?, dir.path())?;
        let bad_dir = disk.path().join("data");
        let dirs = format!(
            "{},{}",
            dir.path().join("good").display(),
            bad_dir.display()
        );
        let options = Options::new(shape).set("log.dirs", &dirs).from_file();
        let mut broker = Broker::start(options)?;
        let mut client = broker.raw()?;
        client.create_topic(TOPIC, 2)?;
        let value = Bytes::from(vec![b'r'; size]);
        for _ in 0..8 {
            let batch = raw::batch(std::slice::from_ref(&value))?;
            client.produce(TOPIC, &[(0, batch.clone()), (1, batch)])?;
        }
        let is_bad = |n: &i32| bad_dir.join(format!("{TOPIC}-{n}")).exists();
        let bad = (0..2).find(is_bad).context("nothing is on the device")?;
        let good = 1 - bad;
        // Nothing of it stays in memory, neither ours nor the kernel's.
        broker.stop(Duration::from_secs(20))?;
        let (image, _) = disk.image(&mut |n| n - 1)?;
        disk = CutDisk::mount(image, dir.path())?;
        broker.launch()?;
        let mut client = broker.raw()?;
        client.await_leaders(TOPIC, 2)?;
        // A start may have read it.
        for file in std::fs::read_dir(bad_dir.join(format!("{TOPIC}-{bad}")))? {
            disk.drop_cached(&file?.path())?;
        }
        disk.fail_reads(true);
        let mut reader = broker.raw()?;
        let unread = reader.fetch(TOPIC, bad, 0);
        ensure!(unread.is_err(), "records came from a device that fails");
        wait::until("the directory is offline", Duration::from_secs(20), || {
            let text = match broker.raw()?.fetch(TOPIC, bad, 0) {
                Ok(_) => anyhow::bail!("it was read"),
                Err(error) => format!("{error:#}"),
            };
            Ok(text.contains(STORAGE_ERROR).then_some(()))
        })?;
        wait::until("no leader", Duration::from_secs(20), || {
            let leaders = leaders(&mut client, TOPIC)?;
            Ok((leaders.get(bad as usize) == Some(&-1)).then_some(()))
        })?;
        ensure!(client.read_all(TOPIC, good)?.len() == 8, "the other one");
        let batch = raw::batch(std::slice::from_ref(&value))?;
        client.produce(TOPIC, &[(good, batch)])?;
        broker.kill(); // what is on that device can't be closed
        disk.fail_reads(false);
        let (image, _) = disk.image(&mut |n| n - 1)?;
        let _disk = CutDisk::mount(image, dir.path())?;
        broker.launch()?;
        let mut client = broker.raw()?;
        client.await_leaders(TOPIC, 2)?;
        ensure!(client.read_all(TOPIC, bad)?.len() == 8, "what was there");
        broker.kill();
    }
    Ok(())
}
