//! Transactions.

use netlink_packet_core::{DefaultNla, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, DataAttribute, Hook, HookNumber, ListAttribute, NfTablesMessage,
    RuleAttribute, RuleMessage, SetAttribute, SetDescription, SetElementAttribute, SetElementFlags,
    SetElementList, SetElementMessage, SetFlags, SetMessage, TableAttribute, TableFlags,
    TableMessage,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};

use super::{COMMENT, Chain, Element, Kind, Rule, Set, Table, message, text_data, user_data};
use crate::kernel::answer::nested;
use crate::kernel::netlink::Change;

/// Types of what nft keeps in a set's user data (`libnftnl/udata.h`).
const SET_KEY_BYTE_ORDER: u8 = 0;
const SET_VALUE_BYTE_ORDER: u8 = 1;
const SET_COMMENT: u8 = 7;

/// The most elements in one message: an attribute has 64 KiB at most.
const MOST_ELEMENTS: usize = 500;

/// A transaction: all of it is done, or nothing.
#[derive(Debug, Default)]
pub struct Batch {
    changes: Vec<Change<NetfilterMessage>>,
}

impl Batch {
    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
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
        // The type of a concatenation has six bits for each part.
        let kind = |kinds: &[Kind]| kinds.iter().fold(0, |all, kind| all << 6 | *kind as u32);
        // nft shows a plain key as it is in memory, unless told that it is in network order.
        let order = |kinds: &[Kind]| match kinds {
            [Kind::IfName | Kind::Mark] => 1_u32.to_ne_bytes(),
            _ => 2_u32.to_ne_bytes(),
        };
        let mut flags = SetFlags::empty();
        flags.set(SetFlags::Interval, set.ranges);
        flags.set(SetFlags::Concat, set.ranges && set.key.len() > 1);
        flags.set(SetFlags::Map, !set.value.is_empty());
        let mut data = user_data(SET_KEY_BYTE_ORDER, &order(set.key));
        if !set.value.is_empty() {
            data.extend(user_data(SET_VALUE_BYTE_ORDER, &order(set.value)));
        }
        data.extend(text_data(SET_COMMENT, set.comment));
        let mut attributes = vec![
            SetAttribute::Table(set.table.name.to_owned()),
            SetAttribute::Name(set.name.to_owned()),
            SetAttribute::Flags(flags),
            SetAttribute::KeyType(kind(set.key)),
            SetAttribute::KeyLen(length(set.key)),
            SetAttribute::Id(u32::try_from(self.changes.len()).unwrap_or_default()),
            SetAttribute::UserData(data),
        ];
        if !set.value.is_empty() {
            attributes.push(SetAttribute::DataType(kind(set.value)));
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
        let request = NfTablesMessage::NewChain(ChainMessage { attributes });
        self.push(chain.table, request, NLM_F_CREATE);
    }

    /// Deletes every rule of a table.
    pub fn flush_rules(&mut self, table: Table) {
        let attributes = vec![RuleAttribute::Table(table.name.to_owned())];
        self.push(table, NfTablesMessage::DeleteRule(RuleMessage { attributes }), 0);
    }

    /// Adds a rule at the end of its chain.
    pub fn add_rule(&mut self, rule: &Rule, version: u8) {
        let (_, chain, data) = rule.mark(version);
        let expressions = (rule.phrases)().into_iter().map(ListAttribute::from).collect();
        let attributes = vec![
            RuleAttribute::Table(rule.chain.table.name.to_owned()),
            RuleAttribute::Chain(chain),
            RuleAttribute::Expressions(expressions),
            RuleAttribute::UserData(data),
        ];
        let request = NfTablesMessage::NewRule(RuleMessage { attributes });
        // "Create" without "append" would put it at the beginning.
        self.push(rule.chain.table, request, NLM_F_CREATE | NLM_F_APPEND);
    }

    /// Adds elements. One that is there already stays as it is; the error is EEXIST if it has another
    /// value.
    pub fn add(&mut self, set: &Set, elements: &[Element]) {
        self.change(set, elements, NfTablesMessage::NewSetElement, NLM_F_CREATE);
    }

    /// Adds elements; the error is EEXIST if one is there already.
    pub fn create(&mut self, set: &Set, elements: &[Element]) {
        self.change(set, elements, NfTablesMessage::NewSetElement, NLM_F_CREATE | NLM_F_EXCL);
    }

    /// Deletes elements; the error is ENOENT if one is not there.
    pub fn delete(&mut self, set: &Set, elements: &[Element]) {
        self.change(set, elements, NfTablesMessage::DeleteSetElement, 0);
    }

    /// Deletes all elements.
    pub fn flush(&mut self, set: &Set) {
        let request = SetElementMessage { attributes: in_set(set.table, set.name) };
        self.push(set.table, NfTablesMessage::DeleteSetElement(request), 0);
    }

    fn change(
        &mut self,
        set: &Set,
        elements: &[Element],
        request: fn(SetElementMessage) -> NfTablesMessage,
        flags: u16,
    ) {
        for some in elements.chunks(MOST_ELEMENTS) {
            let mut attributes = in_set(set.table, set.name);
            attributes.push(SetElementList::Elements(some.iter().map(element).collect()));
            self.push(set.table, request(SetElementMessage { attributes }), flags);
        }
    }

    fn push(&mut self, table: Table, request: NfTablesMessage, flags: u16) {
        self.changes.push((message(table, request), flags));
    }

    /// All messages of the transaction, from its beginning to its end. The last change asks for an
    /// acknowledgement: errors come in the order of the changes, so the first answer tells.
    pub(super) fn framed(self, generation: u32) -> Vec<Change<NetfilterMessage>> {
        /// `linux/netfilter/nfnetlink.h`
        const NFNL_MSG_BATCH_BEGIN: u8 = 16;
        const NFNL_BATCH_GENID: u16 = 1;
        const NFNL_SUBSYS_NFTABLES: u16 = 10;
        let frame = |control: ControlMessage| {
            let family = NetfilterProtoFamily::Unspec;
            let header = NetfilterHeader::new(family, 0, NFNL_SUBSYS_NFTABLES);
            (NetfilterMessage::new(header, control), 0)
        };
        let generation = DefaultNla::new(NFNL_BATCH_GENID, generation.to_be_bytes().to_vec());
        let mut all = vec![frame(ControlMessage::Other {
            message_type: NFNL_MSG_BATCH_BEGIN,
            attributes: vec![generation],
        })];
        all.extend(self.changes);
        if let Some((_, flags)) = all.last_mut() {
            *flags |= NLM_F_ACK;
        }
        all.push(frame(ControlMessage::BatchEnd));
        all
    }
}

/// What says which set is meant.
pub(super) fn in_set(table: Table, set: &str) -> Vec<SetElementList> {
    vec![SetElementList::Table(table.name.to_owned()), SetElementList::Set(set.to_owned())]
}

/// An element, as one of a list.
pub(super) fn element(element: &Element) -> ListAttribute<SetElementAttribute> {
    let value = |bytes: &Vec<u8>| DataAttribute::Value(bytes.clone());
    let mut attributes = Vec::new();
    if element.end {
        attributes.push(SetElementAttribute::Flags(SetElementFlags::IntervalEnd));
    }
    attributes.push(SetElementAttribute::Key(value(&element.key)));
    if !element.last.is_empty() {
        const NFTA_DATA_VALUE: u16 = 1;
        let last = DefaultNla::new(NFTA_DATA_VALUE, element.last.clone());
        attributes.push(SetElementAttribute::KeyEnd(vec![last]));
    }
    if !element.value.is_empty() {
        attributes.push(SetElementAttribute::Data(value(&element.value)));
    }
    if !element.comment.is_empty() {
        attributes.push(SetElementAttribute::UserData(text_data(COMMENT, &element.comment)));
    }
    ListAttribute::Element(attributes)
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
