//! The command line: what reads as a request is a request of the same meaning when it is written again.
#![no_main]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use netsetgo::fuzzing::cli::{self, Attach, Held, Output, Request, Which};
use netsetgo::fuzzing::one_line;
use netsetgo::fuzzing::ports::MOST_PORTS;

netsetgo_fuzz::target!(check);

fn check(bytes: &[u8]) {
    let arguments = bytes.split(|byte| *byte == 0).map(OsStr::from_bytes);
    let request = match cli::parse(arguments) {
        Ok(request) => request,
        Err(error) => return one_line(error, bytes.len()),
    };
    let again = match &request {
        Request::Help => vec!["-help".to_owned()],
        Request::Version => vec!["-version".to_owned()],
        Request::Attach(which, attach) => written(Some(which), attach),
        Request::Hook(attach) => [vec!["-hook".to_owned()], written(None, attach)].concat(),
        Request::Delete(which, attach) => {
            [vec!["-delete".to_owned()], written(Some(which), attach)].concat()
        }
        Request::LetGo(held) => {
            let (option, value) = match held {
                Held::Address(ip) => ("-address", ip.to_string()),
                Held::Id(id) => ("-id", id.clone()),
                Held::User(user) => ("-user", user.clone()),
            };
            vec!["-delete".to_owned(), option.to_owned(), value]
        }
        Request::List { json: true } => vec!["-list".to_owned(), "--json".to_owned()],
        Request::List { json: false } => vec!["-list".to_owned()],
        Request::Check => vec!["-check".to_owned()],
        Request::Prune => vec!["-prune".to_owned()],
    };
    assert_eq!(cli::parse(&again).as_ref(), Ok(&request), "{again:?}");
}

fn written(which: Option<&Which>, attach: &Attach) -> Vec<String> {
    assert!(attach.publish.len() <= MOST_PORTS && attach.container.is_none());
    let mut all = Vec::new();
    let mut option = |name: &str, value: String| all.extend([format!("-{name}"), value]);
    match which {
        Some(Which::Pid(pid)) => option("pid", pid.to_string()),
        Some(Which::Netns(path)) => option("netns", path.to_str().unwrap().to_owned()),
        None => {}
    }
    for (name, value) in [
        ("bridgeName", attach.bridge_name.as_ref().map(ToString::to_string)),
        ("bridgeAddress", attach.bridge_address.as_ref().map(ToString::to_string)),
        ("containerAddress", attach.container_address.as_ref().map(ToString::to_string)),
        ("ifname", Some(attach.container_end.to_string())),
        ("mtu", attach.mtu.as_ref().map(ToString::to_string)),
    ] {
        value.into_iter().for_each(|value| option(name, value));
    }
    if let Some(name) = &attach.host_end {
        option("vethNamePrefix", name.as_str().strip_suffix('0').unwrap().to_owned());
    }
    if attach.wait.as_secs() != 2 || attach.wait.subsec_nanos() != 0 {
        option("wait", format!("{}.{:09}", attach.wait.as_secs(), attach.wait.subsec_nanos()));
    }
    for mapping in &attach.publish {
        option("publish", mapping.to_string());
    }
    all.extend(attach.annotations.then(|| "-annotations".to_owned()));
    all.extend(attach.loopback.then(|| "-lo".to_owned()));
    match attach.output {
        Output::Nothing => {}
        Output::Json => all.push("-json".to_owned()),
        Output::ResolvConf => all.push("-resolvconf".to_owned()),
    }
    all
}
