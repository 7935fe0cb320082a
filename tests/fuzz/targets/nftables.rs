//! The ruleset, as the kernel tells of it: tables, chains, rules, elements, and what became of a
//! transaction.
#![no_main]

use netsetgo::fuzzing::one_line;
use netsetgo::host::{blocked, publish};
use netsetgo::nftables::fuzzing::look;

netsetgo_fuzz::target!(check);

fn check(bytes: &[u8]) {
    let Some(seen) = look(bytes, publish::fuzzing::map(bytes)) else { return };
    publish::fuzzing::check(&seen);
    blocked::fuzzing::check(&seen);
    seen.error.map(|error| one_line(error, bytes.len()));
}
