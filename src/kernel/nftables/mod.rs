//! A small client of nf_tables, `nft(8)`. Its changes are transactions, which can be made to count only
//! if nobody else has changed anything since one looked: so what is decided by looking needs no lock.

mod answer;
mod batch;
pub mod expression;

use std::net::Ipv4Addr;

use netlink_packet_core::{DefaultNla, NLM_F_ACK};
use netlink_packet_netfilter::nftables::{
    ChainMessage, DataAttribute, Expressions, GenMessage, InetHookNumber, ListAttribute,
    NfTablesMessage, RuleAttribute, RuleMessage, SetElementAttribute, SetElementFlags,
    SetElementList, SetElementMessage, TableAttribute, TableFlags, TableMessage,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};
use nix::errno::Errno;

use self::answer::{Answer, elements, number};
pub use self::batch::Batch;
use crate::kernel::netlink::{Error, Netlink, attributes};

/// The subsystem of a message's type (`NFNL_SUBSYS_NFTABLES`, `linux/netfilter/nfnetlink.h`).
const SUBSYSTEM: u16 = 10;

/// The message that begins a transaction, and its attribute that names the generation of the ruleset
/// that it is for (`NFNL_MSG_BATCH_BEGIN`, `NFNL_BATCH_GENID`).
const BATCH_BEGIN: u8 = 16;
const BATCH_GENERATION: u16 = 1;

/// What a key is wrapped in (`NFTA_DATA_VALUE`).
const DATA_VALUE: u16 = 1;

/// Types of what nft itself keeps in user data, so that it lists it well (`libnftnl/udata.h`).
const COMMENT: u8 = 0;
/// One that nft does not know, and passes over.
const VERSION: u8 = 0x4e;

/// Families of tables (`linux/netfilter.h`).
const NFPROTO_UNSPEC: u8 = 0;
/// IPv4 and IPv6 together.
pub const NFPROTO_INET: u8 = 1;
/// IPv4 alone.
pub const NFPROTO_IPV4: u8 = 2;
/// What goes through bridges.
pub const NFPROTO_BRIDGE: u8 = 7;

/// A table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table {
    /// Its family, an `NFPROTO_*`.
    pub family: u8,
    /// Its name.
    pub name: &'static str,
}

/// What the bytes of a key are, for nft (`enum datatypes`, `datatype.h`).
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// The name of an interface.
    IfName = 41,
    /// An IPv4 address.
    Ipv4 = 7,
    /// An Ethernet address.
    Ether = 9,
    /// The number of a protocol over IP.
    Protocol = 12,
    /// A port.
    Port = 13,
    /// A number without a meaning to others.
    Mark = 19,
    /// The index of an interface.
    IfIndex = 20,
}

impl Kind {
    /// The length in bytes, as a part of a concatenation: whole registers.
    fn length(self) -> u32 {
        match self {
            Kind::IfName => 16,
            Kind::Ether => 8,
            Kind::Ipv4 | Kind::Protocol | Kind::Port | Kind::Mark | Kind::IfIndex => 4,
        }
    }

    /// The type of a concatenation: six bits each.
    fn concatenated(kinds: &[Kind]) -> u32 {
        kinds.iter().fold(0, |all, kind| all << 6 | *kind as u32)
    }
}

/// A named set, or a map if its elements have values.
#[derive(Debug)]
pub struct Set {
    /// The table that it is in.
    pub table: Table,
    /// Its name.
    pub name: &'static str,
    /// What it is for.
    pub comment: &'static str,
    /// What a key consists of.
    pub key: &'static [Kind],
    /// What a value consists of: nothing, but for a map.
    pub value: &'static [Kind],
    /// Whether its keys are ranges.
    pub ranges: bool,
}

/// A chain, and if it has a hook, where the kernel calls it.
#[derive(Debug)]
pub struct Chain {
    /// The table that it is in.
    pub table: Table,
    /// Its name.
    pub name: &'static str,
    /// Its type, hook and priority, if it is a base chain.
    pub base: Option<(&'static str, InetHookNumber, i32)>,
}

/// A rule.
#[derive(Debug)]
pub struct Rule {
    /// The chain that it is in.
    pub chain: &'static Chain,
    /// What it is for.
    pub comment: &'static str,
    /// What it consists of.
    pub phrases: fn() -> Vec<Expressions>,
}

/// What there is to tell one rule from another: the family of its table, its chain and its user data.
/// That has the comment, and the version of the ruleset that it is of, so a rule need not be
/// understood to be recognised.
pub type RuleMark = (u8, String, Vec<u8>);

impl Rule {
    /// What tells this rule, of this version of the ruleset, from others.
    pub fn mark(&self, version: u8) -> RuleMark {
        let mut data = text_data(COMMENT, self.comment);
        data.extend(user_data(VERSION, &[version]));
        (self.chain.table.family, self.chain.name.to_owned(), data)
    }
}

/// An element of a set or map.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Element {
    /// Its key, each part filled up to whole registers.
    pub key: Vec<u8>,
    /// Its value, likewise; empty in a set.
    pub value: Vec<u8>,
    /// Its comment; empty if there is none.
    pub comment: String,
    /// Whether it only says that a range ends before this key.
    pub end: bool,
    /// The last key of a range, where keys have several parts; empty if it is this one.
    pub last: Vec<u8>,
}

impl Element {
    /// An element of a set.
    pub fn key(key: Vec<u8>) -> Element {
        Element { key, ..Element::default() }
    }

    /// The IPv4 address that the key begins with.
    pub fn ipv4(&self) -> Option<Ipv4Addr> {
        self.key.first_chunk().copied().map(Ipv4Addr::from)
    }

    fn attributes(&self) -> ListAttribute<SetElementAttribute> {
        let mut attributes = Vec::new();
        if self.end {
            attributes.push(SetElementAttribute::Flags(SetElementFlags::IntervalEnd));
        }
        attributes.push(SetElementAttribute::Key(DataAttribute::Value(self.key.clone())));
        if !self.last.is_empty() {
            let value = DefaultNla::new(DATA_VALUE, self.last.clone());
            attributes.push(SetElementAttribute::KeyEnd(vec![value]));
        }
        if !self.value.is_empty() {
            attributes.push(SetElementAttribute::Data(DataAttribute::Value(self.value.clone())));
        }
        if !self.comment.is_empty() {
            attributes.push(SetElementAttribute::UserData(text_data(COMMENT, &self.comment)));
        }
        ListAttribute::Element(attributes)
    }
}

/// The ruleset of a network namespace. Everything takes CAP_NET_ADMIN, looking as well.
pub struct Ruleset {
    netlink: Netlink,
}

impl Ruleset {
    /// Opens the ruleset of the calling process's network namespace.
    ///
    /// # Errors
    /// [`Error::Socket`].
    pub fn open() -> Result<Ruleset, Error> {
        Ok(Ruleset { netlink: Netlink::open_netfilter()? })
    }

    /// The socket, for the rest of netfilter.
    pub fn socket(&mut self) -> &mut Netlink {
        &mut self.netlink
    }

    /// The number of the generation: it changes with every transaction of anybody's.
    ///
    /// # Errors
    /// [`Error`].
    pub fn generation(&mut self) -> Result<u32, Error> {
        const ID: u16 = 1;
        let question = NfTablesMessage::GetGen(GenMessage { attributes: Vec::new() });
        let answer = self.ask(NFPROTO_UNSPEC, question)?;
        answer.get(ID).and_then(number).ok_or_else(|| Error::Reply("no generation".to_owned()))
    }

    /// Whether a table is there, and in force: an administrator can make one dormant.
    pub fn has_table(&mut self, table: Table) -> Result<bool, Error> {
        self.is_in_force(table.family, table.name)
    }

    /// The same of any table.
    pub fn is_in_force(&mut self, family: u8, table: &str) -> Result<bool, Error> {
        let attributes = vec![TableAttribute::Name(table.to_owned())];
        let question = NfTablesMessage::GetTable(TableMessage { attributes });
        const FLAGS: u16 = 2;
        let answer = found(self.ask(family, question))?;
        let flags = |answer: &Answer| answer.get(FLAGS).and_then(number).unwrap_or_default();
        Ok(answer.is_some_and(|answer| {
            !TableFlags::from_bits_retain(flags(&answer)).contains(TableFlags::Dormant)
        }))
    }

    /// Whether a set of the table has this key.
    pub fn has_key(
        &mut self,
        (family, table): (u8, &str),
        set: &str,
        key: Vec<u8>,
    ) -> Result<bool, Error> {
        let attributes = vec![
            SetElementList::Table(table.to_owned()),
            SetElementList::Set(set.to_owned()),
            SetElementList::Elements(vec![Element::key(key).attributes()]),
        ];
        let question = NfTablesMessage::GetSetElement(SetElementMessage { attributes });
        Ok(found(self.ask(family, question))?.is_some())
    }

    /// What tells the rules of a table from others; those of a chain are in their order.
    ///
    /// # Errors
    /// [`Error`].
    pub fn marks(&mut self, table: Table) -> Result<Vec<RuleMark>, Error> {
        let rules = self.rules_of(table.family, table.name)?;
        Ok(rules.into_iter().map(|rule| (table.family, rule.chain, rule.user_data)).collect())
    }

    /// Every rule of a table, be it one of this program's or another's.
    ///
    /// # Errors
    /// [`Error`].
    pub fn rules_of(&mut self, family: u8, table: &str) -> Result<Vec<SeenRule>, Error> {
        const CHAIN: u16 = 2;
        const EXPRESSIONS: u16 = 4;
        const USER_DATA: u16 = 7;
        let attributes = vec![RuleAttribute::Table(table.to_owned())];
        let question = message(family, NfTablesMessage::GetRule(RuleMessage { attributes }));
        let answers: Vec<Answer> = self.netlink.ask_all(question)?;
        let bytes = |answer: &Answer, kind| answer.get(kind).unwrap_or_default().to_vec();
        let read = |answer: Answer| SeenRule {
            chain: answer.text(CHAIN).unwrap_or_default(),
            expressions: bytes(&answer, EXPRESSIONS),
            user_data: bytes(&answer, USER_DATA),
        };
        Ok(answers.into_iter().map(read).collect())
    }

    /// Every base chain of every table.
    ///
    /// # Errors
    /// [`Error`].
    pub fn base_chains(&mut self) -> Result<Vec<SeenChain>, Error> {
        const TABLE: u16 = 1;
        const NAME: u16 = 3;
        const HOOK: u16 = 4;
        const POLICY: u16 = 5;
        const HOOK_NUMBER: u16 = 1;
        let everything = NfTablesMessage::GetChain(ChainMessage { attributes: Vec::new() });
        let question = message(NFPROTO_UNSPEC, everything);
        let answers: Vec<Answer> = self.netlink.ask_all(question)?;
        let read = |answer: Answer| {
            let hook = attributes(answer.get(HOOK)?);
            let hook = hook.iter().find(|(kind, _)| *kind == HOOK_NUMBER)?;
            Some(SeenChain {
                family: *answer.header.first()?,
                hook: number(&hook.1)?,
                policy: answer.get(POLICY).and_then(number)?,
                table: answer.text(TABLE)?,
                name: answer.text(NAME)?,
            })
        };
        Ok(answers.into_iter().filter_map(read).collect())
    }

    /// The element of `set` with this key. `None` where there is no such element, set or table.
    ///
    /// # Errors
    /// [`Error`].
    pub fn element(&mut self, set: &Set, key: Vec<u8>) -> Result<Option<Element>, Error> {
        let mut attributes = batch::in_set(set);
        attributes.push(SetElementList::Elements(vec![Element::key(key).attributes()]));
        let question = NfTablesMessage::GetSetElement(SetElementMessage { attributes });
        let answer = found(self.ask(set.table.family, question))?;
        Ok(answer.into_iter().flat_map(elements).next())
    }

    /// All elements of `set`; none where there is no such set or table.
    ///
    /// # Errors
    /// [`Error`].
    pub fn elements(&mut self, set: &Set) -> Result<Vec<Element>, Error> {
        let attributes = batch::in_set(set);
        let request = NfTablesMessage::GetSetElement(SetElementMessage { attributes });
        let question = message(set.table.family, request);
        let answers: Vec<Answer> = found(self.netlink.ask_all(question))?.unwrap_or_default();
        Ok(answers.into_iter().flat_map(elements).collect())
    }

    /// Carries a transaction out: if a generation is given, only if that is the present one.
    ///
    /// # Errors
    /// [`Error::Kernel`] with ERESTART when the generation is over, and with the reason of the first
    /// request that could not be fulfilled otherwise.
    pub fn commit(&mut self, batch: Batch, generation: Option<u32>) -> Result<(), Error> {
        if batch.is_empty() {
            // Nothing is asked for, so nothing would be answered.
            return Ok(());
        }
        let frame = |control: ControlMessage| {
            let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, SUBSYSTEM);
            (NetfilterMessage::new(header, control), 0)
        };
        let attributes = generation
            .map(|generation| DefaultNla::new(BATCH_GENERATION, generation.to_be_bytes().to_vec()))
            .into_iter()
            .collect();
        let mut messages =
            vec![frame(ControlMessage::Other { message_type: BATCH_BEGIN, attributes })];
        let last = batch.messages.len();
        for (number, (family, request, flags)) in (1..).zip(batch.messages) {
            // Errors come in order, so the first answer tells: the last request's is the success.
            let flags = if number == last { flags | NLM_F_ACK } else { flags };
            messages.push((message(family, request), flags));
        }
        messages.push(frame(ControlMessage::BatchEnd));
        Ok(self.netlink.tell(messages)?)
    }

    fn ask(&mut self, family: u8, request: NfTablesMessage) -> Result<Answer, Error> {
        self.netlink.ask(message(family, request))
    }
}

fn message(family: u8, request: NfTablesMessage) -> NetfilterMessage {
    NetfilterMessage::new(NetfilterHeader::new(family.into(), 0, 0), request)
}

/// What was asked for, or `None` if there is no such thing.
fn found<T>(answer: Result<T, Error>) -> Result<Option<T>, Error> {
    match answer {
        Err(error) if error.is(Errno::ENOENT) => Ok(None),
        other => other.map(Some),
    }
}

/// A rule, as far as it is looked at.
#[derive(Debug)]
pub struct SeenRule {
    /// The chain that it is in.
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
    /// What becomes of a packet that no rule decides on.
    pub policy: u32,
    /// Its table's name.
    pub table: String,
    /// Its name.
    pub name: String,
}

/// A piece of user data: type, length and value, a byte each of the first two.
fn user_data(kind: u8, value: &[u8]) -> Vec<u8> {
    let value = value.get(..usize::from(u8::MAX)).unwrap_or(value);
    let length = u8::try_from(value.len()).unwrap_or(u8::MAX);
    [&[kind, length], value].concat()
}

/// A piece of user data that is a text.
fn text_data(kind: u8, words: &str) -> Vec<u8> {
    user_data(kind, &[words.as_bytes(), &[0]].concat())
}

/// What the fuzz targets check here.
#[cfg(fuzzing)]
#[path = "../../../tests/fuzz/within/nftables.rs"]
pub mod fuzzing;
