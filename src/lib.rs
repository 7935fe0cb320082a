//! netsetgo gives a rootless container kernel-speed networking.
//!
//! A run goes through the rooms from the top down; `docs/design.md` has the map of them. What the
//! program itself uses has its name here.

#![cfg_attr(fuzzing, allow(missing_docs, reason = "the fuzz door exports whole modules"))]

mod commands;
mod firewall;
#[cfg(fuzzing)]
#[path = "../tests/fuzz/within/mod.rs"]
pub mod fuzzing;
mod inside;
mod kernel;
mod network;
mod privilege;
mod publish;
mod report;
mod request;
mod target;

pub use commands::delete::{delete, let_go};
pub use commands::{attach::attach, check::check, hook::hook, list::list, prune::prune};
pub use privilege::{caller::become_caller, capability::give_up_all, filter, sys};
pub use report::{error::Result, failure, print};
pub use request::cli::{Request, VERSION, help, parse};
