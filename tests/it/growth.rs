//! Growth: what containers leave behind when they are gone has a bound.

use nix::libc;

use crate::leftover::next;
use crate::publish::{published, three_users};
use crate::world::{ALICE, Container, Part, Trace, User, World};

/// How many lines the host's ruleset has, with all that it lists.
fn lines(world: &World) -> usize {
    world.sh("nft list ruleset").lines().count()
}

/// Attaches a container that publishes `-publish FIRST-LAST:80-84`, and kills it.
#[track_caller]
fn comes_and_goes(world: &World, user: &User<'_>, first: u16) {
    published(user, &format!("-publish {first}-{}:80-84", first + 4)).kill();
    world.until_leases_are(&[]);
}

#[test]
fn fifty_containers_with_the_same_five_ports_leave_as_much_as_one() {
    let world = three_users();
    let alice = world.alice();
    comes_and_goes(&world, &alice, 8000);
    let once = lines(&world);
    for time in 2..=50 {
        comes_and_goes(&world, &alice, 8000);
        assert_eq!(lines(&world), once, "after {time} containers");
    }
}

#[test]
fn containers_with_ever_other_ports_leave_nothing_that_a_prune_does_not_take_out() {
    let world = three_users();
    let alice = world.alice();
    comes_and_goes(&world, &alice, 8000);
    let once = lines(&world);
    alice.netsetgo("-prune").done();
    let pruned = lines(&world);
    assert!(pruned < once, "{pruned} of {once}");
    for time in 1..=20 {
        comes_and_goes(&world, &alice, 8000 + 5 * time);
        // Each has the address of the one before, whose ports are taken out when the next comes.
        assert_eq!(lines(&world), once, "after {time} containers");
    }
    alice.netsetgo("-prune").done();
    assert_eq!(lines(&world), pruned);
}

#[test]
fn containers_at_ever_other_addresses_leave_nothing_that_a_prune_does_not_take_out() {
    let world = three_users();
    let alice = world.alice();
    comes_and_goes(&world, &alice, 8000);
    alice.netsetgo("-prune").done();
    let pruned = world.ruleset();
    let without = lines(&world);
    for time in 1..=20 {
        let at = format!("-containerAddress 10.10.10.{}/24", 100 + time);
        let ports = format!("-publish {}-{}:80-84", 8000 + 5 * time, 8004 + 5 * time);
        published(&alice, &format!("{at} {ports}")).kill();
        world.until_leases_are(&[]);
    }
    // In proportion to what was published: two lines for each port, and five for each address.
    let most = lines(&world);
    assert!(most <= without + 2 * 5 * 20 + 5 * 20, "{most}, and {without} without ports");
    alice.netsetgo("-prune").done();
    assert_eq!(world.ruleset(), pruned);
    // But for the user of each address, and the user's limit for it, and there are so many addresses.
    assert!(lines(&world) <= without + 3 * 20, "{}, and {without} before", lines(&world));
}

#[test]
fn a_ruleset_does_not_grow() {
    let policy = format!(
        "[network]\naddress = \"10.10.8.1/22\"\n{ALICE}links = 1023\npublish = [\"8000-8999\"]\n\
         ports = 1000\n"
    );
    let world = World::with_policy(&policy);
    let alice = world.alice();
    let pod = alice.attached();
    let one = world.ruleset();
    for publish in
        ["", "-publish $((8000 + number)):80 -publish 127.0.0.1:$((8000 + number)):80/udp"]
    {
        let pods = alice.containers(300);
        let pids: Vec<_> = pods.iter().map(Container::to_string).collect();
        alice
            .sh(&format!(
                "number=0
                 for pid in {}; do
                     netsetgo -pid $pid -wait 60 {publish} || exit
                     number=$((number + 1))
                 done",
                pids.join(" ")
            ))
            .done();
        assert_eq!(world.leases().len(), 301);
        assert_eq!(world.ruleset() == one, publish.is_empty());
        world.sh(&format!("kill -9 {}", pids.join(" ")));
        world.until_leases_are(&["ns1000-0"]);
        alice.netsetgo("-prune").done();
        assert_eq!(world.ruleset(), one);
        alice.netsetgo(format!("-pid {pod}")).done();
    }
}

#[test]
fn to_publish_takes_as_many_steps_beside_15000_ports_of_others_as_beside_none() {
    let world = three_users();
    let alice = world.alice();
    alice.attached();
    let steps = || {
        let pod = alice.container();
        let mut steps = 0;
        let run = Trace::of(&alice, format!("netsetgo -pid {pod} -publish 8000-8004:80-84"));
        let _ = run.watch(|stage| steps += usize::from(stage.part == Part::Parent)).done();
        alice.netsetgo(format!("-delete -pid {pod}")).done();
        steps
    };
    // The address is alice's from the first time on.
    steps();
    let beside_none = steps();
    let ports: String = (0..15_000)
        .map(|n| {
            let at = format!("127.1.{}.{} . 6 . 8100", n / 250, n % 250);
            format!("add element inet netsetgo ports {{ {at} : 10.10.10.9 . 80 }}\n")
        })
        .collect();
    std::fs::write(world.path("/run/ports"), ports).unwrap();
    world.sh("nft -f /run/ports");
    let beside_many = steps();
    assert!(beside_many <= beside_none + 2, "{beside_many}, and {beside_none} without them");
}

#[test]
fn what_fifty_containers_leave_is_no_more_than_what_one_does() {
    let world = three_users();
    let size = || world.ruleset().lines().count();
    // Both users are known to the firewall.
    next(&world.bob(), "").kill();
    world.until_leases_are(&[]);
    next(&world.alice(), "-publish 8000:80 -publish 127.0.0.1:8100:80/udp").kill();
    world.until_leases_are(&[]);
    let one = size();
    world.alice().netsetgo("-prune").done();
    let none = size();
    assert!(none < one);
    for count in 0..50 {
        let user = [world.alice(), world.bob()][count % 2].clone();
        let (port, other) = (8000 + count, 8100 + count);
        next(&user, &format!("-publish {port}:80 -publish 127.0.0.1:{other}:80/udp")).kill();
        world.until_leases_are(&[]);
        assert_eq!(size(), one, "{count}");
    }
    world.alice().netsetgo("-prune").done();
    assert_eq!(size(), none);
}

#[test]
fn a_user_publishes_no_more_than_there_is_room_for() {
    let world = three_users();
    let alice = world.alice();
    let pod = published(&alice, "-publish 8080:80");
    // Every 127.x.y.z is an address of the host's.
    for part in 1..=3 {
        let many: Vec<_> = (0..1000)
            .map(|n| format!("-publish 127.{part}.{}.{}:8081:80", n / 250, n % 250))
            .collect();
        let _ = alice.netsetgo(format!("-pid {pod} -wait 0 {}", many.join(" ")));
    }
    let count = world.elements().len();
    assert!(count < 3000, "{count} elements for one granted port of one container");
}

#[test]
fn containers_at_ever_new_addresses_leave_no_more_than_there_is_room_for() {
    let world = three_users();
    let alice = world.alice();
    for part in 2..=8 {
        let publish = format!("-publish 127.0.0.{part}:8000-8999:1-1000");
        published(&alice, &format!("-containerAddress 10.10.10.{part}/24 {publish}")).kill();
        world.until_leases_are(&[]);
    }
    let count = world.published().len();
    assert!(count <= 5000, "{count} elements for containers that are all gone");
}

#[test]
fn runs_at_once_publish_no_more_than_there_is_room_for_either() {
    let world = three_users();
    let alice = world.alice();
    let pod = alice.attached();
    let many = |part: u8| {
        let each = |n| format!("-publish 127.{part}.0.{n}:8001-8006:1-6");
        let all: Vec<_> = (1..=100).map(each).collect();
        format!("netsetgo -pid {pod} -wait 0 {}", all.join(" "))
    };
    // It has just seen that the container publishes nothing yet: its first write is to
    // route_localnet, then it reads the generation, and then looks for the mark.
    let (mut written, mut asked) = (false, 0);
    let run = Trace::of(&alice, many(1));
    let frozen = run.freeze(|stage| {
        written |= (stage.part, stage.call) == (Part::Parent, libc::SYS_write);
        asked += usize::from(written && stage.call == libc::SYS_sendto);
        asked == 2
    });
    alice.sh(&many(2)).done();
    assert_eq!(world.published().len(), 600);
    let outcome = frozen.unwrap().thaw();
    assert_eq!(world.published().len(), 600, "{outcome:?}");
}
