//! Name service.
#![allow(missing_docs)]

use super::*;

/// A `resolv.conf` of the host's: what is printed for the container says the same, and nothing else.
pub fn check(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (dns, _) = Dns::parse(&text);
    let printed = dns.resolv_conf();
    assert_eq!(Dns::parse(&printed), (dns, false), "{printed:?}");
    for line in printed.lines() {
        let known =
            ["nameserver ", "search ", "options "].iter().any(|word| line.starts_with(word));
        assert!(known && line.bytes().all(|b| b.is_ascii_graphic() || b == b' '), "{line:?}");
    }
}
