#!/usr/bin/env bash
# Builds netsetgo and installs it. Building needs Rust, installing needs root. ./install.sh --help
# lists what else it can do.
set -euo pipefail
umask 022

usage() {
    cat <<'END'
usage: sudo ./install.sh [--prefix DIR] [--caps]     build and install netsetgo
       sudo ./install.sh --uninstall [--prefix DIR]  remove it, with its firewall table;
                                                     the policy file stays
       sudo ./install.sh --try                       build, and try it in a throwaway host

  --prefix DIR  install below DIR instead of /usr/local
  --caps        give the program two file capabilities instead of the setuid bit
  --try         install it in namespaces that vanish afterwards, attach a container there, and
                show its network and its way out; this machine stays as it was
END
}

policy=/etc/netsetgo.toml
capabilities=cap_net_admin,cap_sys_ptrace=ep
# What is installed beside the program: each file of docs/, and its place in the prefix's share/.
shared=(
    netsetgo.8=man/man8/netsetgo.8
    netsetgo.toml.5=man/man5/netsetgo.toml.5
    completions/netsetgo.bash=bash-completion/completions/netsetgo
    completions/_netsetgo=zsh/site-functions/_netsetgo
    completions/netsetgo.fish=fish/vendor_completions.d/netsetgo.fish
)

# What keeps network managers off the bridge and the host ends, where such a manager is installed.
networkd=/etc/systemd/network/00-netsetgo.network
manager=/etc/NetworkManager/conf.d/netsetgo.conf

step() { printf '==> %s\n' "$*"; }
note() { printf '    %s\n' "$*"; }

die() {
    printf 'install.sh: %s\n' "$*" >&2
    exit 1
}

need() { # need PROGRAM PACKAGE
    command -v "$1" >/dev/null || die "$1 is missing; on Debian: apt-get install $2"
}

name_of() { # name_of UID
    id -un "$1" 2>/dev/null || printf 'uid %s' "$1"
}

# --- Building -----------------------------------------------------------------------------------

# Sets `builder`, the words that run a command as the user who builds. The user behind sudo builds, so
# that root owns nothing in that user's target directory. Root builds if there is no such user, or if
# that user cannot write to the tree.
find_builder() {
    local uid=0 as=()
    if [[ $caller ]]; then
        as=(setpriv --reuid "$SUDO_UID" --regid "$SUDO_GID" --init-groups)
        if "${as[@]}" test -w . && { [[ ! -e target ]] || "${as[@]}" test -w target; }; then
            uid=$SUDO_UID
        else
            as=()
        fi
    fi
    local home
    home=$(getent passwd "$uid" | cut -d: -f6)
    # rustup adds ~/.cargo/bin to PATH, and sudo replaces PATH.
    builder=("${as[@]}" env -u CARGO_ENCODED_RUSTFLAGS HOME="$home" PATH="$home/.cargo/bin:$PATH")

    local wanted version
    wanted=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
    version=$("${builder[@]}" cargo --version 2>/dev/null | cut -d ' ' -f 2) ||
        die "no Rust toolchain: cargo is neither in PATH nor in $home/.cargo/bin, or does not run;" \
            "install Rust $wanted or newer for $(id -un "$uid"): https://rustup.rs"
    [[ $(printf '%s\n' "$wanted" "$version" | sort -V | head -n 1) == "$wanted" ]] ||
        die "cargo $version is too old, netsetgo needs $wanted or newer: https://rustup.rs"
    need cc build-essential
    choose_libc
}

# The C library that is linked in: musl, where rustup has it or can get it, as it starts in a tenth of the
# time that GNU's takes; else the builder's own.
choose_libc() {
    local musl
    musl=$("${builder[@]}" rustc -vV 2>/dev/null | sed -n 's/^host: \(.*\)-gnu$/\1-musl/p') || true
    [[ $musl ]] || return 0
    if [[ -d $("${builder[@]}" rustc --print target-libdir --target "$musl" 2>/dev/null) ]] ||
        "${builder[@]}" rustup target add "$musl" >/dev/null 2>&1; then
        builder+=("CARGO_BUILD_TARGET=$musl")
    else
        step "No target $musl (rustup target add $musl): building with the GNU C library" >&2
    fi
}

# build CARGO-ARGUMENTS: prints the path of each executable. A setuid program must be linked
# statically. The flag repeats .cargo/config.toml, as the user's own cargo configuration overrides it.
build() {
    step "Building as $("${builder[@]}" id -un): cargo build --release --locked" >&2
    "${builder[@]}" RUSTFLAGS='-C target-feature=+crt-static' \
        cargo build --release --locked --message-format=json-render-diagnostics "$@" |
        sed -n 's/.*"executable":"\([^"]*\)".*/\1/p'
}

# --- Installing ---------------------------------------------------------------------------------

check_place() {
    if $caps; then need setcap libcap2-bin; fi
    mkdir -p "$prefix/bin"
    if findmnt -n -o OPTIONS -T "$prefix/bin" | grep -qw nosuid; then
        die "$prefix/bin is on a nosuid mount, where no privilege counts; choose another --prefix"
    fi
}

# The file gets its content, its owner and then its mode in a directory that only root can enter. One
# rename puts it in place. So no user can start a half-made file, and a run in progress keeps the old.
install_program() { # install_program BUILT
    work=$(mktemp -d "$prefix/bin/.netsetgo.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    install -o root -g root -m 0755 "$1" "$work/netsetgo"
    if $caps; then
        setcap "$capabilities" "$work/netsetgo"
    else
        chmod 4755 "$work/netsetgo"
    fi
    mv -f "$work/netsetgo" "$prefix/bin/netsetgo"
    note "$(stat -c '%A %U' "$prefix/bin/netsetgo") $prefix/bin/netsetgo"
}

install_shared() {
    local pair file
    for pair in "${shared[@]}"; do
        file=$prefix/share/${pair#*=}
        install -D -o root -g root -m 0644 "docs/${pair%%=*}" "$file"
        note "$(stat -c '%A %U' "$file") $file"
    done
}

# policy_text UID: allows this user, by name if /etc/passwd has one (netsetgo asks no name service),
# or else by number. Without a uid it allows no user yet.
policy_text() {
    local who='user = "alice"' off='#'
    if [[ $1 ]]; then
        who=$(awk -F: -v uid="$1" '
            $3 == uid && $1 ~ /^[A-Za-z0-9._-]+$/ { who = "user = \"" $1 "\""; exit }
            END { print who ? who : "uid = " uid }' /etc/passwd)
        off=''
    fi
    cat <<END
# Who may attach containers with netsetgo, and to what: see netsetgo.toml(5).

[network]
#nat = true                 # a way out, behind the host's address; false: none
#isolation = "user"         # containers reach those of the same user; or "container", "none"
#host_access = "published"  # of the host they reach published ports; or "all"
#local_users = "owner"      # their other ports are for root and their user; or "all"
#connections = 4096         # at once, of one container
#dns = ["9.9.9.9"]          # the containers' name servers; left out: the host's

${off}[[allow]]
${off}$who
${off}links = 16                 # containers at once
#publish = ["8000-8999"]    # host ports that may lead to them; left out: none
#ports = 64                 # so many of them at once
END
}

install_policy() { # install_policy UID, or '' to allow no user yet
    if [[ -e $policy || -L $policy ]]; then
        note "$policy exists already, and stays as it is"
        return
    fi
    policy_text "$1" >"$policy.new"
    chmod 0644 "$policy.new"
    mv -n "$policy.new" "$policy"
    local whom='root only, as sudo named no user; add a user there'
    if [[ $1 ]]; then whom="$(name_of "$1") 16 containers"; fi
    note "$(stat -c '%A %U' "$policy") $policy allows $whom"
}

# A manager takes a host end for a new network card. Its DHCP client then gives the host the routes that a
# container answers with. networkd sets the bridge down if a file of its own matches every name.
install_unmanaged() {
    local bridge
    bridge=$(sed -n 's/^bridge *= *"\([^"]*\)".*/\1/p' "$policy")
    bridge=${bridge:-brg0}
    unmanaged "$networkd" 'networkctl reload' \
        '[Match]' "Name=ns[0-9]*-* $bridge" '' '[Link]' 'Unmanaged=yes'
    unmanaged "$manager" 'systemctl reload NetworkManager' \
        '[device-netsetgo]' "match-device=interface-name:ns*-*;interface-name:$bridge" 'managed=0'
    if [[ -e /etc/dhcpcd.conf ]] && ! grep -q '^denyinterfaces.* ns' /etc/dhcpcd.conf; then
        note "add this line to /etc/dhcpcd.conf: denyinterfaces ns*-* $bridge"
    fi
}

unmanaged() { # unmanaged FILE RELOAD LINE...
    [[ -d ${1%/*} ]] || return 0
    printf '%s\n' '# Of netsetgo: the interfaces of containers are no network cards.' "${@:3}" >"$1.new"
    chmod 0644 "$1.new"
    mv "$1.new" "$1"
    note "$(stat -c '%A %U' "$1") $1 counts from the next: $2"
}

install_all() { # install_all BUILT UID
    step 'Installing'
    install_program "$1"
    install_shared
    install_policy "$2"
    install_unmanaged
}

uninstall() {
    step 'Removing'
    local file
    for file in "$prefix/bin/netsetgo" "${shared[@]/#*=/$prefix/share/}" "$networkd" "$manager"; do
        if [[ -e $file ]]; then rm -f "$file" && note "$file"; fi
    done
    if [[ -e $policy ]]; then note "$policy stays; delete it yourself if you do not want it"; fi
    restore_host
    note 'containers keep their veth pairs; the bridge stays until a reboot, or: ip link del brg0'
}

# Takes back what netsetgo changed, except its bridge. The table goes last: while route_localnet is
# on, the table keeps containers away from the host's loopback.
restore_host() {
    local switches=/proc/sys/net/ipv4 bridge
    if [[ $(<$switches/ip_forward) == 2 ]]; then
        echo 0 >$switches/ip_forward
        note "$switches/ip_forward: 0, as before (2 was netsetgo's)"
    fi
    if ! command -v nft >/dev/null; then
        note 'the firewall tables stay until a reboot, as nft is missing (on Debian: nftables)'
        return
    fi
    if nft delete table bridge netsetgo 2>/dev/null; then
        note 'nftables: table bridge netsetgo'
    fi
    nft list table inet netsetgo &>/dev/null || return 0
    nft list set inet netsetgo bridges | sed -n '/elements = {/,$p' | grep -o '"[^"]*"' | tr -d '"' |
        while read -r bridge; do
            if [[ -e $switches/conf/$bridge ]]; then
                echo 0 >"$switches/conf/$bridge/route_localnet"
            fi
        done
    nft delete table inet netsetgo
    note 'nftables: table inet netsetgo'
}

# --- Trying -------------------------------------------------------------------------------------

as_user() { # as_user UID COMMAND
    setpriv --reuid "$1" --regid "$1" --clear-groups "${@:2}"
}

try() {
    need ip iproute2
    need unshare util-linux
    need setpriv util-linux
    need ping iputils-ping
    unshare --net --mount true ||
        die 'root may not make namespaces here: is this a container without CAP_SYS_ADMIN?'
    local uid=${caller:-1000} built
    as_user "$uid" unshare --user --map-root-user --net true ||
        die "uid $uid may not make user namespaces here: see the sysctls user.max_user_namespaces," \
            'kernel.unprivileged_userns_clone and kernel.apparmor_restrict_unprivileged_userns'
    find_builder
    built=$(build --bin netsetgo --example container)
    step 'Making a throwaway host: network, mount and process namespaces of its own'
    # The namespaces end, with everything in them, when their first process ends.
    unshare --net --mount --pid --fork --kill-child --mount-proc --propagation private \
        "$BASH" "$self" --inside-try "$(readlink /proc/self/ns/mnt)" "$uid" \
        "$(grep '/netsetgo$' <<<"$built")" "$(grep '/container$' <<<"$built")"
    step 'It works: address, route and the way out are there. The throwaway host is gone.'
}

# internet FILE: makes a third namespace, which FILE keeps, and the route to it. It has no route back
# to the containers' addresses: it can answer only packets that have the host's address.
internet() {
    step 'Connecting it to an Internet of one host, 192.0.2.9'
    touch "$1"
    unshare --net="$1" ip link set lo up
    ip link add eth0 type veth peer name eth0 netns "$1"
    nsenter --net="$1" ip addr add 192.0.2.9/24 dev eth0
    nsenter --net="$1" ip link set eth0 up
    ip addr add 192.0.2.1/24 dev eth0
    ip link set eth0 up
    ip route add default via 192.0.2.9
}

inside_try() { # inside_try OUTER-MOUNT-NAMESPACE UID BUILT EXAMPLE
    [[ $$ == 1 && $(readlink /proc/self/ns/mnt) != "$1" ]] || die '--inside-try is for --try alone'
    trap 'exit 130' INT TERM # a first process ignores signals that it does not catch
    mount -t tmpfs -o mode=755 tmpfs /usr/local/bin
    mount -t tmpfs -o mode=755 tmpfs /usr/local/share
    # The working directory stays below the new mount, and still shows the machine's own files.
    (cd /etc && mount -t tmpfs -o mode=755 tmpfs /etc && cp -a . /etc)
    rm -f "$policy"
    install_all "$3" "$2"
    install -m 0755 "$4" /usr/local/bin/container
    internet /usr/local/share/internet

    step "As $(name_of "$2"), running a container: container run, which calls netsetgo -pid"
    local output said=/usr/local/share/said sign
    # shellcheck disable=SC2016 # for the shell in the container
    output=$(cd / && as_user "$2" env -i PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        container run sh -c 'for command; do echo "# $command"; $command; done' sh \
        'ip -br -4 addr show veth1' 'ip route' 'ping -c 1 -w 3 192.0.2.9' 2>"$said" </dev/null) || true
    output=$(cat "$said" - <<<"$output")
    note "${output//$'\n'/$'\n'    }"
    for sign in '10.10.10.2/24' 'default via 10.10.10.1 dev veth1' '64 bytes from 192.0.2.9'; do
        [[ $output == *"$sign"* ]] || die "it does not work: \"$sign\" is missing above"
    done
}

# --- What was asked for -------------------------------------------------------------------------

prefix=/usr/local
caps=false
action=install
start=$PWD
self=$(realpath "$0")
cd "$(dirname "$self")"
caller=''
if [[ ${SUDO_UID:-0} != 0 ]]; then caller=$SUDO_UID; fi

while (($#)); do
    case $1 in
    --prefix)
        prefix=${2:-}
        [[ $prefix ]] || die '--prefix takes a directory'
        shift
        ;;
    --prefix=?*) prefix=${1#*=} ;;
    --caps) caps=true ;;
    --uninstall) action=uninstall ;;
    --try) action=try ;;
    --inside-try)
        inside_try "${@:2}"
        exit
        ;;
    --help | -h)
        usage
        exit
        ;;
    *) die "unknown argument $1; see ./install.sh --help" ;;
    esac
    shift
done
if [[ $prefix != /* ]]; then prefix=$start/$prefix; fi
((EUID == 0)) || die "only root can install a setuid program; run it with sudo"

case $action in
install)
    find_builder
    check_place
    built=$(build --bin netsetgo)
    install_all "$built" "$caller"
    ;;
uninstall) uninstall ;;
try) try ;;
esac
