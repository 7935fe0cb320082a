//! What rules consist of, in nft's own words (`nft(8)`). Each function gives the expressions that
//! one phrase stands for; a rule is the phrases one after the other.

use std::ops::RangeInclusive;

use netlink_packet_core::DefaultNla;
use netlink_packet_netfilter::nftables::{
    Bitwise, Cmp, DataAttribute, Expressions, Immediate, Lookup, Meta, MetaKey, Operator, Payload,
    Register, Verdict, VerdictAttribute,
};

use super::Set;
use crate::ports::Protocol;

/// A phrase.
pub type Phrase = Vec<Expressions>;

/// `NF_DROP` and `NF_ACCEPT` (`linux/netfilter.h`).
const DROP: u32 = 0;
const ACCEPT: u32 = 1;

/// `nft_meta_keys` that the library has no name for (`linux/netfilter/nf_tables.h`).
const META_IIFKIND: u32 = 26;

/// `nft_ct_keys`, and the directions of a connection (`linux/netfilter/nf_tables.h`,
/// `linux/netfilter/nf_conntrack_tuple_common.h`).
const CT_STATE: u32 = 0;
const CT_DIRECTION: u32 = 1;
const CT_STATUS: u32 = 2;
const CT_PROTOCOL: u32 = 10;
const CT_PROTO_SRC: u32 = 11;
const CT_PROTO_DST: u32 = 12;
const CT_SRC_IP: u32 = 19;
const CT_DST_IP: u32 = 20;
const ORIGINAL: u8 = 0;
const REPLY: u8 = 1;

/// `IPS_DST_NAT` (`linux/netfilter/nf_conntrack_common.h`).
const STATUS_DNAT: u32 = 0x20;
/// `NF_CT_STATE_BIT(IP_CT_RELATED)`, `NF_CT_STATE_INVALID_BIT` and `NF_CT_STATE_UNTRACKED_BIT`
/// (`linux/netfilter/nf_conntrack_common.h`).
const STATE_RELATED: u32 = 0x4;
const STATE_INVALID: u32 = 0x1;
const STATE_UNTRACKED: u32 = 0x40;

/// `nft_payload_bases`.
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;

/// Where the addresses are in an IPv4 header (RFC 791), and the destination port in that of TCP and
/// UDP (RFC 9293, RFC 768).
const SADDR: u32 = 12;
const DADDR: u32 = 16;
const DPORT: u32 = 2;

const NFPROTO_IPV4: u8 = 2;
const RTN_LOCAL: u32 = 2;
const LOOPBACK_INDEX: u32 = 1;
const LOOPBACK_NET: u8 = 127;

/// The registers, four bytes each.
fn register(number: u32) -> Register {
    (8 + number).into()
}

fn meta(key: MetaKey, to: u32) -> Expressions {
    Expressions::Meta(vec![Meta::Key(key), Meta::DestinationRegister(register(to))])
}

fn cmp(operator: Operator, value: &[u8]) -> Expressions {
    Expressions::Cmp(vec![
        Cmp::SourceRegister(register(0)),
        Cmp::Op(operator),
        Cmp::Data(DataAttribute::Value(value.to_vec())),
    ])
}

fn is(value: &[u8]) -> Expressions {
    cmp(Operator::Equal, value)
}

fn payload(base: u32, offset: u32, length: u32, to: u32) -> Expressions {
    Expressions::Payload(vec![
        Payload::DestinationRegister(register(to)),
        Payload::Base(base),
        Payload::Offset(offset),
        Payload::Len(length),
    ])
}

/// An expression that the library does not know, with numbers as its attributes.
fn other(name: &str, attributes: &[(u16, u32)]) -> Expressions {
    let nla = |(kind, value): &(u16, u32)| DefaultNla::new(*kind, value.to_be_bytes().to_vec());
    Expressions::Other {
        expression_type: name.to_owned(),
        attributes: attributes.iter().map(nla).collect(),
    }
}

/// Something of the packet's connection: of one direction of it, if the key asks for that.
fn ct(key: u32, direction: Option<u8>, to: u32) -> Expressions {
    const NFTA_CT_DREG: u16 = 1;
    const NFTA_CT_KEY: u16 = 2;
    const NFTA_CT_DIRECTION: u16 = 3;
    let mut expression = other("ct", &[(NFTA_CT_DREG, register(to).into()), (NFTA_CT_KEY, key)]);
    if let (Expressions::Other { attributes, .. }, Some(direction)) = (&mut expression, direction) {
        attributes.push(DefaultNla::new(NFTA_CT_DIRECTION, vec![direction]));
    }
    expression
}

/// Any of these bits of something of the connection.
fn ct_bit(key: u32, bits: u32) -> Phrase {
    let value = |number: u32| DataAttribute::Value(number.to_ne_bytes().to_vec());
    vec![
        ct(key, None, 0),
        Expressions::Bitwise(vec![
            Bitwise::SourceRegister(register(0)),
            Bitwise::DestinationRegister(register(0)),
            Bitwise::Length(4),
            Bitwise::Mask(value(bits)),
            Bitwise::Xor(value(0)),
        ]),
        cmp(Operator::NotEqual, &[0; 4]),
    ]
}

fn lookup(set: &Set) -> Expressions {
    Expressions::Lookup(vec![Lookup::Set(set.name.to_owned()), Lookup::SourceRegister(register(0))])
}

fn lookup_none(set: &Set) -> Expressions {
    const NFT_LOOKUP_F_INV: u32 = 1;
    match lookup(set) {
        Expressions::Lookup(mut attributes) => {
            attributes.push(Lookup::Flags(NFT_LOOKUP_F_INV));
            Expressions::Lookup(attributes)
        }
        other => other,
    }
}

fn verdict(attributes: Vec<VerdictAttribute>) -> Phrase {
    vec![Expressions::Immediate(vec![
        Immediate::DestinationRegister(Register::Verdict),
        Immediate::Data(DataAttribute::Verdict(attributes)),
    ])]
}

/// `accept`
pub fn accept() -> Phrase {
    verdict(vec![VerdictAttribute::Code(Verdict::Other(ACCEPT))])
}

/// `drop`
pub fn drop() -> Phrase {
    verdict(vec![VerdictAttribute::Code(Verdict::Other(DROP))])
}

/// `jump CHAIN`
pub fn jump(chain: &str) -> Phrase {
    verdict(vec![VerdictAttribute::Code(Verdict::Jump), VerdictAttribute::Chain(chain.to_owned())])
}

/// `masquerade`
pub fn masquerade() -> Phrase {
    vec![other("masq", &[])]
}

/// `masquerade to :FIRST-LAST`
pub fn masquerade_to(ports: RangeInclusive<u16>) -> Phrase {
    const NFTA_MASQ_FLAGS: u16 = 1;
    const NFTA_MASQ_REG_PROTO_MIN: u16 = 2;
    const NFTA_MASQ_REG_PROTO_MAX: u16 = 3;
    const NF_NAT_RANGE_PROTO_SPECIFIED: u32 = 2;
    let load = |port: &u16, to: u32| {
        Expressions::Immediate(vec![
            Immediate::DestinationRegister(register(to)),
            Immediate::Data(DataAttribute::Value(port.to_be_bytes().to_vec())),
        ])
    };
    let attributes = [
        (NFTA_MASQ_FLAGS, NF_NAT_RANGE_PROTO_SPECIFIED),
        (NFTA_MASQ_REG_PROTO_MIN, register(0).into()),
        (NFTA_MASQ_REG_PROTO_MAX, register(1).into()),
    ];
    vec![load(ports.start(), 0), load(ports.end(), 1), other("masq", &attributes)]
}

/// `meta nfproto ipv4`
pub fn is_ipv4() -> Phrase {
    vec![meta(MetaKey::Nfproto, 0), is(&[NFPROTO_IPV4])]
}

/// `meta l4proto tcp`
pub fn l4proto_tcp() -> Phrase {
    vec![meta(MetaKey::L4Proto, 0), is(&[Protocol::Tcp.number()])]
}

/// `meta l4proto udp`
pub fn l4proto_udp() -> Phrase {
    vec![meta(MetaKey::L4Proto, 0), is(&[Protocol::Udp.number()])]
}

/// `iif != "lo"`
pub fn iif_not_lo() -> Phrase {
    vec![meta(MetaKey::Iif, 0), cmp(Operator::NotEqual, &LOOPBACK_INDEX.to_ne_bytes())]
}

/// `iifname @SET`
pub fn iifname_in(set: &Set) -> Phrase {
    vec![meta(MetaKey::Iifname, 0), lookup(set)]
}

/// `iifname != @SET`
pub fn iifname_not_in(set: &Set) -> Phrase {
    vec![meta(MetaKey::Iifname, 0), lookup_none(set)]
}

/// `oifname @SET`
pub fn oifname_in(set: &Set) -> Phrase {
    vec![meta(MetaKey::Oifname, 0), lookup(set)]
}

/// `oifname != @SET`
pub fn oifname_not_in(set: &Set) -> Phrase {
    vec![meta(MetaKey::Oifname, 0), lookup_none(set)]
}

/// `iifname . oifname @SET`
pub fn iifname_oifname_in(set: &Set) -> Phrase {
    vec![meta(MetaKey::Iifname, 0), meta(MetaKey::Oifname, 4), lookup(set)]
}

/// `meta iifkind "bridge"`
pub fn iifkind_bridge() -> Phrase {
    let mut kind = [0; 16];
    for (to, from) in kind.iter_mut().zip(b"bridge") {
        *to = *from;
    }
    vec![meta(MetaKey::Other(META_IIFKIND), 0), is(&kind)]
}

/// `ip saddr @SET`
pub fn saddr_in(set: &Set) -> Phrase {
    let mut phrase = is_ipv4();
    phrase.extend([payload(NETWORK_HEADER, SADDR, 4, 0), lookup(set)]);
    phrase
}

/// `ip daddr @SET`
pub fn daddr_in(set: &Set) -> Phrase {
    let mut phrase = is_ipv4();
    phrase.extend([payload(NETWORK_HEADER, DADDR, 4, 0), lookup(set)]);
    phrase
}

/// `ip saddr 127.0.0.0/8`
pub fn saddr_loopback() -> Phrase {
    let mut phrase = is_ipv4();
    phrase.extend([payload(NETWORK_HEADER, SADDR, 1, 0), is(&[LOOPBACK_NET])]);
    phrase
}

/// `ip daddr 127.0.0.0/8`
pub fn daddr_loopback() -> Phrase {
    let mut phrase = is_ipv4();
    phrase.extend([payload(NETWORK_HEADER, DADDR, 1, 0), is(&[LOOPBACK_NET])]);
    phrase
}

/// `fib daddr type local`
pub fn fib_daddr_local() -> Phrase {
    const NFTA_FIB_DREG: u16 = 1;
    const NFTA_FIB_RESULT: u16 = 2;
    const NFTA_FIB_FLAGS: u16 = 3;
    const NFT_FIB_RESULT_ADDRTYPE: u32 = 3;
    const NFTA_FIB_F_DADDR: u32 = 2;
    let attributes = [
        (NFTA_FIB_DREG, register(0).into()),
        (NFTA_FIB_RESULT, NFT_FIB_RESULT_ADDRTYPE),
        (NFTA_FIB_FLAGS, NFTA_FIB_F_DADDR),
    ];
    vec![other("fib", &attributes), is(&RTN_LOCAL.to_ne_bytes())]
}

/// `ct direction reply`
pub fn ct_direction_reply() -> Phrase {
    vec![ct(CT_DIRECTION, None, 0), is(&[REPLY])]
}

/// `ct status dnat`
pub fn ct_status_dnat() -> Phrase {
    ct_bit(CT_STATUS, STATUS_DNAT)
}

/// `ct state invalid,untracked`
pub fn ct_state_none() -> Phrase {
    ct_bit(CT_STATE, STATE_INVALID | STATE_UNTRACKED)
}

/// `ct state related`
pub fn ct_state_related() -> Phrase {
    ct_bit(CT_STATE, STATE_RELATED)
}

/// `ct reply ip saddr @SET`
pub fn ct_reply_saddr_in(set: &Set) -> Phrase {
    vec![ct(CT_SRC_IP, Some(REPLY), 0), lookup(set)]
}

/// `ct protocol . ct original proto-dst . ct reply ip saddr . ct reply proto-src @SET`
pub fn ct_ports_in(set: &Set) -> Phrase {
    vec![
        ct(CT_PROTOCOL, None, 0),
        ct(CT_PROTO_DST, Some(ORIGINAL), 1),
        ct(CT_SRC_IP, Some(REPLY), 2),
        ct(CT_PROTO_SRC, Some(REPLY), 3),
        lookup(set),
    ]
}

/// `ct protocol . ct original ip daddr . ct original proto-dst . ct reply ip saddr . ct reply
/// proto-src @SET`
pub fn ct_address_ports_in(set: &Set) -> Phrase {
    vec![
        ct(CT_PROTOCOL, None, 0),
        ct(CT_DST_IP, Some(ORIGINAL), 1),
        ct(CT_PROTO_DST, Some(ORIGINAL), 2),
        ct(CT_SRC_IP, Some(REPLY), 3),
        ct(CT_PROTO_SRC, Some(REPLY), 4),
        lookup(set),
    ]
}

/// `dnat ip to meta l4proto . th dport map @MAP`
pub fn dnat_by_port(map: &Set) -> Phrase {
    vec![meta(MetaKey::L4Proto, 0), payload(TRANSPORT_HEADER, DPORT, 2, 1)]
        .into_iter()
        .chain(dnat(map))
        .collect()
}

/// `dnat ip to meta l4proto . ip daddr . th dport map @MAP`
pub fn dnat_by_address_and_port(map: &Set) -> Phrase {
    let mut phrase = is_ipv4();
    phrase.extend([
        meta(MetaKey::L4Proto, 0),
        payload(NETWORK_HEADER, DADDR, 4, 1),
        payload(TRANSPORT_HEADER, DPORT, 2, 2),
    ]);
    phrase.extend(dnat(map));
    phrase
}

/// Looks the address and port up to which the packet goes, and sends it there.
fn dnat(map: &Set) -> Phrase {
    const NFTA_NAT_TYPE: u16 = 1;
    const NFTA_NAT_FAMILY: u16 = 2;
    const NFTA_NAT_REG_ADDR_MIN: u16 = 3;
    const NFTA_NAT_REG_PROTO_MIN: u16 = 5;
    const NFT_NAT_DNAT: u32 = 1;
    vec![
        Expressions::Lookup(vec![
            Lookup::Set(map.name.to_owned()),
            Lookup::SourceRegister(register(0)),
            Lookup::DestinationRegister(register(0)),
        ]),
        other(
            "nat",
            &[
                (NFTA_NAT_TYPE, NFT_NAT_DNAT),
                (NFTA_NAT_FAMILY, NFPROTO_IPV4.into()),
                (NFTA_NAT_REG_ADDR_MIN, register(0).into()),
                (NFTA_NAT_REG_PROTO_MIN, register(1).into()),
            ],
        ),
    ]
}
