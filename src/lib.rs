//! netsetgo gives a rootless container kernel-speed networking.
//!
//! A run goes through the rooms from the top down; `docs/design.md` has the map of them.

pub mod commands;
mod firewall;
#[cfg(fuzzing)]
#[path = "../tests/fuzz/within/mod.rs"]
pub mod fuzzing;
mod inside;
mod kernel;
mod network;
pub mod privilege;
mod publish;
pub mod report;
pub mod request;
mod target;
