//! The door of the fuzz targets into the library: the modules and checks that they use, and what the
//! checks share. This file and those beside it are compiled for the targets alone (`cfg(fuzzing)`).
//! A check that needs private items is a child of the module that it checks, as unit tests are.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod host;

use std::fmt::Display;
use std::str;

pub use crate::firewall::dnat::fuzzing as dnat;
pub use crate::firewall::others::fuzzing as others;
pub use crate::inside::fuzzing as inside;
pub use crate::kernel::nftables::fuzzing as nftables;
pub use crate::publish::fuzzing as publish;
pub use crate::report::dns::fuzzing as dns;
pub use crate::request::hook_state::fuzzing as hook;
pub use crate::request::policy::fuzzing as policy;
pub use crate::request::{accounts, cli, ports};

/// How long a line may be: whatever of the input is in it can have been escaped.
const LONGEST: (usize, usize) = (1000, 16);

/// Sees that an error is one line that does nothing to a terminal, and in proportion to an input of
/// this length.
pub fn one_line(error: impl Display, length: usize) {
    let line = crate::report::line(&error.to_string());
    let text = line.strip_prefix("netsetgo: ").unwrap().strip_suffix('\n').unwrap();
    assert!(!text.is_empty(), "an error without a word");
    assert!(!text.chars().any(deceives), "{text:?}");
    assert!(line.len() <= LONGEST.0 + LONGEST.1 * length, "{} bytes for {length}", line.len());
}

/// Whether a terminal does something else with it than show it: control characters, line separators,
/// and what changes the direction of writing (Unicode, UAX #9).
fn deceives(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The input as so many texts, with zeros between them; the last has the rest. None if it is no text.
pub fn texts<const COUNT: usize>(bytes: &[u8]) -> Option<[&str; COUNT]> {
    let parts: Vec<_> = str::from_utf8(bytes).ok()?.splitn(COUNT, '\0').collect();
    parts.try_into().ok()
}

/// The input as pieces, each after its length in two bytes.
pub fn pieces(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut pieces = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk() {
        let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
        let (piece, rest) = rest.split_at(length);
        pieces.push(piece);
        bytes = rest;
    }
    pieces
}
