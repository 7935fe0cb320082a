//! What the process may do: it becomes the caller, raises a capability for one request at a time,
//! and leaves itself few system calls.

use std::fmt::Display;

use crate::report::error::{Error, Failed};

pub mod caller;
pub mod capability;
pub mod child;
pub mod filter;
pub mod sys;

/// For `map_err`: a step that failed on the way to being the caller.
fn failed<E: Display>(step: &'static str) -> impl Fn(E) -> Error {
    move |error| Failed::Caller(step, error.to_string()).into()
}
