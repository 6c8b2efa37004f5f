//! Offset and time indexes of a segment.
