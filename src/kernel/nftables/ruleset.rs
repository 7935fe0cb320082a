//! Questions about the ruleset. Each answer is read only as far as it is needed. Attributes have the
//! numbers of `linux/netfilter/nf_tables.h`.

use netlink_packet_netfilter::nftables::{SetElementFlags, TableFlags};
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;
use nix::libc;

use super::batch::of_set;
use super::{Batch, COMMENT, Element, Request, RuleMark, Set, Table, message, text};
use crate::kernel::answer::{self, Attributes};
use crate::kernel::netlink::{Error, Netlink, Result, found};

/// An answer of nf_tables: `struct nfgenmsg` (`linux/netfilter/nfnetlink.h`), which begins with the
/// family, and attributes.
pub type Answer = answer::Answer<4>;

/// No table in particular.
const ANY: Table = Table { family: libc::NFPROTO_UNSPEC as u8, name: "" };

/// The ruleset of a network namespace. Reading it takes CAP_NET_ADMIN as well.
pub struct Ruleset {
    /// The socket, also for the rest of netfilter.
    pub netlink: Netlink,
}

impl Ruleset {
    /// Opens the ruleset of the calling process's network namespace.
    pub fn open() -> Result<Ruleset> {
        // NFT_MSG_GETRULE is answered by NFT_MSG_NEWRULE, and so on.
        Ok(Ruleset { netlink: Netlink::connect(NETLINK_NETFILTER, 1)? })
    }

    /// The number of the generation, which changes with each transaction of any process.
    pub fn generation(&mut self) -> Result<u32> {
        let answer: Answer = self.netlink.ask(message(ANY, Request::GetGen, Vec::new()))?;
        // NFTA_GEN_ID.
        answer.number_be(1).ok_or_else(|| Error::Reply("no generation".to_owned()))
    }

    /// Whether a table is there, and in force: the admin can make one dormant.
    pub fn has_table(&mut self, table: Table) -> Result<bool> {
        let question = message(table, Request::GetTable, Vec::new());
        let answer: Option<Answer> = found(self.netlink.ask(question))?;
        // NFTA_TABLE_FLAGS.
        let flags = answer.map(|answer| answer.number_be(2).unwrap_or_default());
        Ok(flags.is_some_and(|flags| flags & TableFlags::Dormant.bits() == 0))
    }

    /// What tells the rules of a table from others; those of a chain are in their order.
    pub fn marks(&mut self, table: Table) -> Result<Vec<RuleMark>> {
        let mark = |rule: &Answer| {
            // NFTA_RULE_CHAIN, NFTA_RULE_USERDATA.
            let data = rule.get(7).unwrap_or_default().to_vec();
            (table.family, rule.text(2).unwrap_or_default(), data)
        };
        Ok(self.rules(table)?.iter().map(mark).collect())
    }

    /// All rules of a table.
    pub fn rules(&mut self, table: Table) -> Result<Vec<Answer>> {
        self.netlink.ask_all(message(table, Request::GetRule, Vec::new()))
    }

    /// All chains of all tables.
    pub fn chains(&mut self) -> Result<Vec<Answer>> {
        self.netlink.ask_all(message(ANY, Request::GetChain, Vec::new()))
    }

    /// The element of `set` with this key; `None` where there is no such element, set or table.
    pub fn element(&mut self, set: &Set, key: Vec<u8>) -> Result<Option<Element>> {
        let attributes = of_set(set, &[Element::key(key)]);
        let question = message(set.table, Request::GetSetElement, attributes);
        let answer: Option<Answer> = match self.netlink.ask(question) {
            // Its keys have another length: the set was made by another version of this program.
            Err(error) if error.is(Errno::EINVAL) => None,
            answer => found(answer)?,
        };
        Ok(answer.iter().flat_map(elements).next())
    }

    /// All elements of `set`; none where there is no such set or table.
    pub fn elements(&mut self, set: &Set) -> Result<Vec<Element>> {
        // NFTA_SET_ELEM_LIST_SET.
        let question = message(set.table, Request::GetSetElement, vec![text(2, set.name)]);
        let answers = found(self.netlink.ask_all(question))?;
        Ok(answers.iter().flatten().flat_map(elements).collect())
    }

    /// Carries a transaction out, if the ruleset is still of this generation; else the error is
    /// ERESTART. Another error is that of the first request that failed.
    pub fn commit(&mut self, batch: Batch, generation: u32) -> Result<()> {
        match batch.changes.is_empty() {
            // The kernel would not answer.
            true => Ok(()),
            false => self.netlink.tell(batch.framed(generation)),
        }
    }
}

/// The elements in an answer.
fn elements(answer: &Answer) -> Vec<Element> {
    let read = |element: Attributes<&[u8]>| {
        // The value of a key or of data is NFTA_DATA_VALUE.
        let data = |kind| element.nested(kind).get(1).unwrap_or_default().to_vec();
        // NFTA_SET_ELEM_KEY, _DATA, _FLAGS, _USERDATA.
        Element {
            key: data(1),
            value: data(2),
            end: element.number_be(3).unwrap_or_default() & SetElementFlags::IntervalEnd.bits()
                != 0,
            comment: element.get(6).map(comment).unwrap_or_default(),
            last: Vec::new(),
        }
    };
    // NFTA_SET_ELEM_LIST_ELEMENTS.
    answer.nested(3).iter().map(|(_, element)| read(Attributes(element))).collect()
}

/// The comment in the user data of an element.
fn comment(data: &[u8]) -> String {
    let [COMMENT, length, rest @ ..] = data else { return String::new() };
    answer::text(rest.get(..usize::from(*length)).unwrap_or_default())
}
