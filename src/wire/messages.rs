//! Every request and response of the client listener, generated from `schemas/`: a module per message with its
//! structures; the message itself is re-exported here.

include!(concat!(env!("OUT_DIR"), "/messages.rs"));
