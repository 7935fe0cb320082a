//! The OCI runtime hook: a runtime says on standard input which container it is about, as JSON
//! (OCI runtime specification, "State" and "POSIX-platform Hooks").

use std::collections::BTreeMap;
use std::io::stdin;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::commands::attach::attach;
use crate::commands::prune::prune;
use crate::kernel::link::{self, By, Kind, Link};
use crate::kernel::netlink::Netlink;
use crate::network::lease::owner_of;
use crate::privilege::caller::Caller;
use crate::report;
use crate::report::error::{Error, Failed, Result, Usage};
use crate::request::cli::{self, Attach, PID_LIMIT, Which};
use crate::request::read;

/// The most bytes of a state that are read. Annotations can be long, but not that long.
const LARGEST: u64 = 1 << 20;

/// The longest name of a container that is kept: an alias has 255 bytes at most (`IFALIASZ`,
/// `linux/if.h`).
const LONGEST_NAME: usize = 200;

/// What the annotations that are this program's begin with.
const OURS: &str = "netsetgo.";

/// How long to sleep between two looks at the wire of a container that has stopped.
const NAP: Duration = Duration::from_millis(5);

/// The state of a container, as far as it matters here.
#[derive(Debug, Deserialize)]
struct State {
    id: String,
    status: String,
    /// Left out, or 0, by runtimes whose container is gone.
    #[serde(default)]
    pid: Option<i64>,
    #[serde(default)]
    annotations: Option<Annotations>,
}

#[derive(Debug, Default, Deserialize)]
struct Annotations {
    #[serde(rename = "netsetgo.publish")]
    publish: Option<String>,
    #[serde(rename = "netsetgo.ifname")]
    ifname: Option<String>,
    #[serde(rename = "netsetgo.address")]
    address: Option<String>,
    #[serde(flatten)]
    others: BTreeMap<String, IgnoredAny>,
}

/// Attaches the container whose state is on standard input, with the options of the command line and
/// of its annotations; or takes out what is left of those that are gone, if it has stopped.
///
/// # Errors
/// [`Usage::State`] when the state does not read as one, and any that [`attach`] and [`prune`] have.
pub fn hook(caller: &mut Caller, mut request: Attach) -> Result<()> {
    let bytes = read::at_most(LARGEST, stdin().lock()).map_err(|error| wrong(error.to_string()))?;
    let state = State::read(&bytes)?;
    match state.status.as_str() {
        "creating" | "created" | "running" => {
            let which = Which::Pid(state.process()?);
            state.complete(&mut request)?;
            report::warned(attach(caller, &which, &request))
        }
        "stopped" => {
            see_off(caller, &printable(&state.id), Instant::now() + request.wait)?;
            prune(caller)
        }
        other => Err(wrong(format!("status {other:?} is none of the specification's"))),
    }
}

/// Waits, at most until `deadline`, for the wires of the caller's containers of this name to be gone. A
/// runtime says that one has stopped when its processes have ended; the kernel takes its network
/// namespace down after that, and until then there is nothing of it to be purged.
fn see_off(caller: &Caller, name: &str, deadline: Instant) -> Result<()> {
    let failed = || Failed::netlink("reading the links");
    let is_of_it = |link: &Link| {
        link.alias.as_deref() == Some(name)
            && (caller.is_root() || owner_of(&link.name) == Some(caller.uid))
    };
    let mut netlink = Netlink::open().map_err(failed())?;
    let wires = link::all(&mut netlink, Kind::Veth).map_err(failed())?;
    for wire in wires.into_iter().filter(is_of_it) {
        while Instant::now() < deadline
            && link::get(&mut netlink, By::Index(wire.index))
                .map_err(failed())?
                .is_some_and(|link| is_of_it(&link))
        {
            sleep(NAP);
        }
    }
    Ok(())
}

/// What is wrong with a state. Of a long text of its own only the ends are told.
fn wrong(why: impl Into<String>) -> Error {
    const END: usize = 200;
    let why: Vec<char> = why.into().chars().collect();
    let text = match (why.first_chunk::<END>(), why.last_chunk::<END>()) {
        (Some(first), Some(last)) if why.len() > 2 * END => {
            first.iter().chain(&['.'; 3]).chain(last).collect()
        }
        _ => why.iter().collect(),
    };
    Usage::State(text).into()
}

impl State {
    fn read(bytes: &[u8]) -> Result<State> {
        let state: State =
            serde_json::from_slice(bytes).map_err(|error| wrong(error.to_string()))?;
        let others = state.annotations.iter().flat_map(|annotations| annotations.others.keys());
        match others.into_iter().find(|name| name.starts_with(OURS)) {
            Some(name) => Err(wrong(format!("annotation {name:?}: there is none of that name"))),
            None => Ok(state),
        }
    }

    /// The container's process. 0 never means the calling one.
    fn process(&self) -> Result<i32> {
        let pid = self.pid.ok_or_else(|| wrong("it has no pid"))?;
        i32::try_from(pid)
            .ok()
            .filter(|pid| (1..=PID_LIMIT).contains(pid))
            .ok_or_else(|| wrong(format!("pid {pid} is none between 1 and {PID_LIMIT}")))
    }

    /// Adds what the container itself asks for to what the hook's arguments do. Of what there can be
    /// only one, the container's is the one.
    fn complete(&self, request: &mut Attach) -> Result<()> {
        request.container = Some(printable(&self.id)).filter(|name| !name.is_empty());
        let Some(Annotations { publish, ifname, address, .. }) = &self.annotations else {
            return Ok(());
        };
        if let Some(ifname) = ifname {
            request.container_end = value("ifname", ifname)?;
        }
        if let Some(address) = address {
            request.container_address = Some(value("address", address)?);
        }
        for text in publish.iter().flat_map(|all| all.split([',', ' '])) {
            if !text.is_empty() {
                cli::add(&mut request.publish, value("publish", text)?)?;
            }
        }
        Ok(())
    }
}

/// Reads the value of an annotation as that of the option.
fn value<T: std::str::FromStr<Err = &'static str>>(name: &str, text: &str) -> Result<T> {
    text.parse().map_err(|why| wrong(format!("annotation {OURS}{name} {text:?}: {why}")))
}

/// A container's name as it can be shown in a list.
fn printable(id: &str) -> String {
    report::one_word(id).chars().take(LONGEST_NAME).collect()
}

/// What the fuzz targets check here.
#[cfg(fuzzing)]
#[path = "../../tests/fuzz/within/hook.rs"]
pub mod fuzzing;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::cli::Request;

    fn request() -> Attach {
        match cli::parse(["-hook", "-ifname", "eth0", "-publish", "8080:80"]) {
            Ok(Request::Hook(request)) => request,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_runtimes_send_is_read() {
        let creating = br#"{"ociVersion":"1.0.2-dev","id":"web","status":"creating","pid":4422,
            "bundle":"/b","annotations":{"netsetgo.publish":"8081:81, 8082:82/udp","other":"x"}}"#;
        let state = State::read(creating).unwrap();
        assert_eq!(state.process().unwrap(), 4422);
        let mut request = request();
        state.complete(&mut request).unwrap();
        let published: Vec<_> = request.publish.iter().map(ToString::to_string).collect();
        assert_eq!(published, ["8080:80/tcp", "8081:81/tcp", "8082:82/udp"]);
        assert_eq!(request.container.as_deref(), Some("web"));
        assert_eq!(request.container_end.as_str(), "eth0");
        // runc leaves the pid of one that has stopped out, crun sends 0.
        for stopped in
            [&br#"{"id":"a","status":"stopped"}"#[..], br#"{"id":"a","status":"stopped","pid":0}"#]
        {
            assert!(State::read(stopped).unwrap().process().is_err());
        }
    }

    #[test]
    fn the_containers_own_annotations_go_before_the_hooks_arguments() {
        let state = br#"{"id":"a","status":"created","pid":1,"annotations":
            {"netsetgo.ifname":"net0","netsetgo.address":"10.10.10.9/24"}}"#;
        let mut request = request();
        State::read(state).unwrap().complete(&mut request).unwrap();
        assert_eq!(request.container_end.as_str(), "net0");
        assert_eq!(request.container_ip(), Some([10, 10, 10, 9].into()));
    }

    #[test]
    fn what_does_not_read_as_a_state_is_wrong_usage() {
        let deep = [vec![b'['; 1 << 20], vec![]].concat();
        for state in [
            &b""[..],
            b"x",
            b"[]",
            b"{}",
            &deep,
            br#"{"id":7,"status":"created","pid":1}"#,
            br#"{"status":"created","pid":1}"#,
            br#"{"id":"a","pid":1}"#,
            br#"{"id":"a","status":"created","pid":"1"}"#,
            br#"{"id":"a","status":"created","pid":1.5}"#,
            br#"{"id":"a","status":"created","pid":1,"annotations":[]}"#,
            br#"{"id":"a","status":"created","pid":1,"annotations":{"netsetgo.publish":8080}}"#,
            br#"{"id":"a","status":"created","pid":1,"annotations":{"netsetgo.pubish":"1:1"}}"#,
            br#"{"id":"a","status":"created","pid":1} x"#,
        ] {
            let error = State::read(state).unwrap_err();
            assert_eq!(error.exit_status(), 2, "{error}");
        }
        for pid in ["", r#","pid":0"#, r#","pid":-1"#, r#","pid":4194305"#, r#","pid":null"#] {
            let state = format!(r#"{{"id":"a","status":"created"{pid}}}"#);
            assert!(State::read(state.as_bytes()).unwrap().process().is_err(), "{state}");
        }
    }

    #[test]
    fn a_long_text_is_told_by_its_ends() {
        let told = |length| wrong(format!("<{}>", "\u{e4}".repeat(length))).to_string();
        assert_eq!(told(398).matches('\u{e4}').count(), 398);
        let long = told(1 << 20);
        assert!(long.contains(": <\u{e4}") && long.contains("\u{e4}...\u{e4}"), "{long}");
        assert!(long.contains("\u{e4}>; see") && long.chars().count() < 600, "{long}");
    }

    #[test]
    fn a_name_is_printed_as_one_word() {
        assert_eq!(printable("web-1_a.b"), "web-1_a.b");
        assert_eq!(printable("a\nb\u{1b}[1m\u{e4}"), "a?b?[1m?");
        assert_eq!(printable(&"x".repeat(300)).len(), LONGEST_NAME);
    }
}
