//! What the client reads, and what it must find.

use super::*;

impl Ledger {
    pub(super) fn fetch(&mut self, cx: &mut Cx<'_>, topic: Uuid) -> Check {
        let pass = self.pass.get_or_insert_default();
        let (partition, offset) = (pass.partition, pass.next);
        let max_bytes = match cx.rng.one_in(3) {
            true => 1 + cx.rng.below(1_000) as i32,
            false => 1 << 20,
        };
        let request = FetchRequest {
            max_bytes: 1 << 24,
            session_epoch: -1,
            isolation_level: 1,
            topics: vec![FetchTopic {
                topic: self.spec.name.into(),
                topic_id: topic,
                partitions: vec![FetchPartition {
                    partition,
                    fetch_offset: offset,
                    partition_max_bytes: max_bytes,
                    ..Default::default()
                }],
            }],
            ..Default::default()
        };
        let what = Ask::Fetch(partition, offset);
        self.link.send(cx, 12, &request, Some(what))
    }

    pub(super) fn fetched(
        &mut self,
        cx: &mut Cx<'_>,
        (partition, offset): (i32, i64),
        version: i16,
        body: &[u8],
    ) -> Check {
        let response: FetchResponse<'_> = decode(body, version)?;
        let topic = response.responses.first().ok_or("no topic in the answer")?;
        let data = topic.partitions.first();
        let data = data.ok_or("no partition in the answer")?;
        match data.error_code {
            0 => {}
            code::NOT_LEADER_OR_FOLLOWER | code::LEADER_NOT_AVAILABLE => return Ok(()),
            error if self.failing_disk && code::is_disk_trouble(error) => return Ok(()),
            error => return Err(format!("ledger: error {error} at {offset}")),
        }
        let (high, stable) = (data.high_watermark, data.last_stable_offset);
        if stable > high {
            return Err(format!(
                "ledger: last stable {stable}, high watermark {high}"
            ));
        }
        note!(
            cx.trace,
            "ledger: {partition} from {offset}: {stable}/{high}"
        );
        let next = self.read(cx, (partition, offset), data)?;
        let Some(pass) = self.pass.as_mut() else {
            return Ok(());
        };
        if (pass.partition, pass.next) != (partition, offset) {
            return Ok(());
        }
        pass.next = next;
        if next >= stable {
            pass.ended.push((next, high));
            (pass.partition, pass.next) = (partition + 1, 0);
        }
        match pass.partition == self.spec.partitions {
            true => self.end_pass(cx.settling),
            false => Ok(()),
        }
    }

    /// What a consumer makes of the batches: those of aborted transactions are left out.
    fn read(
        &mut self,
        cx: &mut Cx<'_>,
        (partition, offset): (i32, i64),
        data: &PartitionData<'_>,
    ) -> Check<i64> {
        let mut aborted: Vec<(i64, i64)> = data
            .aborted_transactions
            .iter()
            .flatten()
            .map(|a| (a.first_offset, a.producer_id))
            .collect();
        aborted.sort_unstable_by(|a, b| b.cmp(a));
        let mut left_out = BTreeSet::new();
        let mut next = offset;
        for batch in Batches::new(data.records.as_deref().unwrap_or_default()) {
            let batch = batch.map_err(|e| format!("ledger: at {next}: {e}"))?;
            batch.check_crc().map_err(shown)?;
            let header = &batch.header;
            if header.last_offset() >= data.last_stable_offset {
                let last = header.last_offset();
                return Err(format!("ledger: {last} is not stable: {data:?}"));
            }
            while let Some((_, id)) = aborted.pop_if(|a| a.0 <= header.last_offset()) {
                left_out.insert(id);
            }
            if header.is_control() {
                if is_abort(&batch) {
                    left_out.remove(&header.producer_id());
                }
            } else if !left_out.contains(&header.producer_id()) {
                self.see(cx, partition, &batch, offset)?;
            }
            next = header.last_offset() + 1;
        }
        Ok(next)
    }

    fn see(&mut self, cx: &mut Cx<'_>, partition: i32, batch: &Batch<'_>, from: i64) -> Check {
        let section = batch.unfold(UNFOLDED_MAX).map_err(shown)?;
        for record in Records::new(&section, batch.header.count()) {
            let record = record.map_err(shown)?;
            let offset = batch.header.base_offset() + i64::from(record.offset_delta);
            let key = String::from_utf8_lossy(record.key.unwrap_or_default());
            let number = key.strip_prefix(&self.link.name);
            let Some(number) = number.filter(|_| offset >= from) else {
                continue; // another's, or not asked for
            };
            let n: usize = number.trim().parse().map_err(shown)?;
            self.stands(n, partition, offset)?;
            let txn = self.written.get(n).map_or(0, |w| w.txn);
            let fate = self.txns.get(txn).copied();
            if matches!(fate, Some(Fate::Aborted | Fate::Open)) {
                return Err(format!(
                    "ledger: record {n} at {offset} of {partition} is of transaction {txn}: {fate:?}"
                ));
            }
            cx.model.records_read += 1;
            if let Some(pass) = &mut self.pass {
                pass.seen.insert(n);
            }
        }
        Ok(())
    }

    fn end_pass(&mut self, settling: bool) -> Check {
        let Some(pass) = self.pass.take() else {
            return Ok(());
        };
        let mut seen_of: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
        for (n, record) in self.written.iter().enumerate() {
            let seen = pass.seen.contains(&n);
            let (count, all) = seen_of.entry(record.txn).or_default();
            if !record.refused {
                (*count, *all) = (*count + usize::from(seen), *all + 1);
            }
            let ended = pass.ended.get(record.partition as usize);
            let read = ended.is_some_and(|(end, _)| record.offset.is_some_and(|o| o < *end));
            if read && !seen && self.txns.get(record.txn) == Some(&Fate::Committed) {
                return Err(format!(
                    "ledger: {record:?}, record {n}, was committed and is not there"
                ));
            }
        }
        let to_the_end = pass.ended.iter().all(|(end, high)| end == high);
        if settling && to_the_end {
            for (txn, (count, all)) in seen_of {
                let whole = count == 0 || count == all;
                if !whole && self.txns.get(txn) == Some(&Fate::Either) {
                    return Err(format!(
                        "ledger: {count} of {all} records of transaction {txn}"
                    ));
                }
            }
        }
        // After a power loss a transaction may be open that no coordinator knows of any more.
        let all = to_the_end || self.power_losses > 0;
        self.rests = settling && all && self.stage == Stage::Ready;
        Ok(())
    }
}

fn is_abort(batch: &Batch<'_>) -> bool {
    let marker = Records::new(batch.records_section(), batch.header.count()).next();
    let key = marker.and_then(Result::ok).and_then(|m| m.key);
    key.and_then(|k| k.get(2..4)) == Some(&[0, 0])
}
