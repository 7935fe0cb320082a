//! What rules consist of. A [`Field`] is what a rule reads of a packet; the functions here compare fields
//! or look them up, as `nft(8)` writes that. Each gives the expressions of one statement; a rule is such
//! statements in a row.

use std::ops::RangeInclusive;

use netlink_packet_core::DefaultNla;
use netlink_packet_netfilter::nftables::{
    Bitwise, Cmp, DataAttribute, Expressions, Immediate, Lookup, Meta, MetaKey, Operator, Payload,
    Register, Verdict, VerdictAttribute,
};

use super::batch::CT_TIMEOUT;
use super::{Chain, NFPROTO_IPV4, Set, number, text};
use crate::kernel::answer::nested;

/// The expressions of a statement.
pub type Statement = Vec<Expressions>;

/// Something that a rule reads of a packet: where from, its length in bytes, and the bits of it that count
/// (`None`: all).
#[derive(Debug, Clone, Copy)]
pub struct Field {
    from: From,
    length: u32,
    mask: Option<u32>,
}

/// Where a field comes from.
#[derive(Debug, Clone, Copy)]
enum From {
    Meta(MetaKey),
    /// A key of the packet's connection, and the direction that it is asked of, if it has one.
    Ct(u32, Option<u8>),
    /// Base, offset and length in bytes.
    Payload(u32, u32, u32),
    /// The type of the destination address: of any of the host's, or of the interface that it came by.
    FibType(u32),
}

const fn meta(key: MetaKey, length: u32) -> Field {
    Field { from: From::Meta(key), length, mask: None }
}

const fn ct(key: u32, direction: Option<u8>) -> Field {
    Field { from: From::Ct(key, direction), length: 4, mask: None }
}

const fn payload(base: u32, offset: u32, length: u32) -> Field {
    Field { from: From::Payload(base, offset, length), length, mask: None }
}

const fn fib_type(flags: u32) -> Field {
    Field { from: From::FibType(flags), length: 4, mask: None }
}

/// Directions of a connection (`linux/netfilter/nf_conntrack_tuple_common.h`).
const ORIGINAL: Option<u8> = Some(0);
const REPLY: Option<u8> = Some(1);

/// `nft_payload_bases` (`linux/netfilter/nf_tables.h`).
const LINK: u32 = 0;
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;

/// `nft_fib_flags` (`linux/netfilter/nf_tables.h`).
const FIB_DADDR: u32 = 1 << 1;
const FIB_IIF: u32 = 1 << 3;

pub const IIF: Field = meta(MetaKey::Iif, 4);
pub const OIF: Field = meta(MetaKey::Oif, 4);
pub const IIFNAME: Field = meta(MetaKey::Iifname, 16);
pub const OIFNAME: Field = meta(MetaKey::Oifname, 16);
pub const IIFKIND: Field = meta(MetaKey::Iifkind, 16);
pub const NFPROTO: Field = meta(MetaKey::Nfproto, 4);
pub const L4PROTO: Field = meta(MetaKey::L4Proto, 4);
pub const PROTOCOL: Field = meta(MetaKey::EtherTypeProtocol, 4);
pub const PKTTYPE: Field = meta(MetaKey::PacketType, 4);
pub const LENGTH: Field = meta(MetaKey::Length, 4);
/// The user of the socket that sent the packet. What the host forwards has none, and matches nothing.
pub const SKUID: Field = meta(MetaKey::SocketUserId, 4);

/// What the frame itself says it carries, where [`PROTOCOL`] looks behind a VLAN tag.
pub const ETHER_TYPE: Field = payload(LINK, 12, 2);
pub const ETHER_SADDR: Field = payload(LINK, 6, 6);
/// The first two bytes of the sender's Ethernet address.
pub const ETHER_SADDR_PREFIX: Field = payload(LINK, 6, 2);
/// RFC 791.
pub const SADDR: Field = payload(NETWORK, 12, 4);
pub const DADDR: Field = payload(NETWORK, 16, 4);
/// The first byte of either, for networks of the length 8.
pub const SADDR_PREFIX: Field = payload(NETWORK, 12, 1);
pub const DADDR_PREFIX: Field = payload(NETWORK, 16, 1);
/// RFC 826: the types and lengths of the addresses, and the sender's.
pub const ARP_TYPES: Field = payload(NETWORK, 0, 4);
pub const ARP_LENGTHS: Field = payload(NETWORK, 4, 2);
pub const ARP_SADDR_ETHER: Field = payload(NETWORK, 8, 6);
pub const ARP_SADDR_IP: Field = payload(NETWORK, 14, 4);
/// RFC 9293, RFC 768, RFC 792.
pub const DPORT: Field = payload(TRANSPORT, 2, 2);
pub const ICMP_TYPE: Field = payload(TRANSPORT, 0, 1);

/// Version and header length, identification and which fragment it is, and the protocol (RFC 791).
pub const IP_VERSION_LENGTH: Field = payload(NETWORK, 0, 1);
pub const IP_FRAGMENT: Field = payload(NETWORK, 4, 4);
pub const IP_PROTOCOL: Field = payload(NETWORK, 9, 1);
/// What follows an IPv4 header without options. The kernel reads the headers once more to find out where
/// [`TRANSPORT`] is, and before the first rule of a chain. So these are read by their place.
pub const PLAIN_SPORT: Field = payload(NETWORK, 20, 2);
pub const PLAIN_ICMP_TYPE_CODE: Field = payload(NETWORK, 20, 2);
pub const PLAIN_ICMP_TYPE: Field = payload(NETWORK, 20, 1);
/// The header of the packet that an ICMP error is about, and its destination (RFC 792).
pub const INNER_VERSION_LENGTH: Field = payload(NETWORK, 28, 1);
pub const INNER_DADDR: Field = payload(NETWORK, 44, 4);
/// The last bytes of: a header without options; the ports behind it, or an ARP message for IPv4; the ports
/// of the packet that an ICMP error is about.
pub const IPV4_END: Field = payload(NETWORK, 19, 1);
pub const PORTS_END: Field = payload(NETWORK, 27, 1);
pub const INNER_PORTS_END: Field = payload(NETWORK, 55, 1);

/// `nft_ct_keys` (`linux/netfilter/nf_tables.h`).
pub const CT_STATE: Field = ct(0, None);
pub const CT_DIRECTION: Field = ct(1, None);
pub const CT_STATUS: Field = ct(2, None);
pub const CT_PROTOCOL: Field = ct(10, None);
pub const CT_ORIGINAL_DADDR: Field = ct(20, ORIGINAL);
pub const CT_ORIGINAL_DPORT: Field = ct(12, ORIGINAL);
pub const CT_REPLY_SADDR: Field = ct(19, REPLY);
pub const CT_REPLY_SPORT: Field = ct(11, REPLY);

/// `fib daddr type`, and `fib daddr . iif type`: of an address of the interface that the packet came by.
pub const FIB_DADDR_TYPE: Field = fib_type(FIB_DADDR);
pub const FIB_DADDR_IIF_TYPE: Field = fib_type(FIB_DADDR | FIB_IIF);

impl Field {
    /// These bits of it alone: `FIELD & BITS`. The bits are as the machine has them in memory.
    pub const fn bits(self, mask: u32) -> Field {
        Field { mask: Some(mask), ..self }
    }

    /// A mask or a value of this field, as the kernel has it in registers.
    fn value(self, number: u32) -> DataAttribute {
        let length = usize::try_from(self.length).unwrap_or_default();
        DataAttribute::Value(number.to_ne_bytes().into_iter().take(length).collect())
    }

    /// Reads the field into registers from number `to` on.
    fn load(self, to: u32) -> Statement {
        let to = register(to);
        let load = match self.from {
            From::Meta(key) => {
                Expressions::Meta(vec![Meta::Key(key), Meta::DestinationRegister(to)])
            }
            From::Payload(base, offset, length) => Expressions::Payload(vec![
                Payload::DestinationRegister(to),
                Payload::Base(base),
                Payload::Offset(offset),
                Payload::Len(length),
            ]),
            From::Ct(key, direction) => {
                // NFTA_CT_DREG, NFTA_CT_KEY, NFTA_CT_DIRECTION.
                let direction = direction.map(|direction| DefaultNla::new(3, vec![direction]));
                let attributes = [number(1, to.into()), number(2, key)].into_iter();
                other("ct", attributes.chain(direction).collect())
            }
            // NFTA_FIB_DREG, NFTA_FIB_RESULT (NFT_FIB_RESULT_ADDRTYPE), NFTA_FIB_FLAGS.
            From::FibType(flags) => {
                other("fib", vec![number(1, to.into()), number(2, 3), number(3, flags)])
            }
        };
        let masked = self.mask.map(|mask| {
            Expressions::Bitwise(vec![
                Bitwise::SourceRegister(to),
                Bitwise::DestinationRegister(to),
                Bitwise::Length(self.length),
                Bitwise::Mask(self.value(mask)),
                Bitwise::Xor(self.value(0)),
            ])
        });
        [Some(load), masked].into_iter().flatten().collect()
    }
}

/// The registers, four bytes each.
fn register(number: u32) -> Register {
    (8 + number).into()
}

fn value(bytes: &[u8]) -> DataAttribute {
    DataAttribute::Value(bytes.to_vec())
}

/// An expression that the library does not know.
fn other(name: &str, attributes: Vec<DefaultNla>) -> Expressions {
    Expressions::Other { expression_type: name.to_owned(), attributes }
}

fn immediate(to: Register, data: DataAttribute) -> Expressions {
    Expressions::Immediate(vec![Immediate::DestinationRegister(to), Immediate::Data(data)])
}

/// Reads the fields one after the other: `FIELD . FIELD`.
fn concatenation(fields: &[Field]) -> Statement {
    let mut statement = Statement::new();
    let mut next = 0;
    for field in fields {
        statement.extend(field.load(next));
        next += field.length.div_ceil(4);
    }
    statement
}

fn compare(field: Field, operator: Operator, value: DataAttribute) -> Statement {
    let compare = Expressions::Cmp(vec![
        Cmp::SourceRegister(register(0)),
        Cmp::Op(operator),
        Cmp::Data(value),
    ]);
    [field.load(0), vec![compare]].concat()
}

fn look_up(fields: &[Field], set: &Set, attributes: &[Lookup]) -> Statement {
    let mut lookup = vec![Lookup::Set(set.name.to_owned()), Lookup::SourceRegister(register(0))];
    lookup.extend_from_slice(attributes);
    [concatenation(fields), vec![Expressions::Lookup(lookup)]].concat()
}

/// `FIELD == VALUE`
pub fn is(field: Field, value: &[u8]) -> Statement {
    compare(field, Operator::Equal, self::value(value))
}

/// `FIELD != VALUE`
pub fn is_not(field: Field, value: &[u8]) -> Statement {
    compare(field, Operator::NotEqual, self::value(value))
}

/// None of these bits of a field is set.
pub fn none_of(field: Field, bits: u32) -> Statement {
    compare(field.bits(bits), Operator::Equal, field.value(0))
}

/// Any of these bits of a field is set: `ct state new,related`.
pub fn any_of(field: Field, bits: u32) -> Statement {
    compare(field.bits(bits), Operator::NotEqual, field.value(0))
}

/// `FIELD . FIELD @SET`
pub fn within(fields: &[Field], set: &Set) -> Statement {
    look_up(fields, set, &[])
}

/// `FIELD . FIELD != @SET`
pub fn not_within(fields: &[Field], set: &Set) -> Statement {
    // NFT_LOOKUP_F_INV.
    look_up(fields, set, &[Lookup::Flags(1)])
}

/// `FIELD set FIELD`: writes what the one field has over the other one, of the same length.
pub fn copy(from: Field, to: Field) -> Statement {
    let From::Payload(base, offset, length) = to.from else { return Vec::new() };
    let write = Expressions::Payload(vec![
        Payload::SourceRegister(register(0)),
        Payload::Base(base),
        Payload::Offset(offset),
        Payload::Len(length),
    ]);
    [from.load(0), vec![write]].concat()
}

/// `@nh,POSITION,8 set @nh,POSITION,8`: writes a byte of the packet back as it is. That looks as if it did
/// nothing. But before the kernel writes, it copies all bytes up to this one to memory of its own
/// (`skb_ensure_writable`, `net/core/skbuff.c`). Without that, a sender can change them between two
/// reads, if they lie in a page of the sender's. A packet that ends before this byte does not match.
pub fn make_private(last: Field) -> Statement {
    copy(last, last)
}

/// `add @SET { FIELD . FIELD ct count over MOST }`: there are more connections with these fields.
pub fn more_connections(fields: &[Field], set: &Set, most: u32) -> Statement {
    // NFTA_CONNLIMIT_COUNT, NFTA_CONNLIMIT_FLAGS (NFT_CONNLIMIT_F_INV).
    let limit = [number(1, most), number(2, 1)];
    // NFTA_EXPR_NAME, NFTA_EXPR_DATA, in NFTA_DYNSET_EXPR: each element counts for itself.
    let limit = nested(7, &[text(1, "connlimit"), nested(2, &limit)]);
    // NFTA_DYNSET_SET_NAME, NFTA_DYNSET_OP (NFT_DYNSET_OP_ADD), NFTA_DYNSET_SREG_KEY.
    let dynset = vec![text(1, set.name), number(3, 0), number(4, register(0).into()), limit];
    [concatenation(fields), vec![other("dynset", dynset)]].concat()
}

/// `ct timeout set NAME`: how long the kernel keeps the connection, by its state.
pub fn set_timeouts(name: &str) -> Statement {
    // NFTA_OBJREF_IMM_TYPE, NFTA_OBJREF_IMM_NAME.
    vec![other("objref", vec![number(1, CT_TIMEOUT), text(2, name)])]
}

/// `limit name FIELD map @MAP`: as many packets a second as the limit allows that the map has for the
/// field. None if it has none.
pub fn limit_of(field: Field, map: &Set) -> Statement {
    // NFTA_OBJREF_SET_SREG, NFTA_OBJREF_SET_NAME.
    let limit = vec![number(3, register(0).into()), text(4, map.name)];
    [field.load(0), vec![other("objref", limit)]].concat()
}

/// `dnat ip to FIELD . FIELD map @MAP`: the map gives an address and a port.
pub fn dnat(fields: &[Field], map: &Set) -> Statement {
    // NFTA_NAT_TYPE (NFT_NAT_DNAT), NFTA_NAT_FAMILY, NFTA_NAT_REG_ADDR_MIN, NFTA_NAT_REG_PROTO_MIN.
    let [address, port] = [register(0), register(1)].map(u32::from);
    let family = NFPROTO_IPV4.into();
    let nat = vec![number(1, 1), number(2, family), number(3, address), number(5, port)];
    let found = Lookup::DestinationRegister(register(0));
    [look_up(fields, map, &[found]), vec![other("nat", nat)]].concat()
}

/// `masquerade`
pub fn masquerade() -> Statement {
    vec![other("masq", Vec::new())]
}

/// `return`
pub fn leave_chain() -> Statement {
    verdict(Verdict::Return, None)
}

/// `masquerade to :FIRST-LAST`
pub fn masquerade_to(ports: RangeInclusive<u16>) -> Statement {
    let [first, last] = [register(0), register(1)];
    // NFTA_MASQ_FLAGS (NF_NAT_RANGE_PROTO_SPECIFIED), NFTA_MASQ_REG_PROTO_MIN, NFTA_MASQ_REG_PROTO_MAX.
    let masquerade = vec![number(1, 2), number(2, first.into()), number(3, last.into())];
    vec![
        immediate(first, value(&ports.start().to_be_bytes())),
        immediate(last, value(&ports.end().to_be_bytes())),
        other("masq", masquerade),
    ]
}

fn verdict(code: Verdict, chain: Option<&Chain>) -> Statement {
    let chain = chain.map(|chain| VerdictAttribute::Chain(chain.name.to_owned()));
    let attributes = [Some(VerdictAttribute::Code(code)), chain].into_iter().flatten().collect();
    vec![immediate(Register::Verdict, DataAttribute::Verdict(attributes))]
}

/// `accept` (`NF_ACCEPT`, `linux/netfilter.h`)
pub fn accept() -> Statement {
    verdict(Verdict::Other(1), None)
}

/// `drop` (`NF_DROP`, `linux/netfilter.h`)
pub fn drop() -> Statement {
    verdict(Verdict::Other(0), None)
}

/// `jump CHAIN`
pub fn jump(chain: &Chain) -> Statement {
    verdict(Verdict::Jump, Some(chain))
}
