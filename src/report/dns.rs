//! Name service: the servers that a container has to ask. A run prints them and writes no file.

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr};

use serde::Serialize;

use crate::report::error::{Failed, Result};
use crate::request::policy::Grant;
use crate::request::read;

/// The host's own configuration, `resolv.conf(5)`.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The host's configuration without systemd-resolved's stub, a server on the host's loopback
/// (`systemd-resolved.service(8)`).
const UPSTREAM: &str = "/run/systemd/resolve/resolv.conf";

const LARGEST: u64 = 64 << 10;

/// What a container needs for name service. As JSON it is the `dns` of a CNI result.
#[derive(Debug, Default, Clone, PartialEq, Serialize)]
pub struct Dns {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<Ipv4Addr>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

impl Dns {
    /// What the policy says, or else what the host itself uses, as far as a container can reach it.
    /// A container reaches no server on the host's loopback, and none over IPv6.
    pub fn of(grant: &Grant) -> Result<Dns> {
        if let Some(nameservers) = &grant.dns {
            return Ok(Dns { nameservers: nameservers.clone(), ..Dns::default() });
        }
        match Dns::parse(&text_of(RESOLV_CONF)?) {
            (dns, true) if dns.nameservers.is_empty() => Ok(Dns::parse(&text_of(UPSTREAM)?).0),
            (dns, _) => Ok(dns),
        }
    }

    /// Reads a `resolv.conf(5)`. Tells also whether it names a server on the loopback.
    fn parse(text: &str) -> (Dns, bool) {
        let (mut dns, mut loopback) = (Dns::default(), false);
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            // A keyword counts at the beginning of its line only.
            match words.next().filter(|word| line.starts_with(word)) {
                Some("nameserver") => match words.next().and_then(|value| value.parse().ok()) {
                    Some(IpAddr::V4(ip)) if !ip.is_loopback() && !ip.is_unspecified() => {
                        dns.nameservers.push(ip);
                    }
                    other => loopback |= other.is_some_and(|ip| ip.is_loopback()),
                },
                // The last line of either kind counts.
                Some("search" | "domain") => dns.search = printable(words).collect(),
                Some("options") => dns.options.extend(printable(words)),
                _ => {}
            }
        }
        (dns, loopback)
    }

    pub fn resolv_conf(&self) -> String {
        let servers = self.nameservers.iter().map(|server| format!("nameserver {server}\n"));
        let words = [("search", &self.search), ("options", &self.options)];
        let words = words.into_iter().filter(|(_, words)| !words.is_empty());
        servers
            .chain(words.map(|(keyword, words)| format!("{keyword} {}\n", words.join(" "))))
            .collect()
    }
}

fn printable<'a>(words: impl Iterator<Item = &'a str>) -> impl Iterator<Item = String> {
    words.filter(|word| word.bytes().all(|byte| byte.is_ascii_graphic())).map(str::to_owned)
}

/// The text of a file, if it exists. Of a large file it is the beginning, up to the end of a line.
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
        let (dns, loopback) = Dns::parse(text);
        assert!(loopback);
        let servers = [Ipv4Addr::new(192, 0, 2, 53), Ipv4Addr::new(192, 0, 2, 55)];
        assert_eq!(dns.nameservers, servers);
        assert_eq!(dns.search, ["two.example", "three.example"]);
        assert_eq!(dns.options, ["ndots:2", "edns0"]);
        assert_eq!(
            dns.resolv_conf(),
            "nameserver 192.0.2.53\nnameserver 192.0.2.55\nsearch two.example three.example\n\
             options ndots:2 edns0\n"
        );
        assert_eq!(Dns::parse(&dns.resolv_conf()), (dns, false));
    }

    #[test]
    fn a_stub_on_the_loopback_is_noticed() {
        let names_loopback = |text| Dns::parse(text).1;
        assert!(names_loopback("nameserver 127.0.0.53\n"));
        assert!(names_loopback("nameserver ::1\n"));
        assert!(!names_loopback("nameserver 192.0.2.1\n#nameserver 127.0.0.1\n"));
        assert_eq!(Dns::parse("search a\u{7f}b ok\u{1b}[1m fine").0.search, ["fine"]);
    }
}
