//! Addresses and names. They are checked once, where they come in.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use crate::report::error::first_of;

/// An IPv4 address, and the length of its network prefix in bits, as in `10.10.10.1/24` (RFC 4632).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr {
    pub ip: Ipv4Addr,
    pub prefix: u8,
}

impl Cidr {
    /// `None` for a prefix that is longer than an IPv4 address.
    pub fn new(ip: Ipv4Addr, prefix: u8) -> Option<Cidr> {
        (prefix <= 32).then_some(Cidr { ip, prefix })
    }

    fn mask(self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0)
    }

    /// The subnet's first address, the network's own.
    pub fn network(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.ip.to_bits() & self.mask())
    }

    /// The subnet's last address, to which broadcasts go.
    pub fn broadcast(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.ip.to_bits() | !self.mask())
    }

    pub fn contains(self, ip: Ipv4Addr) -> bool {
        (ip.to_bits() ^ self.ip.to_bits()) & self.mask() == 0
    }

    pub fn overlaps(self, other: Cidr) -> bool {
        self.contains(other.network()) || other.contains(self.network())
    }

    /// Whether a host of this subnet can have `ip`.
    pub fn is_host(self, ip: Ipv4Addr) -> bool {
        self.contains(ip) && ip != self.network() && ip != self.broadcast()
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix)
    }
}

impl FromStr for Cidr {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.split_once('/')
            .and_then(|(ip, prefix)| Cidr::new(ip.parse().ok()?, canonical(prefix)?))
            .ok_or("not an IPv4 address with its prefix length, such as 10.10.10.1/24")
    }
}

/// A number without a sign and without leading zeros, as iproute2 reads it. The standard parser
/// accepts both.
pub fn canonical<T: FromStr + ToString>(text: &str) -> Option<T> {
    text.parse().ok().filter(|number: &T| number.to_string() == text)
}

/// The name of a network interface: one that the kernel takes literally.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IfName(String);

impl IfName {
    /// The longest name: `IFNAMSIZ` less the closing zero (`include/uapi/linux/if.h`).
    pub const LONGEST: usize = 15;

    /// A name that the program itself puts together, of letters, digits and `-`.
    pub fn literal(name: impl Into<String>) -> IfName {
        IfName(name.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for IfName {
    type Err = &'static str;

    /// Follows `dev_valid_name` (`net/core/dev.c`), and refuses more: `%`, for which the kernel would
    /// put in a number; `all` and `default`, which are sysctl directories; and what is not printable
    /// ASCII.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain = text.bytes().all(|b| b.is_ascii_graphic() && !b"/:%".contains(&b));
        let known = [".", "..", "all", "default"].contains(&text);
        first_of(&[
            (text.is_empty(), "an interface name cannot be empty"),
            (text.len() > Self::LONGEST, "an interface name has at most 15 bytes"),
            (known, "not a name that an interface can have"),
            (!plain, "an interface name has printable ASCII only, and no space, '/', ':' or '%'"),
        ])?;
        Ok(IfName(text.to_owned()))
    }
}

/// An Ethernet address (EUI-48), in transmission order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The address of the container end, and of the bridge: `02:4e` and the IPv4 address. The first
    /// byte says that it is locally administered (IEEE 802), so no hardware has it.
    pub fn of(ip: Ipv4Addr) -> Mac {
        let [a, b, c, d] = ip.octets();
        Mac([0x02, 0x4e, a, b, c, d])
    }

    /// The address of the host end: `fe:4e` and the container's IPv4 address. It differs from that of
    /// the container end, and is higher than any bridge's. So the bridge never takes it as its own.
    pub fn of_host_end(ip: Ipv4Addr) -> Mac {
        let [a, b, c, d] = ip.octets();
        Mac([0xfe, 0x4e, a, b, c, d])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.map(|byte| format!("{byte:02x}")).join(":"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn a_cidr_is_read_as_iproute2_writes_it() {
        assert_eq!(cidr("10.10.10.1/24").to_string(), "10.10.10.1/24");
        for wrong in [
            "",
            "10.10.10.1",
            "10.10.10.1/",
            "10.10.10.1/33",
            "10.10.10/24",
            "::1/64",
            "1.2.3.4/+8",
            "1.2.3.4/08",
        ] {
            assert!(wrong.parse::<Cidr>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_subnet_knows_its_first_and_last_address() {
        let subnet = cidr("10.10.11.7/22");
        assert_eq!(subnet.network(), Ipv4Addr::new(10, 10, 8, 0));
        assert_eq!(subnet.broadcast(), Ipv4Addr::new(10, 10, 11, 255));
        assert!(!subnet.is_host(subnet.network()));
        assert!(!subnet.is_host(subnet.broadcast()));
        assert!(subnet.is_host(Ipv4Addr::new(10, 10, 9, 255)));
        assert!(!subnet.is_host(Ipv4Addr::new(10, 10, 12, 1)));
    }

    #[test]
    fn overlap_is_seen_from_both_sides() {
        let (small, large) = (cidr("10.10.10.1/24"), cidr("10.0.0.0/8"));
        assert!(small.overlaps(large) && large.overlaps(small));
        assert!(!small.overlaps(cidr("10.10.11.0/24")));
        assert!(small.overlaps(cidr("10.10.10.77/32")));
        assert!(small.overlaps(cidr("0.0.0.0/0")));
    }

    #[test]
    fn a_name_that_the_kernel_would_read_otherwise_is_refused() {
        for right in ["veth1", "a", "eth0.7", "123456789012345", "br-x_y"] {
            assert!(right.parse::<IfName>().is_ok(), "{right}");
        }
        for wrong in [
            "",
            ".",
            "..",
            "a/b",
            "a b",
            "a:b",
            "eth%d",
            "a\tb",
            "a\n",
            "é",
            "all",
            "1234567890123456",
        ] {
            assert!(wrong.parse::<IfName>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn both_ends_of_a_veth_pair_have_addresses_of_their_own() {
        let ip = Ipv4Addr::new(10, 10, 10, 2);
        assert_eq!(Mac::of(ip).to_string(), "02:4e:0a:0a:0a:02");
        assert_eq!(Mac::of_host_end(ip).to_string(), "fe:4e:0a:0a:0a:02");
    }
}
