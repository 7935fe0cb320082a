# What pid 1 of a test's world does: it furnishes the world and then holds it together.
#
# It runs in new network, mount and pid namespaces, with mounts private to it; nothing that happens
# here is seen outside. When the test ends, however it ends, standard input closes, this shell ends,
# and the kernel kills whatever else lives in the pid namespace.
set -eu

# The helper, installed: root's, and the setuid bit last.
mount -t tmpfs -o mode=755 tmpfs /usr/local/bin
cp "$1" /usr/local/bin/netsetgo
chown root:root /usr/local/bin/netsetgo
chmod 4755 /usr/local/bin/netsetgo

mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t tmpfs -o mode=755 tmpfs /run

# A /dev of its own, in which there is no syslog: the machine's is not to be told of this host.
mkdir /run/dev
mount -t tmpfs -o mode=755 tmpfs /run/dev
cp -ax /dev/. /run/dev
rm -f /run/dev/log
mount --bind /dev/pts /run/dev/pts
mount --move /run/dev /dev

# An /etc of its own, with what the tools need of the real one.
mkdir /run/etc
for needed in alternatives ld.so.cache; do
    if [ -e "/etc/$needed" ]; then cp -a "/etc/$needed" /run/etc/; fi
done
mount --bind /run/etc /etc
cat >/etc/passwd <<'END'
root:x:0:0:root:/:/bin/sh
alice:x:1000:1000::/:/bin/sh
bob:x:1001:1001::/:/bin/sh
carol:x:1002:1002::/:/bin/sh
dave:x:1003:1003::/:/bin/sh
END
cat >/etc/group <<'END'
root:x:0:
alice:x:1000:
bob:x:1001:
carol:x:1002:
dave:x:1003:
netdev:x:1100:carol
END

ip link set lo up
echo ready
# A test that hangs does not do so for ever.
timeout 300 cat || true
