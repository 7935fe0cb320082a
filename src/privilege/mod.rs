//! What the process may do: become the caller, raise a capability for one request, and leave itself
//! few system calls.

pub mod caller;
pub mod child;
pub mod filter;
pub mod sys;
