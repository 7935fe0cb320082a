//! The integration tests: they run the installed helper, as an unprivileged user, on hosts of their
//! own, and look at the result with iproute2 and `/proc` alone.
//!
//! Each test makes a [`world::World`], a small host of network, mount and pid namespaces which
//! vanishes with the test; the machine itself is never touched. That takes root: `sudo tests/run`.

// What a test cannot do without, it may demand.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod advertise;
mod attach;
mod attacks;
mod audit;
mod bridge_deleted;
mod caller;
mod cgroups;
mod check;
mod delete;
mod dnat;
mod dns;
mod double_fetch;
mod failed;
mod filter;
mod firewall_healed;
mod growth;
mod hook;
mod hostile_environment;
mod icmp_errors;
mod install;
mod isolation;
mod known_holes;
mod leftover;
mod let_go;
mod limits;
mod list;
mod local_users;
mod midway;
mod no_router;
mod other_firewalls;
mod others_dnat;
mod owners;
mod policy;
mod protocols;
mod publish;
mod races;
mod refused;
mod runner;
mod runners;
mod scale;
mod spoofing;
mod stale;
mod stopped_publishers;
mod target;
mod usage;
mod way_out;
mod world;
