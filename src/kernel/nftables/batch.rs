//! Transactions.

use netlink_packet_core::{DefaultNla, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_netfilter::nftables::{ListAttribute, SetElementFlags, SetFlags};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};

use super::{COMMENT, Chain, Element, Kind, Request, Rule, Set, Table};
use super::{message, number, text, text_data, user_data};
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
    pub(super) changes: Vec<Change<NetfilterMessage>>,
}

impl Batch {
    /// Makes the table, if there is none.
    pub fn add_table(&mut self, table: Table, comment: &str) {
        // NFTA_TABLE_FLAGS, NFTA_TABLE_USERDATA.
        let attributes = vec![number(2, 0), DefaultNla::new(6, text_data(COMMENT, comment))];
        self.push(table, Request::NewTable, attributes, NLM_F_CREATE);
    }

    /// Deletes the table with all that is in it.
    pub fn delete_table(&mut self, table: Table) {
        self.push(table, Request::DeleteTable, Vec::new(), 0);
    }

    /// Makes a set or map, if there is none like it.
    pub fn add_set(&mut self, set: &Set) {
        let length = |kinds: &[Kind]| kinds.iter().map(|kind| kind.length()).sum();
        // The type of a concatenation has six bits for each part.
        let kind = |kinds: &[Kind]| kinds.iter().fold(0, |all, kind| all << 6 | *kind as u32);
        // nft shows a plain key as it is in memory, unless told that it is in network order.
        let order = |what: u8, kinds: &[Kind]| match kinds {
            [] => Vec::new(),
            [Kind::IfName | Kind::Mark] => user_data(what, &1_u32.to_ne_bytes()),
            _ => user_data(what, &2_u32.to_ne_bytes()),
        };
        let data = [
            order(SET_KEY_BYTE_ORDER, set.key),
            order(SET_VALUE_BYTE_ORDER, set.value),
            text_data(SET_COMMENT, set.comment),
        ];
        let mut flags = SetFlags::empty();
        flags.set(SetFlags::Interval, set.ranges);
        flags.set(SetFlags::Concat, set.ranges && set.key.len() > 1);
        flags.set(SetFlags::Map, !set.value.is_empty());
        let id = u32::try_from(self.changes.len()).unwrap_or_default();
        // NFTA_SET_NAME, _FLAGS, _KEY_TYPE, _KEY_LEN, _ID, _USERDATA.
        let mut attributes = vec![text(2, set.name), number(3, flags.bits())];
        attributes.extend([number(4, kind(set.key)), number(5, length(set.key)), number(10, id)]);
        attributes.push(DefaultNla::new(13, data.concat()));
        if flags.contains(SetFlags::Map) {
            // NFTA_SET_DATA_TYPE, NFTA_SET_DATA_LEN.
            attributes.extend([number(6, kind(set.value)), number(7, length(set.value))]);
        }
        if flags.contains(SetFlags::Concat) {
            // The lengths of the parts, each of which has a range of its own: NFTA_SET_DESC with
            // NFTA_SET_DESC_CONCAT, a list of NFTA_SET_FIELD_LEN.
            let part = |kind: &Kind| nested(1, &[number(1, kind.length())]);
            let parts: Vec<_> = set.key.iter().map(part).collect();
            attributes.push(nested(9, &[nested(2, &parts)]));
        }
        self.push(set.table, Request::NewSet, attributes, NLM_F_CREATE);
    }

    /// Makes a chain, if there is none like it.
    pub fn add_chain(&mut self, chain: &Chain) {
        // NFTA_CHAIN_NAME.
        let mut attributes = vec![text(3, chain.name)];
        if let Some((kind, hook, priority)) = chain.base {
            // NFTA_CHAIN_TYPE, NFTA_CHAIN_HOOK with NFTA_HOOK_HOOKNUM and NFTA_HOOK_PRIORITY.
            let hook = [number(1, hook.into()), number(2, priority.cast_unsigned())];
            attributes.extend([text(7, kind), nested(4, &hook)]);
        }
        self.push(chain.table, Request::NewChain, attributes, NLM_F_CREATE);
    }

    /// Deletes every rule of a table.
    pub fn flush_rules(&mut self, table: Table) {
        self.push(table, Request::DeleteRule, Vec::new(), 0);
    }

    /// Adds a rule at the end of its chain.
    pub fn add_rule(&mut self, rule: &Rule, version: u8) {
        let (_, chain, data) = rule.mark(version);
        let expressions: Vec<_> = (rule.phrases)().into_iter().map(ListAttribute::from).collect();
        // NFTA_RULE_CHAIN, NFTA_RULE_EXPRESSIONS, NFTA_RULE_USERDATA.
        let attributes = vec![text(2, &chain), nested(4, &expressions), DefaultNla::new(7, data)];
        // "Create" without "append" would put it at the beginning.
        self.push(rule.chain.table, Request::NewRule, attributes, NLM_F_CREATE | NLM_F_APPEND);
    }

    /// Adds elements. One that is there already stays as it is; the error is EEXIST if it has another
    /// value.
    pub fn add(&mut self, set: &Set, elements: &[Element]) {
        self.change(set, elements, Request::NewSetElement, NLM_F_CREATE);
    }

    /// Adds elements; the error is EEXIST if one is there already.
    pub fn create(&mut self, set: &Set, elements: &[Element]) {
        self.change(set, elements, Request::NewSetElement, NLM_F_CREATE | NLM_F_EXCL);
    }

    /// Deletes elements; the error is ENOENT if one is not there.
    pub fn delete(&mut self, set: &Set, elements: &[Element]) {
        self.change(set, elements, Request::DeleteSetElement, 0);
    }

    /// Deletes all elements.
    pub fn flush(&mut self, set: &Set) {
        self.push(set.table, Request::DeleteSetElement, vec![text(2, set.name)], 0);
    }

    fn change(&mut self, set: &Set, elements: &[Element], request: Request, flags: u16) {
        for some in elements.chunks(MOST_ELEMENTS) {
            self.push(set.table, request, of_set(set, some), flags);
        }
    }

    fn push(&mut self, table: Table, request: Request, attributes: Vec<DefaultNla>, flags: u16) {
        self.changes.push((message(table, request, attributes), flags));
    }

    /// All messages of the transaction, from its beginning to its end. The last change asks for an
    /// acknowledgement: errors come in the order of the changes, so the first answer tells.
    pub(super) fn framed(mut self, generation: u32) -> Vec<Change<NetfilterMessage>> {
        if let Some((_, flags)) = self.changes.last_mut() {
            *flags |= NLM_F_ACK;
        }
        // NFNL_MSG_BATCH_BEGIN, NFNL_BATCH_GENID (`linux/netfilter/nfnetlink.h`).
        let attributes = vec![number(1, generation)];
        let begin = ControlMessage::Other { message_type: 16, attributes };
        let [begin, end] = [begin, ControlMessage::BatchEnd].map(|control| {
            // NFNL_SUBSYS_NFTABLES.
            let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, 10);
            (NetfilterMessage::new(header, control), 0)
        });
        [vec![begin], self.changes, vec![end]].into_iter().flatten().collect()
    }
}

/// The attributes of a message about these elements of a set.
pub(super) fn of_set(set: &Set, elements: &[Element]) -> Vec<DefaultNla> {
    let elements: Vec<_> = elements.iter().map(element).collect();
    // NFTA_SET_ELEM_LIST_SET, NFTA_SET_ELEM_LIST_ELEMENTS.
    vec![text(2, set.name), nested(3, &elements)]
}

/// An element, as one of a list (NFTA_LIST_ELEM).
fn element(element: &Element) -> DefaultNla {
    let Element { key, value, comment, end, last } = element;
    let given = |bytes: &[u8]| Some(bytes.to_vec()).filter(|bytes| !bytes.is_empty());
    // NFTA_DATA_VALUE.
    let data = |kind, bytes| given(bytes).map(|bytes| nested(kind, &[DefaultNla::new(1, bytes)]));
    let comment = (!comment.is_empty()).then(|| DefaultNla::new(6, text_data(COMMENT, comment)));
    let end = end.then(|| number(3, SetElementFlags::IntervalEnd.bits()));
    // NFTA_SET_ELEM_FLAGS, _KEY, _KEY_END, _DATA, _USERDATA.
    let attributes = [end, data(1, key), data(10, last), data(2, value), comment];
    nested(1, &attributes.into_iter().flatten().collect::<Vec<_>>())
}
