//! The ruleset, as the kernel tells of it: tables, chains, rules, elements, and what became of a
//! transaction.
#![no_main]

use netsetgo::fuzzing::nftables::look;
use netsetgo::fuzzing::one_line;
use netsetgo::fuzzing::{dnat, others, publish};

netsetgo_fuzz::target!(check);

fn check(bytes: &[u8]) {
    let Some(seen) = look(bytes, publish::map(bytes)) else { return };
    publish::check(&seen);
    others::check(&seen);
    dnat::check(&seen);
    seen.error.map(|error| one_line(error, bytes.len()));
}
