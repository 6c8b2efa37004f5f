//! Every request and response of the client listener, generated from `schemas/`: a module per
//! message with its structures; the message itself is re-exported here.

#[allow(clippy::all)] // generated
mod generated {
    include!(concat!(env!("OUT_DIR"), "/messages.rs"));
}
pub use generated::*;
