//! Real runners, as a user calls them: the recipes of `docs/runners.md`, run exactly as they are
//! printed there, and what becomes of their containers.

use std::fs;

use serde_json::json;

use crate::world::{ALICE, HOST, Outcome, REMOTE, User, World};

const DOCUMENT: &str = include_str!("../../docs/runners.md");

/// The directory of the bundle that the recipes make, in alice's home.
const BUNDLE: &str = "/home/alice/web";

/// A host for containers: alice has a home, a runtime directory and subordinate
/// ids, and what runners share is this host's own.
fn world() -> World {
    world_with(&format!("{ALICE}publish = [\"8000-8999\"]\n"))
}

fn world_with(policy: &str) -> World {
    let world = World::with_policy(policy);
    world.sh("mount -t tmpfs -o mode=755 tmpfs /home
         mount -t tmpfs -o mode=1777 tmpfs /dev/shm
         mount -t tmpfs -o mode=1777 tmpfs /var/tmp
         # Whatever version of it the machine itself uses: Debian 12 has version 2.
         mount -t cgroup2 cgroup2 /sys/fs/cgroup
         mkdir -p /run/user /run/lock
         for directory in /home/alice /run/user/1000; do
             mkdir -m 700 $directory; chown alice:alice $directory
         done
         echo alice:100000:65536 >/etc/subuid; cp /etc/subuid /etc/subgid");
    world
}

/// Alice at home, with what a login gives her.
fn alice(world: &World) -> User<'_> {
    world.alice().by("env -C /home/alice HOME=/home/alice XDG_RUNTIME_DIR=/run/user/1000")
}

/// Alice in the directory of the bundle.
fn bundle(world: &World) -> User<'_> {
    alice(world).by(&format!("env -C {BUNDLE}"))
}

/// The blocks of the document that are marked for tests, each with its mark.
fn recipes() -> Vec<(String, String)> {
    let mut blocks = Vec::new();
    let mut lines = DOCUMENT.lines();
    while let Some(line) = lines.next() {
        let Some(info) = line.strip_prefix("```") else { continue };
        let text: String = lines
            .by_ref()
            .take_while(|line| *line != "```")
            .map(|line| format!("{line}\n"))
            .collect();
        if let Some((_, mark)) = info.split_once(" test=") {
            blocks.push((mark.to_owned(), text));
        }
    }
    blocks
}

/// The text of the block with this mark.
fn recipe(mark: &str) -> String {
    let found: Vec<_> = recipes().into_iter().filter(|(of, _)| of == mark).collect();
    assert_eq!(found.len(), 1, "blocks of docs/runners.md with the mark {mark}");
    found[0].1.clone()
}

/// Runs these recipes one after another in a shell that ends where one fails. What they start may
/// outlive them, and says what it has to say in the same place.
fn follow(user: &User<'_>, marks: &[&str]) -> Outcome {
    let script: String = marks.iter().map(|mark| recipe(mark)).collect();
    run(user, &script)
}

/// Runs this text likewise.
fn run(user: &User<'_>, script: &str) -> Outcome {
    let script = script.replace('\'', r"'\''");
    let mut outcome = user.sh(&format!("sh -e -c '{script}' >/tmp/said 2>&1"));
    outcome.out = user.sh("cat /tmp/said").done();
    outcome
}

/// Follows the recipes, which have to succeed. Answers what was said.
#[track_caller]
fn followed(user: &User<'_>, marks: &[&str]) -> String {
    let outcome = follow(user, marks);
    assert_eq!(outcome.status, 0, "{marks:?}: {outcome:?}");
    outcome.out
}

/// That a container has all of its network: it reaches the gateway and a remote host, and is reached
/// by its published port. A command that follows `exec` is executed inside.
#[track_caller]
fn is_connected(world: &World, exec: &str) {
    let remote = world.internet();
    remote.sh("mkdir /run/www; echo remote >/run/www/index.html; busybox httpd -p 80 -h /run/www");
    let inside =
        |command: &str| alice(world).sh(&format!("exec timeout 20 {exec} {command}")).done();
    let address = inside("ip -4 address show veth1");
    assert!(address.contains("inet 10.10.10.2/24 "), "{address}");
    let routes = inside("ip route");
    assert!(routes.contains("default via 10.10.10.1 dev veth1"), "{routes}");
    for host in ["10.10.10.1", REMOTE] {
        let answer = inside(&format!("ping -c 1 -W 10 {host}"));
        assert!(answer.contains(" 0% packet loss"), "{answer}");
    }
    assert_eq!(inside(&format!("wget -q -O - http://{REMOTE}/")), "remote\n");
    let fetch = format!("busybox wget -q -O - http://{HOST}:8080/");
    world.until("the published port to answer", || remote.user().sh(&fetch).status == 0);
    assert_eq!(remote.sh(&fetch), "hello\n");
}

/// Asserts that nothing is left on the host: no lease, and no published port.
#[track_caller]
fn the_host_is_clean(world: &World) {
    world.until_leases_are(&[]);
    let ports = world.sh("nft list map inet netsetgo ports; nft list set inet netsetgo live");
    assert!(!ports.contains("elements"), "{ports}");
}

/// Asserts that this runtime has no container any more, and alice no process.
#[track_caller]
fn no_container_is_left(world: &World, runtime: &str) {
    assert_eq!(alice(world).sh(&format!("{runtime} list -q")).done(), "");
    nobody_is_left(world);
}

/// Waits until alice has no process any more.
#[track_caller]
fn nobody_is_left(world: &World) {
    let processes = "ps -o comm= -u alice";
    world.until("every process of alice's to end", || world.root().sh(processes).out.is_empty());
}

#[test]
fn every_recipe_of_the_document_has_a_test() {
    let tests = include_str!("runners.rs");
    for (mark, _) in recipes() {
        assert!(tests.contains(&format!("{mark:?}")), "no test follows the recipe {mark}");
    }
    // And each block of commands is a recipe.
    for line in DOCUMENT.lines().filter(|line| line.starts_with("```")) {
        let info = &line[3..];
        let commands = ["sh", "python"].iter().any(|language| info.starts_with(language));
        assert!(!commands || info.contains(" test="), "{line}");
    }
}

fn with_a_hook(runtime: &str, recipes: &[&str]) {
    let world = world();
    let said = followed(&alice(&world), recipes);
    assert!(said.contains(" web        8080:80/tcp\n1 of your 16 links used\n"), "{said}");
    assert_eq!(world.link("ns1000-0")["ifalias"], "web");
    is_connected(&world, &format!("{runtime} exec web"));
    alice(&world).sh(&format!("{runtime} delete -f web")).done();
    no_container_is_left(&world, runtime);
    the_host_is_clean(&world);
}

#[test]
fn runc_attaches_by_a_hook() {
    with_a_hook("runc", &["bundle", "runc-spec", "ping", "hook", "runc-run"]);
}

#[test]
fn crun_attaches_by_a_hook() {
    with_a_hook("crun", &["bundle", "crun-spec", "ping", "crun-hook", "crun-run"]);
}

fn without_a_hook(runtime: &str, recipes: &[&str]) {
    let world = world();
    followed(&alice(&world), recipes);
    is_connected(&world, &format!("{runtime} exec web"));
    alice(&world).sh(&format!("{runtime} delete -f web")).done();
    world.until_leases_are(&[]);
    alice(&world).netsetgo("-prune").done();
    no_container_is_left(&world, runtime);
    the_host_is_clean(&world);
}

#[test]
fn runc_attaches_between_create_and_start() {
    without_a_hook("runc", &["bundle", "runc-spec", "ping", "runc-create"]);
}

#[test]
fn crun_attaches_between_create_and_start() {
    without_a_hook("crun", &["bundle", "crun-spec", "ping", "crun-create"]);
}

/// Edits the bundle's configuration by a filter of jq's.
#[track_caller]
fn configure(world: &World, filter: &str) {
    let edit = format!("jq '{filter}' config.json >new.json; mv new.json config.json");
    bundle(world).sh(&edit).done();
}

#[test]
fn a_hook_that_is_run_twice_is_success() {
    for (runtime, spec, hook) in [("runc", "runc-spec", "hook"), ("crun", "crun-spec", "crun-hook")]
    {
        let world = world();
        followed(&alice(&world), &["bundle", spec, hook]);
        configure(&world, ".hooks.createRuntime += .hooks.createRuntime");
        configure(&world, ".hooks.prestart = .hooks.createRuntime");
        followed(&bundle(&world), &[&format!("{runtime}-run")]);
        assert_eq!(world.leases(), ["ns1000-0"]);
        alice(&world).sh(&format!("{runtime} delete -f web")).done();
        no_container_is_left(&world, runtime);
        the_host_is_clean(&world);
    }
}

#[test]
fn a_refusal_fails_the_run_with_its_message_and_leaves_no_container() {
    let nobody = "refused: uid 1000: not allowed";
    let port = "refused: -publish 8080:80/tcp: host port 8080 is not granted to uid 1000";
    let another = format!("{ALICE}publish = [\"9000\"]\n");
    for (policy, line) in [("", nobody), (&another, port)] {
        for (runtime, spec, hook) in
            [("runc", "runc-spec", "hook"), ("crun", "crun-spec", "crun-hook")]
        {
            let world = world_with(policy);
            followed(&alice(&world), &["bundle", spec, hook]);
            let outcome = bundle(&world).sh(&format!("exec timeout 20 {runtime} run web"));
            assert!(![0, 124].contains(&outcome.status), "{outcome:?}");
            // Where crun keeps what a hook says.
            let kept = bundle(&world).sh("cat hook.log").out;
            let said = outcome.err + &kept;
            assert!(said.contains(&format!("netsetgo: {line}")), "{runtime}: {said}");
            no_container_is_left(&world, runtime);
            assert_eq!(world.leases(), [""; 0]);
        }
    }
}

#[test]
fn cruns_container_takes_the_right_to_trace_and_the_error_says_so() {
    let world = world();
    let helper = "/usr/local/bin/netsetgo";
    world.sh(&format!("chmod 755 {helper}; setcap cap_net_admin=ep {helper}"));
    let outcome = follow(&alice(&world), &["bundle", "crun-spec", "crun-create"]);
    assert_eq!(outcome.status, 3, "{outcome:?}");
    let why = "its process is not dumpable, and netsetgo is installed without CAP_SYS_PTRACE; \
               install it setuid, or with setcap cap_net_admin,cap_sys_ptrace=ep\n";
    assert!(outcome.out.starts_with("netsetgo: refused: process "), "{outcome:?}");
    assert!(outcome.out.ends_with(why), "{outcome:?}");
    // What the message tells to do is enough.
    world.sh(&format!("setcap cap_net_admin,cap_sys_ptrace=ep {helper}"));
    bundle(&world).netsetgo("-pid $(cat pid)").done();
    alice(&world).sh("crun start web").done();
    assert_eq!(world.leases(), ["ns1000-0"]);
}

#[test]
fn runcs_container_needs_no_right_to_trace() {
    let world = world();
    let helper = "/usr/local/bin/netsetgo";
    world.sh(&format!("chmod 755 {helper}; setcap cap_net_admin=ep {helper}"));
    followed(&alice(&world), &["bundle", "runc-spec", "runc-create"]);
    assert_eq!(world.leases(), ["ns1000-0"]);
}

#[test]
fn ping_needs_a_capability_or_a_group() {
    let world = world();
    let ping = "timeout 20 runc run ping";
    let cleared = |world: &World| world.until_leases_are(&[]);
    followed(&alice(&world), &["bundle", "runc-spec", "hook"]);
    configure(&world, r#".process.args = ["ping", "-c", "1", "-W", "10", "10.10.10.1"]"#);
    let without = bundle(&world).sh(ping);
    assert!(without.err.contains("ping: permission denied"), "{without:?}");
    cleared(&world);
    for runtime in ["runc", "crun"] {
        configure(&world, r#".process.args = ["sleep", "1000"]"#);
        bundle(&world).sh(&format!("{runtime} run -d web </dev/null >log 2>&1")).done();
        let given = format!("timeout 20 {runtime} exec --cap CAP_NET_RAW web ping -c 1 10.10.10.1");
        let given = alice(&world).sh(&given).done();
        assert!(given.contains(" 0% packet loss"), "{given}");
        alice(&world).sh(&format!("{runtime} delete -f web")).done();
        cleared(&world);
    }
    followed(&bundle(&world), &["ping-group"]);
    configure(&world, r#".process.args = ["ping", "-c", "1", "-W", "10", "10.10.10.1"]"#);
    // The ping of iputils, without its file's capability, and with the host's libraries.
    bundle(&world).sh("cp /usr/bin/ping rootfs/bin/iputils").done();
    configure(
        &world,
        r#".mounts += (["/usr", "/lib", "/lib64"] | map({
               destination: ., source: ., options: ["rbind", "ro"]}))
           | .process.args[0] = "/bin/iputils""#,
    );
    let by_group = bundle(&world).sh(ping);
    assert!(by_group.out.contains(" 0% packet loss"), "{by_group:?}");
    cleared(&world);
}

#[test]
fn a_process_of_unshares_is_attached() {
    let world = world();
    let user = alice(&world);
    followed(&user, &["unshare"]);
    let listed = user.netsetgo("-list").done();
    assert!(listed.contains(" 8080:80/tcp\n"), "{listed}");
    // Having attached one, its runner may go on to the next.
    let said = followed(&user, &["unshare-ready"]);
    assert!(said.contains("default via 10.10.10.1 dev veth1"), "{said}");
}

/// Follows one of bubblewrap's recipes with another command than `ip route`. It has to succeed.
#[track_caller]
fn wrapped(world: &World, mark: &str, option: &str, command: &str) -> String {
    let script = recipe(mark);
    assert!(script.contains("--unshare-all") && script.contains(" ip route "), "{script}");
    let script = script.replace("--unshare-all", option).replace("ip route", command);
    let directory = alice(world).sh("mktemp -d").done();
    let user = alice(world).by(&format!("env -C {}", directory.trim_end()));
    let outcome = run(&user, &script);
    assert_eq!(outcome.status, 0, "{mark} {option}: {outcome:?}");
    outcome.out
}

#[test]
fn bubblewrap_has_its_network_before_its_command_starts() {
    let world = world();
    let remote = world.internet();
    remote.user().serves("remote", "7");
    fs::copy(world.path("/run/peer.py"), world.path("/tmp/peer.py")).unwrap();
    for mark in ["bubblewrap", "bubblewrap-early"] {
        let said = wrapped(&world, mark, "--unshare-all", "ip route");
        assert!(said.contains("default via 10.10.10.1 dev veth1"), "{said}");
        world.until_leases_are(&[]);
        for option in ["--unshare-all", "--unshare-net"] {
            let ask = format!("python3 /tmp/peer.py ask tcp {REMOTE} 7");
            assert_eq!(wrapped(&world, mark, option, &ask), "remote 192.0.2.1\n", "{option}");
            world.until_leases_are(&[]);
            // Its own setting up is as it should be.
            let said = wrapped(&world, mark, option, "ip address show dev lo");
            assert!(said.contains("inet 127.0.0.1/8") && said.contains("LOOPBACK,UP"), "{said}");
            world.until_leases_are(&[]);
        }
    }
}

#[test]
fn bubblewrap_wants_to_find_its_loopback_down() {
    let world = world();
    let script = recipe("bubblewrap-early").replace("-pid \"$pid\"", "-pid \"$pid\" -lo");
    let outcome = run(&alice(&world), &script);
    assert!(outcome.status == 1 && outcome.out.contains("bwrap: loopback: "), "{outcome:?}");
}

#[test]
fn what_waits_for_a_network_that_is_refused_ends() {
    for mark in ["unshare-ready", "bubblewrap", "bubblewrap-early"] {
        let world = world_with("");
        let outcome = follow(&alice(&world), &[mark]);
        assert!([128 + 9, 128 + 15].contains(&outcome.status), "{mark}: {outcome:?}");
        assert!(outcome.out.contains("netsetgo: refused: uid 1000"), "{mark}: {outcome:?}");
        nobody_is_left(&world);
    }
}

#[test]
fn podman_attaches_between_init_and_start() {
    let world = world();
    followed(&alice(&world), &["bundle", "podman"]);
    // Podman's containers have no CAP_NET_RAW, which the ping of BusyBox needs.
    is_connected(&world, "podman exec --privileged web");
    assert_eq!(world.leases(), ["ns1000-0"]);
    let outcome = alice(&world).sh("exec timeout 20 podman rm -f -t 0 web");
    assert_eq!(outcome.status, 0, "{outcome:?}");
    world.until_leases_are(&[]);
    alice(&world).netsetgo("-prune").done();
    the_host_is_clean(&world);
}

#[test]
fn a_hook_inside_rootless_podman_says_why_it_cannot_work() {
    let world = world();
    world.sh("mkdir /run/hooks");
    let hook = json!({
        "version": "1.0.0",
        "hook": {"path": "/usr/local/bin/netsetgo", "args": ["netsetgo", "-hook"]},
        "when": {"always": true},
        "stages": ["createRuntime"],
    });
    fs::write(world.path("/run/hooks/netsetgo.json"), hook.to_string()).unwrap();
    followed(&alice(&world), &["bundle"]);
    for runtime in ["crun", "runc"] {
        let outcome = bundle(&world).sh(&format!(
            "exec timeout 20 podman --runtime {runtime} --hooks-dir /run/hooks run --network none \
             --annotation run.oci.hooks.stderr=$PWD/hook.log --rootfs $PWD/rootfs echo started"
        ));
        assert!(![0, 124].contains(&outcome.status), "{outcome:?}");
        assert!(!outcome.out.contains("started"), "{outcome:?}");
        let kept = bundle(&world).sh("cat hook.log").out;
        let why = "netsetgo: run inside a user namespace: no setuid bit counts there; call netsetgo \
                   from outside, with the container's process id as seen there";
        assert!((outcome.err + &kept).contains(why), "{runtime}: {kept}");
        assert_eq!(world.leases(), [""; 0]);
        bundle(&world).sh("rm -f hook.log").done();
    }
}

#[test]
fn a_namespace_by_its_path_is_roots_to_attach() {
    let world = world();
    let root = world.root();
    let said = followed(&root, &["netns"]);
    assert!(said.contains("default via 10.10.10.1 dev eth0"), "{said}");
    let lo = world.sh("ip netns exec blue ip -br address show dev lo");
    assert!(lo.contains("127.0.0.1/8"), "{lo}");
    for path in ["/run/netns/blue", "/run/netns/green"] {
        alice(&world).refused(format!("-netns {path}"), "not yours, or gone");
        alice(&world).refused(format!("-delete -netns {path} -ifname eth0"), "not yours, or gone");
    }
    root.netsetgo("-delete -netns /run/netns/blue -ifname eth0").done();
    assert_eq!(world.leases(), [""; 0]);
    root.netsetgo("-netns /run/netns/blue").done();
    assert_eq!(world.leases(), ["ns0-0"]);
    world.sh("ip netns delete blue");
    world.until_leases_are(&[]);
}

#[test]
fn a_second_command_shares_the_network_of_the_first() {
    let world = world();
    let said = followed(&alice(&world), &["share-command"]);
    assert!(said.contains("default via 10.10.10.1 dev veth1"), "{said}");
    assert_eq!(world.leases(), ["ns1000-0"]);
}

#[test]
fn a_second_container_shares_the_network_of_the_first() {
    for (runtime, spec, hook) in [("runc", "runc-spec", "hook"), ("crun", "crun-spec", "crun-hook")]
    {
        let world = world();
        followed(&alice(&world), &["bundle", spec, hook]);
        followed(&bundle(&world), &[&format!("{runtime}-run")]);
        listens(&world, "web", &format!("{runtime} exec web"));
        let script = recipe("share-runc").replace("runc", runtime);
        let outcome = run(&bundle(&world), &script);
        assert_eq!((outcome.status, &*outcome.out), (0, "hello\n"), "{runtime}: {outcome:?}");
        // The end of the second is not that of the network.
        assert_eq!(world.leases(), ["ns1000-0"]);
        alice(&world).sh(&format!("{runtime} delete -f web")).done();
        no_container_is_left(&world, runtime);
        the_host_is_clean(&world);
    }
}

/// Waits until the container's web server answers inside.
#[track_caller]
fn listens(world: &World, name: &str, exec: &str) {
    let fetch = format!("exec timeout 20 {exec} wget -q -O - http://127.0.0.1/");
    world.until(&format!("{name} to listen"), || alice(world).sh(&fetch).status == 0);
}

#[test]
fn a_second_container_of_podmans_shares_the_network_of_the_first() {
    let world = world();
    followed(&alice(&world), &["bundle", "podman"]);
    listens(&world, "web", "podman exec web");
    let said = followed(&bundle(&world), &["share-podman"]);
    assert!(said.ends_with("hello\n"), "{said}");
    assert_eq!(world.leases(), ["ns1000-0"]);
}

/// A host whose policy names a name server.
fn world_with_dns() -> World {
    world_with(&format!("[network]\ndns = [\"192.0.2.53\"]\n{ALICE}publish = [\"8000-8999\"]\n"))
}

#[test]
fn a_container_is_told_of_its_name_servers() {
    for (runtime, spec, hook) in [("runc", "runc-spec", "hook"), ("crun", "crun-spec", "crun-hook")]
    {
        let world = world_with_dns();
        let served =
            || alice(&world).sh(&format!("{runtime} exec web cat /etc/resolv.conf")).done();
        followed(&alice(&world), &["bundle", spec, "resolvconf"]);
        let create = recipe(&format!("{runtime}-create"));
        assert!(create.contains(" -publish 8080:80 &&"), "{create}");
        let create = create.replace("-publish 8080:80", "-resolvconf >resolv.conf");
        let outcome = run(&bundle(&world), &create);
        assert_eq!(outcome.status, 0, "{outcome:?}");
        assert_eq!(served(), "nameserver 192.0.2.53\n", "{runtime}");
        alice(&world).sh(&format!("{runtime} delete -f web; rm web/pid; >web/resolv.conf")).done();

        followed(&bundle(&world), &[hook, "resolvconf-hook"]);
        followed(&bundle(&world), &[&format!("{runtime}-run")]);
        assert_eq!(served(), "nameserver 192.0.2.53\n", "{runtime}");
    }
}

#[test]
fn a_container_of_podmans_is_told_of_its_name_servers() {
    let world = world_with_dns();
    followed(&alice(&world), &["bundle"]);
    let script = recipe("podman")
        .replace(" --rootfs ", " -v \"$PWD/resolv.conf:/etc/resolv.conf:ro\" --rootfs ")
        .replace("-publish 8080:80", "-resolvconf >resolv.conf");
    let outcome = run(&bundle(&world), &format!("touch resolv.conf\n{script}"));
    assert_eq!(outcome.status, 0, "{outcome:?}");
    let told = alice(&world).sh("exec timeout 20 podman exec web cat /etc/resolv.conf").done();
    assert_eq!(told, "nameserver 192.0.2.53\n");
}

#[test]
fn a_runner_written_in_python_works() {
    let world = world();
    fs::write(world.path("/home/alice/runner.py"), recipe("python")).unwrap();
    let run = |user: &User<'_>, command: &str| user.sh(&format!("python3 ~/runner.py {command}"));
    let said = run(&alice(&world), "ip route").done();
    assert!(said.contains("default via 10.10.10.1 dev veth1"), "{said}");
    assert_eq!(run(&alice(&world), "sh -c 'exit 7'").status, 7);
    world.policy("");
    let outcome = run(&alice(&world), "echo started");
    assert!(outcome.status == 1 && outcome.out.is_empty(), "{outcome:?}");
    assert!(outcome.is_one_line(), "{outcome:?}");
}
