#!/bin/sh
# A systemd of its own, as PID 1 of namespaces over a copy-on-write view of this machine: boot.sh WORK.
# WORK/payload is /payload there; it has run.sh, opt (Mezite, at /opt/mezite) and units.  Nothing outside is changed: the
# file system is an overlay in memory, /proc/sys and /sys are read-only, and the cgroup is removed afterwards.
set -eu
work=$1 stage=${2:-outside}
name=mezite-test-$(basename "$work")

if [ "$stage" = outside ]; then
  exec unshare --mount -- "$0" "$work" cgroup
fi

if [ "$stage" = cgroup ]; then
  mount --make-rprivate /
  mkdir -p "$work/cgroup"
  mount -t cgroup2 cgroup2 "$work/cgroup"
  home=$work/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)
  mkdir "$home/$name"
  # How a PID namespace's power goes off; this shell has to clean up after it.
  trap '' INT
  # Only the child goes in: an own cgroup namespace makes it the root of what systemd sees.
  sh -c 'echo $$ > "$1"/cgroup.procs; shift; exec unshare --mount --pid --cgroup --uts --ipc --net --fork --kill-child -- "$@"' \
    sh "$home/$name" "$0" "$work" inside || true
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    find "$home/$name" -depth -type d -exec rmdir {} + 2>/dev/null && break
    sleep 0.5
  done
  exit 0
fi

mkdir -p "$work/layers" "$work/root"
mount -t tmpfs tmpfs "$work/layers"
mkdir "$work/layers/upper" "$work/layers/work"
root=$work/root
mount -t overlay overlay -o "lowerdir=/,upperdir=$work/layers/upper,workdir=$work/layers/work" "$root"
mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom tty; do
  touch "$root/dev/$device"
  mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
mount -t tmpfs tmpfs "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mkdir -p "$root/payload" "$root/opt/mezite" "$root/outside"
mount --bind "$work/payload" "$root/payload"
mount --bind "$work/payload/opt" "$root/opt/mezite"
touch "$work/payload/console" "$root/dev/console"
mount --bind "$work/payload/console" "$root/dev/console"

# A Mezite of the machine outside is not of this one; an overlay could not move its state either.
rm -rf "$root/etc/mezite" "$root/var/lib/mezite" "$root/var/lib/private/mezite"

units=$root/etc/systemd/system
for unit in systemd-sysctl systemd-modules-load systemd-udevd systemd-udev-trigger systemd-random-seed systemd-binfmt \
  systemd-timesyncd systemd-networkd systemd-update-utmp systemd-tmpfiles-clean; do
  ln -sf /dev/null "$units/$unit.service"
done
for unit in dev-hugepages dev-mqueue sys-kernel-debug sys-kernel-tracing sys-fs-fuse-connections sys-kernel-config; do
  ln -sf /dev/null "$units/$unit.mount"
done
cat > "$units/run.service" <<END
[Unit]
DefaultDependencies=no
FailureAction=poweroff-force
[Service]
Type=oneshot
ExecStart=/bin/bash /payload/run.sh
StandardOutput=file:/payload/out
StandardError=file:/payload/err
TimeoutStartSec=270
END
printf '[Unit]\nRequires=run.service\nAfter=run.service\nAllowIsolate=yes\n' > "$units/run.target"

cd "$root"
pivot_root . outside
cd /
umount -l /outside
# systemd hands credentials over by mounts that have to be seen everywhere.
mount --make-rshared /
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin \
  /lib/systemd/systemd --system --unit=run.target --log-target=console --show-status=0
