//! `install.sh`, in a host of its own, where nothing of the machine is touched. It builds nothing
//! here: what stands for cargo hands it the helper that has been built already.

use std::fs;

use crate::refused::undumpable;
use crate::world::{Outcome, World};

/// The files of docs/ that are installed, and their places below the prefix's share/.
const SHARED: [(&str, &str); 5] = [
    ("netsetgo.8", "man/man8/netsetgo.8"),
    ("netsetgo.toml.5", "man/man5/netsetgo.toml.5"),
    ("completions/netsetgo.bash", "bash-completion/completions/netsetgo"),
    ("completions/_netsetgo", "zsh/site-functions/_netsetgo"),
    ("completions/netsetgo.fish", "fish/vendor_completions.d/netsetgo.fish"),
];

/// A host with the source tree's installer, and a toolchain.
fn world() -> World {
    let world = World::without_policy();
    world.sh("mkdir -p /run/tree/docs/completions /run/tools; cp /usr/local/bin/netsetgo /run/tools/built");
    let documents = SHARED.map(|(file, _)| format!("docs/{file}"));
    for file in ["install.sh", "Cargo.toml"].into_iter().chain(documents.iter().map(String::as_str))
    {
        let from = format!("{}/{file}", env!("CARGO_MANIFEST_DIR"));
        fs::copy(from, world.path(&format!("/run/tree/{file}"))).unwrap();
    }
    world.sh("cat >/run/tools/cargo <<'END'
#!/bin/sh
case $1 in
--version) echo cargo 1.999.0 ;;
build) echo \"$CARGO_BUILD_TARGET\" >/run/tools/target
       echo '{\"executable\":\"/run/tools/built\"}' ;;
esac
END
         chmod 755 /run/tools/cargo; rm /usr/local/bin/netsetgo");
    world
}

/// Runs the installer as root, with what sudo would have set for alice.
fn install(world: &World, arguments: &str) -> Outcome {
    let sudo = "env PATH=/run/tools:$PATH SUDO_UID=1000 SUDO_GID=1000";
    world.root().sh(&format!("{sudo} /run/tree/install.sh --prefix /run/prefix {arguments}"))
}

/// Runs the installer as root, which has to succeed.
#[track_caller]
fn installed(world: &World, arguments: &str) {
    let outcome = install(world, arguments);
    assert_eq!(outcome.status, 0, "{outcome:?}");
}

/// Mode, owner and group of a file.
fn state(world: &World, file: &str) -> String {
    world.sh(&format!("stat -c '%a %U %G' {file}")).trim().to_owned()
}

/// Asserts that the installer gave up for this reason, and installed nothing.
#[track_caller]
fn gave_up(world: &World, outcome: Outcome, why: &str) {
    assert!(outcome.status == 1 && outcome.err.starts_with("install.sh: "), "{outcome:?}");
    assert!(outcome.err.contains(why), "{outcome:?}");
    for file in ["/run/prefix/bin/netsetgo", "/etc/netsetgo.toml"] {
        assert!(!world.path(file).exists(), "{file}");
    }
}

#[test]
fn the_installed_program_is_roots_and_setuid_and_works_for_who_called_sudo() {
    let world = world();
    // Safe to run twice.
    for _ in 0..2 {
        installed(&world, "");
        assert_eq!(state(&world, "/run/prefix/bin/netsetgo"), "4755 root root");
        assert_eq!(state(&world, "/etc/netsetgo.toml"), "644 root root");
        assert_eq!(world.sh("ls -A /run/prefix/bin"), "netsetgo\n");
        for (file, place) in SHARED {
            let place = format!("/run/prefix/share/{place}");
            assert_eq!(state(&world, &place), "644 root root");
            world.sh(&format!("cmp /run/tree/docs/{file} {place}"));
        }
    }
    let (alices, bobs) = (world.alice().container(), world.bob().container());
    let helper = "/run/prefix/bin/netsetgo";
    world.alice().sh(&format!("{helper} -pid {alices}")).done();
    world.bob().sh(&format!("{helper} -pid {bobs}")).refused("not allowed");
    assert_eq!(alices.address(), "10.10.10.2/24");
}

#[test]
fn a_policy_that_is_there_stays_as_it_is() {
    let world = world();
    world.policy("# mine\n");
    world.sh("chmod 600 /etc/netsetgo.toml");
    installed(&world, "");
    assert_eq!(world.sh("cat /etc/netsetgo.toml"), "# mine\n");
    assert_eq!(state(&world, "/etc/netsetgo.toml"), "600 root root");
    installed(&world, "--uninstall");
    assert_eq!(world.sh("cat /etc/netsetgo.toml"), "# mine\n");
    assert_eq!(world.sh("find /run/prefix -type f"), "");
}

#[test]
fn network_managers_that_are_there_are_told_to_leave_the_interfaces_alone() {
    let world = world();
    let files =
        ["/etc/systemd/network/00-netsetgo.network", "/etc/NetworkManager/conf.d/netsetgo.conf"];
    world.sh("rm -rf /etc/systemd /etc/NetworkManager /etc/dhcpcd.conf");
    installed(&world, "");
    for file in files {
        assert!(!world.path(file).exists(), "{file}");
    }
    world.sh(
        "mkdir -p /etc/systemd/network /etc/NetworkManager/conf.d; echo mine >/etc/dhcpcd.conf",
    );
    for (policy, bridge) in [("", "brg0"), ("[network]\nbridge = \"tower\"\n", "tower")] {
        world.policy(policy);
        let said = install(&world, "").out;
        assert!(
            said.contains(&format!("/etc/dhcpcd.conf: denyinterfaces ns*-* {bridge}\n")),
            "{said}"
        );
        assert_eq!(world.sh("cat /etc/dhcpcd.conf"), "mine\n");
        let text = |lines: &str| {
            format!("# Of netsetgo: the interfaces of containers are no network cards.\n{lines}\n")
        };
        let networkd = format!("[Match]\nName=ns[0-9]*-* {bridge}\n\n[Link]\nUnmanaged=yes");
        let manager = format!(
            "[device-netsetgo]\nmatch-device=interface-name:ns*-*;interface-name:{bridge}\nmanaged=0"
        );
        for (file, lines) in files.iter().zip([networkd, manager]) {
            assert_eq!(world.sh(&format!("cat {file}")), text(&lines));
            assert_eq!(state(&world, file), "644 root root");
        }
    }
    world.sh("echo 'denyinterfaces eth1 ns*-* brg0' >/etc/dhcpcd.conf");
    assert!(!install(&world, "").out.contains("dhcpcd"));
    installed(&world, "--uninstall");
    assert_eq!(
        world.sh("ls -A /etc/systemd/network /etc/NetworkManager/conf.d | grep netsetgo; true"),
        ""
    );
}

#[test]
fn file_capabilities_are_installed_in_place_of_the_setuid_bit() {
    let world = world();
    installed(&world, "--caps");
    let helper = "/run/prefix/bin/netsetgo";
    assert_eq!(state(&world, helper), "755 root root");
    assert_eq!(
        world.sh(&format!("getcap {helper}")),
        format!("{helper} cap_net_admin,cap_sys_ptrace=ep\n")
    );
    let pod = undumpable(&world.alice());
    world.alice().sh(&format!("{helper} -pid {pod}")).done();
    assert_eq!(pod.address(), "10.10.10.2/24");
}

#[test]
fn only_root_can_install() {
    let world = world();
    gave_up(&world, world.alice().sh("/run/tree/install.sh --prefix /tmp/prefix"), "sudo");
}

#[test]
fn without_a_toolchain_it_says_where_to_get_one() {
    let world = world();
    world.sh("rm /run/tools/cargo");
    gave_up(&world, install(&world, ""), "https://rustup.rs");
}

#[test]
fn a_nosuid_mount_is_no_place_to_install_to() {
    let world = world();
    world.sh("mkdir /run/prefix; mount -t tmpfs -o nosuid tmpfs /run/prefix");
    gave_up(&world, install(&world, ""), "nosuid");
}

#[test]
fn what_is_no_argument_is_said_to_be_none() {
    let world = world();
    gave_up(&world, install(&world, "--nosuch"), "--nosuch");
}

#[test]
fn the_program_is_linked_with_musl_where_the_toolchain_has_it() {
    for (libdir, target, said) in
        [("/run/tools", "x86_64-unknown-linux-musl\n", false), ("/run/nowhere", "\n", true)]
    {
        let world = world();
        world.sh(&format!(
            "chmod 777 /run/tools; cat >/run/tools/rustc <<'END'
#!/bin/sh
case $1 in
-vV) echo host: x86_64-unknown-linux-gnu ;;
--print) echo {libdir} ;;
esac
END
             printf '#!/bin/sh\nexit 1\n' >/run/tools/rustup; chmod 755 /run/tools/rust*"
        ));
        let outcome = install(&world, "");
        assert_eq!(outcome.status, 0, "{outcome:?}");
        assert_eq!(world.sh("cat /run/tools/target"), target);
        assert_eq!(outcome.err.contains("building with the GNU C library"), said, "{outcome:?}");
    }
}
