//! Questions about the ruleset. Each answer is read only as far as it is needed. Attributes have the
//! numbers of `linux/netfilter/nf_tables.h`.

use netlink_packet_netfilter::nftables::{
    ChainMessage, GenMessage, NfTablesMessage, RuleAttribute, RuleMessage, SetElementFlags,
    SetElementList, SetElementMessage, TableAttribute, TableFlags, TableMessage,
};
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;
use nix::libc;

use super::batch::{self, in_set};
use super::{Batch, COMMENT, Element, RuleMark, Set, Table, message};
use crate::kernel::answer::{self, Attributes};
use crate::kernel::netlink::{Error, Netlink, found};

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
    pub fn open() -> Result<Ruleset, Error> {
        // NFT_MSG_GETRULE is answered by NFT_MSG_NEWRULE, and so on.
        Ok(Ruleset { netlink: Netlink::connect(NETLINK_NETFILTER, 1)? })
    }

    /// The number of the generation, which changes with each transaction of any process.
    pub fn generation(&mut self) -> Result<u32, Error> {
        let question = NfTablesMessage::GetGen(GenMessage { attributes: Vec::new() });
        let answer: Answer = self.netlink.ask(message(ANY, question))?;
        // NFTA_GEN_ID.
        answer.number_be(1).ok_or_else(|| Error::Reply("no generation".to_owned()))
    }

    /// Whether a table is there, and in force: the admin can make one dormant.
    pub fn has_table(&mut self, table: Table) -> Result<bool, Error> {
        let attributes = vec![TableAttribute::Name(table.name.to_owned())];
        let question = NfTablesMessage::GetTable(TableMessage { attributes });
        let answer: Option<Answer> = found(self.netlink.ask(message(table, question)))?;
        // NFTA_TABLE_FLAGS.
        let flags = answer.map(|answer| answer.number_be(2).unwrap_or_default());
        Ok(flags.is_some_and(|flags| flags & TableFlags::Dormant.bits() == 0))
    }

    /// What tells the rules of a table from others; those of a chain are in their order.
    pub fn marks(&mut self, table: Table) -> Result<Vec<RuleMark>, Error> {
        let mark = |rule: &Answer| {
            // NFTA_RULE_CHAIN, NFTA_RULE_USERDATA.
            let data = rule.get(7).unwrap_or_default().to_vec();
            (table.family, rule.text(2).unwrap_or_default(), data)
        };
        Ok(self.rules(table)?.iter().map(mark).collect())
    }

    /// All rules of a table.
    pub fn rules(&mut self, table: Table) -> Result<Vec<Answer>, Error> {
        let attributes = vec![RuleAttribute::Table(table.name.to_owned())];
        let question = NfTablesMessage::GetRule(RuleMessage { attributes });
        self.netlink.ask_all(message(table, question))
    }

    /// All chains of all tables.
    pub fn chains(&mut self) -> Result<Vec<Answer>, Error> {
        let question = NfTablesMessage::GetChain(ChainMessage { attributes: Vec::new() });
        self.netlink.ask_all(message(ANY, question))
    }

    /// The element of `set` with this key; `None` where there is no such element, set or table.
    pub fn element(&mut self, set: &Set, key: Vec<u8>) -> Result<Option<Element>, Error> {
        let mut attributes = in_set(set);
        attributes.push(SetElementList::Elements(vec![batch::element(&Element::key(key))]));
        let question = NfTablesMessage::GetSetElement(SetElementMessage { attributes });
        let answer: Option<Answer> = match self.netlink.ask(message(set.table, question)) {
            // Its keys have another length: the set was made by another version of this program.
            Err(error) if error.is(Errno::EINVAL) => None,
            answer => found(answer)?,
        };
        Ok(answer.iter().flat_map(elements).next())
    }

    /// All elements of `set`; none where there is no such set or table.
    pub fn elements(&mut self, set: &Set) -> Result<Vec<Element>, Error> {
        let question =
            NfTablesMessage::GetSetElement(SetElementMessage { attributes: in_set(set) });
        let answers = found(self.netlink.ask_all(message(set.table, question)))?;
        Ok(answers.iter().flatten().flat_map(elements).collect())
    }

    /// Carries a transaction out, if the ruleset is still of this generation; else the error is
    /// ERESTART. Another error is that of the first request that failed.
    pub fn commit(&mut self, batch: Batch, generation: u32) -> Result<(), Error> {
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
            value: data(2),
            end: element.number_be(3).unwrap_or_default() & SetElementFlags::IntervalEnd.bits()
                != 0,
            comment: element.get(6).map(comment).unwrap_or_default(),
            ..Element::key(data(1))
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
