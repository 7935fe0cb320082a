//! The OCI hook: a container's state comes in on standard input, from a runtime that knows nothing
//! of the network.

use std::fs;
use std::time::{Duration, Instant};

use nix::libc;
use serde_json::{Value, json};

use crate::world::{ALICE, Container, Outcome, Trace, User, World};

/// The state of a container that is being created, with these annotations.
fn created(pid: &Container<'_>, annotations: Value) -> String {
    state("created", "web", json!(pid.pid), annotations)
}

pub(crate) fn state(status: &str, id: &str, pid: Value, annotations: Value) -> String {
    json!({
        "ociVersion": "1.0.2-dev", "id": id, "status": status, "pid": pid,
        "bundle": "/tmp/bundle", "annotations": annotations,
    })
    .to_string()
}

/// The arguments by which a shell runs the hook with this state.
fn with(options: &str, state: &str) -> String {
    format!("-hook {options} <<'END_OF_STATE'\n{state}\nEND_OF_STATE\n")
}

/// Runs the hook with these options and this state.
pub(crate) fn hook(user: &User<'_>, options: &str, state: &str) -> Outcome {
    user.netsetgo(with(options, state))
}

/// What a policy says that grants alice host ports from 8000 to 8099 as well.
fn publishing() -> String {
    format!("{ALICE}publish = [\"8000-8099\"]\n")
}

/// The alias of a lease's link, as `ip` shows it.
fn alias(world: &World, lease: &str) -> Value {
    world.link(lease)["ifalias"].clone()
}

#[test]
fn a_container_is_attached_at_each_point_before_its_end() {
    let world = World::new();
    let alice = world.alice();
    for (slot, status) in ["creating", "created", "running"].into_iter().enumerate() {
        let pod = alice.container();
        let state = state(status, "web", json!(pod.pid), json!({}));
        assert_eq!(hook(&alice, "", &state).done(), "");
        assert_eq!(pod.address(), format!("10.10.10.{}/24", slot + 2), "{status}");
        assert_eq!(alias(&world, &format!("ns1000-{slot}")), "web");
        pod.sh("busybox ping -c 1 -W 10 10.10.10.1 >/dev/null");
    }
}

#[test]
fn what_a_runtime_may_leave_out_or_add_makes_no_difference() {
    let world = World::new();
    let alice = world.alice();
    for rest in [
        r#""#,
        r#","annotations":null"#,
        r#","annotations":{"org.example":"x","netsetgo":"not ours"}"#,
        r#","annotations":{"org.example":["x",{"y":7}]}"#,
        r#","bundle":7,"root":{"path":"rootfs"},"owner":"alice""#,
    ] {
        let pod = alice.container();
        hook(&alice, "", &format!(r#"{{"status":"created","id":"a","pid":{pod}{rest}}}"#)).done();
        pod.address();
    }
}

#[test]
fn twice_for_one_container_is_success() {
    let world = World::with_policy(&publishing());
    let alice = world.alice();
    let pod = alice.container();
    let state = created(&pod, json!({"netsetgo.publish": "8080:80"}));
    hook(&alice, "-annotations", &state).done();
    let published = world.published();
    assert_eq!(published, [r#"6 . 8080 comment "ns1000-0" : 10.10.10.2 . 80"#]);
    world.unchanged(|| hook(&alice, "-annotations", &state)).done();
    assert_eq!(world.leases(), ["ns1000-0"]);
    assert_eq!(world.published(), published);
}

#[test]
fn of_a_container_that_has_stopped_nothing_is_left() {
    let world = World::with_policy(&publishing());
    let alice = world.alice();
    let living = alice.container();
    hook(&alice, "-publish 8000:80", &created(&living, json!({}))).done();
    // runc leaves the pid out, crun sends 0. That of a process that lives is none of its own.
    for pid in [Value::Null, json!(0), json!(living.pid), json!(-1)] {
        let dead = alice.container();
        let starts = state("created", "other", json!(dead.pid), json!({}));
        hook(&alice, "-publish 8001:80", &starts).done();
        dead.kill();
        world.until_leases_are(&["ns1000-0"]);
        assert_eq!(world.published().len(), 2);
        hook(&alice, "", &state("stopped", "other", pid, json!({}))).done();
        assert_eq!(world.published(), [r#"6 . 8000 comment "ns1000-0" : 10.10.10.2 . 80"#]);
    }
    let without = r#"{"ociVersion":"1.0.2","id":"a","status":"stopped","bundle":"/b"}"#;
    world.unchanged(|| hook(&alice, "", without)).done();
    // Nor does it take what the container was started with.
    world.unchanged(|| hook(&alice, "-ifname eth0 -publish 8000:80 -lo", without)).done();
    assert_eq!(living.address(), "10.10.10.2/24");
}

#[test]
fn the_veth_pair_of_a_container_that_has_stopped_is_waited_for() {
    let world = World::with_policy(&format!("{}[[allow]]\nuser = \"bob\"\n", publishing()));
    let (alice, bob) = (world.alice(), world.bob());
    let pod = alice.container();
    hook(&alice, "-publish 8000:80", &created(&pod, json!({}))).done();
    let stopped = state("stopped", "web", Value::Null, json!({}));
    // Others may live in the namespace yet: then nothing is taken from them.
    world.unchanged(|| hook(&alice, "-wait 0.1", &stopped)).done();
    // Names are each user's own.
    let began = Instant::now();
    world.unchanged(|| hook(&bob, "-wait 60", &stopped)).done();
    let other = state("stopped", "we", Value::Null, json!({}));
    world.unchanged(|| hook(&alice, "-wait 60", &other)).done();
    assert!(began.elapsed() < Duration::from_secs(30));

    fs::write(world.path("/tmp/state"), &stopped).unwrap();
    let helper = Trace::of(&alice, "netsetgo -hook -wait 60 </tmp/state");
    let mut waits = 0;
    let outcome = helper.watch(|stage| {
        if stage.call == libc::SYS_clock_nanosleep {
            waits += 1;
            if waits == 2 {
                assert_eq!(world.published().len(), 1);
                pod.kill();
            }
        }
    });
    outcome.done();
    assert!(waits >= 2);
    assert_eq!(world.leases(), [""; 0]);
    assert_eq!(world.published(), [""; 0]);
}

#[test]
fn options_come_from_the_hooks_arguments_and_from_annotations() {
    let world = World::with_policy(&publishing());
    let alice = world.alice();
    let pod = alice.container();
    let annotations = json!({
        "netsetgo.publish": "8081:81, 8082:82/udp 127.0.0.1:8083:83,8090-8091:90-91,",
        "netsetgo.ifname": "net0",
        "netsetgo.address": "10.10.10.77/24",
    });
    let options = "-annotations -ifname eth0 -containerAddress 10.10.10.7/24 -publish 8080:80 -lo -mtu 1280 -wait 9";
    hook(&alice, options, &created(&pod, annotations)).done();
    // Of what there can be only one, the container's is the one. Ports add up.
    assert_eq!(pod.links(), ["lo", "net0"]);
    let link = pod.link("net0");
    assert_eq!(link["addr_info"][0]["local"], "10.10.10.77");
    assert_eq!(link["mtu"], 1280);
    assert!(pod.sh("ip link show lo").contains("UP"));
    let lease = r#"comment "ns1000-0" : 10.10.10.77"#;
    assert_eq!(
        world.published(),
        [
            format!("17 . 8082 {lease} . 82"),
            format!("6 . 127.0.0.1 . 8083 {lease} . 83"),
            format!("6 . 8080 {lease} . 80"),
            format!("6 . 8081 {lease} . 81"),
            format!("6 . 8090 {lease} . 90"),
            format!("6 . 8091 {lease} . 91"),
        ]
    );
}

#[test]
fn arguments_alone_and_annotations_alone_do_as_well() {
    let world = World::with_policy(&publishing());
    let alice = world.alice();
    let (one, other) = (alice.container(), alice.container());
    hook(&alice, "-ifname eth0 -containerAddress 10.10.10.9/24", &created(&one, json!({}))).done();
    assert_eq!(one.link("eth0")["addr_info"][0]["local"], "10.10.10.9");
    let annotations = json!({"netsetgo.ifname": "eth0", "netsetgo.publish": ""});
    hook(&alice, "-annotations", &created(&other, annotations)).done();
    assert_eq!(other.link("eth0")["addr_info"][0]["local"], "10.10.10.2");
    assert_eq!(world.published(), [""; 0]);
}

#[test]
fn the_result_is_printed_if_it_is_asked_for() {
    let world = World::with_policy(&format!("[network]\ndns = [\"192.0.2.53\"]\n{ALICE}"));
    let alice = world.alice();
    let state = created(&alice.container(), json!({}));
    let result = crate::world::json(&hook(&alice, "-json", &state).done());
    assert_eq!(result["ips"][0]["address"], "10.10.10.2/24");
    assert_eq!(hook(&alice, "-resolvconf", &state).done(), "nameserver 192.0.2.53\n");
}

#[test]
fn annotations_are_under_the_same_policy_as_options() {
    let world = World::with_policy(&publishing());
    let alice = world.alice();
    let pod = alice.container();
    for ports in ["8100:80", "80:80", "8080:80, 8100:80", "127.0.0.1:7999:80", "8099-8100:1-2"] {
        let state = created(&pod, json!({"netsetgo.publish": ports}));
        alice.refused(with("-annotations", &state), "not granted to uid 1000");
        alice.refused(with("-annotations -publish 8001:1", &state), "not granted to uid 1000");
    }
    let many = created(&pod, json!({"netsetgo.publish": "1-1025:1-1025"}));
    alice.usage(with("-annotations", &many), "more than 1024");
    let twice = created(&pod, json!({"netsetgo.publish": "8080:81"}));
    alice.usage(with("-annotations -publish 8080:80", &twice), "8080:81/tcp: given twice");
    let elsewhere = created(&pod, json!({"netsetgo.address": "10.10.11.2/24"}));
    alice.failed(with("-annotations", &elsewhere), "not in the bridge's subnet");
    let loopback = created(&pod, json!({"netsetgo.ifname": "lo"}));
    alice.failed(with("-annotations", &loopback), "netsetgo did not make it for you");
    let bobs = world.bob().container();
    world.bob().refused(with("", &created(&bobs, json!({}))), "not allowed");
}

#[test]
fn an_annotation_that_does_not_read_is_wrong_usage_and_says_which() {
    let world = World::with_policy(&publishing());
    let alice = world.alice();
    let pod = alice.container();
    for (name, value) in [
        ("publish", json!("80")),
        ("publish", json!("8080:80/sctp")),
        ("publish", json!("8080:80;8081:81")),
        ("publish", json!("8080:80\n8081:81")),
        ("publish", json!("8080:80\u{1b}[2J")),
        ("ifname", json!("")),
        ("ifname", json!("a b")),
        ("ifname", json!("a\nb")),
        ("ifname", json!("1234567890123456")),
        ("address", json!("10.10.10.2")),
        ("address", json!("")),
        ("address", json!("::1/64")),
    ] {
        let state = created(&pod, json!({format!("netsetgo.{name}"): value}));
        alice.usage(with("-annotations", &state), &format!("annotation netsetgo.{name} "));
    }
    for (name, value) in [
        ("netsetgo.publish", json!(8080)),
        ("netsetgo.publish", json!(["8080:80"])),
        ("netsetgo.publish", json!({})),
        ("netsetgo.ifname", json!(true)),
        ("netsetgo.address", json!(7.5)),
        // Not ours, though it looks so: a slip is not passed over.
        ("netsetgo.pubish", json!("8080:80")),
        ("netsetgo.", json!("")),
        ("netsetgo.bridgeName", json!("brg1")),
        ("netsetgo.\n\u{1b}[2J", json!("x")),
    ] {
        alice.usage(with("-annotations", &created(&pod, json!({name: value}))), "annotation ");
    }
    // Nor do they read when they are there twice.
    let twice = r#""annotations":{"netsetgo.ifname":"a"},"annotations":{}"#;
    let state = format!(r#"{{"id":"a","status":"created","pid":{pod},{twice}}}"#);
    alice.usage(with("-annotations", &state), "duplicate field");
}

#[test]
fn an_images_labels_change_and_break_nothing_without_the_argument() {
    let world = World::with_policy(&publishing());
    let alice = world.alice();
    for (slot, (name, value)) in [
        ("publish", json!("8080:80")),
        ("publish", json!("80:80")),
        ("publish", json!(8080)),
        ("ifname", json!("a b")),
        ("address", json!("10.10.10.77/24")),
        ("pubish", json!("8080:80")),
        ("\n\u{1b}[2J", json!("x")),
    ]
    .into_iter()
    .enumerate()
    {
        let pod = alice.container();
        let state = created(&pod, json!({format!("netsetgo.{name}"): value}));
        let outcome = hook(&alice, "-json", &state);
        assert!(outcome.status == 0 && outcome.is_one_line(), "{outcome:?}");
        assert!(outcome.err.contains("argument -annotations"), "{outcome:?}");
        assert!(!outcome.out.contains("portMappings"), "{outcome:?}");
        assert_eq!(pod.address(), format!("10.10.10.{}/24", slot + 2));
    }
    assert_eq!(world.published(), [""; 0]);
    // What fails is told alone.
    let pod = alice.container();
    let state = created(&pod, json!({"netsetgo.publish": "8080:80"}));
    alice.refused(with("-publish 80:80", &state), "not granted");
    for (other, why) in [("-pid 1", "only with -hook"), ("-delete -pid 1", "exclude each other")] {
        alice.usage(format!("-annotations {other}"), why);
    }
}

#[test]
fn what_is_no_state_is_wrong_usage() {
    let world = World::new();
    let alice = world.alice();
    let pod = alice.container();
    for state in [
        "",
        "nonsense",
        "{",
        "[]",
        "null",
        "7",
        "{}",
        "\u{1}",
        &format!(r#"{{"id":"a","status":"created","pid":{pod}"#),
        &format!(r#"{{"id":"a","status":"created","pid":{pod}}} x"#),
        &format!(r#"{{"id":"a","status":"created","pid":{pod}}} {{}}"#),
        &format!(r#"{{"id":7,"status":"created","pid":{pod}}}"#),
        &format!(r#"{{"id":null,"status":"created","pid":{pod}}}"#),
        &format!(r#"{{"status":"created","pid":{pod}}}"#),
        &format!(r#"{{"id":"a","pid":{pod}}}"#),
        &format!(r#"{{"id":"a","status":7,"pid":{pod}}}"#),
        &format!(r#"{{"id":"a","status":"created","pid":{pod},"pid":{pod}}}"#),
        &format!(r#"{{"id":"a","status":"created","pid":{pod},"annotations":[]}}"#),
        &format!(r#"{{"id":"a","status":"created","pid":{pod},"annotations":"x"}}"#),
        &format!(r#"{{"id":"a","status":"created","pid":{pod},"annotations":7}}"#),
    ] {
        alice.usage(with("", state), "-hook: the container's state on standard input: ");
    }
    for status in ["", "paused", "Created", "created ", "\u{1b}[2J\nnetsetgo: ok", "stopping"] {
        alice.usage(with("", &state(status, "a", json!(pod.pid), json!({}))), "status ");
    }
}

#[test]
fn a_pid_in_the_state_is_a_number_that_a_process_can_have() {
    let world = World::new();
    let alice = world.alice();
    let pod = alice.container();
    for pid in [
        json!(pod.pid.to_string()),
        json!(f64::from(pod.pid)),
        json!([pod.pid]),
        json!(true),
        json!(""),
        json!(1.5),
        json!(1e30),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(-1),
        json!(-i64::from(pod.pid)),
        json!(4_194_305),
        json!(i64::from(pod.pid) + (1_i64 << 32)),
    ] {
        alice.usage(with("", &state("created", "a", pid, json!({}))), "");
    }
    for status in ["creating", "created", "running"] {
        alice.usage(with("", &state(status, "a", Value::Null, json!({}))), "no pid");
        let without = format!(r#"{{"id":"a","status":"{status}"}}"#);
        alice.usage(with("", &without), "no pid");
        alice.usage(with("", &state(status, "a", json!(0), json!({}))), "pid 0 is none");
    }
}

#[test]
fn pid_0_never_means_the_calling_process() {
    let world = World::new();
    world.sh("ip netns add roots");
    let inside = world.root().by("ip netns exec roots");
    for pid in ["", r#","pid":0"#, r#","pid":null"#] {
        let state = format!(r#"{{"id":"a","status":"created"{pid}}}"#);
        inside.usage(with("", &state), "pid");
    }
    assert_eq!(world.sh("ip -netns roots -brief link").lines().count(), 1);
}

/// Runs a script that feeds the hook; it has to call that wrong usage and leave all as it is.
#[track_caller]
fn fed(world: &World, script: &str) -> String {
    world.unchanged(|| world.alice().sh(script)).usage("standard input: ")
}

#[test]
fn however_much_comes_in_it_is_one_line_that_comes_out() {
    let world = World::new();
    let pod = world.alice().container();
    let bytes = |count: u32, byte: &str| format!("head -c {count} /dev/zero | tr '\\0' '{byte}'");
    for byte in ["[", "{", " ", "\\0", "7", "\\377"] {
        for count in [1_000_000, 1 << 20, (1 << 20) + 1, 3 << 20] {
            let said = fed(&world, &format!("{} | netsetgo -hook", bytes(count, byte)));
            assert_eq!(said.contains("larger than"), count > 1 << 20, "{count} {byte}: {said}");
        }
    }
    // A state is fine as long as it is not larger than that, and then it is not.
    let state = format!(r#"{{"id":"a","status":"created","pid":{pod}}}"#);
    let padded = |count: usize| {
        let spaces = bytes((count - state.len()).try_into().unwrap(), " ");
        format!("({spaces}; echo -n '{state}') | netsetgo -hook")
    };
    fed(&world, &padded((1 << 20) + 1));
    world.alice().sh(&padded(1 << 20)).done();
    assert_eq!(pod.address(), "10.10.10.2/24");
    let endless = fed(&world, "netsetgo -hook </dev/zero");
    assert!(endless.contains("larger than"), "{endless}");
}

#[test]
fn no_depth_of_nesting_is_too_much_to_survive() {
    let world = World::new();
    let alice = world.alice();
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    for depth in [127, 200, 10_000, 250_000] {
        let pod = alice.container();
        for member in [
            format!(r#""annotations":{{"org.example":{}}}"#, nested(depth)),
            format!(r#""annotations":{{"netsetgo.publish":{}}}"#, nested(depth)),
            format!(r#""root":{}"#, nested(depth)),
        ] {
            let state = format!(r#"{{"id":"a","status":"created","pid":{pod},{member}}}"#);
            fs::write(world.path("/tmp/state"), state).unwrap();
            let outcome = alice.netsetgo("-hook -annotations </tmp/state");
            // What is not this program's is not looked into.
            if outcome.status == 0 {
                assert!(!member.contains("netsetgo"), "{depth}: {outcome:?}");
                outcome.done();
                pod.address();
            } else {
                outcome.usage("standard input: ");
            }
        }
    }
}

#[test]
fn the_line_is_a_short_one_however_long_what_it_is_about() {
    let world = World::new();
    let long = "x".repeat(100_000);
    for state in [
        state("created", "a", json!(long), json!({})),
        state(&long, "a", json!(1), json!({})),
        state("created", "a", json!(1), json!({"netsetgo.ifname": long})),
        state("created", "a", json!(1), json!({"netsetgo.publish": long})),
        state("created", "a", json!(1), json!({format!("netsetgo.{long}"): "x"})),
    ] {
        let line = world.alice().usage(with("-annotations", &state), "standard input: ");
        assert!(line.len() < 1000, "a line of {} bytes", line.len());
    }
}

#[test]
fn standard_input_may_be_closed_or_nothing_that_can_be_read() {
    let world = World::new();
    world.alice().sh("mkdir /tmp/directory").done();
    for input in ["<&-", "</dev/null", "</tmp/directory", "0>/dev/null"] {
        fed(&world, &format!("netsetgo -hook {input}"));
    }
    fed(&world, "netsetgo -hook <&- >&- ; status=$?; exit $status");
}

#[test]
fn another_users_container_is_refused_in_the_usual_words() {
    let world = World::new();
    let alice = world.alice();
    let bobs = world.bob().container();
    let gone = alice.container();
    gone.kill();
    let line = |pid: u32, options: &str| {
        let state = state("created", "a", json!(pid), json!({"netsetgo.ifname": "eth0"}));
        let options = format!("-annotations {options}");
        let said = alice.refused(with(&options, &state), "not yours, or gone");
        said.replace(&pid.to_string(), "N")
    };
    let usual = alice.refused(format!("-pid {bobs}"), "").replace(&bobs.to_string(), "N");
    for pid in [1, bobs.pid, gone.pid] {
        assert_eq!(line(pid, ""), usual);
        assert_eq!(line(pid, "-wait 0"), usual);
    }
    let own = alice.process("echo $$; exec sleep infinity");
    alice.refused(with("-wait 0", &created(&own, json!({}))), "host's own network namespace");
}

#[test]
fn in_a_user_namespace_it_says_why_it_cannot_work() {
    // As rootless Podman calls it.
    let world = World::new();
    let pod = world.alice().container();
    pod.inside().failed(with("", &created(&pod, json!({}))), "inside a user namespace");
}

#[test]
fn the_containers_id_is_the_links_alias_made_harmless() {
    let world = World::new();
    let alice = world.alice();
    for (id, shown) in [
        ("web-1_a.b+c", json!("web-1_a.b+c")),
        ("a b\tc\nd", json!("a?b?c?d")),
        ("\u{1b}[2J\u{7f}\u{9b}31m", json!("?[2J??31m")),
        ("caf\u{e9}\u{202e}", json!("caf??")),
        ("$(reboot) `x` 'y' \"z\"", json!("$(reboot)?`x`?'y'?\"z\"")),
        ("\0", json!("?")),
        ("", Value::Null),
    ] {
        let pod = alice.container();
        hook(&alice, "", &state("created", id, json!(pod.pid), json!({}))).done();
        assert_eq!(alias(&world, "ns1000-0"), shown, "{id:?}");
        pod.kill();
        world.until_leases_are(&[]);
    }
    // An alias has 255 bytes at most, an id as many as it likes.
    let pod = alice.container();
    hook(&alice, "", &state("created", &"x".repeat(5000), json!(pod.pid), json!({}))).done();
    let shown = alias(&world, "ns1000-0");
    assert!(shown.as_str().unwrap().len() >= 64, "{shown}");
}

#[test]
fn a_container_that_is_attached_already_keeps_the_alias_that_it_has() {
    let world = World::new();
    let alice = world.alice();
    let pods = [alice.attached(), alice.container()];
    for (pod, kept) in pods.iter().zip([Value::Null, json!("first")]) {
        let first = state("created", "first", json!(pod.pid), json!({}));
        hook(&alice, "", &first).done();
        let second = state("running", "second", json!(pod.pid), json!({}));
        world.unchanged(|| hook(&alice, "", &second)).done();
        let lease = if kept.is_null() { "ns1000-0" } else { "ns1000-1" };
        assert_eq!(alias(&world, lease), kept);
    }
}

#[test]
fn the_state_is_read_as_the_caller_and_with_nothing_in_effect() {
    let world = World::new();
    let alice = world.alice();
    let pod = alice.container();
    alice.sh(&format!("echo '{}' >/tmp/state", created(&pod, json!({})))).done();
    let mut reads = 0;
    let run = Trace::of(&alice, "netsetgo -hook </tmp/state");
    let outcome = run.watch(|stage| {
        let call = fs::read_to_string(format!("/proc/{}/syscall", stage.pid)).unwrap();
        if stage.call != libc::SYS_read || call.split_whitespace().nth(1) != Some("0x0") {
            return;
        }
        reads += 1;
        for ids in ["Uid", "Gid"] {
            assert_eq!(stage.status(ids), "1000\t1000\t1000\t1000", "{stage:?}");
        }
        assert_eq!(stage.status("CapEff"), "0000000000000000", "{stage:?}");
        assert_eq!(stage.status("NoNewPrivs"), "1", "{stage:?}");
    });
    outcome.done();
    assert!(reads > 0, "standard input was not read");
    assert_eq!(pod.address(), "10.10.10.2/24");
}

#[test]
fn a_runtime_that_never_ends_its_state_holds_no_other_run_up() {
    let world = World::with_policy(&format!("{ALICE}[[allow]]\nuser = \"bob\"\n"));
    let alice = world.alice();
    let waiting = alice.process(
        "mkfifo /tmp/state; netsetgo -hook </tmp/state & helper=$!
         exec 3>/tmp/state; echo '{\"id\":' >&3; echo $helper; wait",
    );
    for user in [world.bob(), alice.clone()] {
        let pod = user.container();
        user.netsetgo(format!("-pid {pod} -wait 0")).done();
        pod.kill();
    }
    world.sh(&format!("[ \"$(cat /proc/{waiting}/comm)\" = netsetgo ]"));
}

#[test]
fn it_stands_beside_no_option_that_names_a_container() {
    let world = World::new();
    let pod = world.alice().container();
    let state = created(&pod, json!({}));
    for other in [&format!("-pid {pod}"), "-netns /x", "-delete", "-list", "-check", "-prune"] {
        world.alice().usage(with(other, &state), "-hook");
    }
}
