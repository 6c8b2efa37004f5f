//! Record batches, right and wrong, byte by byte.

use super::schema::hex;
use flumen_it::raw;

/// The time stamp of every record made here, unless a case says otherwise: an hour ago, which no
/// broker takes for too old by retention and each does by `message.timestamp.before.max.ms`.
pub(super) fn time() -> i64 {
    raw::time_ms() - 3_600_000
}

/// A key or a value; `None` is null.
type Field = Option<Vec<u8>>;

/// A batch of format 2, described; [`Batch::hex`] makes its bytes.
#[derive(Debug, Clone)]
pub(super) struct Batch {
    /// The format; its other values make a wrong batch.
    pub(super) magic: u8,
    /// Compression, time stamp type, transactional and control bits.
    pub(super) attributes: i16,
    /// Base and maximum time stamp.
    pub(super) times: (i64, i64),
    /// Producer id, epoch, base sequence.
    pub(super) producer: (i64, i16, i32),
    /// Keys and values.
    pub(super) records: Vec<(Field, Field)>,
    /// Added to the checksum.
    pub(super) crc_error: u32,
    /// Added to the number of records.
    pub(super) count_error: i32,
}

impl Batch {
    /// `n` small records without keys.
    pub(super) fn of(n: usize) -> Self {
        let value = |n| (None, Some(format!("value {n}").into_bytes()));
        Self {
            magic: 2,
            attributes: 0,
            times: (time(), time()),
            producer: (-1, -1, -1),
            records: (0..n).map(value).collect(),
            crc_error: 0,
            count_error: 0,
        }
    }

    /// One record of this many bytes.
    pub(super) fn large(bytes: usize) -> Self {
        let mut batch = Self::of(1);
        batch.records = vec![(None, Some(vec![b'x'; bytes]))];
        batch
    }

    /// The same with one key for all.
    pub(super) fn key(mut self, key: &str) -> Self {
        for record in &mut self.records {
            record.0 = Some(key.as_bytes().to_vec());
        }
        self
    }

    /// The same with both time stamps.
    pub(super) fn at(mut self, time: i64) -> Self {
        self.times = (time, time);
        self
    }

    /// The same from a producer.
    pub(super) fn from(mut self, id: i64, epoch: i16, sequence: i32) -> Self {
        self.producer = (id, epoch, sequence);
        self
    }

    /// The same with attributes; gzip (1) and zstd (4) are really applied, as stored blocks.
    pub(super) fn attributes(mut self, attributes: i16) -> Self {
        self.attributes = attributes;
        self
    }

    fn body(&self) -> Vec<u8> {
        let mut body = Vec::new();
        for (n, (key, value)) in self.records.iter().enumerate() {
            let mut record = vec![0]; // attributes
            let last = n + 1 == self.records.len();
            varlong(
                if last { self.times.1 - self.times.0 } else { 0 },
                &mut record,
            );
            varlong(n as i64, &mut record);
            for part in [key, value] {
                varlong(part.as_ref().map_or(-1, |p| p.len() as i64), &mut record);
                record.extend(part.iter().flatten());
            }
            varlong(0, &mut record); // headers
            varlong(record.len() as i64, &mut body);
            body.extend(record);
        }
        match self.attributes & 7 {
            1 => gzip(&body),
            4 => zstd(&body),
            _ => body,
        }
    }

    /// The bytes.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let count = self.records.len() as i32 + self.count_error;
        let mut tail = Vec::new();
        tail.extend(self.attributes.to_be_bytes());
        tail.extend((count - 1).to_be_bytes());
        tail.extend(self.times.0.to_be_bytes());
        tail.extend(self.times.1.to_be_bytes());
        tail.extend(self.producer.0.to_be_bytes());
        tail.extend(self.producer.1.to_be_bytes());
        tail.extend(self.producer.2.to_be_bytes());
        tail.extend(count.to_be_bytes());
        tail.extend(self.body());
        let mut all = vec![0; 8];
        all.extend((tail.len() as i32 + 9).to_be_bytes());
        all.extend((-1i32).to_be_bytes());
        all.push(self.magic);
        all.extend(
            crc(&tail, 0x82f6_3b78)
                .wrapping_add(self.crc_error)
                .to_be_bytes(),
        );
        all.extend(tail);
        all
    }

    /// The bytes as the schema codec wants them.
    pub(super) fn hex(&self) -> String {
        hex(&self.bytes())
    }
}

/// A message set of format 0 or 1 with one message.
pub(super) fn old_message(magic: u8) -> String {
    old_message_at(magic, time())
}

/// The same with a time, where the format has one.
pub(super) fn old_message_at(magic: u8, time: i64) -> String {
    let mut tail = vec![magic, 0];
    if magic == 1 {
        tail.extend(time.to_be_bytes());
    }
    tail.extend((-1i32).to_be_bytes());
    tail.extend(5i32.to_be_bytes());
    tail.extend(b"value");
    let mut all = vec![0; 8];
    all.extend((tail.len() as i32 + 4).to_be_bytes());
    all.extend(crc(&tail, 0xedb8_8320).to_be_bytes());
    all.extend(tail);
    hex(&all)
}

fn varlong(n: i64, out: &mut Vec<u8>) {
    let mut n = ((n << 1) ^ (n >> 63)) as u64;
    while n > 127 {
        out.push((n & 127) as u8 | 128);
        n >>= 7;
    }
    out.push(n as u8);
}

/// The reflected CRC-32 of this polynomial.
fn crc(bytes: &[u8], polynomial: u32) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (polynomial & 0u32.wrapping_sub(crc & 1));
        }
    }
    !crc
}

/// A gzip member with one stored block.
fn gzip(body: &[u8]) -> Vec<u8> {
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255, 1];
    let len = body.len() as u16;
    out.extend(len.to_le_bytes());
    out.extend((!len).to_le_bytes());
    out.extend(body);
    out.extend(crc(body, 0xedb8_8320).to_le_bytes());
    out.extend((body.len() as u32).to_le_bytes());
    out
}

/// A zstd frame with one raw block.
fn zstd(body: &[u8]) -> Vec<u8> {
    let mut out = vec![0x28, 0xb5, 0x2f, 0xfd, 0xa0];
    out.extend((body.len() as u32).to_le_bytes());
    let header = (body.len() as u32) << 3 | 1;
    out.extend(header.to_le_bytes().iter().take(3));
    out.extend(body);
    out
}
