//! What the caller asks for, and what the policy grants.
#![allow(missing_docs, reason = "only this crate's own program looks in here")]

pub mod accounts;
pub mod address;
pub mod cli;
pub(crate) mod grant;
pub mod hook_state;
pub mod policy;
pub mod ports;
pub(crate) mod read;
