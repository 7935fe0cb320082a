//! Transactions.

use netlink_packet_core::{DefaultNla, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, Hook, HookNumber, ListAttribute, NfTablesMessage, RuleAttribute,
    RuleMessage, SetAttribute, SetDescription, SetElementList, SetElementMessage, SetFlags,
    SetMessage, TableAttribute, TableFlags, TableMessage,
};

use super::{COMMENT, Chain, Element, Kind, Rule, Set, Table, text_data, user_data};
use crate::kernel::netlink::nested;

/// Types of what nft keeps in a set's user data (`libnftnl/udata.h`).
const SET_KEY_BYTE_ORDER: u8 = 0;
const SET_VALUE_BYTE_ORDER: u8 = 1;
const SET_COMMENT: u8 = 7;

/// The most elements in one message: an attribute has 64 KiB at most.
const MOST_ELEMENTS: usize = 500;

/// A transaction: all of it is done, or nothing.
#[derive(Debug, Default)]
pub struct Batch {
    /// Each with the family of the table that it is about, and its flags.
    pub(super) messages: Vec<(u8, NfTablesMessage, u16)>,
}

impl Batch {
    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Makes the table, if there is none.
    pub fn add_table(&mut self, table: Table, comment: &str) {
        let attributes = vec![
            TableAttribute::Name(table.name.to_owned()),
            TableAttribute::Flags(TableFlags::empty()),
            TableAttribute::UserData(text_data(COMMENT, comment)),
        ];
        self.push(table, NfTablesMessage::NewTable(TableMessage { attributes }), NLM_F_CREATE);
    }

    /// Deletes the table with all that is in it.
    pub fn delete_table(&mut self, table: Table) {
        let attributes = vec![TableAttribute::Name(table.name.to_owned())];
        self.push(table, NfTablesMessage::DeleteTable(TableMessage { attributes }), 0);
    }

    /// Makes a set or map, if there is none like it.
    pub fn add_set(&mut self, set: &Set) {
        let length = |kinds: &[Kind]| kinds.iter().map(|kind| kind.length()).sum();
        let mut flags = SetFlags::empty();
        flags.set(SetFlags::Interval, set.ranges);
        flags.set(SetFlags::Concat, set.ranges && set.key.len() > 1);
        flags.set(SetFlags::Map, !set.value.is_empty());
        // nft shows a plain key as it is in memory, unless told that it is in network order.
        let order = |kinds: &[Kind]| match kinds {
            [Kind::IfName | Kind::Mark] => 1_u32.to_ne_bytes(),
            _ => 2_u32.to_ne_bytes(),
        };
        let mut data = user_data(SET_KEY_BYTE_ORDER, &order(set.key));
        if !set.value.is_empty() {
            data.extend(user_data(SET_VALUE_BYTE_ORDER, &order(set.value)));
        }
        data.extend(text_data(SET_COMMENT, set.comment));
        let number = u32::try_from(self.messages.len()).unwrap_or_default();
        let mut attributes = vec![
            SetAttribute::Table(set.table.name.to_owned()),
            SetAttribute::Name(set.name.to_owned()),
            SetAttribute::Flags(flags),
            SetAttribute::KeyType(Kind::concatenated(set.key)),
            SetAttribute::KeyLen(length(set.key)),
            SetAttribute::Id(number),
            SetAttribute::UserData(data),
        ];
        if !set.value.is_empty() {
            attributes.push(SetAttribute::DataType(Kind::concatenated(set.value)));
            attributes.push(SetAttribute::DataLen(length(set.value)));
        }
        if flags.contains(SetFlags::Concat) {
            attributes.push(SetAttribute::Description(vec![parts(set.key)]));
        }
        self.push(set.table, NfTablesMessage::NewSet(SetMessage { attributes }), NLM_F_CREATE);
    }

    /// Makes a chain, if there is none like it.
    pub fn add_chain(&mut self, chain: &Chain) {
        let mut attributes = vec![
            ChainAttribute::Table(chain.table.name.to_owned()),
            ChainAttribute::Name(chain.name.to_owned()),
        ];
        if let Some((kind, hook, priority)) = chain.base {
            attributes.push(ChainAttribute::Type(kind.to_owned()));
            attributes.push(ChainAttribute::Hook(vec![
                Hook::Number(HookNumber::Inet(hook)),
                Hook::Priority(priority.cast_unsigned()),
            ]));
        }
        self.push(
            chain.table,
            NfTablesMessage::NewChain(ChainMessage { attributes }),
            NLM_F_CREATE,
        );
    }

    /// Deletes every rule of a table.
    pub fn flush_rules(&mut self, table: Table) {
        let attributes = vec![RuleAttribute::Table(table.name.to_owned())];
        self.push(table, NfTablesMessage::DeleteRule(RuleMessage { attributes }), 0);
    }

    /// Adds a rule at the end of its chain.
    pub fn add_rule(&mut self, rule: &Rule, version: u8) {
        let (_, chain, data) = rule.mark(version);
        let attributes = vec![
            RuleAttribute::Table(rule.chain.table.name.to_owned()),
            RuleAttribute::Chain(chain),
            RuleAttribute::Expressions(
                (rule.phrases)().into_iter().map(ListAttribute::from).collect(),
            ),
            RuleAttribute::UserData(data),
        ];
        // "Create" without "append" would put it at the beginning.
        self.push(
            rule.chain.table,
            NfTablesMessage::NewRule(RuleMessage { attributes }),
            NLM_F_CREATE | NLM_F_APPEND,
        );
    }

    /// Adds elements. One that is there already is left alone, unless it has another value, which
    /// is an error (EEXIST).
    pub fn add(&mut self, set: &Set, elements: &[Element]) {
        self.change(set, elements, NfTablesMessage::NewSetElement, NLM_F_CREATE);
    }

    /// Adds elements, of which none may be there already (EEXIST).
    pub fn create(&mut self, set: &Set, elements: &[Element]) {
        self.change(set, elements, NfTablesMessage::NewSetElement, NLM_F_CREATE | NLM_F_EXCL);
    }

    /// Deletes elements, of which all have to be there (ENOENT).
    pub fn delete(&mut self, set: &Set, elements: &[Element]) {
        self.change(set, elements, NfTablesMessage::DeleteSetElement, 0);
    }

    /// Deletes all elements.
    pub fn flush(&mut self, set: &Set) {
        let attributes = in_set(set);
        self.push(
            set.table,
            NfTablesMessage::DeleteSetElement(SetElementMessage { attributes }),
            0,
        );
    }

    fn change(
        &mut self,
        set: &Set,
        elements: &[Element],
        request: fn(SetElementMessage) -> NfTablesMessage,
        flags: u16,
    ) {
        for some in elements.chunks(MOST_ELEMENTS) {
            let mut attributes = in_set(set);
            let list = some.iter().map(Element::attributes).collect();
            attributes.push(SetElementList::Elements(list));
            self.push(set.table, request(SetElementMessage { attributes }), flags);
        }
    }

    fn push(&mut self, table: Table, message: NfTablesMessage, flags: u16) {
        self.messages.push((table.family, message, flags));
    }
}

/// What says which set is meant.
pub(super) fn in_set(set: &Set) -> Vec<SetElementList> {
    vec![SetElementList::Table(set.table.name.to_owned()), SetElementList::Set(set.name.to_owned())]
}

/// The lengths of a key's parts, each of which has a range of its own.
fn parts(key: &[Kind]) -> SetDescription {
    const NFTA_SET_FIELD_LEN: u16 = 1;
    const NFTA_LIST_ELEM: u16 = 1;
    let part = |kind: &Kind| {
        let length = kind.length().to_be_bytes().to_vec();
        nested(NFTA_LIST_ELEM, &[DefaultNla::new(NFTA_SET_FIELD_LEN, length)])
    };
    SetDescription::Concat(key.iter().map(part).collect())
}
