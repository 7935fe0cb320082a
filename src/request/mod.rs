//! What the caller asks for, and what the policy grants.

pub mod accounts;
pub mod address;
pub mod cli;
pub mod grant;
pub mod hook_state;
pub mod policy;
pub mod ports;
pub mod read;
