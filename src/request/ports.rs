//! Ports: those that a caller asks to publish (`-publish`), and those that the policy grants
//! (`publish = [...]`).

use std::fmt;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::Serialize;

use crate::request::address::canonical;

/// The most ports that a container can have published.
pub const MOST_PORTS: usize = 1024;

/// The first port that is not reserved for the admin (RFC 6335, "System Ports").
const FIRST_USER_PORT: u16 = 1024;

/// Of these root gets a free port: they are for temporary use (RFC 6335, "Dynamic Ports").
pub const DYNAMIC_PORTS: Granted = Granted(61000..=65535);

/// A transport protocol whose ports can be published, by its number (IANA, "Protocol Numbers").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp = 6,
    Udp = 17,
}

impl Protocol {
    pub const ALL: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

    pub fn number(self) -> u8 {
        self as u8
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Protocol::Tcp { "tcp" } else { "udp" })
    }
}

/// A host port that leads to a container port. As JSON it is what CNI calls a port mapping (the
/// conventions' `portMappings`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Mapping {
    /// The host port; 0 means any that is free.
    pub host_port: u16,
    pub container_port: u16,
    pub protocol: Protocol,
    /// The host's address on which it is published. `None` means on all.
    #[serde(rename = "hostIP", skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<Ipv4Addr>,
}

impl fmt::Display for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(ip) = self.host_ip {
            write!(f, "{ip}:")?;
        }
        write!(f, "{}:{}/{}", self.host_port, self.container_port, self.protocol)
    }
}

impl Mapping {
    /// Whether only one of the two can be published at a time.
    pub fn conflicts(&self, other: &Mapping) -> bool {
        self.host_port != 0
            && (self.host_port, self.protocol) == (other.host_port, other.protocol)
            && (self.host_ip.is_none() || other.host_ip.is_none() || self.host_ip == other.host_ip)
    }
}

/// What one `-publish` asks for: one mapping, or one for each port of a range.
#[derive(Debug, PartialEq)]
pub struct Publication(pub Vec<Mapping>);

impl FromStr for Publication {
    type Err = &'static str;

    /// Reads `[IP:]HOST:PORT[/tcp|udp]`, where HOST and PORT are a port or a range of equal length.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (rest, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocol = Protocol::ALL.into_iter().find(|known| known.to_string() == protocol);
        let protocol = protocol.ok_or("the protocol after the / is neither tcp nor udp")?;
        let (rest, container) = rest
            .rsplit_once(':')
            .ok_or("not [IP:]HOST:PORT[/tcp|udp]: there is no : between the two ports")?;
        let (ip, host) = match rest.rsplit_once(':') {
            None => (Ok(Ipv4Addr::UNSPECIFIED), rest),
            Some((ip, host)) => (ip.parse(), host),
        };
        let ip = ip.map_err(|_| "the part before the host port is not an IPv4 address")?;
        let host_ip = Some(ip).filter(|ip| !ip.is_unspecified());
        let container = range(container, 1)
            .ok_or("the container port is not between 1 and 65535, and not a range FIRST-LAST")?;
        let host = range(host, 0)
            .ok_or("the host port is not between 0 and 65535, and not a range FIRST-LAST")?;
        if *host.start() == 0 && host != (0..=0) {
            return Err("the host port 0, for any that is free, cannot begin a range");
        }
        if host.len() != container.len() {
            return Err("the ranges of host ports and of container ports are not equally long");
        }
        let mapping =
            |(host_port, container_port)| Mapping { host_port, container_port, protocol, host_ip };
        Ok(Publication(host.zip(container).map(mapping).collect()))
    }
}

/// Reads a port, or a range of them with the lower one first; none is below `least`.
fn range(text: &str, least: u16) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let range = canonical(first)?..=canonical(last)?;
    Some(range).filter(|range| !range.is_empty() && *range.start() >= least)
}

/// Ports that the policy grants: an entry of `publish = [...]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Granted(pub RangeInclusive<u16>);

impl fmt::Display for Granted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = (self.0.start(), self.0.end());
        if first == last { write!(f, "{first}") } else { write!(f, "{first}-{last}") }
    }
}

impl FromStr for Granted {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let ports =
            range(text, 1).ok_or("not a port between 1 and 65535, and not a range FIRST-LAST")?;
        // So the admin grants low ports only by naming them.
        if *ports.start() < FIRST_USER_PORT && *ports.end() >= FIRST_USER_PORT {
            return Err("a range across 1024; list the ports below 1024 on their own");
        }
        Ok(Granted(ports))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published(text: &str) -> Vec<String> {
        let Publication(mappings) = text.parse().unwrap();
        mappings.iter().map(Mapping::to_string).collect()
    }

    #[test]
    fn what_is_published_is_read_as_docker_and_podman_write_it() {
        assert_eq!(published("8080:80"), ["8080:80/tcp"]);
        assert_eq!(published("8080:80/udp"), ["8080:80/udp"]);
        assert_eq!(published("127.0.0.1:8080:80/tcp"), ["127.0.0.1:8080:80/tcp"]);
        assert_eq!(published("0.0.0.0:8080:80"), ["8080:80/tcp"]);
        assert_eq!(published("0:80"), ["0:80/tcp"]);
        assert_eq!(published("8000-8001:80-81"), ["8000:80/tcp", "8001:81/tcp"]);
        assert_eq!(published("65535-65535:1-1"), ["65535:1/tcp"]);
    }

    #[test]
    fn what_is_wrong_is_named_by_its_part() {
        for (text, part) in [
            ("", "no :"),
            ("80", "no :"),
            (":", "container port"),
            ("80:", "container port"),
            (":80", "host port"),
            ("80:0", "container port"),
            ("80:65536", "container port"),
            ("65536:80", "host port"),
            ("-1:80", "host port"),
            ("+80:80", "host port"),
            ("080:80", "host port"),
            ("80:80/", "protocol"),
            ("80:80/TCP", "protocol"),
            ("80:80/sctp", "protocol"),
            ("80:80/tcp/udp", "protocol"),
            ("x:80:80", "IPv4 address"),
            ("::1:80:80", "IPv4 address"),
            (":80:80", "IPv4 address"),
            ("1.2.3.4:5:6:7", "IPv4 address"),
            ("8001-8000:80-81", "host port"),
            ("8000-8001:81-80", "container port"),
            ("8000-8001:80", "equally long"),
            ("8000:80-81", "equally long"),
            ("0-1:80-81", "begin a range"),
            ("8000-8001-8002:1-2-3", "container port"),
        ] {
            let why = text.parse::<Publication>().unwrap_err();
            assert!(why.contains(part), "{text}: {why}");
        }
    }

    #[test]
    fn ports_conflict_if_an_address_would_have_both() {
        let one = |text: &str| text.parse::<Publication>().unwrap().0[0];
        let any = one("80:1");
        assert!(any.conflicts(&one("80:2")));
        assert!(any.conflicts(&one("1.2.3.4:80:2")));
        assert!(one("1.2.3.4:80:2").conflicts(&any));
        assert!(one("1.2.3.4:80:2").conflicts(&one("1.2.3.4:80:3")));
        assert!(!one("1.2.3.4:80:2").conflicts(&one("1.2.3.5:80:2")));
        assert!(!any.conflicts(&one("80:1/udp")));
        assert!(!one("0:80").conflicts(&one("0:80")));
    }

    #[test]
    fn low_ports_are_granted_only_by_themselves() {
        let granted = |text: &str| text.parse::<Granted>();
        assert!(granted("8000-8999").unwrap().0.contains(&8999));
        assert!(!granted("8000-8999").unwrap().0.contains(&9000));
        assert!(granted("80").unwrap().0.contains(&80));
        assert!(granted("1-1023").is_ok());
        for wrong in ["", "0", "0-5", "1-65535", "1023-1024", "9-8", "a", "80/tcp", "8000-"] {
            assert!(granted(wrong).is_err(), "{wrong}");
        }
    }
}
