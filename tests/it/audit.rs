//! The audit trail: what the system's log is told, and that no run depends on the log.

use nix::libc;

use crate::hook::{hook, state};
use crate::publish::three_users;
use crate::world::{Container, Stage, Trace, World, places};

/// The program that listens.
const LISTENER: &str = include_str!("world/log.py");

/// The system's log of a world.
struct Log<'w> {
    world: &'w World,
    _listener: Container<'w>,
}

/// What was sent there, and by whom.
#[derive(Debug)]
struct Line {
    text: String,
    pid: u32,
    uid: u32,
}

impl<'w> Log<'w> {
    fn of(world: &'w World) -> Self {
        Log::at(world, "/dev/log")
    }

    fn at(world: &'w World, path: &str) -> Self {
        std::fs::write(world.path("/run/log.py"), LISTENER).unwrap();
        let listen = format!("exec python3 /run/log.py /run/received {path}");
        Log { world, _listener: world.root().process(&listen) }
    }

    /// All that has been sent so far. What has been sent is received in this order.
    #[track_caller]
    fn lines(&self) -> Vec<Line> {
        let file = self.world.path("/run/received");
        let received = || std::fs::read_to_string(&file).unwrap();
        let marks = received().matches("the end").count();
        self.world.sh("logger the end");
        self.world.until("the log to be read", || received().matches("the end").count() > marks);
        let line = |line: &str| {
            let (text, pid, uid) = serde_json::from_str(line).unwrap();
            Line { text, pid, uid }
        };
        received().lines().filter(|line| !line.contains("the end")).map(line).collect()
    }

    /// The texts of what the program has sent since the last call, without what is the same in all:
    /// each of them is one line of printable characters, and from the caller.
    #[track_caller]
    fn news(&self, uid: u32) -> Vec<String> {
        let told = self.lines().into_iter().map(|line| {
            let printable = |c: char| c.is_ascii_graphic() || c == ' ';
            assert!(line.text.chars().all(printable), "{line:?}");
            assert!(line.text.len() <= 1024, "{line:?}");
            assert_eq!(line.uid, uid, "{line:?}");
            let (priority, text) = line.text.split_once("netsetgo").unwrap();
            let severity = if text.contains(" reason=") { "<85>" } else { "<86>" };
            assert_eq!(priority, severity, "{line:?}");
            text.strip_prefix(&format!("[{}]: ", line.pid)).unwrap().to_owned()
        });
        let told = told.collect();
        std::fs::write(self.world.path("/run/received"), "").unwrap();
        told
    }

    /// The one text that the program has sent.
    #[track_caller]
    fn only(&self, uid: u32) -> String {
        let mut news = self.news(uid);
        assert_eq!(news.len(), 1, "{news:?}");
        news.remove(0)
    }
}

#[test]
fn who_attaches_and_deletes_what_is_told() {
    let world = three_users();
    let log = Log::of(&world);
    let (pod, roots) = (world.alice().container(), world.bob().container());
    let wire = format!("uid=1000 user=alice pid={pod} interface=veth1 link=ns1000-0");
    world.alice().netsetgo(format!("-pid {pod}")).done();
    assert_eq!(log.only(1000), format!("attach {wire} address=10.10.10.2/24"));
    world
        .alice()
        .netsetgo(format!("-pid {pod} -publish 8080:80 -publish 127.0.0.1:8081:53/udp"))
        .done();
    let ports = "8080:80/tcp,127.0.0.1:8081:53/udp";
    assert_eq!(log.only(1000), format!("attach {wire} address=10.10.10.2/24 ports={ports}"));
    world.alice().netsetgo(format!("-delete -pid {pod}")).done();
    assert_eq!(log.only(1000), format!("delete {wire} address=10.10.10.2/24"));
    world.alice().netsetgo(format!("-pid {pod}")).done();
    log.only(1000);
    world.alice().netsetgo("-delete -address 10.10.10.2").done();
    assert_eq!(log.only(1000), "delete uid=1000 user=alice link=ns1000-0 address=10.10.10.2");
    let named = state("created", "web", pod.pid.into(), serde_json::json!({}));
    hook(&world.alice(), "", &named).done();
    log.only(1000);
    world.root().netsetgo("-delete -user alice").done();
    let told = "delete uid=0 user=root container=web link=ns1000-0 address=10.10.10.2";
    assert_eq!(log.only(0), told);
    world.alice().refused("-delete -user alice", "");
    let told = log.only(1000);
    assert!(
        told.starts_with("delete refused uid=1000 user=alice reason=-user: only root"),
        "{told}"
    );
    // Nothing is deleted any more.
    world.alice().netsetgo("-delete -address 10.10.10.2").done();
    world.alice().netsetgo(format!("-delete -pid {pod}")).done();
    // Nor is anything changed by these.
    for harmless in ["-list", "-help", "-version"] {
        world.alice().netsetgo(harmless).done();
    }
    world.alice().usage("-nosuch", "");
    assert_eq!(log.news(1000), [""; 0]);

    world.root().netsetgo(format!("-netns /proc/{roots}/ns/net -vethNamePrefix up")).done();
    let told = "attach uid=0 user=root netns=/proc/PID/ns/net interface=up1 link=up0";
    let told = told.replace("PID", &roots.to_string());
    // The first address is alice's.
    assert_eq!(log.only(0), format!("{told} address=10.10.10.3/24"));
}

#[test]
fn every_port_is_told_and_which_have_been_chosen() {
    let world = three_users();
    let log = Log::of(&world);
    let alice = world.alice();
    let pod = alice.container();
    alice.netsetgo(format!("-pid {pod} -publish 8000:80 -publish 0:53/udp")).done();
    let [attach, publish] = log.news(1000).try_into().unwrap();
    assert!(attach.ends_with(" address=10.10.10.2/24 ports=8000:80/tcp,0:53/udp"), "{attach}");
    let about = format!("uid=1000 user=alice pid={pod} interface=veth1");
    assert_eq!(publish, format!("publish {about} ports=8000:80/tcp,8000:53/udp"));

    // Ports in a row are a range.
    let many = alice.container();
    alice.netsetgo(format!("-pid {many} -publish 8100-8199:1100-1199 -publish 8200:7/udp")).done();
    let told = log.only(1000);
    assert!(told.starts_with("attach uid=1000 ") && told.contains(&format!("pid={many} ")));
    assert!(told.ends_with(" ports=8100:1100/tcp-8199:1199/tcp,8200:7/udp"), "{told}");

    // Of more than a line has room for, the line tells that there are more.
    let asked: Vec<_> = (0..100).map(|port| format!("{}:7/tcp", 8300 + port)).collect();
    let publish = format!("-publish {}", asked.join(" -publish "));
    let scattered = alice.container();
    alice.netsetgo(format!("-pid {scattered} {publish}")).done();
    let told = log.only(1000);
    let shown = told.split_once(" ports=").unwrap().1.strip_suffix(",...").unwrap();
    assert!(shown.len() > 500 && asked.join(",").starts_with(&format!("{shown},")), "{told}");
    alice.refused(format!("-pid {scattered} {publish} -publish 80:80"), "not granted");
    let told = log.only(1000);
    let (shown, reason) = told.split_once(" ports=").unwrap().1.split_once(",... ").unwrap();
    assert!(shown.len() > 300 && asked.join(",").starts_with(&format!("{shown},")), "{told}");
    assert!(reason.starts_with("reason=-publish 80:80/tcp: host port 80"), "{told}");
}

#[test]
fn who_is_refused_what_is_told() {
    let world = three_users();
    let log = Log::of(&world);
    let (alice, bob, dave) = (world.alice(), world.bob(), world.user("dave"));
    let (own, bobs, daves) = (alice.container(), bob.attached(), dave.container());
    log.news(1001);
    let about = |what: &str, pid: &str| {
        format!("{what} refused uid=1000 user=alice pid={pid} interface=veth1")
    };
    for (action, option) in [("attach", ""), ("delete", "-delete")] {
        for pid in ["1".to_owned(), bobs.to_string()] {
            alice.refused(format!("{option} -pid {pid} -wait 0"), "not yours");
            let told = log.only(1000);
            assert!(
                told.starts_with(&format!(
                    "{} reason=process {pid}: not yours",
                    about(action, &pid)
                )),
                "{told}"
            );
        }
    }
    alice.refused(
        format!("-pid {own} -ifname eth0 -publish 80:80 -containerAddress 10.10.10.9/24"),
        "not granted",
    );
    let told = log.only(1000);
    let asked = "interface=eth0 address=10.10.10.9/24 ports=80:80/tcp reason=-publish 80:80/tcp: host port 80";
    assert!(told.contains(asked), "{told}");
    dave.refused(format!("-pid {daves}"), "not allowed");
    assert!(log.only(1003).starts_with(&format!("attach refused uid=1003 user=dave pid={daves} ")));
    dave.refused("-prune", "not allowed");
    assert!(
        log.only(1003).starts_with("prune refused uid=1003 user=dave reason=uid 1003: not allowed")
    );
    // What fails after it was told is told to have failed.
    own.sh("ip link add lan type bridge; ip link set lan up; ip route add default dev lan");
    // Her first container makes her known to the firewall, whatever becomes of it.
    alice.attached();
    log.news(1000);
    alice.failed(format!("-pid {own}"), "default route");
    let [begun, failed] = log.news(1000).try_into().unwrap();
    assert!(begun.starts_with("attach uid=1000 "), "{begun}");
    assert!(
        failed.starts_with("attach failed uid=1000 ") && failed.contains("default route"),
        "{failed}"
    );
    world.sh("ip route; setpriv --reuid 7777 --clear-groups netsetgo -pid 1 2>/dev/null || true");
    assert!(log.only(7777).starts_with("attach refused uid=7777 user=- pid=1 "));
}

#[test]
fn what_a_caller_writes_forges_no_line_and_no_word() {
    let world = three_users();
    let log = Log::of(&world);
    let alice = world.alice();
    let pod = alice.container();
    let hostile = "web\n<86>netsetgo[1]: attach uid=0 \u{202e}\u{1b}[2J\u{0}\u{e4}%s%n";
    let harmless = "container=web?<86>netsetgo[1]:?attach?uid=0???[2J??%s%n interface=";
    let annotations = serde_json::json!({"netsetgo.publish": "80:80", "other": hostile});
    hook(&alice, "-annotations", &state("created", hostile, pod.pid.into(), annotations))
        .refused("80");
    let told = log.only(1000);
    assert!(told.starts_with("attach refused uid=1000 ") && told.contains(harmless), "{told}");
    hook(&alice, "", &state("created", hostile, pod.pid.into(), serde_json::json!({}))).done();
    let told = log.only(1000);
    assert!(told.starts_with("attach uid=1000 ") && told.contains(harmless), "{told}");
    // However long it is.
    let long = "x".repeat(100_000);
    hook(&alice, "", &state("created", &long, pod.pid.into(), serde_json::json!({}))).done();
    assert!(log.only(1000).contains(&format!("container={} interface=", &long[..128])));
    for path in ["/tmp/a\nb c", &long[..4000]] {
        alice.sh(&format!("exec netsetgo -netns '{path}'")).refused("not yours");
    }
    let [first, second] = log.news(1000).try_into().unwrap();
    assert!(
        first.contains("netns=/tmp/a?b?c interface=veth1 reason=\"/tmp/a\\nb c\": not yours"),
        "{first}"
    );
    assert!(second.contains(&format!("netns={} interface=", &long[..128])), "{second}");
}

#[test]
fn the_log_may_be_a_link_as_it_is_with_systemd() {
    let world = World::new();
    world.sh("ln -s /run/dev-log /dev/log");
    let log = Log::at(&world, "/run/dev-log");
    world.alice().attached();
    assert!(log.only(1000).starts_with("attach uid=1000 "));
}

#[test]
fn without_a_log_that_takes_it_everything_goes_on() {
    let python = |program: &str| {
        format!(
            "exec python3 -c 'import os, socket, time\ns = socket.socket(socket.AF_UNIX, {program}\nos.chmod(\"/dev/log\", 0o666); print(os.getpid(), flush=True); time.sleep(999)'"
        )
    };
    let world = World::new();
    let alice = world.alice();
    for log in [
        ": none",
        "ln -s /nowhere /dev/log",
        "ln -s log /dev/log",
        "mkfifo -m 666 /dev/log",
        "mkdir /dev/log",
        ": >/dev/log",
        "ln -s /dev/full /dev/log",
        // A socket without a listener, one of another type, and one that is not for users.
        "python3 -c 'import socket; socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).bind(\"/dev/log\")'; chmod 666 /dev/log",
        &python("socket.SOCK_STREAM); s.bind(\"/dev/log\"); s.listen()"),
        &python("socket.SOCK_SEQPACKET); s.bind(\"/dev/log\"); s.listen()"),
        &python("socket.SOCK_DGRAM); s.bind(\"/dev/log\")").replace("666", "600"),
        // One that is full, and that no process reads.
        &python(
            "socket.SOCK_DGRAM); s.bind(\"/dev/log\")
c = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); c.connect(\"/dev/log\"); c.setblocking(False)
try:
    while True: c.send(b\"x\")
except BlockingIOError: pass",
        ),
    ] {
        world.sh("rm -rf /dev/log");
        let listener = log.starts_with("exec").then(|| world.root().process(log));
        if listener.is_none() {
            world.sh(log);
        }
        let pod = alice.container();
        alice.netsetgo(format!("-pid {pod} -wait 0")).done();
        alice.netsetgo(format!("-delete -pid {pod} -wait 0")).done();
        alice.refused("-pid 1 -wait 0", "not yours");
        if let Some(listener) = listener {
            listener.kill();
        }
        pod.kill();
    }
}

/// Whether the host end of alice's only veth pair lets frames pass.
fn is_open(world: &World) -> bool {
    world.sh("ip link show ns1000-0 2>/dev/null || true").contains("UP")
}

#[test]
fn killed_anywhere_no_veth_pair_works_and_no_port_leads_anywhere_that_was_not_told() {
    let world = three_users();
    let log = Log::of(&world);
    let alice = world.alice();
    let call = |pod: &Container<'_>| format!("netsetgo -pid {pod} -wait 0 -publish 8080:80");
    let acts = |stage: &Stage| [libc::SYS_sendto, libc::SYS_recvfrom].contains(&stage.call);
    let first = alice.container();
    let places = places(&alice, call(&first), acts);
    // What a dead container leaves belongs to no container.
    let end = |pod: &Container<'_>| {
        pod.kill();
        world.until_leases_are(&[]);
        alice.netsetgo("-prune").done();
    };
    end(&first);
    let mut open = 0;
    for place in places {
        let pod = alice.container();
        log.news(1000);
        if let Some(frozen) = Trace::of(&alice, call(&pod)).freeze(|stage| stage.is(&place)) {
            frozen.kill();
        }
        let told = log.news(1000).iter().any(|line| line.contains(&format!("pid={pod} ")));
        assert!(told || !is_open(&world), "{place:?}");
        assert!(told || world.published().is_empty(), "{place:?}");
        open += usize::from(is_open(&world));
        end(&pod);
    }
    assert!(open > 5, "only {open} wires worked");
}

#[test]
fn no_limit_on_files_makes_an_attach_that_is_not_told() {
    let world = World::new();
    let log = Log::of(&world);
    let alice = world.alice();
    alice.attached();
    let mut attached = 0;
    for files in 3..24 {
        log.news(1000);
        let pod = alice.container();
        let outcome =
            alice.sh(&format!("exec prlimit --nofile={files}:{files} netsetgo -pid {pod}"));
        if outcome.status == 0 {
            attached += 1;
            assert!(log.only(1000).starts_with("attach uid=1000 "), "{files}");
        }
        assert!(world.leases().len() <= 1 + usize::from(outcome.status == 0), "{outcome:?}");
        pod.kill();
        world.until_leases_are(&["ns1000-0"]);
    }
    assert!((1..20).contains(&attached), "{attached}");
}
