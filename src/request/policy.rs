//! The policy: `/etc/netsetgo.toml`, in which the admin says who may attach containers, how many, and
//! to which network. See `netsetgo.toml(5)`.

use std::io;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::os::unix::fs::MetadataExt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use toml::Spanned;

use crate::report::error::{Failed, Refused, Result, first_of};
use crate::request::accounts;
use crate::request::address::{Cidr, IfName};
use crate::request::ports::Granted;
use crate::request::read;

pub const PATH: &str = "/etc/netsetgo.toml";

const LARGEST: u64 = 16 << 20;

/// The most ports that a bridge can have (`BR_MAX_PORTS` less one, `net/bridge/br_private.h`), and
/// so the most containers at once.
pub const MOST_LINKS: u32 = 1023;

/// The prefix lengths that a subnet can have: a /22 fills a bridge, a /30 has room for one container.
pub const PREFIXES: RangeInclusive<u8> = 22..=30;

/// The highest number that a limit of a container can have.
const MOST_OF_A_LIMIT: u32 = 1 << 20;

/// The lowest MTU of a bridge is that of IPv6 (RFC 8200). Below it the kernel has no IPv6 settings of
/// the bridge, so a run could not make them safe before the admin raises the MTU.
const LEAST_MTU: u32 = 1280;

/// The network that a caller is granted, and how much of it. The table `[network]` is read into what
/// root is granted; for other callers an `[[allow]]` entry sets the last three.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Grant {
    pub bridge: IfName,
    /// The bridge's address, and with it the subnet.
    pub address: Cidr,
    /// The MTU that the bridge gets when it is made, in bytes.
    #[serde(deserialize_with = "between::<LEAST_MTU, 65535, _>")]
    pub mtu: u32,
    /// Whether containers get a way out, behind the host's address.
    pub nat: bool,
    pub isolation: Isolation,
    pub host_access: HostAccess,
    /// Which programs of the host reach ports of containers that are not published.
    pub local_users: LocalUsers,
    /// The name servers that containers are to use, if not the host's own.
    pub dns: Option<Vec<Ipv4Addr>>,
    /// What containers may send to other networks beside TCP, UDP and ICMP.
    pub protocols: Vec<OtherProtocol>,
    /// The most connections that a container has at once.
    #[serde(deserialize_with = "between::<1, MOST_OF_A_LIMIT, _>")]
    pub connections: u32,
    /// The most of them to one port of one remote host.
    #[serde(deserialize_with = "between::<1, MOST_OF_A_LIMIT, _>")]
    pub connections_to_port: u32,
    /// The most fragments that a user's containers send in a second.
    #[serde(deserialize_with = "between::<0, MOST_OF_A_LIMIT, _>")]
    pub fragments: u32,
    /// The caller's real user id.
    #[serde(skip)]
    pub uid: u32,
    /// How many containers the caller may have attached at once.
    #[serde(skip)]
    pub links: u32,
    /// The host ports that the caller may publish. `None` means every port.
    #[serde(skip)]
    pub publish: Option<Vec<Granted>>,
    /// How many host ports the caller may have published at once.
    #[serde(skip)]
    pub ports: u32,
}

impl Default for Grant {
    fn default() -> Self {
        Grant {
            bridge: IfName::literal("brg0"),
            address: Cidr { ip: Ipv4Addr::new(10, 10, 10, 1), prefix: 24 },
            mtu: 1500,
            nat: true,
            isolation: Isolation::default(),
            host_access: HostAccess::default(),
            local_users: LocalUsers::default(),
            dns: None,
            protocols: Vec::new(),
            connections: 4096,
            connections_to_port: 1024,
            fragments: 16,
            uid: 0,
            links: MOST_LINKS,
            ports: u32::MAX,
            publish: None,
        }
    }
}

/// Which containers reach each other directly. Every container reaches published ports.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// A container reaches those of the same user.
    #[default]
    User,
    /// A container reaches no other.
    Container,
    /// A container reaches every other.
    None,
}

/// What containers reach of the host, on any of its addresses.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostAccess {
    /// Published ports, and with ping the bridge's address.
    #[default]
    Published,
    /// Every port at which a program of the host waits.
    All,
}

/// Which programs of the host reach ports of containers that are not published.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LocalUsers {
    /// Those of root and of the container's user.
    #[default]
    Owner,
    /// Those of every user.
    All,
}

/// A protocol over IP beside TCP, UDP and ICMP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)] // Its number (`/etc/protocols`).
pub enum OtherProtocol {
    Ipip = 4,
    Dccp = 33,
    Gre = 47,
    Esp = 50,
    Ah = 51,
    Sctp = 132,
    Udplite = 136,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    pub network: Grant,
    allow: Vec<Spanned<Allow>>,
}

/// An `[[allow]]` entry. Exactly one of the first three keys says which users it allows.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Allow {
    user: Option<String>,
    uid: Option<u32>,
    group: Option<String>,
    /// How many containers each of these users may have attached at once.
    #[serde(default = "default_links", deserialize_with = "between::<0, MOST_LINKS, _>")]
    pub links: u32,
    #[serde(default)]
    pub publish: Vec<Granted>,
    /// How many host ports each of them may have published at once.
    #[serde(default = "default_ports", deserialize_with = "between::<0, 65535, _>")]
    pub ports: u32,
}

fn default_links() -> u32 {
    16
}

fn default_ports() -> u32 {
    64
}

/// Reads a whole number in this range. An error has its place in the file.
fn between<'de, const LEAST: u32, const MOST: u32, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<u32, D::Error> {
    let number = i64::deserialize(deserializer)?;
    u32::try_from(number)
        .ok()
        .filter(|number| (LEAST..=MOST).contains(number))
        .ok_or_else(|| D::Error::custom(format!("{number} is not between {LEAST} and {MOST}")))
}

/// What the policy has as a string, and other places as text.
macro_rules! read_as_text {
    ($($what:ty),+) => {$(
        impl<'de> Deserialize<'de> for $what {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }
    )+};
}
read_as_text!(Cidr, IfName, Granted);

impl Policy {
    /// The text of the file. `None` means that there is no file. A file that another user than root may
    /// have written is refused.
    pub fn text() -> Result<Option<String>> {
        let failed = |error| Failed::File(PATH.into(), error);
        let file = match read::open(PATH) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(failed)?,
        };
        let facts = file.metadata().map_err(failed)?;
        first_of(&[
            (!facts.is_file(), "not a regular file"),
            (facts.uid() != 0, "not owned by root"),
            (facts.mode() & 0o022 != 0, "others can write it"),
        ])
        .map_err(Refused::UntrustedPolicy)?;
        let text = String::from_utf8(read::at_most(LARGEST, file).map_err(failed)?);
        Ok(Some(text.map_err(|error| failed(io::Error::other(error)))?))
    }

    pub fn parse(text: &str) -> Result<Policy> {
        let wrong = |start, why: &str| {
            let before = text.get(..start).unwrap_or(text);
            let line = before.matches('\n').count() + 1;
            let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
            Failed::Policy { line, column, why: why.to_owned() }
        };
        let policy: Policy = toml::from_str(text)
            .map_err(|error| wrong(error.span().unwrap_or_default().start, error.message()))?;
        for entry in &policy.allow {
            let Allow { user, uid, group, .. } = entry.get_ref();
            let keys = [user.is_some(), uid.is_some(), group.is_some()];
            if keys.into_iter().filter(|given| *given).count() != 1 {
                let why = "an [[allow]] entry has exactly one of user, uid and group";
                return Err(wrong(entry.span().start, why).into());
            }
        }
        Ok(policy)
    }

    /// The first entry that matches a process with these ids, by the texts of `/etc/passwd` and
    /// `/etc/group`.
    pub fn entry(&self, uid: u32, gids: &[u32], passwd: &str, group: &str) -> Option<&Allow> {
        let user = accounts::name_of(uid, passwd);
        self.allow.iter().map(Spanned::get_ref).find(|entry| match entry {
            Allow { uid: Some(own), .. } => *own == uid,
            Allow { user: Some(name), .. } => accounts::uid_of(name, passwd) == Some(uid),
            // Only for a user with an account: a user can run a process as each of their sub-uids.
            // Such a process has the user's groups too, and each sub-uid would have a quota.
            Allow { group: Some(name), .. } => {
                user.is_some_and(|user| accounts::in_group(name, gids, user, group))
            }
            _ => false,
        })
    }
}

#[cfg(fuzzing)]
#[path = "../../tests/fuzz/within/policy.rs"]
pub mod fuzzing;

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> String {
        Policy::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn an_empty_file_has_the_defaults_and_allows_nobody() {
        let policy = Policy::parse("").unwrap();
        assert_eq!(policy.network.bridge.as_str(), "brg0");
        assert_eq!(policy.network.address.to_string(), "10.10.10.1/24");
        assert_eq!(policy.network.mtu, 1500);
        assert!(policy.allow.is_empty());
    }

    #[test]
    fn an_error_names_its_line_and_column() {
        assert!(wrong("[network]\nbrigde = \"x\"").contains("line 2, column 1: unknown field"));
        assert!(wrong("[network]\nmtu = 1279").contains("line 2, column 7: 1279 is not between"));
        assert!(wrong("x").contains("line 1, column "));
        assert!(wrong("[network]\nbridge = \"a b\"").contains("line 2, column 10: an interface"));
    }

    #[test]
    fn an_entry_names_exactly_one_user_or_group() {
        for text in ["links = 1", "uid = 1\nuser = \"a\"", "group = \"g\"\nuid = 1"] {
            let text = format!("[[allow]]\n{text}");
            assert!(wrong(&text).contains("line 1, column 1: an [[allow]] entry"), "{text}");
        }
        assert!(wrong("[[allow]]\nuid = -1").contains("line 2"));
        assert!(wrong("[[allow]]\nuid = 1\nlinks = 1024").contains("not between 0 and 1023"));
    }

    #[test]
    fn the_first_entry_that_matches_decides() {
        let policy = Policy::parse(
            "[[allow]]\nuser = \"alice\"\nlinks = 0\n[[allow]]\ngroup = \"netdev\"\nlinks = 4\n\
             [[allow]]\nuid = 1001\nlinks = 9",
        )
        .unwrap();
        let passwd = "alice:x:1000:1000::/:\nbob:x:1001:1001::/:\n";
        let group = "netdev:x:106:alice\n";
        let links =
            |uid, gids: &[u32]| policy.entry(uid, gids, passwd, group).map(|entry| entry.links);
        assert_eq!(links(1000, &[106]), Some(0));
        assert_eq!(links(1001, &[106]), Some(4));
        assert_eq!(links(1001, &[1001]), Some(9));
        assert_eq!(links(1002, &[1002]), None);
        assert_eq!(links(100_000, &[106]), None, "a sub-uid with its user's groups");
    }
}
