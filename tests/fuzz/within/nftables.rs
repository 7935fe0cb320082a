//! The ruleset, as nf_tables tells of it.
#![allow(missing_docs, clippy::unwrap_used)]

use super::*;
use crate::kernel::netlink::Error;
use crate::kernel::netlink::fuzzing::{NETFILTER, are_parts, kernel};

/// What is looked at of a ruleset.
#[derive(Default)]
pub struct Seen {
    pub elements: Vec<Element>,
    pub rules: Vec<Answer>,
    pub error: Option<Error>,
}

/// Answers about a ruleset: the first byte says to which question.
pub fn look(bytes: &[u8], set: &Set) -> Option<Seen> {
    // Types of answers (`linux/netfilter/nf_tables.h`), and one that is none.
    const NEW_TABLE: u16 = 10 << 8;
    const NEW_CHAIN: u16 = NEW_TABLE + 3;
    const NEW_RULE: u16 = NEW_TABLE + 6;
    const NEW_ELEMENT: u16 = NEW_TABLE + 12;
    const NEW_GENERATION: u16 = NEW_TABLE + 15;
    const ANSWERS: [u16; 8] =
        [NEW_GENERATION, NEW_TABLE, NEW_RULE, NEW_CHAIN, NEW_ELEMENT, NEW_ELEMENT, NEW_RULE, 1];
    let (question, rest) = bytes.split_first()?;
    let question = usize::from(question % 8);
    let netlink = kernel(NETFILTER, ANSWERS[question], rest)?;
    let mut ruleset = Ruleset { netlink: netlink.netlink };
    are_parts(rest);
    user_data(COMMENT, rest);
    let mut seen = Seen::default();
    let done = match question {
        0 => ruleset.generation().map(drop),
        1 => ruleset.has_table(set.table).map(drop),
        2 => ruleset.marks(set.table).map(drop),
        3 => ruleset.chains().map(drop),
        4 => ruleset.element(set, vec![0; 8]).map(|one| seen.elements.extend(one)),
        5 => ruleset.elements(set).map(|all| seen.elements = all),
        6 => ruleset
            .rules(Table { family: NFPROTO_IPV4, name: "filter" })
            .map(|all| seen.rules = all),
        _ => {
            let mut batch = Batch::default();
            batch.add(set, &[Element::key(rest.to_vec())]);
            ruleset.commit(batch, 7)
        }
    };
    seen.error = done.err();
    Some(seen)
}
