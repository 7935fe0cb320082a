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

use nix::libc;

use super::expression::Statement;
use super::{
    COMMENT, Chain, Element, Kind, NFPROTO_IPV4, Rule, Set, Table, message, number, text,
    text_data, user_data,
};
use crate::kernel::answer::nested;
use crate::kernel::netlink::Change;

/// Types of what nft keeps in a set's user data (`libnftnl/udata.h`).
const SET_KEY_BYTE_ORDER: u8 = 0;
const SET_VALUE_BYTE_ORDER: u8 = 1;
const SET_COMMENT: u8 = 7;

/// `NFT_OBJECT_LIMIT`, `NFT_OBJECT_CT_TIMEOUT` (`linux/netfilter/nf_tables.h`).
const LIMIT: u32 = 4;
pub(super) const CT_TIMEOUT: u32 = 7;

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
        let length = |kinds: &[Kind]| match kinds {
            // Alone, it is as long as it is.
            [Kind::Protocol] => 1,
            _ => kinds.iter().map(|kind| kind.length()).sum(),
        };
        // The type of a concatenation has six bits for each part.
        let kind = |kinds: &[Kind]| kinds.iter().fold(0, |all, kind| all << 6 | *kind as u32);
        // nft shows a plain key as it is in memory, unless told that it is in network order.
        let order = |what: u8, kinds: &[Kind]| match kinds {
            [] => Vec::new(),
            [Kind::IfName | Kind::Uid] => user_data(what, &1_u32.to_ne_bytes()),
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
        flags.set(SetFlags::Eval, set.by_rules.is_some());
        flags.set(SetFlags::Object, set.limits);
        let mut attributes = vec![
            SetAttribute::Table(set.table.name.to_owned()),
            SetAttribute::Name(set.name.to_owned()),
            SetAttribute::Flags(flags),
            SetAttribute::KeyType(kind(set.key)),
            SetAttribute::KeyLen(length(set.key)),
            SetAttribute::Id(u32::try_from(self.changes.len()).unwrap_or_default()),
            SetAttribute::UserData(data.concat()),
        ];
        if flags.contains(SetFlags::Map) {
            attributes.push(SetAttribute::DataType(kind(set.value)));
            attributes.push(SetAttribute::DataLen(length(set.value)));
        }
        if set.limits {
            attributes.push(SetAttribute::ObjectType(LIMIT));
        }
        if let Some(most) = set.by_rules {
            attributes.push(SetAttribute::Description(vec![SetDescription::Size(most)]));
        }
        if flags.contains(SetFlags::Concat) {
            // The lengths of the parts, each of which has a range of its own: NFTA_SET_FIELD_LEN, each in
            // an NFTA_LIST_ELEM.
            let part = |kind: &Kind| nested(1, &[number(1, kind.length())]);
            let parts = SetDescription::Concat(set.key.iter().map(part).collect());
            attributes.push(SetAttribute::Description(vec![parts]));
        }
        self.push(set.table, NfTablesMessage::NewSet(SetMessage { attributes }), NLM_F_CREATE);
    }

    /// Makes a limit of so many packets a second, and a burst, if there is none of this name.
    pub fn add_limit(&mut self, table: Table, name: &str, rate: u32, burst: u32) {
        let long = |kind, value: u32| DefaultNla::new(kind, u64::from(value).to_be_bytes().into());
        // NFTA_LIMIT_RATE, NFTA_LIMIT_UNIT (a second), NFTA_LIMIT_BURST.
        self.add_object(table, name, LIMIT, &[long(1, rate), long(2, 1), number(3, burst)]);
    }

    /// Makes timeouts for TCP connections over IPv4, in seconds by state (`enum ctattr_timeout_tcp`,
    /// `linux/netfilter/nfnetlink_cttimeout.h`), if there are none of this name.
    pub fn add_tcp_timeouts(&mut self, table: Table, name: &str, timeouts: &[(u16, u32)]) {
        let timeouts: Vec<_> = timeouts.iter().map(|(state, time)| number(*state, *time)).collect();
        // NFTA_CT_TIMEOUT_L3PROTO, NFTA_CT_TIMEOUT_L4PROTO, NFTA_CT_TIMEOUT_DATA.
        let family = DefaultNla::new(1, u16::from(NFPROTO_IPV4).to_be_bytes().into());
        let protocol = DefaultNla::new(2, vec![libc::IPPROTO_TCP as u8]);
        self.add_object(table, name, CT_TIMEOUT, &[family, protocol, nested(3, &timeouts)]);
    }

    fn add_object(&mut self, table: Table, name: &str, kind: u32, data: &[DefaultNla]) {
        // NFTA_OBJ_TABLE, NFTA_OBJ_NAME, NFTA_OBJ_TYPE, NFTA_OBJ_DATA.
        let object = vec![text(1, table.name), text(2, name), number(3, kind), nested(4, data)];
        self.push(table, NfTablesMessage::NewObject(object), NLM_F_CREATE);
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

    pub fn flush_rules(&mut self, table: Table) {
        let attributes = vec![RuleAttribute::Table(table.name.to_owned())];
        self.push(table, NfTablesMessage::DeleteRule(RuleMessage { attributes }), 0);
    }

    /// Adds a rule at the end of its chain.
    pub fn add_rule(&mut self, rule: &Rule, version: &[u8], statements: Statement) {
        let (_, chain, data) = rule.mark(version);
        let expressions = statements.into_iter().map(ListAttribute::from).collect();
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

    pub fn flush(&mut self, set: &Set) {
        let request = SetElementMessage { attributes: in_set(set) };
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
            let mut attributes = in_set(set);
            attributes.push(SetElementList::Elements(some.iter().map(element).collect()));
            self.push(set.table, request(SetElementMessage { attributes }), flags);
        }
    }

    fn push(&mut self, table: Table, request: NfTablesMessage, flags: u16) {
        self.changes.push((message(table, request), flags));
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

/// What says which set is meant.
pub(super) fn in_set(set: &Set) -> Vec<SetElementList> {
    vec![SetElementList::Table(set.table.name.to_owned()), SetElementList::Set(set.name.to_owned())]
}

/// An element, as one of a list.
pub(super) fn element(element: &Element) -> ListAttribute<SetElementAttribute> {
    let Element { key, value, limit, comment, end, last } = element;
    let given = |bytes: &Vec<u8>| Some(bytes.clone()).filter(|bytes| !bytes.is_empty());
    let attributes = [
        end.then_some(SetElementAttribute::Flags(SetElementFlags::IntervalEnd)),
        Some(SetElementAttribute::Key(DataAttribute::Value(key.clone()))),
        // NFTA_DATA_VALUE.
        given(last).map(|last| SetElementAttribute::KeyEnd(vec![DefaultNla::new(1, last)])),
        given(value).map(|value| SetElementAttribute::Data(DataAttribute::Value(value))),
        (!limit.is_empty()).then(|| SetElementAttribute::ObjectRefrence(limit.clone())),
        (!comment.is_empty()).then(|| SetElementAttribute::UserData(text_data(COMMENT, comment))),
    ];
    ListAttribute::Element(attributes.into_iter().flatten().collect())
}
