//! What rules consist of, in nft's own words (`nft(8)`). Each function gives the expressions that
//! one phrase stands for; a rule is the phrases one after the other.

use std::ops::RangeInclusive;

use netlink_packet_core::DefaultNla;
use netlink_packet_netfilter::nftables::{
    Bitwise, Cmp, DataAttribute, Expressions, Immediate, Lookup, Meta, MetaKey, Operator, Payload,
    Register, Verdict, VerdictAttribute,
};

use super::{Chain, Set};
use crate::request::ports::Protocol;

/// A phrase.
pub type Phrase = Vec<Expressions>;

/// `NF_DROP` and `NF_ACCEPT` (`linux/netfilter.h`).
const DROP: u32 = 0;
const ACCEPT: u32 = 1;

/// `nft_meta_keys` that the library has no name for (`linux/netfilter/nf_tables.h`).
const META_PKTTYPE: u32 = 19;
const META_IIFKIND: u32 = 26;
/// A packet that was sent to this host (`PACKET_HOST`, `linux/if_packet.h`).
const PACKET_HOST: u8 = 0;

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
const LINK_HEADER: u32 = 0;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;

/// Where the addresses are in an IPv4 header (RFC 791), the ports in that of TCP and UDP (RFC 9293, RFC
/// 768), and the type in that of ICMP (RFC 792).
const SADDR: u32 = 12;
const DADDR: u32 = 16;
const SPORT: u32 = 0;
const DPORT: u32 = 2;
const ICMP_TYPE: u32 = 0;
const ICMP: u8 = 1;
const ICMP_ECHO_REQUEST: u8 = 8;

/// Where the source and the type are in an Ethernet header, and the sender's addresses in an ARP packet
/// (RFC 826), which begins so if it is about IPv4 over Ethernet.
const ETHER_SADDR: u32 = 6;
const ETHER_TYPE: u32 = 12;
const ARP_SADDR_ETHER: u32 = 8;
const ARP_SADDR_IP: u32 = 14;
const ARP_ETHER_IP: ([u8; 4], [u8; 2]) = ([0, 1, 8, 0], [6, 4]);

/// Types of Ethernet frames (`linux/if_ether.h`).
pub const ETH_P_IP: u16 = 0x0800;
/// Likewise.
pub const ETH_P_ARP: u16 = 0x0806;

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
    vec![ct(key, None, 0), mask(bits), cmp(Operator::NotEqual, &[0; 4])]
}

/// These bits alone of what has been loaded.
fn mask(bits: u32) -> Expressions {
    let value = |number: u32| DataAttribute::Value(number.to_ne_bytes().to_vec());
    Expressions::Bitwise(vec![
        Bitwise::SourceRegister(register(0)),
        Bitwise::DestinationRegister(register(0)),
        Bitwise::Length(4),
        Bitwise::Mask(value(bits)),
        Bitwise::Xor(value(0)),
    ])
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
pub fn jump(chain: &Chain) -> Phrase {
    let name = VerdictAttribute::Chain(chain.name.to_owned());
    verdict(vec![VerdictAttribute::Code(Verdict::Jump), name])
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

/// `iifname . oifname != @SET`
pub fn iifname_oifname_not_in(set: &Set) -> Phrase {
    vec![meta(MetaKey::Iifname, 0), meta(MetaKey::Oifname, 4), lookup_none(set)]
}

/// `iif & BIT == BIT`
pub fn iif_has(bit: u32) -> Phrase {
    vec![meta(MetaKey::Iif, 0), mask(bit), is(&bit.to_ne_bytes())]
}

/// `iif & BIT != BIT`
pub fn iif_has_not(bit: u32) -> Phrase {
    vec![meta(MetaKey::Iif, 0), mask(bit), cmp(Operator::NotEqual, &bit.to_ne_bytes())]
}

/// `oif & BIT == BIT`
pub fn oif_has(bit: u32) -> Phrase {
    vec![meta(MetaKey::Oif, 0), mask(bit), is(&bit.to_ne_bytes())]
}

/// `meta pkttype host`
pub fn pkttype_host() -> Phrase {
    vec![meta(MetaKey::Other(META_PKTTYPE), 0), is(&[PACKET_HOST])]
}

/// `ether type TYPE`: what the frame itself says, where `meta protocol` looks behind a VLAN's tag. In a
/// rule of its own with a jump, as nft leaves it out again where something follows that implies it.
pub fn ether_type(kind: u16) -> Phrase {
    vec![payload(LINK_HEADER, ETHER_TYPE, 2, 0), is(&kind.to_be_bytes())]
}

/// `@ll,48,16 BEGINNING`, of the sender's Ethernet address.
pub fn ether_saddr_begins(beginning: u16) -> Phrase {
    vec![payload(LINK_HEADER, ETHER_SADDR, 2, 0), is(&beginning.to_be_bytes())]
}

/// `meta protocol ip`, where frames are of any kind.
fn protocol_ip() -> Phrase {
    vec![meta(MetaKey::EtherTypeProtocol, 0), is(&ETH_P_IP.to_be_bytes())]
}

/// `iif & BITS . ether saddr . ip saddr @SET`
pub fn iif_ether_ip_saddr_in(bits: u32, set: &Set) -> Phrase {
    let mut phrase = protocol_ip();
    phrase.extend([
        meta(MetaKey::Iif, 0),
        mask(bits),
        payload(LINK_HEADER, ETHER_SADDR, 6, 1),
        payload(NETWORK_HEADER, SADDR, 4, 3),
        lookup(set),
    ]);
    phrase
}

/// `ip daddr @SET`, of a frame.
pub fn bridged_daddr_in(set: &Set) -> Phrase {
    let mut phrase = protocol_ip();
    phrase.extend([payload(NETWORK_HEADER, DADDR, 4, 0), lookup(set)]);
    phrase
}

/// `arp htype 1 arp ptype ip arp hlen 6 arp plen 4`
pub fn arp_over_ethernet() -> Phrase {
    let (types, lengths) = ARP_ETHER_IP;
    let mut phrase = ether_type(ETH_P_ARP);
    phrase.extend([payload(NETWORK_HEADER, 0, 4, 0), is(&types)]);
    phrase.extend([payload(NETWORK_HEADER, 4, 2, 0), is(&lengths)]);
    phrase
}

/// `iif & BITS . ether saddr . arp saddr ip @SET iif & BITS . arp saddr ether . arp saddr ip @SET`
pub fn iif_ether_arp_saddr_in(bits: u32, set: &Set) -> Phrase {
    let triple = |base, offset| {
        [
            meta(MetaKey::Iif, 0),
            mask(bits),
            payload(base, offset, 6, 1),
            payload(NETWORK_HEADER, ARP_SADDR_IP, 4, 3),
            lookup(set),
        ]
    };
    [triple(LINK_HEADER, ETHER_SADDR), triple(NETWORK_HEADER, ARP_SADDR_ETHER)].concat()
}

/// `udp sport PORT`
pub fn sport(port: u16) -> Phrase {
    let mut phrase = l4proto_udp();
    phrase.extend([payload(TRANSPORT_HEADER, SPORT, 2, 0), is(&port.to_be_bytes())]);
    phrase
}

/// `icmp type echo-request`
pub fn echo_request() -> Phrase {
    let mut phrase = is_ipv4();
    phrase.extend([
        meta(MetaKey::L4Proto, 0),
        is(&[ICMP]),
        payload(TRANSPORT_HEADER, ICMP_TYPE, 1, 0),
        is(&[ICMP_ECHO_REQUEST]),
    ]);
    phrase
}

/// `meta l4proto . ip daddr . th dport @SET`
pub fn l4proto_daddr_dport_in(set: &Set) -> Phrase {
    let mut phrase = l4proto_daddr_dport();
    phrase.push(lookup(set));
    phrase
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
    const NFTA_FIB_F_DADDR: u32 = 1 << 1;
    fib_type_local(NFTA_FIB_F_DADDR)
}

/// `fib daddr . iif type local`: the address is of the interface that the packet came by.
pub fn fib_daddr_iif_local() -> Phrase {
    const NFTA_FIB_F_DADDR: u32 = 1 << 1;
    const NFTA_FIB_F_IIF: u32 = 1 << 3;
    fib_type_local(NFTA_FIB_F_DADDR | NFTA_FIB_F_IIF)
}

fn fib_type_local(flags: u32) -> Phrase {
    const NFTA_FIB_DREG: u16 = 1;
    const NFTA_FIB_RESULT: u16 = 2;
    const NFTA_FIB_FLAGS: u16 = 3;
    const NFT_FIB_RESULT_ADDRTYPE: u32 = 3;
    let attributes = [
        (NFTA_FIB_DREG, register(0).into()),
        (NFTA_FIB_RESULT, NFT_FIB_RESULT_ADDRTYPE),
        (NFTA_FIB_FLAGS, flags),
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
    let mut phrase = l4proto_daddr_dport();
    phrase.extend(dnat(map));
    phrase
}

fn l4proto_daddr_dport() -> Phrase {
    let mut phrase = is_ipv4();
    phrase.extend([
        meta(MetaKey::L4Proto, 0),
        payload(NETWORK_HEADER, DADDR, 4, 1),
        payload(TRANSPORT_HEADER, DPORT, 2, 2),
    ]);
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
