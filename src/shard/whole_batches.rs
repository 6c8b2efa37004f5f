//! Batches in memory may be in two pieces, the header in one and the records in the other. Who
//! walks over batches wants them whole.

use bytes::{Bytes, BytesMut};
use flumen_log::batch::BatchHeader;

/// The pieces of a read, put together where a batch is in several: each of the result begins and
/// ends with a batch, but for the end of a last one that was cut. What is whole is not copied.
pub(crate) fn whole_batches(pieces: Vec<Bytes>) -> Vec<Bytes> {
    if pieces.len() < 2 {
        return pieces;
    }
    let mut whole = Vec::with_capacity(pieces.len());
    let mut rest = BytesMut::new();
    for piece in pieces {
        if rest.is_empty() && are_whole(&piece) {
            whole.push(piece);
            continue;
        }
        rest.extend_from_slice(&piece);
        if are_whole(&rest) {
            whole.push(rest.split().freeze());
        }
    }
    if !rest.is_empty() {
        whole.push(rest.freeze());
    }
    whole
}

/// Whether the last batch of these bytes ends where they end.
fn are_whole(mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        let size = BatchHeader::new(bytes).and_then(|header| header.size().ok());
        match size.and_then(|size| bytes.get(size..)) {
            Some(rest) => bytes = rest,
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use flumen_log::BatchBuilder;

    fn batch(base: i64, len: usize) -> Bytes {
        let mut builder = BatchBuilder::new().base_offset(base);
        builder.push(1, None, Some(&vec![7; len]));
        builder.build().unwrap()
    }

    #[test]
    fn batches_in_pieces_are_put_together() {
        let (a, b, c) = (batch(0, 10), batch(1, 100), batch(2, 30));
        let both = Bytes::from([&a[..], &b[..]].concat());
        let pieces = vec![
            both.clone(),
            b.slice(..61),
            b.slice(61..),
            c.slice(..20),
            c.slice(20..61),
            c.slice(61..),
            a.clone(),
        ];
        assert_eq!(whole_batches(pieces), [both, b.clone(), c, a.clone()]);
        let cut = vec![a.clone(), b.slice(..61), b.slice(61..90)];
        assert_eq!(whole_batches(cut), [a, b.slice(..90)]);
        assert_eq!(whole_batches(Vec::new()), Vec::<Bytes>::new());
    }
}
