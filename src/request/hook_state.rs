//! The state of a container, which an OCI runtime writes to the standard input of its hooks as JSON
//! (OCI runtime specification, "State" and "POSIX-platform Hooks").

use std::collections::BTreeMap;
use std::io::Read;
use std::str::FromStr;

use serde::Deserialize;
use serde_json::Value;

use crate::report;
use crate::report::error::{Error, Result, Usage};
use crate::request::cli::{self, Attach, PID_LIMIT};
use crate::request::read;

/// The most bytes of a state that are read. Annotations can be long, but not that long.
const LARGEST: u64 = 1 << 20;

/// The longest name of a container that is kept: an alias has 255 bytes at most (`IFALIASZ`,
/// `linux/if.h`).
const LONGEST_NAME: usize = 200;

/// The prefix of the annotations that are for this program.
const OURS: &str = "netsetgo.";

/// The state of a container, without the parts that this program has no use for.
#[derive(Debug, Deserialize)]
pub struct State {
    id: String,
    status: String,
    /// Runtimes leave it out, or write 0, when the container is gone.
    pid: Option<i64>,
    annotations: Option<BTreeMap<String, Value>>,
}

impl State {
    pub fn read(input: impl Read) -> Result<State> {
        let bytes = read::at_most(LARGEST, input).map_err(wrong)?;
        serde_json::from_slice(&bytes).map_err(wrong)
    }

    /// The container's process, or `None` if the container has stopped. A pid 0 is refused: it never
    /// means the calling process.
    pub fn process(&self) -> Result<Option<i32>> {
        match self.status.as_str() {
            "stopped" => return Ok(None),
            "creating" | "created" | "running" => {}
            other => return Err(wrong(format!("status {other:?} is none of the specification's"))),
        }
        let pid = self.pid.ok_or_else(|| wrong("it has no pid"))?;
        match i32::try_from(pid) {
            Ok(process @ 1..=PID_LIMIT) => Ok(Some(process)),
            _ => Err(wrong(format!("pid {pid} is none between 1 and {PID_LIMIT}"))),
        }
    }

    /// The container's name, as a list can show it.
    pub fn name(&self) -> String {
        name_of(&self.id)
    }

    /// Adds the container's own options to those of the hook's arguments, if these say that annotations
    /// count. Where there can be only one, the container's replaces the other. Gives whether there are
    /// annotations for this program that do not count: tools make an image's labels annotations, so the
    /// author of an image must not break a container with them, or publish its ports.
    pub fn complete(self, request: &mut Attach) -> Result<bool> {
        request.container = Some(self.name()).filter(|name| !name.is_empty());
        for (name, given) in self.annotations.unwrap_or_default() {
            let Some(option) = name.strip_prefix(OURS) else { continue };
            if !request.annotations {
                return Ok(true);
            }
            let text = given
                .as_str()
                .ok_or_else(|| wrong(format!("annotation {name:?}: not a string")))?;
            match option {
                "ifname" => request.container_end = value(option, text)?,
                "address" => request.container_address = Some(value(option, text)?),
                "publish" => {
                    for text in text.split([',', ' ']).filter(|text| !text.is_empty()) {
                        cli::add(&mut request.publish, value(option, text)?)?;
                    }
                }
                _ => return Err(wrong(format!("annotation {name:?}: there is none of that name"))),
            }
        }
        Ok(false)
    }
}

/// A container's id as its name.
pub fn name_of(id: &str) -> String {
    report::one_word(id).chars().take(LONGEST_NAME).collect()
}

fn value<T: FromStr<Err = &'static str>>(name: &str, text: &str) -> Result<T> {
    text.parse().map_err(|why| wrong(format!("annotation {OURS}{name} {text:?}: {why}")))
}

/// The error for what is wrong with a state. Of a long text it has both ends only.
fn wrong(why: impl ToString) -> Error {
    const END: usize = 200;
    let mut why = why.to_string();
    let length = why.chars().count();
    if length > 2 * END {
        let (first, last) = (why.chars().take(END), why.chars().skip(length - END));
        why = first.chain("...".chars()).chain(last).collect();
    }
    Usage::State(why).into()
}

#[cfg(fuzzing)]
#[path = "../../tests/fuzz/within/hook.rs"]
pub mod fuzzing;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::cli::Request;

    fn request() -> Attach {
        match cli::parse(["-hook", "-annotations", "-ifname", "eth0", "-publish", "8080:80"]) {
            Ok(Request::Hook(request)) => request,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_runtimes_send_is_read() {
        let creating = br#"{"ociVersion":"1.0.2-dev","id":"web","status":"creating","pid":4422,
            "bundle":"/b","annotations":{"netsetgo.publish":"8081:81, 8082:82/udp","other":"x"}}"#;
        let state = State::read(&creating[..]).unwrap();
        assert_eq!(state.process().unwrap(), Some(4422));
        let mut request = request();
        assert!(!state.complete(&mut request).unwrap());
        let published: Vec<_> = request.publish.iter().map(ToString::to_string).collect();
        assert_eq!(published, ["8080:80/tcp", "8081:81/tcp", "8082:82/udp"]);
        assert_eq!(request.container.as_deref(), Some("web"));
        assert_eq!(request.container_end.as_str(), "eth0");
        // runc leaves the pid of one that has stopped out, crun sends 0.
        for stopped in
            [&br#"{"id":"a","status":"stopped"}"#[..], br#"{"id":"a","status":"stopped","pid":0}"#]
        {
            assert_eq!(State::read(stopped).unwrap().process().unwrap(), None);
        }
        let odd = br#"{"id":"a","status":"paused","pid":1}"#;
        assert!(State::read(&odd[..]).unwrap().process().is_err());
    }

    #[test]
    fn the_containers_own_annotations_go_before_the_hooks_arguments() {
        let state = br#"{"id":"a","status":"created","pid":1,"annotations":
            {"netsetgo.ifname":"net0","netsetgo.address":"10.10.10.9/24"}}"#;
        let mut request = request();
        State::read(&state[..]).unwrap().complete(&mut request).unwrap();
        assert_eq!(request.container_end.as_str(), "net0");
        assert_eq!(request.container_address, "10.10.10.9/24".parse().ok());
    }

    #[test]
    fn annotations_count_only_if_the_hooks_arguments_say_so() {
        for wrong in [
            r#""netsetgo.publish":8080"#,
            r#""netsetgo.pubish":"1:1""#,
            r#""netsetgo.publish":"8080:81""#,
        ] {
            let state =
                format!(r#"{{"id":"a","status":"created","pid":1,"annotations":{{{wrong}}}}}"#);
            let state = || State::read(state.as_bytes()).unwrap();
            let mut counts = request();
            assert_eq!(state().complete(&mut counts).unwrap_err().exit_status(), 2, "{wrong}");
            let mut plain = Attach { annotations: false, ..request() };
            assert!(state().complete(&mut plain).unwrap());
            assert_eq!(plain.publish, request().publish);
        }
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
        let name = |id: &str| {
            let state = serde_json::json!({"id": id, "status": "created"}).to_string();
            State::read(state.as_bytes()).unwrap().name()
        };
        assert_eq!(name("web-1_a.b"), "web-1_a.b");
        assert_eq!(name("a\nb\u{1b}[1m\u{e4}"), "a?b?[1m?");
        assert_eq!(name(&"x".repeat(300)).len(), LONGEST_NAME);
    }
}
