//! To be written: see io.rs for the boundary.
// pub mod io;
