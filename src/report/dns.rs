//! Name service: which servers a container is to ask. This program writes no file; it says it.

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr};

use serde::Serialize;

use crate::report::error::{Failed, Result};
use crate::request::policy::Grant;
use crate::request::read;

/// The host's own configuration, `resolv.conf(5)`.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The same without systemd-resolved's stub, which listens on the host's loopback
/// (`systemd-resolved.service(8)`).
const UPSTREAM: &str = "/run/systemd/resolve/resolv.conf";

/// The most bytes that are read of either.
const LARGEST: u64 = 64 << 10;

/// What a container needs to look names up: as JSON, the `dns` of a CNI result.
#[derive(Debug, Default, Clone, PartialEq, Serialize)]
pub struct Dns {
    /// The servers, in the order in which they are to be asked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<Ipv4Addr>,
    /// Domains in which short names are looked up.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Options of the resolver.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

impl Dns {
    /// What the policy says, or else what the host itself uses, as far as a container can reach it:
    /// no address of the host's loopback, and none of IPv6, for which there is no way out.
    ///
    /// # Errors
    /// [`Failed::File`].
    pub fn of(grant: &Grant) -> Result<Dns> {
        if let Some(nameservers) = &grant.dns {
            return Ok(Dns { nameservers: nameservers.clone(), ..Dns::default() });
        }
        let own = text_of(RESOLV_CONF)?;
        let found = Dns::parse(&own);
        if found.nameservers.is_empty() && names_loopback(&own) {
            return Ok(Dns::parse(&text_of(UPSTREAM)?));
        }
        Ok(found)
    }

    /// Reads `resolv.conf(5)`.
    fn parse(text: &str) -> Dns {
        let mut dns = Dns::default();
        for (keyword, values) in lines(text) {
            match keyword {
                "nameserver" => {
                    let server = values.first().and_then(|value| value.parse::<Ipv4Addr>().ok());
                    dns.nameservers
                        .extend(server.filter(|ip| !ip.is_loopback() && !ip.is_unspecified()));
                }
                // The last line of either kind counts.
                "search" | "domain" => dns.search = words(&values),
                "options" => dns.options.extend(words(&values)),
                _ => {}
            }
        }
        dns
    }

    /// As a `resolv.conf(5)`.
    pub fn resolv_conf(&self) -> String {
        let mut text = String::new();
        for server in &self.nameservers {
            text += &format!("nameserver {server}\n");
        }
        for (keyword, words) in [("search", &self.search), ("options", &self.options)] {
            if !words.is_empty() {
                text += &format!("{keyword} {}\n", words.join(" "));
            }
        }
        text
    }
}

/// The lines that say something: a keyword at the beginning, and what follows it.
fn lines(text: &str) -> impl Iterator<Item = (&str, Vec<&str>)> {
    text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let keyword = words.next().filter(|word| line.starts_with(word))?;
        Some((keyword, words.collect()))
    })
}

/// Words that can be printed as they are.
fn words(values: &[&str]) -> Vec<String> {
    let plain = |word: &&&str| word.bytes().all(|byte| byte.is_ascii_graphic());
    values.iter().filter(plain).map(|word| (*word).to_owned()).collect()
}

/// Whether a server of the host's loopback is named.
fn names_loopback(text: &str) -> bool {
    lines(text).any(|(keyword, values)| {
        let server = values.first().and_then(|value| value.parse::<IpAddr>().ok());
        keyword == "nameserver" && server.is_some_and(|ip| ip.is_loopback())
    })
}

/// Reads a file, if there is one: as much of it as a resolver would, and whole lines.
fn text_of(path: &'static str) -> Result<String> {
    let failed = |error| Failed::File(path.into(), error);
    let file = match read::open_regular(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(String::new()),
        other => other.map_err(failed)?,
    };
    let mut bytes = read::at_most(LARGEST, file.take(LARGEST)).map_err(failed)?;
    if bytes.len() as u64 == LARGEST {
        let last = bytes.iter().rposition(|byte| *byte == b'\n');
        bytes.truncate(last.unwrap_or_default());
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What the fuzz targets check here.
#[cfg(fuzzing)]
#[path = "../../tests/fuzz/within/dns.rs"]
pub mod fuzzing;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolv_conf_is_read_as_the_resolver_does() {
        let text = "# comment\nnameserver 192.0.2.53\n nameserver 192.0.2.54\nnameserver\t192.0.2.55\n\
                    nameserver 127.0.0.53\nnameserver fe80::1%eth0\nnameserver 2001:db8::53\n\
                    search one.example\nsearch two.example three.example\noptions ndots:2 edns0\n\
                    ;nameserver 192.0.2.56\nsortlist 1.2.3.4\nnameserver\nnameserver x";
        let dns = Dns::parse(text);
        let servers = [Ipv4Addr::new(192, 0, 2, 53), Ipv4Addr::new(192, 0, 2, 55)];
        assert_eq!(dns.nameservers, servers);
        assert_eq!(dns.search, ["two.example", "three.example"]);
        assert_eq!(dns.options, ["ndots:2", "edns0"]);
        assert_eq!(
            dns.resolv_conf(),
            "nameserver 192.0.2.53\nnameserver 192.0.2.55\nsearch two.example three.example\n\
             options ndots:2 edns0\n"
        );
        assert_eq!(Dns::parse(&dns.resolv_conf()), dns);
    }

    #[test]
    fn a_stub_on_the_loopback_is_noticed() {
        assert!(names_loopback("nameserver 127.0.0.53\n"));
        assert!(names_loopback("nameserver ::1\n"));
        assert!(!names_loopback("nameserver 192.0.2.1\n#nameserver 127.0.0.1\n"));
        assert_eq!(Dns::parse("search a\u{7f}b ok\u{1b}[1m fine").search, ["fine"]);
    }
}
