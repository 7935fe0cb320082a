//! Transactions.

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, Hook, HookNumber, ListAttribute, NfTablesMessage, RuleAttribute,
    RuleMessage, SetAttribute, SetElementList, SetElementMessage, SetFlags, SetMessage,
    TableAttribute, TableFlags, TableMessage,
};

use super::{COMMENT, Chain, Element, Kind, Rule, Set, text_data, user_data};

/// Types of what nft keeps in a set's user data (`libnftnl/udata.h`).
const SET_KEY_BYTE_ORDER: u8 = 0;
const SET_COMMENT: u8 = 7;

/// The most elements in one message: an attribute has 64 KiB at most.
const MOST_ELEMENTS: usize = 500;

/// A transaction on a table: all of it is done, or nothing.
#[derive(Debug)]
pub struct Batch {
    pub(super) table: &'static str,
    pub(super) messages: Vec<(NfTablesMessage, u16)>,
}

impl Batch {
    /// An empty one.
    pub fn new(table: &'static str) -> Batch {
        Batch { table, messages: Vec::new() }
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Makes the table, if there is none.
    pub fn add_table(&mut self, comment: &str) {
        let attributes = vec![
            TableAttribute::Name(self.table.to_owned()),
            TableAttribute::Flags(TableFlags::empty()),
            TableAttribute::UserData(text_data(COMMENT, comment)),
        ];
        self.push(NfTablesMessage::NewTable(TableMessage { attributes }), NLM_F_CREATE);
    }

    /// Deletes the table with all that is in it.
    pub fn delete_table(&mut self) {
        let attributes = vec![TableAttribute::Name(self.table.to_owned())];
        self.push(NfTablesMessage::DeleteTable(TableMessage { attributes }), 0);
    }

    /// Makes a set or map, if there is none like it.
    pub fn add_set(&mut self, set: &Set) {
        let length = |kinds: &[Kind]| kinds.iter().map(|kind| kind.length()).sum();
        let mut flags = SetFlags::empty();
        flags.set(SetFlags::Interval, set.ranges);
        flags.set(SetFlags::Map, !set.value.is_empty());
        // nft shows a plain key as it is in memory, unless told that it is in network order.
        let order: u32 = if matches!(set.key, [Kind::IfName]) { 1 } else { 2 };
        let mut data = user_data(SET_KEY_BYTE_ORDER, &order.to_ne_bytes());
        data.extend(text_data(SET_COMMENT, set.comment));
        let number = u32::try_from(self.messages.len()).unwrap_or_default();
        let mut attributes = vec![
            SetAttribute::Table(self.table.to_owned()),
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
        self.push(NfTablesMessage::NewSet(SetMessage { attributes }), NLM_F_CREATE);
    }

    /// Makes a chain, if there is none like it.
    pub fn add_chain(&mut self, chain: &Chain) {
        let mut attributes = vec![
            ChainAttribute::Table(self.table.to_owned()),
            ChainAttribute::Name(chain.name.to_owned()),
        ];
        if let Some((kind, hook, priority)) = chain.base {
            attributes.push(ChainAttribute::Type(kind.to_owned()));
            attributes.push(ChainAttribute::Hook(vec![
                Hook::Number(HookNumber::Inet(hook)),
                Hook::Priority(priority.cast_unsigned()),
            ]));
        }
        self.push(NfTablesMessage::NewChain(ChainMessage { attributes }), NLM_F_CREATE);
    }

    /// Deletes every rule of the table.
    pub fn flush_rules(&mut self) {
        let attributes = vec![RuleAttribute::Table(self.table.to_owned())];
        self.push(NfTablesMessage::DeleteRule(RuleMessage { attributes }), 0);
    }

    /// Adds a rule at the end of its chain.
    pub fn add_rule(&mut self, rule: &Rule, version: u8) {
        let (_, data) = rule.mark(version);
        let attributes = vec![
            RuleAttribute::Table(self.table.to_owned()),
            RuleAttribute::Chain(rule.chain.to_owned()),
            RuleAttribute::Expressions(
                (rule.phrases)().into_iter().map(ListAttribute::from).collect(),
            ),
            RuleAttribute::UserData(data),
        ];
        // "Create" without "append" would put it at the beginning.
        self.push(
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
        let attributes = self.in_set(set);
        self.push(NfTablesMessage::DeleteSetElement(SetElementMessage { attributes }), 0);
    }

    pub(super) fn in_set(&self, set: &Set) -> Vec<SetElementList> {
        vec![SetElementList::Table(self.table.to_owned()), SetElementList::Set(set.name.to_owned())]
    }

    fn change(
        &mut self,
        set: &Set,
        elements: &[Element],
        request: fn(SetElementMessage) -> NfTablesMessage,
        flags: u16,
    ) {
        for some in elements.chunks(MOST_ELEMENTS) {
            let mut attributes = self.in_set(set);
            let list = some.iter().map(Element::attributes).collect();
            attributes.push(SetElementList::Elements(list));
            self.push(request(SetElementMessage { attributes }), flags);
        }
    }

    fn push(&mut self, message: NfTablesMessage, flags: u16) {
        self.messages.push((message, flags));
    }
}
