//! Segments and their file names.
