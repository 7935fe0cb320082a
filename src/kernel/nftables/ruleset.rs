//! Questions about the ruleset. Each answer is read only as far as it is needed.

use netlink_packet_netfilter::nftables::{
    ChainMessage, GenMessage, NfTablesMessage, RuleAttribute, RuleMessage, SetElementFlags,
    SetElementList, SetElementMessage, TableAttribute, TableFlags, TableMessage,
};
use nix::errno::Errno;
use nix::libc;

use super::batch::{self, in_set};
use super::{Batch, COMMENT, Element, RuleMark, Set, Table, message};
use crate::kernel::answer::{self, Attributes};
use crate::kernel::netlink::{Error, Netlink};

/// An answer of nf_tables: `struct nfgenmsg` (`linux/netfilter/nfnetlink.h`), which begins with the
/// family, and attributes. Numbers of attributes are from `linux/netfilter/nf_tables.h`.
type Answer = answer::Answer<4>;

/// No table in particular.
const ANY: Table = Table { family: libc::NFPROTO_UNSPEC as u8, name: "" };

/// A rule, as far as it is read.
#[derive(Debug)]
pub struct SeenRule {
    pub chain: String,
    /// The list of expressions, as it came.
    pub expressions: Vec<u8>,
    user_data: Vec<u8>,
}

/// A base chain.
#[derive(Debug)]
pub struct SeenChain {
    /// The family of its table.
    pub family: u8,
    /// The number of its hook, in that family.
    pub hook: u32,
    /// What happens to a packet that no rule decides on.
    pub policy: u32,
    /// Its table's name.
    pub table: String,
    pub name: String,
}

/// The ruleset of a network namespace. Reading it takes CAP_NET_ADMIN as well.
pub struct Ruleset {
    pub(super) netlink: Netlink,
}

impl Ruleset {
    /// Opens the ruleset of the calling process's network namespace.
    pub fn open() -> Result<Ruleset, Error> {
        Ok(Ruleset { netlink: Netlink::open_netfilter()? })
    }

    /// The socket, for the rest of netfilter.
    pub fn socket(&mut self) -> &mut Netlink {
        &mut self.netlink
    }

    /// The number of the generation, which changes with each transaction of any process.
    pub fn generation(&mut self) -> Result<u32, Error> {
        const ID: u16 = 1;
        let question = NfTablesMessage::GetGen(GenMessage { attributes: Vec::new() });
        let answer: Answer = self.netlink.ask(message(ANY, question))?;
        answer.number_be(ID).ok_or_else(|| Error::Reply("no generation".to_owned()))
    }

    /// Whether a table is there, and in force: the admin can make one dormant.
    pub fn has_table(&mut self, table: Table) -> Result<bool, Error> {
        const FLAGS: u16 = 2;
        let attributes = vec![TableAttribute::Name(table.name.to_owned())];
        let question = NfTablesMessage::GetTable(TableMessage { attributes });
        let answer: Option<Answer> = found(self.netlink.ask(message(table, question)))?;
        let flags = answer.map(|answer| answer.number_be(FLAGS).unwrap_or_default());
        let flags = flags.map(TableFlags::from_bits_retain);
        Ok(flags.is_some_and(|flags| !flags.contains(TableFlags::Dormant)))
    }

    /// What tells the rules of a table from others; those of a chain are in their order.
    pub fn marks(&mut self, table: Table) -> Result<Vec<RuleMark>, Error> {
        let mark = |rule: SeenRule| (table.family, rule.chain, rule.user_data);
        Ok(self.rules(table)?.into_iter().map(mark).collect())
    }

    /// All rules of a table.
    pub fn rules(&mut self, table: Table) -> Result<Vec<SeenRule>, Error> {
        const CHAIN: u16 = 2;
        const EXPRESSIONS: u16 = 4;
        const USER_DATA: u16 = 7;
        let attributes = vec![RuleAttribute::Table(table.name.to_owned())];
        let question = NfTablesMessage::GetRule(RuleMessage { attributes });
        let answers: Vec<Answer> = self.netlink.ask_all(message(table, question))?;
        let read = |answer: Answer| SeenRule {
            chain: answer.text(CHAIN).unwrap_or_default(),
            expressions: answer.get(EXPRESSIONS).unwrap_or_default().to_vec(),
            user_data: answer.get(USER_DATA).unwrap_or_default().to_vec(),
        };
        Ok(answers.into_iter().map(read).collect())
    }

    /// Every base chain of every table.
    pub fn base_chains(&mut self) -> Result<Vec<SeenChain>, Error> {
        const TABLE: u16 = 1;
        const NAME: u16 = 3;
        const HOOK: u16 = 4;
        const HOOK_NUMBER: u16 = 1;
        const POLICY: u16 = 5;
        let question = NfTablesMessage::GetChain(ChainMessage { attributes: Vec::new() });
        let answers: Vec<Answer> = self.netlink.ask_all(message(ANY, question))?;
        let read = |answer: Answer| {
            Some(SeenChain {
                family: *answer.header.first()?,
                hook: answer.nested(HOOK)?.number_be(HOOK_NUMBER)?,
                policy: answer.number_be(POLICY)?,
                table: answer.text(TABLE)?,
                name: answer.text(NAME)?,
            })
        };
        Ok(answers.into_iter().filter_map(read).collect())
    }

    /// The element of `set` with this key; `None` where there is no such element, set or table.
    pub fn element(&mut self, set: &Set, key: Vec<u8>) -> Result<Option<Element>, Error> {
        self.element_in(set.table, set.name, key)
    }

    /// The same of any set.
    pub fn element_in(
        &mut self,
        table: Table,
        set: &str,
        key: Vec<u8>,
    ) -> Result<Option<Element>, Error> {
        let mut attributes = in_set(table, set);
        attributes.push(SetElementList::Elements(vec![batch::element(&Element::key(key))]));
        let question = NfTablesMessage::GetSetElement(SetElementMessage { attributes });
        let answer: Option<Answer> = match self.netlink.ask(message(table, question)) {
            // Its keys have another length: the set was made by another version of this program.
            Err(error) if error.is(Errno::EINVAL) => None,
            answer => found(answer)?,
        };
        Ok(answer.iter().flat_map(elements).next())
    }

    /// All elements of `set`; none where there is no such set or table.
    pub fn elements(&mut self, set: &Set) -> Result<Vec<Element>, Error> {
        let request = SetElementMessage { attributes: in_set(set.table, set.name) };
        let question = message(set.table, NfTablesMessage::GetSetElement(request));
        let answers: Option<Vec<Answer>> = found(self.netlink.ask_all(question))?;
        Ok(answers.iter().flatten().flat_map(elements).collect())
    }

    /// Carries a transaction out, if the ruleset is still of this generation; else the error is
    /// ERESTART. Another error is that of the first request that failed.
    pub fn commit(&mut self, batch: Batch, generation: u32) -> Result<(), Error> {
        match batch.is_empty() {
            // The kernel would not answer.
            true => Ok(()),
            false => self.netlink.tell(batch.framed(generation)),
        }
    }
}

/// What was asked for, or `None` if there is no such thing.
fn found<T>(answer: Result<T, Error>) -> Result<Option<T>, Error> {
    match answer {
        Err(error) if error.is(Errno::ENOENT) => Ok(None),
        other => other.map(Some),
    }
}

/// The elements in an answer.
fn elements(answer: &Answer) -> Vec<Element> {
    const LIST: u16 = 3;
    const KEY: u16 = 1;
    const VALUE: u16 = 2;
    const FLAGS: u16 = 3;
    const USER_DATA: u16 = 6;
    // Keys and values are wrapped once more.
    const DATA_VALUE: u16 = 1;
    let read = |bytes: &[u8]| {
        let element = Attributes::read(bytes);
        let data = |kind| Some(element.nested(kind)?.get(DATA_VALUE)?.to_vec());
        let flags = element.number_be(FLAGS).map(SetElementFlags::from_bits_retain);
        Element {
            key: data(KEY).unwrap_or_default(),
            value: data(VALUE).unwrap_or_default(),
            comment: element.get(USER_DATA).map(comment).unwrap_or_default(),
            end: flags.is_some_and(|flags| flags.contains(SetElementFlags::IntervalEnd)),
            last: Vec::new(),
        }
    };
    let list = answer.nested(LIST);
    list.iter().flat_map(Attributes::iter).map(|(_, element)| read(element)).collect()
}

/// The comment in the user data of an element.
fn comment(data: &[u8]) -> String {
    match data {
        [COMMENT, length, rest @ ..] => {
            let text = rest.get(..usize::from(*length)).unwrap_or_default();
            answer::text(text)
        }
        _ => String::new(),
    }
}
