//! An ICMP error leaves a container if it is about a packet that the container was sent, and not if it is
//! about another's flow.

use crate::publish::published;
use crate::way_out::{count, counted, pings};
use crate::world::{Container, Conversation, HOST, REMOTE, User, World};

/// A host whose limit on fragments is not what stops any here.
fn world() -> World {
    World::with_policy(
        "[network]\nfragments = 1000\n[[allow]]\nuser = \"alice\"\npublish = [\"8000-8999\"]\n\
         [[allow]]\nuser = \"bob\"\n",
    )
}

/// A socket that is connected to port 53 of the remote host, and has asked once. It says what has come each
/// time that it is asked.
#[track_caller]
fn connected(user: &User<'_>, port: u16) -> Conversation {
    let socket = user.converses(&format!(
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(('', {port}))
s.connect(('{REMOTE}', 53))
s.settimeout(0.2)
s.send(b'?')
print(s.recv(64).decode().strip(), flush=True)
for _ in sys.stdin:
    try: print(s.recv(64), flush=True)
    except OSError as error: print(type(error).__name__, flush=True)"
    ));
    assert_eq!(socket.first, "remote 192.0.2.1");
    socket
}

/// What it says as long as nothing has come.
const NOTHING: &str = "TimeoutError";

/// Has a container send errors to an address, about a packet from one address and port to another.
#[track_caller]
fn sends_errors(pod: &Container<'_>, to: &str, from: (&str, u16), about: (&str, u16)) {
    let ((source, source_port), (target, target_port)) = (from, about);
    // All types of errors (RFC 792), whole and in pieces, the first of which are short; in order, and
    // the other way round.
    pod.inside()
        .python(&format!(
            "inner = ip('{source}', '{target}', 17, udp({source_port}, {target_port}, b'?'))
errors = [too_big(inner), refusal(inner)]
errors += [icmp(3, code, bytes(4), inner) for code in (0, 1, 2, 9, 10, 13)]
errors += [icmp(kind, 0, bytes(4), inner) for kind in (4, 11, 12)]
errors += [icmp(5, 1, socket.inet_aton(own()), inner)]
raw, ident = wire(), 100
for error in errors:
    raw.send(to_host(ip(own(), '{to}', 1, error)))
    time.sleep(0.002)
for error in errors[:2]:
    for sizes in [8], [16], [24], [32], [8, 16], [8, 24]:
        for order in 1, -1:
            for piece in in_pieces(own(), '{to}', 1, error, sizes, ident)[::order]:
                raw.send(to_host(piece))
            ident += 1
            time.sleep(0.005)"
        ))
        .done();
}

/// What path MTU the routes of this user's host to an address have, if any is known.
fn path_mtu(user: &User<'_>, address: &str) -> Option<String> {
    let route = user.sh(&format!("ip route get {address}")).done();
    let mut words = route.split_whitespace().skip_while(|word| *word != "mtu");
    words.nth(1).map(str::to_owned)
}

#[test]
fn errors_about_flows_of_the_host_reach_no_socket_and_change_no_path_mtu() {
    let world = world();
    let remote = world.internet();
    remote.user().serves("remote", "53");
    let pod = world.alice().attached();
    let mut host = connected(&world.root(), 45000);
    for switch in [0, 1] {
        world.sh(&format!("echo {switch} >/proc/sys/net/bridge/bridge-nf-call-iptables"));
        sends_errors(&pod, HOST, (HOST, 45000), (REMOTE, 53));
        assert_eq!((host.again().as_str(), path_mtu(&world.root(), REMOTE)), (NOTHING, None));
    }
}

#[test]
fn errors_about_flows_of_another_users_container_do_not_reach_it() {
    let world = world();
    let remote = world.internet();
    remote.user().serves("remote", "53");
    let (pod, other) = (world.alice().attached(), world.bob().attached());
    let mut theirs = connected(&other.inside(), 40001);
    count(&other.inside(), "ip protocol icmp");
    // As the remote host sees the flow, and as the container does.
    sends_errors(&pod, HOST, (HOST, 40001), (REMOTE, 53));
    sends_errors(&pod, "10.10.10.3", ("10.10.10.3", 40001), (REMOTE, 53));
    assert_eq!((theirs.again().as_str(), path_mtu(&other.inside(), REMOTE)), (NOTHING, None));
    assert_eq!(counted(&other.inside()), 0);
}

#[test]
fn errors_about_flows_of_others_do_not_reach_the_remote_host() {
    let world = world();
    let remote = world.internet();
    remote.user().serves("remote", "53");
    let (pod, other) = (world.alice().attached(), world.bob().attached());
    let (mut host, mut theirs) =
        (connected(&world.root(), 45000), connected(&other.inside(), 40001));
    count(&remote.user(), "ip protocol icmp");
    for port in [45000, 40001] {
        sends_errors(&pod, REMOTE, (REMOTE, 53), (HOST, port));
    }
    assert_eq!((counted(&remote.user()), path_mtu(&remote.user(), HOST)), (0, None));
    assert_eq!([host.again(), theirs.again()], [NOTHING; 2]);
}

#[test]
fn errors_about_what_a_container_was_sent_get_out() {
    let world = world();
    let remote = world.internet();
    let pod = published(&world.alice(), "-publish 8080:80/udp");
    let refused = |user: &User<'_>, address: &str, port: u16| {
        let ask = format!(
            "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect(('{address}', {port}))
s.settimeout(2)
s.send(b'?')
try: s.recv(64)
except OSError as error: print(type(error).__name__)"
        );
        user.python(&ask).done()
    };
    for switch in [0, 1] {
        world.sh(&format!("echo {switch} >/proc/sys/net/bridge/bridge-nf-call-iptables"));
        // No process waits at these ports.
        assert_eq!(refused(&world.root(), "10.10.10.2", 80), "ConnectionRefusedError\n");
        assert_eq!(refused(&remote.user(), HOST, 8080), "ConnectionRefusedError\n");
        let own = world.alice().attached();
        assert_eq!(refused(&own.inside(), "10.10.10.2", 80), "ConnectionRefusedError\n");
        own.kill();
    }
    assert_eq!(pod.address(), "10.10.10.2/24");
}

#[test]
fn ping_works_both_ways_and_in_fragments() {
    let world = world();
    let remote = world.internet();
    let (pod, own) = (world.alice().attached(), world.alice().attached());
    for switch in [0, 1] {
        world.sh(&format!("echo {switch} >/proc/sys/net/bridge/bridge-nf-call-iptables"));
        for address in [REMOTE, "10.10.10.1", "10.10.10.3"] {
            pings(&pod.inside(), address, true);
            // Two fragments there and two back.
            let large = format!("exec busybox ping -c 1 -W 2 -s 2000 {address} >/dev/null");
            assert_eq!(pod.inside().sh(&large).status, 0, "{switch} {address}");
        }
        pings(&world.root(), "10.10.10.2", true);
        assert_eq!(
            world.root().sh("exec busybox ping -c 1 -W 2 -s 2000 10.10.10.2 >/dev/null").status,
            0
        );
        pings(&own.inside(), "10.10.10.2", true);
    }
    pings(&remote.user(), HOST, true);
}
