//! The audit trail: a line in the system's log for each attach and delete, and for each request
//! that is refused or fails (`syslog(3)`, facility `authpriv`).
//!
//! A caller can end the run at any instruction. So a line comes *before* the act that it is about.
//! If the act fails after all, a second line tells. A line is lost if no program listens at
//! `/dev/log`, or if it reads too slowly: no run waits for it.
//!
//! Every program that may send to `/dev/log` can write such lines. But the kernel tells the log who
//! sends, and that is the caller, as this process is the caller's.

use std::cell::OnceCell;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;

use nix::sys::socket::{MsgFlags, send};
use nix::unistd::getpid;

use crate::kernel::link::Link;
use crate::network::lease::Lease;
use crate::report::error::{Error, Result};
use crate::report::one_word;
use crate::request::accounts;
use crate::request::cli::{Attach, Which};
use crate::request::ports::Mapping;

const LOG: &str = "/dev/log";

/// `LOG_AUTHPRIV` with the severities `LOG_NOTICE` and `LOG_INFO` (`syslog(3)`).
const NOTICE: u8 = 10 << 3 | 5;
const INFO: u8 = 10 << 3 | 6;

/// The longest line, in bytes, that every log takes (RFC 3164, 4.1), the longest word of the caller
/// in it, and the longest reason.
const LONGEST_LINE: usize = 1024;
const LONGEST_WORD: usize = 128;
const LONGEST_REASON: usize = 300;

/// Stands for the ports that have no room in a line.
const MORE: &str = ",...";

/// What the lines of one request have in common.
#[derive(Debug)]
pub struct Trail<'a> {
    action: &'static str,
    uid: u32,
    of: Option<(&'a Which, &'a Attach)>,
    /// The system's log, if one listens, and the words that each line has.
    log: OnceCell<Option<(UnixDatagram, String)>>,
}

impl<'a> Trail<'a> {
    /// A request of this user to do `action` with a container, or with none.
    pub fn new(action: &'static str, uid: u32, of: Option<(&'a Which, &'a Attach)>) -> Self {
        Trail { action, uid, of, log: OnceCell::new() }
    }

    /// Connects to the log. A run calls this while it has time, and before it opens what it needs:
    /// a limit on files that keeps the log away then ends the run too.
    pub fn open(&self) {
        let _ = self.log();
    }

    /// Tells what is about to happen. A run calls this before the veth pair lets anything through,
    /// or is taken away.
    pub fn begins(&self, lease: &Lease) {
        let details = format!(" link={} address={}", lease.host_end, lease.address);
        self.write(self.action, &details, self.ports(), "");
    }

    /// Tells which veth pair is about to be taken away, where no container was named.
    pub fn takes(&self, link: &Link, ip: Ipv4Addr) {
        let name = link.alias.as_deref().map(|name| format!(" container={}", word(name)));
        let details =
            format!("{} link={} address={ip}", name.unwrap_or_default(), word(&link.name));
        self.write(self.action, &details, &[], "");
    }

    /// Tells which ports this run has chosen, if the caller left the choice to it.
    pub fn chose(&self, ports: &[Mapping]) {
        if self.ports().iter().any(|port| port.host_port == 0) {
            self.write("publish", "", ports, "");
        }
    }

    /// Tells why the request was refused, or failed. A run calls this with every outcome, and gets
    /// it back.
    pub fn ends<T>(&self, outcome: Result<T>) -> Result<T> {
        let (how, why) = match &outcome {
            Ok(_) => return outcome,
            Err(Error::Refused(why)) => ("refused", why.to_string()),
            Err(error) => ("failed", error.to_string()),
        };
        let address = self.of.and_then(|(_, request)| request.container_address);
        let details = address.map(|address| format!(" address={address}")).unwrap_or_default();
        let shown = |c| if matches!(c, ' '..='~') { c } else { '?' };
        let why: String = why.chars().map(shown).take(LONGEST_REASON).collect();
        let what = format!("{} {how}", self.action);
        self.write(&what, &details, self.ports(), &format!(" reason={why}"));
        outcome
    }

    fn ports(&self) -> &[Mapping] {
        self.of.map(|(_, request)| request.publish.as_slice()).unwrap_or_default()
    }

    fn log(&self) -> Option<&(UnixDatagram, String)> {
        let connected = || {
            let log = UnixDatagram::unbound().ok()?;
            log.connect(LOG).ok()?;
            Some((log, self.about()))
        };
        self.log.get_or_init(connected).as_ref()
    }

    /// The user, and the container and its interface.
    fn about(&self) -> String {
        let accounts = accounts::text_of(accounts::PASSWD).unwrap_or_default();
        let user = accounts::name_of(self.uid, &accounts).map_or("-".to_owned(), word);
        let user = format!(" uid={} user={user}", self.uid);
        let Some((which, request)) = self.of else { return user };
        let target = match which {
            Which::Pid(pid) => format!(" pid={pid}"),
            Which::Netns(path) => format!(" netns={}", word(&path.to_string_lossy())),
        };
        let name = request.container.as_deref().map(|name| format!(" container={}", word(name)));
        format!("{user}{target}{} interface={}", name.unwrap_or_default(), request.container_end)
    }

    /// Sends a line to the log, if it takes one at once.
    fn write(&self, what: &str, details: &str, ports: &[Mapping], reason: &str) {
        let Some((log, about)) = self.log() else { return };
        let priority = if reason.is_empty() { INFO } else { NOTICE };
        // The log adds the time (RFC 3164, 4.3): this run does not know the time zone.
        let start = format!("<{priority}>netsetgo[{}]: {what}{about}{details}", getpid());
        let room = LONGEST_LINE.saturating_sub(start.len() + reason.len());
        let line = start + &listed(ports, room) + reason;
        let _ = send(log.as_raw_fd(), line.as_bytes(), MsgFlags::MSG_DONTWAIT);
    }
}

/// As many ports as have room. Ports in a row are written as FIRST-LAST.
fn listed(ports: &[Mapping], room: usize) -> String {
    let after = |port: &Mapping| Mapping {
        host_port: port.host_port.saturating_add(1),
        container_port: port.container_port.saturating_add(1),
        ..*port
    };
    let mut text = String::new();
    for row in ports.chunk_by(|port, next| after(port) == *next) {
        let [first, others @ ..] = row else { continue };
        let before = if text.is_empty() { " ports=" } else { "," };
        let last = others.last().map(|last| format!("-{last}")).unwrap_or_default();
        let word = format!("{before}{first}{last}");
        if text.len() + word.len() + MORE.len() > room {
            return text + MORE;
        }
        text += &word;
    }
    text
}

fn word(text: &str) -> String {
    one_word(text).chars().take(LONGEST_WORD).collect()
}
