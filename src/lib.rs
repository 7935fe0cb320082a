//! netsetgo gives a rootless container kernel-speed networking.
//!
//! A run is one straight line, a module a step: [`caller`] becomes the caller, [`cli`] reads what
//! he asks for, [`filter`] leaves it what that takes of the kernel, [`policy`] says whether he may,
//! [`target`] opens the container's namespace, [`container`] proves that he may configure it, and
//! does the work inside, [`host`] makes the bridge and the firewall, takes the lease and publishes
//! ports, [`report`] prints the outcome. [`attach`] puts the steps together; [`hook`], [`delete`],
//! [`list`], [`check`] and [`prune`] are what else there is to ask for. [`audit`] tells the
//! system's log. The rest serves them: [`address`], [`ports`], [`dns`], [`accounts`], [`netlink`],
//! [`link`], [`inet`] and [`nftables`], [`error`], and [`sys`], the only place with unsafe
//! code.

pub mod accounts;
pub mod address;
pub mod attach;
pub mod audit;
pub mod caller;
pub mod check;
pub mod cli;
pub mod container;
pub mod delete;
pub mod dns;
pub mod error;
pub mod filter;
#[cfg(fuzzing)]
#[path = "../tests/fuzz/within/mod.rs"]
pub mod fuzzing;
pub mod hook;
pub mod host;
pub mod inet;
pub mod link;
pub mod list;
pub mod netlink;
pub mod nftables;
pub mod policy;
pub mod ports;
pub mod prune;
pub mod report;
pub mod sys;
pub mod target;
