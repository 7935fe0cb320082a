//! The audit trail: a line in the system's log for whatever somebody attaches, deletes or publishes,
//! and for whatever he is refused, `syslog(3)` with the facility `authpriv`.
//!
//! A caller can end the run at any instruction. So a line comes *before* what it is about: what works
//! has one. If it fails after all, a second line says so. Where nobody listens at `/dev/log`, or he
//! is too slow, the line is lost and the run goes on, at once.
//!
//! Whoever may send to `/dev/log` can write such lines. What the kernel tells its reader of the
//! sender, above all his uid, he cannot: and that is the caller's, as this process is his.

use std::cell::OnceCell;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, send, socket,
};
use nix::unistd::getpid;

use crate::network::lease::Lease;
use crate::report::error::{Error, Result};
use crate::report::one_word;
use crate::request::accounts;
use crate::request::cli::{Attach, Which};
use crate::request::ports::Mapping;

/// Where the system's log listens.
const LOG: &str = "/dev/log";

/// `LOG_AUTHPRIV` and severities (`syslog(3)`).
const AUTHPRIV: u8 = 10 << 3;
const NOTICE: u8 = 5;
const INFO: u8 = 6;

/// The longest word of the caller's in a line, and the longest reason.
const LONGEST_WORD: usize = 128;
const LONGEST_REASON: usize = 300;

/// The most ports in a line. Of more, further lines tell. So a line has about the 1024 bytes, at
/// most, that everybody takes (RFC 3164, 4.1).
const PORTS: usize = 16;

/// What the lines of one request have in common.
#[derive(Debug)]
pub struct Trail<'a> {
    action: &'static str,
    uid: u32,
    of: Option<(&'a Which, &'a Attach)>,
    log: OnceCell<Option<Log>>,
}

/// The system's log, and what to say in each line.
#[derive(Debug)]
struct Log {
    socket: OwnedFd,
    about: String,
}

impl<'a> Trail<'a> {
    /// A request of this user's to do `action` with a container, or with none.
    pub fn new(action: &'static str, uid: u32, of: Option<(&'a Which, &'a Attach)>) -> Self {
        Trail { action, uid, of, log: OnceCell::new() }
    }

    /// Gets ready to write: while there is time, and before the run has opened what it cannot do
    /// without. So a limit on files that leaves no room for the log leaves none for the rest.
    pub fn open(&self) {
        let _ = self.log();
    }

    /// To be called before the wire lets anything through, or is taken away.
    pub fn begins(&self, lease: &Lease) {
        let wire = format!(" link={} address={}", lease.host_end, lease.address);
        self.write(INFO, self.action, &with_ports(&wire, self.ports()));
    }

    /// Says which ports have been chosen, if the choice was not the caller's.
    pub fn chose(&self, ports: &[Mapping]) {
        if self.ports().iter().any(|port| port.host_port == 0) {
            self.write(INFO, "publish", &with_ports("", ports));
        }
    }

    /// Says why it was refused, or failed. To be called with every outcome, which is given back.
    ///
    /// # Errors
    /// The one that came in.
    pub fn ends<T>(&self, outcome: Result<T>) -> Result<T> {
        let (how, why) = match &outcome {
            Ok(_) => return outcome,
            Err(Error::Refused(why)) => ("refused", why.to_string()),
            Err(Error::Failed(why)) => ("failed", why.to_string()),
            Err(Error::Usage(why)) => ("failed", why.to_string()),
        };
        let address = self.of.and_then(|(_, request)| request.container_address);
        let address = address.map(|address| format!(" address={address}")).unwrap_or_default();
        let ports = self.ports();
        let asked = with_ports(&address, ports.get(..PORTS).unwrap_or(ports)).concat();
        let why: Vec<_> = why.split(' ').map(one_word).collect();
        let why: String = why.join(" ").chars().take(LONGEST_REASON).collect();
        let what = format!("{} {how}", self.action);
        self.write(NOTICE, &what, &[format!("{asked} reason={why}")]);
        outcome
    }

    fn ports(&self) -> &[Mapping] {
        self.of.map(|(_, request)| request.publish.as_slice()).unwrap_or_default()
    }

    /// Which container it is about, and its interface.
    fn container(&self) -> String {
        let Some((which, request)) = self.of else { return String::new() };
        let target = match which {
            Which::Pid(pid) => format!(" pid={pid}"),
            Which::Netns(path) => format!(" netns={}", word(&path.to_string_lossy())),
        };
        let name = request.container.as_deref().map(|name| format!(" container={}", word(name)));
        format!("{target}{} interface={}", name.unwrap_or_default(), request.container_end)
    }

    fn log(&self) -> Option<&Log> {
        let open = || {
            let socket = connected().ok()?;
            Some(Log { socket, about: format!("{}{}", user(self.uid), self.container()) })
        };
        self.log.get_or_init(open).as_ref()
    }

    /// Writes a line for each of `ends`, if somebody listens, and without waiting for him.
    fn write(&self, severity: u8, what: &str, ends: &[String]) {
        let Some(Log { socket, about }) = self.log() else { return };
        let priority = AUTHPRIV | severity;
        for end in ends {
            // Whoever receives it puts down when (RFC 3164, 4.3): the time zone is unknown here.
            let line = format!("<{priority}>netsetgo[{}]: {what}{about}{end}", getpid());
            let _ = send(socket.as_raw_fd(), line.as_bytes(), MsgFlags::MSG_DONTWAIT);
        }
    }
}

fn connected() -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let log = socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
    connect(log.as_raw_fd(), &UnixAddr::new(LOG)?)?;
    Ok(log)
}

fn user(uid: u32) -> String {
    let accounts = accounts::passwd().unwrap_or_default();
    format!(" uid={uid} user={}", accounts::name_of(uid, &accounts).map_or("-".to_owned(), word))
}

/// One line at least, and one for each so many ports.
fn with_ports(rest: &str, ports: &[Mapping]) -> Vec<String> {
    if ports.is_empty() {
        return vec![rest.to_owned()];
    }
    let some = |ports: &[Mapping]| {
        let ports: Vec<_> = ports.iter().map(ToString::to_string).collect();
        format!("{rest} ports={}", ports.join(","))
    };
    ports.chunks(PORTS).map(some).collect()
}

fn word(text: &str) -> String {
    one_word(text).chars().take(LONGEST_WORD).collect()
}
